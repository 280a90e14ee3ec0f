"""Pictures and clips as data URIs, for pages that need nothing else."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motionrag.video.write import write_video

HOLD_S = 0.5
"""How long a clip rests on its last frame before it begins anew."""
KINDS = {".mp4": "video/mp4", ".webp": "image/webp"}


def moving(frames: NDArray[np.uint8], fps: float, height: int, suffix: str = ".mp4") -> str:
    """Frames u8 [T,3,H,W] as a looping .mp4 or .webp of that height."""
    images = [sized(Image.fromarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1))), height) for frame in frames]
    film = np.stack([np.moveaxis(np.asarray(image), -1, 0) for image in images])
    held = np.concatenate([film, np.repeat(film[-1:], round(HOLD_S * fps), axis=0)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"clip{suffix}"
        write_video(path, held, fps)
        return data_uri(path.read_bytes(), KINDS[suffix])


def still(image: Image.Image) -> str:
    """An image as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=85)
    return data_uri(buffer.getvalue(), "image/webp")


def sized(image: Image.Image, height: int) -> Image.Image:
    """An image at another height, the ratio of its sides kept."""
    return image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.BICUBIC)


def data_uri(content: bytes, kind: str) -> str:
    """A file's bytes as text to stand in a page."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
