"""Decodes what a timeline lists: a few of its frames, by the shortest way, or all of them.

A wanted frame needs its key frame and what lies between; other groups of pictures are never sent to the
decoder, and of unwanted frames those that no other frame refers to are skipped too. The result is the same
bit for bit. FFmpeg conceals damage; here every concealment is an error.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from av.error import FFmpegError
from av.video.frame import VideoFrame

from motionrag.video.errors import VideoError
from motionrag.video.source import Source
from motionrag.video.timeline import Timeline, VideoPacket, packets_of

_SKIPPERS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"}
"""Decoders that can be told from packet to packet to skip what no other frame refers to."""
_THREADS_PAY = 60_000_000  # pixels to decode from which more threads than one are quicker, measured


class Decoder:
    """Decodes frames of one timeline; may be used again, from the beginning each time."""

    def __init__(self, source: Source, line: Timeline, threads: int) -> None:
        self._source, self._line = source, line
        self._context = source.stream.codec_context
        pixels = self._context.width * self._context.height * len(line.times)
        self._context.thread_count = threads or (1 if pixels < _THREADS_PAY else os.cpu_count() or 1)
        self._context.thread_type = "AUTO"

    def at(self, wanted: Sequence[int]) -> Iterator[tuple[int, VideoFrame]]:
        """The frames shown at these ticks, each once, as (tick, frame); missing ones are left out."""
        line, ticks = self._line, set(wanted)
        place = {time: i for i, time in enumerate(line.times) if time in ticks and not line.hidden[i]}
        needed = self._needed(place)
        last, begun = max(needed, default=-1), None
        for i, packet in enumerate(packets_of(self._source, line)):
            if i in needed:
                begun = i if begun is None else begun
                if self._context.name in _SKIPPERS:
                    self._context.skip_frame = "DEFAULT" if line.times[i] in place else "NONREF"
                yield from self._wanted(self._send(packet), begun, ticks)
            elif begun is not None:
                yield from self._wanted(self._drain(), begun, ticks)
                begun = None
            if i == last:
                break
        if begun is not None:
            yield from self._wanted(self._drain(), begun, ticks)

    def everything(self) -> Iterator[tuple[int, VideoFrame]]:
        """All frames from the first key frame on, in the order shown, as (tick, frame).

        Unknown ticks are counted up. Where `Timeline.timed` is false, sort the ticks: each is one frame's, but
        not always that of the frame it comes with.
        """
        line = self._line
        begun = line.keys.index(True) if True in line.keys else 0
        self._context.skip_frame = "DEFAULT"
        for number, frame in enumerate(self._sequence(begun)):
            time = frame.pts
            if time is None:
                time = line.span.origin + number * self._step()
            elif self._precedes(frame, begun):
                continue
            self._check(frame)
            yield time, frame

    def _needed(self, place: dict[int, int]) -> set[int]:
        """Packets to decode, given the packets that carry wanted frames."""
        times, needed = self._line.times, set[int]()
        keys = [i for i, key in enumerate(self._line.keys) if key and times[i] is not None] or [0]
        for time, i in place.items():
            at = bisect_right(keys, i) - 1
            while at > 0 and (times[keys[at]] or 0) > time:
                at -= 1  # it leads the key frame and refers to the group before
            needed.update(range(keys[max(at, 0)], i + 1))
        return needed

    def _sequence(self, begun: int) -> Iterator[VideoFrame]:
        for i, packet in enumerate(packets_of(self._source, self._line)):
            if i >= begun:
                yield from self._send(packet)
        yield from self._drain()

    def _send(self, packet: VideoPacket) -> list[VideoFrame]:
        try:
            return self._context.decode(packet)
        except FFmpegError as error:
            raise self._damage(packet.pts) from error

    def _drain(self) -> list[VideoFrame]:
        try:
            frames = self._context.decode(None)
        except FFmpegError as error:
            raise self._damage(None) from error
        self._context.flush_buffers()
        return frames

    def _wanted(self, frames: Sequence[VideoFrame], begun: int, ticks: set[int]) -> Iterator[tuple[int, VideoFrame]]:
        for frame in frames:
            if self._precedes(frame, begun):
                continue
            self._check(frame)
            if frame.pts in ticks:
                yield frame.pts, frame

    def _precedes(self, frame: VideoFrame, begun: int) -> bool:
        """Whether a frame is shown before the key frame that decoding began with: it lacks its references."""
        key = self._line.times[begun]
        return frame.pts is not None and key is not None and frame.pts < key

    def _check(self, frame: VideoFrame) -> None:
        if frame.is_corrupt:
            raise self._damage(frame.pts)

    def _damage(self, pts: int | None) -> VideoError:
        if pts is None:
            return VideoError(self._source.path, "damaged: a frame cannot be decoded; fetch or record it again")
        seconds = float((pts - self._line.span.origin) * self._source.time_base)
        return VideoError(
            self._source.path,
            f"damaged: the frame at {max(seconds, 0.0):.2f} s cannot be decoded; fetch or record it again",
        )

    def _step(self) -> int:
        """Ticks from frame to frame by the declared rate."""
        rate = self._source.stream.guessed_rate or 25
        return max(1, round(1 / (rate * self._source.time_base)))
