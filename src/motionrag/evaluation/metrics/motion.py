"""How much clips move and flicker, from optical flow."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from motionrag.evaluation.metrics.base import Direction, Rows, ScoreMetric, Seen, Targets, same_length, scores
from motionrag.evaluation.metrics.flow import NAME, speed

SIDE = 256
"""Shorter side of the frames in whose pixels the motion metric counts, as published."""
BINS, LOW, HIGH = 256, -7.0, 5.0
"""Of the histograms of log2 magnitudes, as published."""
SMOOTHING = 0.1
"""Added to each bin, as published, for pixels of the frame that flow is computed on."""
STILL = 0.5
"""Pixels a frame below which a pixel stands still."""
MARGIN = 4
"""Pixels around moving ones in which nothing counts as still."""
FASTEST = 0.05
"""Share of a frame's pixels, the fastest, whose flow is the dynamic degree, as VBench has it."""


class MotionKL(ScoreMetric):
    """KL divergence between histograms of log flow magnitude, mean over pairs of successive frames.

    sum_b p_b log(p_b / q_b), p of the true and q of the generated pair: the paper's Motion, but for the flow (see
    the settings) and for pixels slower than the lowest bin, which count in it rather than not at all: DIS says
    exactly 0 where nothing moves.
    """

    direction: ClassVar[Direction] = "lower"

    def __init__(self) -> None:
        settings = {"flow": NAME, "bins": BINS, "log2_range": [LOW, HIGH], "smoothing": SMOOTHING, "side": SIDE}
        super().__init__("motion-kl", ["true"], {**settings, "outside": "counted in the outermost bins"})

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        same_length(generated, targets.seen, self.name)
        q, p = (_histograms(clips) for clips in (generated, targets.seen))
        return scores((p * (p.log() - q.log())).sum(dim=-1).mean(dim=1))


def _histograms(clips: Seen) -> Tensor:
    return clips.take(magnitude_histograms, lambda _: magnitude_histograms(clips))


def magnitude_histograms(clips: Seen) -> Tensor:
    """Shares of log2 flow magnitudes of clips, f64 [B,T-1,256].

    Frames larger than `SIDE` are made smaller; smaller ones stay, and their magnitudes are counted as if enlarged.
    """
    video, short = clips.video, min(clips.video.shape[-2:])
    if short > SIDE:
        size = [round(edge * SIDE / short) for edge in video.shape[-2:]]
        small = F.interpolate(video.flatten(0, 1).float(), size=size, mode="bilinear", antialias=True)
        clips = Seen(small.round().clamp(0, 255).to(torch.uint8).unflatten(0, video.shape[:2]))
        short = SIDE
    found = speed(clips).flatten(2) * (SIDE / short)
    place = (found.log2().clamp(LOW, HIGH) - LOW) / (HIGH - LOW) * BINS
    index = place.floor().long().clamp(0, BINS - 1)
    counts = torch.zeros(*index.shape[:2], BINS, dtype=torch.float64)
    counts.scatter_add_(2, index, torch.ones(index.shape, dtype=torch.float64))
    counts += SMOOTHING
    return counts / counts.sum(dim=-1, keepdim=True)


class DynamicDegree(ScoreMetric):
    """Mean flow magnitude of the fastest 5% of each frame's pixels, in percent of the frame's diagonal.

    What VBench's dynamic degree (Huang et al. 2024) puts a threshold to, but for the flow (RAFT there), the rate of
    frames (8 a second there) and the unit; mean over pairs of successive frames. Over all pixels a flow says little:
    where a frame is plain it spreads what moves over the surroundings, and a static texture too faint to be seen
    halts it. It has no better or worse: a system whose figure is far below the true clips' wins other metrics by
    standing still.
    """

    direction: ClassVar[Direction] = "none"

    def __init__(self) -> None:
        settings = {"flow": NAME, "fastest": FASTEST, "unit": "percent of the diagonal, a frame"}
        super().__init__("dynamic-degree", (), settings)

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        H, W = generated.video.shape[-2:]
        fastest = speed(generated).flatten(2).topk(int(FASTEST * H * W), dim=2).values
        return scores(100 * fastest.double().mean(dim=(1, 2)) / (H**2 + W**2) ** 0.5)


class TemporalFlicker(ScoreMetric):
    """Mean absolute difference of successive frames where nothing moves, in grey levels of 255.

    VBench's temporal flickering is (255 - this) / 255 over all pixels of clips that are chosen to be still; here
    still pixels are chosen in each pair of frames, so that moving is not punished. NaN where all pixels move.
    """

    direction: ClassVar[Direction] = "lower"
    partial: ClassVar[bool] = True

    def __init__(self) -> None:
        settings = {"flow": NAME, "still_below_pixels": STILL, "margin_pixels": MARGIN, "unit": "levels of 255"}
        super().__init__("flicker", (), settings)

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        moving = (speed(generated) >= STILL).float()
        still = F.max_pool2d(moving, 2 * MARGIN + 1, 1, MARGIN) == 0
        frames = generated.video.float()
        change = (frames[:, 1:] - frames[:, :-1]).abs().mean(dim=2)
        total = (change.double() * still).flatten(1).sum(dim=1)
        return scores(total / still.flatten(1).sum(dim=1))
