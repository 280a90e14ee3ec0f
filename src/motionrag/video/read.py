"""Clips out of videos: exactly the wanted frames, decoding and converting as little as that takes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite
from typing import TypeAlias

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from motionrag.types import Clip, View
from motionrag.video.decode import Decoder
from motionrag.video.errors import VideoError
from motionrag.video.picture import Painter
from motionrag.video.source import Source, opened
from motionrag.video.timeline import ROUNDING_S, Timeline, check_inside, scan
from motionrag.video.webp import Animation, animation, is_webp

_REPEAT_BYTES = 8  # an MPEG-4 "not coded" frame is 7 bytes at most


def pick(available: int, wanted: int) -> NDArray[np.int64]:
    """Which of `available` frames to take for `wanted` uniform ones; short clips repeat frames.

    MotionRAG samples clips this way: linspace(0, T - 1, S), rounded half to even.
    """
    return np.linspace(0, available - 1, wanted).round().astype(np.int64)


def read_clip(
    path: str | os.PathLike[str],
    *,
    frames: int = 16,
    start_s: float = 0.0,
    end_s: float | None = None,
    min_frames: int = 2,
    threads: int = 0,
) -> Clip:
    """Read `frames` frames, picked uniformly from those that a stretch of a video shows.

    Args:
        path: The video.
        frames: Frames wanted; a stretch that has fewer repeats some.
        start_s: First second, counted from the first frame; a frame shown at that very time is in.
        end_s: Where the stretch ends (a frame shown then is out); None is the end of the video.
        min_frames: Fewest frames that the stretch must have.
        threads: Decoding threads; 0 takes one for small clips and one a processor for large ones.

    Returns:
        u8 [frames, 3, H, W], upright, in square pixels; transparency lies over white.

    Raises:
        VideoError: If the video is missing, damaged or cut short, or has too little in that stretch.
    """
    path = os.fspath(path)
    _check_request(path, frames, start_s, end_s)
    return _read(path, start_s, end_s, lambda seconds, rate: pick(len(seconds), frames), min_frames, threads)


def read_view(
    path: str | os.PathLike[str],
    view: View,
    *,
    frames: int,
    start_s: float = 0.0,
    end_s: float | None = None,
    threads: int = 0,
) -> Clip:
    """Read what a view takes of a stretch: a window at its start, or `frames` frames of the whole.

    A window's frames are, as in the published code, those shown nearest to evenly spaced times, from `start_s` to
    one frame of the video before the window's end. A video, or a stretch, that ends sooner ends the window.

    Args:
        path: The video.
        view: Which frames; its frame of the picture is `Preparation`'s.
        frames: Frames wanted of the whole stretch, if the view is of whole clips.
        start_s: As in `read_clip`.
        end_s: As in `read_clip`.
        threads: As in `read_clip`.

    Raises:
        VideoError: As `read_clip`.
    """
    if view.frames is None or view.fps is None:
        return read_clip(path, frames=frames, start_s=start_s, end_s=end_s, threads=threads)
    path, count = os.fspath(path), view.frames
    _check_request(path, count, start_s, end_s)
    stop = start_s + count / view.fps
    if end_s is not None:
        stop = min(stop, end_s)

    def nearest(shown: NDArray[np.float64], rate: float) -> NDArray[np.int64]:
        end = min(stop, float(shown[-1]) + 1 / rate)
        wanted = np.linspace(start_s, max(start_s, end - 1 / rate), count)
        after = np.searchsorted(shown, wanted).clip(1, max(len(shown) - 1, 1))
        before = after - 1
        after = after.clip(max=len(shown) - 1)
        return np.where(wanted - shown[before] <= shown[after] - wanted, before, after)

    clip = _read(path, start_s, stop, nearest, 2, threads, lead=0.5, may_end_sooner=end_s is None)
    return replace(clip, start_s=start_s, fps=view.fps)


Choice: TypeAlias = Callable[[NDArray[np.float64], float], NDArray[np.int64]]
"""Seconds [N] at which frames are shown, and frames a second of the video, to the numbers of those wanted."""


def _read(
    path: str,
    start_s: float,
    end_s: float | None,
    choice: Choice,
    min_frames: int,
    threads: int,
    *,
    lead: float = 0.0,
    may_end_sooner: bool = False,
) -> Clip:
    """Read what `choice` takes of a stretch, and of `lead` frames before it."""
    if is_webp(path):
        with animation(path) as film:
            if may_end_sooner and end_s is not None:
                end_s = min(end_s, film.duration_s)
            return _read_webp(path, film, choice, start_s, end_s, min_frames)
    with opened(path) as source:
        lead_s = lead / float(source.stream.average_rate or 25)
        line = scan(source, max(0.0, start_s - lead_s), end_s, may_end_sooner=may_end_sooner)
        decoder = Decoder(source, line, threads)
        clip = _read_few(source, line, decoder, choice, min_frames) if line.timed else None
        return clip or _read_thoroughly(source, line, decoder, choice, min_frames)


def _check_request(path: str, frames: int, start_s: float, end_s: float | None) -> None:
    if frames < 1:
        raise VideoError(path, f"frames={frames}, at least 1 is needed")
    if not (isfinite(start_s) and start_s >= 0):
        raise VideoError(path, f"start {start_s} s is not a second of a video; it must be 0 or more")
    if end_s is not None and not (isfinite(end_s) and end_s > start_s):
        raise VideoError(path, f"end before start: the span {start_s}-{end_s} s holds nothing")


def _read_few(source: Source, line: Timeline, decoder: Decoder, choice: Choice, min_frames: int) -> Clip | None:
    """Decode just the wanted frames; None if the decoder does not deliver one of them."""
    shown = line.shown
    _check_enough(source.path, len(shown), min_frames)
    times = [shown[i] for i in _chosen(source, line, shown, choice)]
    canvas = _Canvas(source, times)
    for time, frame in decoder.at(times):
        canvas.paint(time, frame)
    return canvas.clip(line, shown[0], shown[-1]) if canvas.complete else None


def _read_thoroughly(source: Source, line: Timeline, decoder: Decoder, choice: Choice, min_frames: int) -> Clip:
    """Decode everything, twice: to know which frames there really are, then to convert the wanted ones.

    For videos whose packets do not tell: timestamps that lack, repeat or come out of order, and frames that
    cannot be shown at the start.
    """
    times = sorted(time for time, _ in decoder.everything())
    check_delivered(source, line, times)
    inside = [number for number, time in enumerate(times) if line.span.holds(time)]
    _check_enough(source.path, len(inside), min_frames)
    canvas = _Canvas(source, [inside[i] for i in _chosen(source, line, [times[i] for i in inside], choice)])
    for number, (_, frame) in enumerate(decoder.everything()):
        canvas.paint(number, frame)
    return canvas.clip(line, times[inside[0]], times[inside[-1]])


def _chosen(source: Source, line: Timeline, shown: Sequence[int], choice: Choice) -> NDArray[np.int64]:
    """Numbers of the wanted ones of the frames shown at these ticks."""
    seconds = (np.array(shown, np.float64) - line.span.origin) * float(source.time_base)
    between = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    return choice(seconds, float(source.stream.average_rate or 0) or 1 / (between or 1.0))


class _Canvas:
    """The clip while it is being filled."""

    def __init__(self, source: Source, wanted: Sequence[int]) -> None:
        self._source = source
        self._slots: dict[int, list[int]] = {}
        for slot, name in enumerate(wanted):
            self._slots.setdefault(name, []).append(slot)
        self._count = len(wanted)
        self._painter = Painter(source.aspect)
        self._images: NDArray[np.uint8] | None = None

    @property
    def complete(self) -> bool:
        return not self._slots

    def paint(self, name: int, frame: VideoFrame) -> None:
        """Convert a frame into every slot that wants it."""
        slots = self._slots.pop(name, ())
        if not slots:
            return
        image = self._painter(frame)
        if self._images is None:
            self._images = np.empty((self._count, *image.shape), np.uint8)
        for slot in slots:
            self._images[slot] = image

    def clip(self, line: Timeline, first: int, last: int) -> Clip:
        """The filled clip; `first` and `last` are the ticks of the stretch's first and last frame."""
        assert self._images is not None
        span, tick = line.span, float(self._source.time_base)
        end = (line.last + line.last_duration - span.origin) * tick if span.end_s is None else span.end_s
        return Clip(
            frames=np.moveaxis(self._images, -1, 1),
            fps=_rate(self._count, (last - first) * tick),
            start_s=span.start_s,
            end_s=end,
            source=self._source.path,
        )


