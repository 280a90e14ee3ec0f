"""Still images in: upright, RGB."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from motionrag.video.errors import VideoError


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture as RGB u8 [3, H, W]; see `to_rgb`. Of an animation the first frame is taken.

    Raises:
        VideoError: If it is missing or no picture.
    """
    try:
        with Image.open(path) as opened:
            picture = to_rgb(opened)
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise VideoError(path, "is no picture that can be read") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(path, f"cannot be read as a picture ({error})") from error
    return np.moveaxis(np.asarray(picture), -1, 0)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as upright 8-bit RGB: transparency lies over white, deep greys (16 or 32 bits, floats) are scaled."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith(("I", "F")):
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
