"""Animated WebP, which FFmpeg's demuxer does not read: through Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from motionrag.video.errors import VideoError
from motionrag.video.picture import over_white
from motionrag.video.sniff import missing_tail, read_head
from motionrag.video.source import MAX_PIXELS, too_large

_BROKEN = (OSError, EOFError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError)


class Animation:
    """An opened animated WebP."""

    def __init__(self, path: str, image: Image.Image) -> None:
        self._path, self._image = path, image
        self.width, self.height = image.size
        self.starts_s = np.zeros(0)
        """Second at which each frame is shown, f64 [T]."""
        self.duration_s = 0.0
        """End of the last frame."""
        self._time()

    def _time(self) -> None:
        """Durations come with each decoded frame only."""
        starts = []
        for i in range(getattr(self._image, "n_frames", 1)):
            self._load(i)
            starts.append(self.duration_s)
            self.duration_s += self._image.info.get("duration", 0) / 1000
        self.starts_s = np.array(starts)

    def frame(self, index: int) -> NDArray[np.uint8]:
        """RGB u8 [H, W, 3], over white."""
        self._load(index)
        return over_white(np.asarray(self._image.convert("RGBA")))

    def _load(self, index: int) -> None:
        try:
            self._image.seek(index)
            self._image.load()
        except _BROKEN as error:
            raise VideoError(self._path, f"damaged: frame {index} cannot be decoded; fetch it again") from error


def is_webp(path: str) -> bool:
    """Whether a file begins as WebP does.

    Raises:
        VideoError: If it cannot be read at all.
    """
    head = read_head(path)
    return head.startswith(b"RIFF") and head[8:12] == b"WEBP"


@contextmanager
def animation(path: str) -> Iterator[Animation]:
    """Open an animated WebP.

    Raises:
        VideoError: If it is a still image, too large, cut short or damaged.
    """
    if tail := missing_tail(path, read_head(path)):
        raise VideoError(path, f"cut short: {tail}; fetch it again")
    try:
        image = Image.open(path, formats=["WEBP"])
    except _BROKEN as error:
        raise VideoError(path, "damaged: its WebP header cannot be read") from error
    with image:
        if not getattr(image, "is_animated", False):
            raise VideoError(path, "is a still image (WebP), not a video")
        if image.width * image.height > MAX_PIXELS:
            raise too_large(path, image.width, image.height)
        yield Animation(path, image)
