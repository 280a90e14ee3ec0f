"""Target images of any size and kind to what a base takes."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from motionrag.errors import MotionRAGError
from motionrag.video import read_image, to_rgb

TargetImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a Pillow image, or RGB u8 [3, H, W] in [0, 255]."""


def picture(image: TargetImage) -> Image.Image:
    """An image as upright 8-bit RGB; transparency lies over white, of an animation the first frame is taken.

    Raises:
        MotionRAGError: If a file is missing or no picture, or an array has another shape or type.
    """
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8 or not image.size:
            raise MotionRAGError(f"an image must be u8 [3, H, W], got {image.dtype} {list(image.shape)}")
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    return picture(read_image(image))


def fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize to cover height x width, then crop around the centre."""
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """RGB image to u8 [3, H, W]."""
    return np.moveaxis(np.asarray(image), -1, 0)