def _rate(frames: int, seconds: float) -> float:
    """Frames a second if the first and the last lie `seconds` apart."""
    return (frames - 1) / seconds if frames > 1 and seconds > 0 else 0.0


def _check_enough(path: str, available: int, min_frames: int) -> None:
    if available < max(min_frames, 1):
        few = "only 1 frame" if available == 1 else f"only {available} frames"
        raise VideoError(path, f"{few} in it, at least {max(min_frames, 1)} are needed")


def check_delivered(source: Source, line: Timeline, shown: Sequence[int]) -> None:
    """Refuse a video that lacks frames, but for those that its packets never promised.

    Harmless are frames before the first decodable one (recordings begin anywhere) and packets of a few
    bytes, which repeat the frame before.
    """
    got = set(shown)
    promised = zip(line.times, line.hidden, line.sizes, strict=True)
    missing = [
        time
        for time, hidden, size in promised
        if time is not None and not hidden and size > _REPEAT_BYTES and line.span.holds(time) and time not in got
    ]
    late = [time for time in missing if got and time > min(got)]
    if not late and (got or not missing):
        return
    total = len(line.shown)
    name = f"{total - len(missing):,} of {total:,} frames could be read; fetch or record it again"
    tail = not got or min(late) > max(got)
    raise VideoError(source.path, f"cut short: {name}" if tail else f"damaged: only {name}")


def _read_webp(
    path: str, film: Animation, choice: Choice, start_s: float, end_s: float | None, min_frames: int
) -> Clip:
    starts, stop = film.starts_s, film.duration_s if end_s is None else end_s
    check_inside(path, start_s, end_s, float(starts[-1]), film.duration_s)
    shown = np.flatnonzero((starts > start_s - ROUNDING_S) & (starts < stop - ROUNDING_S))
    _check_enough(path, len(shown), min_frames)
    picks = shown[choice(starts[shown], len(starts) / film.duration_s)]
    unique, slots = np.unique(picks, return_inverse=True)
    images = np.stack([film.frame(int(i)) for i in unique])[slots]
    return Clip(
        frames=np.moveaxis(images, -1, 1),
        fps=_rate(len(picks), float(starts[shown[-1]] - starts[shown[0]])),
        start_s=start_s,
        end_s=stop,
        source=path,
    )
