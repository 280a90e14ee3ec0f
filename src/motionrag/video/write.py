"""Frames to a video file that plays everywhere; whole or not at all."""

from __future__ import annotations

import os
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from motionrag.video.errors import VideoError
from motionrag.video.files import os_reason, replacing_file

_H264 = ("libx264", {"crf": "17", "preset": "medium"})
_VP9 = ("libvpx-vp9", {"crf": "24", "b": "0", "row-mt": "1", "cpu-used": "4"})
_ENCODERS = {".mp4": _H264, ".mov": _H264, ".mkv": _H264, ".webm": _VP9}
_ANIMATIONS = {".gif": 10, ".webp": 1}  # milliseconds of their clocks' ticks
_BT709 = 1  # ITU-T H.273, the same number for matrix, primaries and transfer
_GIF_FPS = 50  # beyond this players fall back to 10


def write_video(path: str | os.PathLike[str], frames: NDArray[np.uint8], fps: float) -> None:
    """Write a video; its suffix says how: .mp4, .mov, .mkv (H.264), .webm (VP9), .gif or .webp (animated).

    Args:
        path: Where to; an existing file is replaced once the new one is whole.
        frames: RGB u8 [T, 3, H, W], range [0, 255]. For H.264 an odd side grows by one repeated row or column.
            GIF and WebP show equal neighbours as one longer frame.
        fps: Frames a second.

    Raises:
        VideoError: If the suffix, shape or rate is impossible, or the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _ENCODERS and suffix not in _ANIMATIONS:
        known = ", ".join([*_ENCODERS, *_ANIMATIONS])
        raise VideoError(path, f"the suffix {path.suffix!r} names no video format; use one of {known}")
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise VideoError(path, f"frames must be u8 [T, 3, H, W], got {frames.dtype} {list(frames.shape)}")
    if not (isfinite(fps) and 0 < fps <= (_GIF_FPS if suffix == ".gif" else 1000)):
        raise VideoError(path, f"cannot play at {fps} frames a second")
    images = np.moveaxis(frames, 1, -1)
    with replacing_file(path) as temporary:
        if suffix in _ANIMATIONS:
            _animate(temporary, images, fps, _ANIMATIONS[suffix])
        else:
            _encode(path, temporary, images, fps, *_ENCODERS[suffix])


def _encode(
    path: Path, temporary: Path, images: NDArray[np.uint8], fps: float, codec: str, options: dict[str, str]
) -> None:
    """Encode [T, H, W, 3] with FFmpeg."""
    if codec == "libx264":
        images = np.pad(images, ((0, 0), (0, images.shape[1] % 2), (0, images.shape[2] % 2), (0, 0)), "edge")
    try:
        with av.open(f"file:{temporary}", "w") as container:
            stream = container.add_stream(codec, Fraction(fps).limit_denominator(65535), options=options)
            _configure(stream, images.shape[1], images.shape[2])
            for image in images:
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)))
            container.mux(stream.encode(None))
    except av.error.FFmpegError as error:
        reason = os_reason(error) if isinstance(error, OSError) else (error.strerror or "FFmpeg failed").lower()
        raise VideoError(path, f"cannot be written: {reason}") from error


def _configure(stream: VideoStream, height: int, width: int) -> None:
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    context.color_range = 1  # "limited"


def _animate(temporary: Path, images: NDArray[np.uint8], fps: float, tick_ms: int) -> None:
    """Write GIF or WebP with Pillow; the clock's rounding does not add up."""
    ends = np.round(np.arange(1, len(images) + 1) * 1000 / fps / tick_ms).astype(int) * tick_ms
    durations = np.diff(ends, prepend=0).tolist()
    first, *rest = [Image.fromarray(np.ascontiguousarray(image)) for image in images]
    settings: dict[str, Any] = (
        {"disposal": 1} if temporary.suffix.lower() == ".gif" else {"quality": 90, "method": 4}
    )
    first.save(temporary, save_all=True, append_images=rest, duration=durations, loop=0, **settings)
