"""Dense optical flow between the frames of a clip: DIS (Kroeger et al. 2016), as OpenCV has it; no network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.evaluation.metrics.base import Seen

NAME = "DIS, medium preset"
"""Of the flow; published figures were made with RAFT."""
SMALLEST = 16
"""Side of a frame below which DIS finds nothing."""


def speed(clips: Seen) -> Tensor:
    """How far each pixel moves to the next frame, f32 [B,T-1,H,W] in pixels; computed once."""
    return clips.take(flow, lambda video: flow(video).norm(dim=2))


def flow(video: Tensor) -> Tensor:
    """Where each pixel is in the next frame.

    Args:
        video: RGB u8 [B,T,3,H,W].

    Returns:
        f32 [B,T-1,2,H,W], x and y in pixels.

    Raises:
        MotionRAGError: If OpenCV is missing, or clips are too short or small.
    """
    cv2 = _opencv()
    T, H, W = video.shape[1], *video.shape[-2:]
    if T < 2:
        raise MotionRAGError("optical flow: a clip of one frame does not move; give clips of two frames or more")
    if min(H, W) < SMALLEST:
        raise MotionRAGError(f"optical flow: frames are {H}x{W}, at least {SMALLEST}x{SMALLEST} is needed")
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    found = np.empty((len(video), T - 1, H, W, 2), dtype=np.float32)
    for clip, out in zip(video.cpu().numpy(), found, strict=True):
        grey = [cv2.cvtColor(np.ascontiguousarray(np.moveaxis(f, 0, -1)), cv2.COLOR_RGB2GRAY) for f in clip]
        for t in range(T - 1):
            out[t] = dis.calc(grey[t], grey[t + 1], None)
    return rearrange(torch.from_numpy(found), "b t h w c -> b t c h w")


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise MotionRAGError("optical flow needs OpenCV: pip install 'motionrag[eval]'") from error
    return cv2
