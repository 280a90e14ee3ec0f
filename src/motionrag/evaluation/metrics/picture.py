"""Whether the first generated frame is the image that was given."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.evaluation.features import BY_FRAME, Features
from motionrag.evaluation.metrics.base import Direction, Rows, ScoreMetric, Seen, Targets, scores
from motionrag.evaluation.metrics.similarity import cosine

WINDOW, SIGMA = 11, 1.5
"""Of SSIM."""
ROUNDING = 1 / 12
"""Squared error that rounding to 8 bits alone leaves; it bounds PSNR at 58.9 dB."""


class FirstFramePSNR(ScoreMetric):
    """Peak signal to noise ratio of the first frame to the image, in dB; 58.9 where they are the same."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self) -> None:
        super().__init__("first-frame", ["first"], {"measure": "PSNR", "unit": "dB", "at_most": 58.9})

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        first, image = _pair(generated.video, targets, self.name)
        error = (first - image).square().flatten(1).mean(dim=1)
        return scores(10 * torch.log10(255**2 / error.clamp(min=ROUNDING)))


class FirstFrameSSIM(ScoreMetric):
    """Structural similarity of the first frame to the image (Wang et al. 2004), mean over RGB."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self) -> None:
        super().__init__("first-frame-ssim", ["first"], {"window": WINDOW, "sigma": SIGMA, "k": [0.01, 0.03]})

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        first, image = _pair(generated.video, targets, self.name)
        if min(first.shape[-2:]) < WINDOW:
            raise MotionRAGError(f"{self.name}: frames are {list(first.shape[-2:])}, the window is {WINDOW}")
        return scores(ssim(first, image))


class FirstFrameSimilarity(ScoreMetric):
    """100 x cosine of the first frame and the image in features of frames, such as DINO's."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self, features: Features) -> None:
        if features.kind not in BY_FRAME:
            raise MotionRAGError(f"first-frame similarity takes features of frames, {features.name} are others")
        name = features.name.replace(features.kind, f"first-frame-{features.kind}", 1)
        super().__init__(name, ["first"], features.settings)
        self._features = features

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        assert targets.first is not None
        first, image = (self._features(frame[:, None])[:, 0] for frame in (generated.video[:, 0], targets.first))
        return scores(100 * cosine(first, image))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Of images [B,3,H,W] in [0, 255] to [B], over windows that lie within the image."""
    line = torch.exp(-(torch.arange(WINDOW, dtype=x.dtype) - WINDOW // 2).square() / (2 * SIGMA**2))
    kernel = (line[:, None] * line / line.sum() ** 2).expand(3, 1, WINDOW, WINDOW)

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values, kernel, groups=3)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mx, my = local(x), local(y)
    vx, vy, both = local(x * x) - mx * mx, local(y * y) - my * my, local(x * y) - mx * my
    like = (2 * mx * my + c1) * (2 * both + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return like.flatten(1).mean(dim=1)


def _pair(generated: Tensor, targets: Targets, name: str) -> tuple[Tensor, Tensor]:
    """First frames and images, f64 [B,3,H,W]."""
    assert targets.first is not None
    first, image = generated[:, 0].cpu(), targets.first.cpu()
    if first.shape != image.shape:
        raise MotionRAGError(
            f"{name}: frames are {list(first.shape[-2:])}, the images {list(image.shape[-2:])}; give the images as "
            "they were resized for generation"
        )
    return first.double(), image.double()
