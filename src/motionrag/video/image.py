"""Still images in: upright, RGB."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from motionrag.video.errors import VideoError


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture as RGB u8 [3, H, W], upright; transparency lies over white.

    Raises:
        VideoError: If it is missing or no picture.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except FileNotFoundError as error:
        raise VideoError(path, "no such file") from error
    except UnidentifiedImageError as error:
        raise VideoError(path, "is no picture that can be read") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(path, f"cannot be read as a picture ({error})") from error
    page = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    page.alpha_composite(picture)
    return np.moveaxis(np.asarray(page.convert("RGB")), -1, 0)
