"""What a video is, without decoding it: size as displayed, exact frame times, codec."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from motionrag.video.picture import orientation, quarter_turns, square_size
from motionrag.video.source import Source, opened
from motionrag.video.timeline import Timeline, packets_of, scan
from motionrag.video.webp import animation, is_webp


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts of one video file."""

    path: str
    """As given."""
    width: int
    """Pixels as displayed: upright, and square."""
    height: int
    """Likewise."""
    rotation: int
    """Degrees counter-clockwise by which the stored pictures are turned for display: 0, 90, 180 or 270."""
    fps: float
    """Frames a second on average; 0 for a single frame."""
    frames: int
    """Frames that are shown."""
    duration_s: float
    """From the first frame to the end of the last, in seconds."""
    codec: str
    """FFmpeg's name of the codec."""
    timestamps: NDArray[np.float64] = field(repr=False, compare=False)
    """When each frame is shown, in seconds from the first, f64 [T], ascending."""


def probe(path: str | os.PathLike[str]) -> VideoInfo:
    """Read a video's facts in one pass over its packets; only its first picture is decoded.

    Raises:
        VideoError: If it is missing, no video, or cut short.
    """
    path = os.fspath(path)
    if is_webp(path):
        with animation(path) as film:
            return _info(path, (film.width, film.height), 0, film.starts_s, film.duration_s, "webp")
    with opened(path) as source:
        line = scan(source)
        times = frame_seconds(source, line)
        duration = max((line.last + line.last_duration - line.span.origin) * float(source.time_base), times[-1])
        turn = _turn(source, line)
        width, height = square_size(source.stream.width, source.stream.height, source.aspect)
        size = (height, width) if turn[0] else (width, height)
        return _info(path, size, quarter_turns(turn) * 90, times, duration, source.stream.codec.canonical_name)


def frame_seconds(source: Source, line: Timeline) -> NDArray[np.float64]:
    """Seconds of each frame from the first, f64 [T]; frames of unknown time follow the declared rate."""
    if line.timed:
        return (np.array(line.shown, np.float64) - line.span.origin) * float(source.time_base)
    total = sum(not hidden for hidden in line.hidden)
    known = line.shown
    if len(known) == total:
        return (np.array(known, np.float64) - line.span.origin) * float(source.time_base)
    return np.arange(total) / float(source.stream.guessed_rate or 25)


def _turn(source: Source, line: Timeline) -> tuple[bool, bool, bool]:
    """Orientation of the first picture that decodes; upright if none of the first few does."""
    context = source.stream.codec_context
    context.thread_count = 1
    for packet in islice(packets_of(source, line), 32):
        try:
            frames = context.decode(packet)
        except FFmpegError:
            continue
        if frames:
            return orientation(frames[0])
    frames = context.decode(None)
    return orientation(frames[0]) if frames else (False, False, False)


def _info(
    path: str, size: tuple[int, int], rotation: int, times: NDArray[np.float64], duration_s: float, codec: str
) -> VideoInfo:
    covered = float(times[-1] - times[0])
    fps = (len(times) - 1) / covered if covered > 0 else 0.0
    if duration_s <= covered and fps:  # the last frame's length is unknown: the average
        duration_s = covered + 1 / fps
    return VideoInfo(
        path=path,
        width=size[0],
        height=size[1],
        rotation=rotation,
        fps=fps,
        frames=len(times),
        duration_s=duration_s,
        codec=codec,
        timestamps=times,
    )
