"""Frames on their way into networks and out of them: cut to shape, and between u8 and [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.training.sources import Clips
from motionrag.types import Sampling


def video(clips: Clips, sampling: Sampling) -> Tensor:
    """Clips as u8 [B,T,3,H,W]: the middle of each picture, as large as fits the wanted shape."""
    return torch.from_numpy(np.stack([_fitted(frames, sampling) for frames in clips.frames]))


def _fitted(frames: np.ndarray[Any, Any], sampling: Sampling) -> np.ndarray[Any, Any]:
    if len(frames) != sampling.frames:
        raise MotionRAGError(f"a clip has {len(frames)} frames, wanted are {sampling.frames}")
    if frames.shape[2:] == (sampling.height, sampling.width):
        return frames
    size = (sampling.width, sampling.height)
    images = [ImageOps.fit(picture(frame), size, method=Image.Resampling.BICUBIC) for frame in frames]
    return np.stack([np.moveaxis(np.asarray(image), -1, 0) for image in images])


def picture(frame: Any) -> Image.Image:
    """A frame u8 [3,H,W] as a picture."""
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(np.asarray(frame), 0, -1)))


def pixels(frames: Tensor, module: Any) -> Tensor:
    """Frames u8 to [-1, 1], where and what a module is; others are in that range already."""
    frames = frames.to(module.device)
    return (frames.float() / 127.5 - 1 if frames.dtype == torch.uint8 else frames).to(module.dtype)


def to_u8(frames: Tensor) -> Tensor:
    """Frames in [-1, 1] to u8, on the CPU."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
