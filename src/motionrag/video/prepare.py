"""Clips as an encoder wants them: frames picked, shortest edge resized, centre cropped.

Resized bit for bit as by transformers' Pillow-backed image processors (VideoMAEImageProcessorPil and DINOv2's
BitImageProcessorPil), cropped as by torchvision, as in the published code. Rescaling and normalising run on the
encoder's device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motionrag.errors import MotionRAGError
from motionrag.types import WHOLE, View
from motionrag.video.read import pick

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How frames become an encoder's input."""

    frames: int
    """S, the frames that the encoder takes."""
    shortest_edge: int
    """Length in pixels that the shorter side is resized to."""
    crop: tuple[int, int]
    """Height and width that are cut out of the centre; what reaches beyond the picture is black."""
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    """Filter of the resize, with Pillow's antialiasing."""
    which: Literal["uniform", "first"] = "uniform"
    """Which S of a clip's T frames: spread uniformly, or the first S."""
    view: View = WHOLE
    """Window in time, for those who read clips; and the frame that pictures are cut to before all else."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of RGB in [0, 1], for the encoder to subtract."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Of RGB in [0, 1], for the encoder to divide by."""

    def __post_init__(self) -> None:
        if min(self.frames, self.shortest_edge, *self.crop) < 1:
            raise MotionRAGError(
                f"Preparation: frames={self.frames}, shortest_edge={self.shortest_edge} and crop={self.crop} "
                "must be 1 or more"
            )
        if self.resample not in _FILTERS:
            raise MotionRAGError(f"Preparation: resample={self.resample!r} must be one of {', '.join(_FILTERS)}")
        if self.which not in {"uniform", "first"}:
            raise MotionRAGError(f"Preparation: which={self.which!r} must be uniform or first")

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Pick, resize and crop.

        Args:
            frames: RGB u8 [T, 3, H, W], range [0, 255].

        Returns:
            RGB u8 [S, 3, h, w].

        Raises:
            MotionRAGError: If the shape or type is another, or `which="first"` and T < S.
        """
        if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
            raise MotionRAGError(f"frames must be u8 [T, 3, H, W], got {frames.dtype} {list(frames.shape)}")
        picks = self._picks(len(frames))
        unique, slots = np.unique(picks, return_inverse=True)
        images = np.moveaxis(frames, 1, -1)  # [T, H, W, 3]
        done = np.stack([self._frame(images[i]) for i in unique])
        return np.ascontiguousarray(np.moveaxis(done, -1, 1)[slots])

    def _picks(self, available: int) -> NDArray[np.int64]:
        if self.which == "uniform":
            return pick(available, self.frames)
        if available < self.frames:
            raise MotionRAGError(f"the first {self.frames} frames are wanted, but the clip has {available}")
        return np.arange(self.frames)

    def _frame(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One frame [H, W, 3] -> [h, w, 3]."""
        if self.view.height is not None and self.view.width is not None:
            image = framed(image, (self.view.height, self.view.width))
        height, width = resized_size(image.shape[0], image.shape[1], self.shortest_edge)
        picture = Image.fromarray(np.ascontiguousarray(image))
        return center_crop(np.asarray(picture.resize((width, height), _FILTERS[self.resample])), self.crop)


def framed(image: NDArray[np.uint8], frame: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture [H, W, 3] scaled to cover a height and width, the longer side rounded down, and cropped to them."""
    factor = max(frame[0] / image.shape[0], frame[1] / image.shape[1])
    height, width = (
        max(int(size * factor + 1e-6), wanted) for size, wanted in zip(image.shape, frame, strict=False)
    )
    picture = Image.fromarray(np.ascontiguousarray(image))
    return center_crop(np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)), frame)


def resized_size(height: int, width: int, shortest_edge: int) -> tuple[int, int]:
    """Height and width after resizing the shorter side; the longer one is rounded down, as in transformers."""
    if width <= height:
        return int(shortest_edge * height / width), shortest_edge
    return shortest_edge, int(shortest_edge * width / height)


def center_crop(image: NDArray[np.uint8], crop: tuple[int, int]) -> NDArray[np.uint8]:
    """Cut [H, W, C] to `crop` around the centre, half a pixel rounded to the even one, as in torchvision.

    A picture smaller than the crop is laid in the middle of black, the odd pixel then before it, as in transformers.
    """
    height, width = crop
    top, left = (_offset(size, wanted) for size, wanted in zip(image.shape, crop, strict=False))
    if top >= 0 and left >= 0:
        return image[top : top + height, left : left + width]
    padded_height, padded_width = max(height, image.shape[0]), max(width, image.shape[1])
    above, before = ceil((padded_height - image.shape[0]) / 2), ceil((padded_width - image.shape[1]) / 2)
    canvas = np.zeros((padded_height, padded_width, image.shape[2]), image.dtype)
    canvas[above : above + image.shape[0], before : before + image.shape[1]] = image
    top, left = top + above, left + before
    return canvas[max(0, top) : top + height, max(0, left) : left + width]


def _offset(size: int, crop: int) -> int:
    return round((size - crop) / 2) if size >= crop else (size - crop) // 2
