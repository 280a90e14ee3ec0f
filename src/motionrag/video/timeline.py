"""Which frames a stretch of a video shows, and when: read from its packets, without decoding a picture.

Headers often lack a frame count or state a wrong one; packets do not. Ticks below are the stream's time base.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from math import ceil
from typing import TypeAlias

from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from motionrag.video.errors import VideoError
from motionrag.video.source import Source, encrypted, opened

KEPT_BYTES = 1 << 28
"""Packets of a stretch are held in memory up to this size, and read a second time beyond it."""

_NEVER = -1 << 62  # a tick before all others
_HEAD_PACKETS = 32  # more than any reordering delay, so the first frame is among them
ROUNDING_S = 1e-3  # Matroska keeps whole milliseconds; a frame that much before the start still counts
_TOLERANCE_S = 0.5  # by which a stretch may reach past the end: captions round

VideoPacket: TypeAlias = "Packet[VideoStream]"  # PyAV's class takes parameters in its stubs only


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch of a video, in seconds as asked for and in ticks of the stream's clock."""

    start_s: float
    """First second, counted from the first frame that is shown."""
    end_s: float | None
    """Where it ends; None is the end of the video."""
    origin: int
    """Tick of the first frame that is shown."""
    start: int
    """Frames before this tick do not count."""
    stop: int | None
    """Nor do frames at or after this tick; None is the end of the video."""

    def holds(self, time: int) -> bool:
        """Whether a frame shown at this tick counts."""
        return time >= self.start and (self.stop is None or time < self.stop)


@dataclass(kw_only=True)
class Timeline:
    """The packets that decode to a stretch, in decoding order, beginning with a key frame."""

    span: Span
    """The stretch."""
    times: list[int | None] = field(default_factory=list)
    """Tick at which each packet's frame is shown; None where the file does not say."""
    keys: list[bool] = field(default_factory=list)
    """Whether decoding can begin at a packet."""
    hidden: list[bool] = field(default_factory=list)
    """Whether a packet yields no shown frame: it lies before an edit's start, or is for reference only."""
    sizes: list[int] = field(default_factory=list)
    """Bytes of each packet."""
    packets: list[VideoPacket] | None = field(default_factory=list)
    """The packets themselves; None if they exceed `KEPT_BYTES` or were not wanted."""
    skipped: int = 0
    """Packets read before the first one here."""
    held_bytes: int = 0
    """Size of the packets."""
    last: int = _NEVER
    """Tick of the last shown frame seen."""
    last_duration: int = 0
    """Ticks for which that frame stays."""
    guessed: bool = False
    """Whether packets' times are known, but not which frame each belongs to."""
    broken: bool = False
    """Whether bytes of a packet are missing."""

    @property
    def shown(self) -> list[int]:
        """Ticks of the stretch's frames in the order shown, without those of unknown time."""
        return sorted(time for time in self._visible if time is not None and self.span.holds(time))

    @property
    def timed(self) -> bool:
        """Whether each frame's time is known, and no other frame's."""
        return not self.guessed and None not in self._visible and len(set(self._visible)) == len(self._visible)

    @property
    def _visible(self) -> list[int | None]:
        return [time for time, hidden in zip(self.times, self.hidden, strict=True) if not hidden]

    def add(self, packet: VideoPacket, invisible: bool) -> None:
        """Append the next packet; what lies before the last key frame up to the start is forgotten."""
        time = packet.pts
        if packet.is_keyframe and time is not None and time <= self.span.start and self.times:
            self._forget()
        hidden = invisible or packet.is_discard
        self.times.append(time)
        self.keys.append(packet.is_keyframe)
        self.hidden.append(hidden)
        self.sizes.append(packet.size)
        self.broken |= packet.is_corrupt
        self.held_bytes += packet.size
        if self.held_bytes > KEPT_BYTES:
            self.packets = None
        if self.packets is not None:
            self.packets.append(packet)
        if not hidden and time is not None and time >= self.last:
            between = time - self.last if self.last > _NEVER else 0
            self.last, self.last_duration = time, packet.duration or between

    def _forget(self) -> None:
        self.skipped += len(self.times)
        self.times, self.keys, self.hidden, self.sizes, self.held_bytes = [], [], [], [], 0
        if self.packets is not None:
            self.packets = []


def scan(
    source: Source, start_s: float = 0.0, end_s: float | None = None, *, may_end_sooner: bool = False
) -> Timeline:
    """Read the packets of a stretch, from `start_s` seconds after the first frame up to `end_s`.

    Args:
        source: The video.
        start_s: First second.
        end_s: Where the stretch ends; None is the end of the video.
        may_end_sooner: Whether the end of the video may end the stretch.

    Raises:
        VideoError: If the video holds no frames, is cut short, or the stretch lies outside.
    """
    span, stream = _stretch(source, start_s, end_s)
    line = Timeline(span=span, guessed=_is_guessed(source))
    vp8 = source.stream.codec.name in {"vp8", "libvpx"}
    for packet in stream:
        line.add(packet, vp8 and _is_invisible(packet))
    _check_complete(source, line)
    ends = (line.last + line.last_duration - span.origin) * float(source.time_base)
    if may_end_sooner and end_s is not None and ends < end_s:
        line.span = replace(span, end_s=None)
    _check_inside(source, line)
    return line


