"""Target images of any size and kind to what a base takes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from motionrag.errors import MotionRAGError
from motionrag.video import read_image

TargetImage = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A file, a Pillow image, or RGB u8 [3, H, W] in [0, 255]."""


def picture(image: TargetImage) -> Image.Image:
    """An image as upright 8-bit RGB; transparency lies over white, of an animation the first frame is taken.

    Raises:
        MotionRAGError: If a file is missing or no picture, or an array has another shape or type.
    """
    if isinstance(image, Image.Image):
        return _rgb(image)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8 or not image.size:
            raise MotionRAGError(f"an image must be u8 [3, H, W], got {image.dtype} {list(image.shape)}")
        return Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    try:
        with Image.open(image) as opened:
            if _is_deep(opened):
                return _rgb(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        pass  # read_image says what is wrong with it
    return picture(read_image(image))


def fitted(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize to cover height x width, then crop around the centre."""
    return ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """RGB image to u8 [3, H, W]."""
    return np.moveaxis(np.asarray(image), -1, 0)


def _is_deep(image: Image.Image) -> bool:
    """Whether it has more than 8 bits a channel in Pillow: integers of 16 or 32 bits, floats."""
    return image.mode.startswith(("I", "F"))


def _rgb(image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if _is_deep(upright):
        return _eight_bits(np.asarray(upright)).convert("RGB")
    page = Image.new("RGBA", upright.size, (255, 255, 255, 255))
    page.alpha_composite(upright.convert("RGBA"))
    return page.convert("RGB")


def _eight_bits(values: NDArray[Any]) -> Image.Image:
    """Grey values of a deep image: white is 65535 in integers beyond a byte, 1 in floats up to 1, else 255."""
    real = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float64))
    highest = values.max()
    white = 1.0 if real and highest <= 1 else 255.0 if highest <= 255 else max(65535.0, float(highest))
    return Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
