"""Scenes: where a video cuts from one to the next, and how to split it into clips that lie within one.

A cut is a frame that differs from the one before far more than its neighbours in time differ among themselves,
as PySceneDetect's AdaptiveDetector has it; flashes, after which the picture returns, are told apart from cuts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError
from motionrag.video.decode import Decoder
from motionrag.video.probe import VideoInfo
from motionrag.video.read import check_delivered
from motionrag.video.source import opened
from motionrag.video.timeline import scan
from motionrag.video.webp import animation, is_webp

CUT_RATIO = 3.0
"""How many times the usual change between frames a cut is."""
LEAST_CHANGE = 15.0
"""Least change of a cut: mean absolute difference of luma plus those of both chroma planes, in 1/255."""

_WIDTH, _HEIGHT = 32, 24  # of the pictures compared
_ABRUPT = 2.0  # times the largest change within two frames: what starts to move keeps moving
_AROUND_S = 0.3  # neighbours on either side that say what is usual
_FLASH_S = 0.35  # within which the picture returns after a flash
_STILL = 0.05  # changes below this are repeated frames
_QUIET = 1.0  # the usual change is taken to be at least this


def scene_cuts(
    path: str | os.PathLike[str], *, threshold: float = CUT_RATIO, min_scene_s: float = 0.6, threads: int = 0
) -> list[float]:
    """Seconds, from the first frame, at which a new scene begins; the first scene's 0 is left out.

    Hard cuts only: fades and dissolves count as motion.

    Args:
        path: The video.
        threshold: How many times the usual change between frames a cut is; lower finds more.
        min_scene_s: A cut sooner after the last one, or after the beginning, does not count.
        threads: Decoding threads, as in `read_clip`.

    Raises:
        VideoError: If the video cannot be read.
    """
    times, thumbs = _thumbnails(os.fspath(path), threads)
    cuts: list[float] = []
    for i in _changes(times, thumbs, threshold):
        if times[i] - (cuts[-1] if cuts else 0.0) >= min_scene_s:
            cuts.append(float(times[i]))
    return cuts


def split(video: float | VideoInfo, *, length_s: float, cuts: Sequence[float] = ()) -> list[tuple[float, float]]:
    """Split a video into clips of about equal length, none of which crosses a cut.

    Each scene is divided evenly into as many parts as come nearest to `length_s`; so none is shorter than
    two thirds of it unless the scene itself is.

    Args:
        video: Its duration in seconds, or its facts.
        length_s: Wanted length in seconds.
        cuts: Seconds at which new scenes begin.

    Returns:
        (start, end) of each clip in seconds, without gaps.

    Raises:
        MotionRAGError: If a length is not positive.
    """
    duration = video.duration_s if isinstance(video, VideoInfo) else video
    if not (length_s > 0 and duration > 0):
        raise MotionRAGError(f"split: length_s={length_s} and the duration {duration} s must be positive")
    edges = [0.0, *sorted({cut for cut in cuts if 0 < cut < duration}), float(duration)]
    clips: list[tuple[float, float]] = []
    for start, end in pairwise(edges):
        parts = max(1, round((end - start) / length_s))
        inner = [start + (end - start) * i / parts for i in range(parts)]
        clips += pairwise([*inner, end])
    return clips


def _changes(times: NDArray[np.float64], thumbs: NDArray[np.uint8], threshold: float) -> list[int]:
    """Frames that begin a scene, by number."""
    change = np.array([_difference(before, after) for before, after in pairwise(thumbs)])
    found = []
    for i in np.flatnonzero(change >= LEAST_CHANGE):
        near = np.abs(times[1:] - times[i + 1]) <= _AROUND_S
        beside = np.abs(np.arange(len(change)) - i) <= 2
        near[i] = beside[i] = False
        around = change[(near | beside) & (change > _STILL)]
        usual = max(float(around.mean()) if around.size else 0.0, _QUIET)
        abrupt = change[i] >= _ABRUPT * change[beside].max(initial=0.0)
        if abrupt and change[i] >= threshold * usual and not _returns(times, thumbs, int(i), float(change[i])):
            found.append(int(i) + 1)
    return found


def _returns(times: NDArray[np.float64], thumbs: NDArray[np.uint8], i: int, change: float) -> bool:
    """Whether the picture of frame i, or of one shortly before, comes back shortly after: a flash."""
    before = [j for j in range(i, -1, -1) if times[i + 1] - times[j] <= _FLASH_S] or [i]
    after = [j for j in range(i + 1, len(times)) if times[j] - times[i] <= _FLASH_S]
    return any(_difference(thumbs[j], thumbs[k]) < change / 3 for j in before for k in after)


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Sum over the three planes of the mean absolute difference."""
    return 3 * float(np.abs(one.astype(np.int16) - other).mean())


def _thumbnails(path: str, threads: int) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Seconds f64 [T] and small pictures, luma and both chroma planes u8 [T, 3, 24, 32]."""
    shrink = _Shrinker()
    if is_webp(path):
        with animation(path) as film:
            frames = (VideoFrame.from_ndarray(film.frame(i), "rgb24") for i in range(len(film.starts_s)))
            return film.starts_s, np.array([shrink(frame) for frame in frames])
    with opened(path) as source:
        line = scan(source)
        ticks, thumbs = [], []
        for tick, frame in Decoder(source, line, threads).everything():
            ticks.append(tick)
            thumbs.append(shrink(frame))
        check_delivered(source, line, ticks)
        seconds = (np.array(sorted(ticks), np.float64) - line.span.origin) * float(source.time_base)
        return seconds, np.array(thumbs)


class _Shrinker:
    """Frames to small pictures."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        small = self._reformatter.reformat(
            frame, width=_WIDTH, height=_HEIGHT, format="yuv444p", interpolation=Interpolation.AREA, threads=1
        )
        planes = [
            np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:_HEIGHT, :_WIDTH]
            for plane in small.planes
        ]
        return np.stack(planes)