def packets_of(source: Source, line: Timeline) -> Iterator[VideoPacket]:
    """The packets of a timeline, from memory or else once more from the file."""
    if line.packets is not None:
        yield from line.packets
        return
    with opened(source.path) as again:
        _, stream = _stretch(again, line.span.start_s, line.span.end_s)
        yield from islice(stream, line.skipped, None)


def _stretch(source: Source, start_s: float, end_s: float | None) -> tuple[Span, Iterator[VideoPacket]]:
    """A stretch in ticks and its packets, from a key frame at or before its start."""
    stream = _demux(source)
    head = list(islice(stream, _HEAD_PACKETS))
    shown = [packet.pts for packet in head if packet.pts is not None and not packet.is_discard]
    origin = min(shown, default=0)
    span = Span(
        start_s=start_s,
        end_s=end_s,
        origin=origin,
        start=origin + ceil((start_s - ROUNDING_S) / source.time_base) if start_s else _NEVER,
        stop=None if end_s is None else origin + ceil((end_s - ROUNDING_S) / source.time_base),
    )
    if start_s and shown and span.start > max(shown):
        return span, _until(span.stop, _sought(source, span.start, head, stream))
    return span, _until(span.stop, chain(head, stream))


def _sought(
    source: Source, start: int, head: list[VideoPacket], rest: Iterator[VideoPacket]
) -> Iterator[VideoPacket]:
    """Packets from the key frame before `start`, or from the beginning where the format cannot seek."""
    try:
        source.container.seek(start, stream=source.stream)
    except FFmpegError:
        yield from chain(head, rest)
        return
    stream = _demux(source)
    first = next(stream, None)
    if first is not None and first.is_keyframe and first.pts is not None and first.pts <= start:
        yield from chain([first], stream)
        return
    with opened(source.path) as again:
        yield from _demux(again)


def _demux(source: Source) -> Iterator[VideoPacket]:
    return (packet for packet in source.container.demux(source.stream) if packet.size)


def _until(stop: int | None, stream: Iterator[VideoPacket]) -> Iterator[VideoPacket]:
    """Packets up to a tick: decoding times never fall and never exceed the time shown."""
    for packet in stream:
        if stop is not None and packet.dts is not None and packet.dts >= stop:
            return
        yield packet


def _is_guessed(source: Source) -> bool:
    """AVI counts packets; FFmpeg cannot tell in which order frames of these codecs are shown before decoding."""
    return source.container.format.name == "avi" and source.stream.codec.canonical_name in {"h264", "hevc"}


def _is_invisible(packet: VideoPacket) -> bool:
    """Whether a VP8 frame is only ever referred to: its show_frame bit is 0 (RFC 6386, section 9.1)."""
    return not memoryview(packet)[0] & 0x10


def _check_complete(source: Source, line: Timeline) -> None:
    if line.packets and line.packets[0].has_sidedata("encryption_info"):
        raise encrypted(source.path)
    if source.cut_short or line.broken:
        raise VideoError(source.path, f"cut short: {_shortfall(source, line)}; fetch or record it again")
    if all(line.hidden):
        raise VideoError(source.path, "no frames: its video stream is empty")
    if len(line.times) > 1 and line.timed is False and len(set(line.times) - {None}) == 1 and None not in line.times:
        raise VideoError(source.path, f"lasts 0 s: all of its {len(line.times)} frames have the same timestamp")


def _shortfall(source: Source, line: Timeline) -> str:
    """How much of a shortened video is there, in frames where an index lists them."""
    size = os.path.getsize(source.path)
    entries = list(source.stream.index_entries)
    whole = sum(entry.pos + entry.size <= size for entry in entries if entry.size)
    if "mp4" in source.container.format.name and whole < len(entries):
        return f"{whole:,} of {len(entries):,} frames could be read"
    return source.cut_short or f"the last of {len(line.times):,} frames is incomplete"


def _check_inside(source: Source, line: Timeline) -> None:
    span, tick = line.span, float(source.time_base)
    if line.timed or line.guessed:
        last = (line.last - span.origin) * tick
        check_inside(source.path, span.start_s, span.end_s, last, last + line.last_duration * tick)


def check_inside(path: str, start_s: float, end_s: float | None, last_s: float, duration_s: float) -> None:
    """Check a stretch against the last frame seen of a video and where that frame ends, in seconds.

    Raises:
        VideoError: If the stretch begins after the video, or ends well after it.
    """
    name = f"span {start_s:.1f}-{'' if end_s is None else f'{end_s:.1f}'} s"
    if last_s < start_s - ROUNDING_S and start_s >= duration_s:
        raise VideoError(path, f"{name} lies outside the video ({duration_s:.1f} s)")
    if end_s is not None and end_s > duration_s + _TOLERANCE_S and last_s < end_s:
        raise VideoError(path, f"{name} reaches past the end of the video ({duration_s:.1f} s)")
