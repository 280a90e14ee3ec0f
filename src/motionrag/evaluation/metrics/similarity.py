"""Likeness of generated and true clips in the features of a network, and of clips and their prompts."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.evaluation.features import BY_FRAME, Features
from motionrag.evaluation.metrics.base import Direction, Rows, ScoreMetric, Seen, Targets, same_length, scores


class ActionScore(ScoreMetric):
    """100 x cosine of the features of the generated and the true clip (paper, section 4.1).

    The published network is VideoMAE fine-tuned on Something-Something v2, its class scores being the features; the
    same network's tokens condition generation, so it is no judge from outside.
    """

    direction: ClassVar[Direction] = "higher"

    def __init__(self, features: Features) -> None:
        if features.kind in BY_FRAME or features.reads:
            raise MotionRAGError(f"the Action score takes features of clips, {features.name} are others")
        super().__init__(features.name, ["true"], features.settings)
        self._features = features

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        own, true = (clips.take(self._features, self._features) for clips in (generated, targets.seen))
        return scores(100 * cosine(own, true))


class FrameSimilarity(ScoreMetric):
    """100 x mean cosine of the features of each generated frame and the true frame: DINO and CLIP of the paper."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self, features: Features) -> None:
        if features.kind not in BY_FRAME:
            raise MotionRAGError(f"frame similarity takes features of frames, {features.name} are others")
        super().__init__(features.name, ["true"], features.settings)
        self._features = features

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        same_length(generated, targets.seen, self.name)
        own, true = (clips.take(self._features, self._features) for clips in (generated, targets.seen))
        return scores(100 * cosine(own, true).mean(dim=1))


class TextVideoAlignment(ScoreMetric):
    """How well a clip fits its prompt: 100 x mean cosine of frames and prompt in CLIP.

    The bundled stand-in reads no text: it is the probability, in [0, 1], that a judge of motion families gives to
    the family which the prompt of a simulated clip tells of.
    """

    direction: ClassVar[Direction] = "higher"

    def __init__(self, features: Features) -> None:
        if features.reads is None:
            raise MotionRAGError(f"alignment takes features of kind text-video, not {features.name}")
        super().__init__(features.name, ["prompts" if features.reads == "prompts" else "scenes"], features.settings)
        self._features = features

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        if self._features.reads == "prompts":
            return scores(self._features(generated.video, targets.prompts))
        assert targets.scenes is not None
        return scores(self._features(generated.video, targets.scenes.family))


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Of vectors [...,D] twice to [...], in float64; two zero vectors count as unlike."""
    return torch.cosine_similarity(x.double(), y.double(), dim=-1)
