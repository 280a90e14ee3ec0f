"""Training of the family classifier that judges generated clips: all families whose motion is of one kind.

It sees the unseen families too, being the judge; clips are made worse the way generated ones are: blurred, noisy,
in other colours, bent, and with objects that fade.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motionrag.evaluation.families import FRAMES, SIDE, ClassifierConfig, FamilyClassifier, prepared
from motionrag.synth import families, render

if TYPE_CHECKING:
    from motionrag.synth import SynthBatch

BENDS = 5
"""Side of the grid of random shifts that bends a frame."""


@dataclass(frozen=True, kw_only=True)
class FamilySettings:
    """What the classifier is trained on."""

    seed: int = 4
    """Of the simulated corpus."""
    views: int = 2
    """Differently worsened views of each clip in a batch."""


class FamiliesTask:
    """Trains the family classifier; see `Task`."""

    Settings = FamilySettings

    def __init__(self, settings: FamilySettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.names = [family.name for family in families().values() if family.predictable]
        self.model = FamilyClassifier(ClassifierConfig(families=self.names)).to(device)

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Worsened clips f32 [B,16,3,32,32] in [0, 1], and the numbers of their families [B]."""
        numbers = torch.randint(0, 100_000_000, (max(1, size // self.settings.views),), generator=generator)
        made = render(self.settings.seed, numbers.tolist(), self.names, size=SIDE, frames=FRAMES)
        views = [worsened(made, generator) for _ in range(self.settings.views)]
        label = torch.tensor([self.names.index(name) for name in made.family])
        return {"video": torch.cat(views), "label": label.repeat(self.settings.views)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Cross-entropy, labels a little smoothed."""
        scores = self.model(batch["video"]).float()
        right = (scores.argmax(dim=1) == batch["label"]).float().mean()
        return F.cross_entropy(scores, batch["label"], label_smoothing=0.05), {"accuracy": right.detach()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Accuracy on clips that no training sees, rendered as they are generated, true and worsened; by family."""
        made = render(7_777, range(300_000_000, 300_000_000 + 16 * len(self.names)), self.names)
        device = next(self.model.parameters()).device
        blurred = (worsened(made, torch.Generator().manual_seed(0)) * 255).round().to(torch.uint8)
        right = {
            name: torch.tensor([a == b for a, b in zip(self._found(video, device), made.family, strict=True)])
            for name, video in (("true", made.video), ("worsened", blurred))
        }
        by_family = {
            name: [round(float(value[i :: len(self.names)].float().mean()), 3) for value in right.values()]
            for i, name in enumerate(self.names)
        }
        means = {f"{name}_accuracy": float(value.float().mean()) for name, value in right.items()}
        lines = {**means, "families": by_family}
        (folder / f"step-{step:06d}.json").write_text(json.dumps(lines, indent=2) + "\n", encoding="utf-8")
        return means

    def _found(self, video: Tensor, device: torch.device) -> list[str]:
        scores = torch.cat([self.model(prepared(part).to(device)) for part in video.split(64)])
        return [self.names[i] for i in scores.argmax(dim=1).tolist()]

    def export(self, folder: Path) -> None:
        """Write the classifier."""
        self.model.save_pretrained(folder)


def worsened(made: SynthBatch, generator: torch.Generator) -> Tensor:
    """Clips as a weak generator might make them, to various degrees, some mirrored: f32 [B,T,3,H,W] in [0, 1]."""
    video, ground = made.video.float() / 255, made.background.float()[:, None] / 255
    B, T = video.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(B, *shape, *[1] * (5 - 1 - len(shape)), generator=generator)

    degree = uniform(0, 1)
    fading = uniform(0, 0.6) * degree * torch.linspace(0, 1, T)[:, None, None, None]
    video = video + fading * (ground - video)
    video = bent(video, degree * uniform(0, 0.06), generator)
    softer = F.avg_pool2d(video.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(video)
    video = video + degree * uniform(0, 1) * (softer - video)
    flicker = degree * uniform(-0.04, 0.04, T)
    video = (video - 0.5) * uniform(0.7, 1.2) + 0.5 + uniform(-0.1, 0.1, 1, 3) + flicker
    video = video + degree * uniform(0, 0.05) * torch.randn(video.shape, generator=generator)
    mirrored = torch.rand(B, generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None, None], video.flip(-1), video).clamp(0, 1)


def bent(video: Tensor, amount: Tensor, generator: torch.Generator) -> Tensor:
    """Each frame [B,T,C,H,W] bent in another way, by `amount` [B,1,1,1,1] half frames or so; the first is not."""
    B, T, _, H, W = video.shape
    shifts = torch.randn(B * T, 2, BENDS, BENDS, generator=generator)
    field = F.interpolate(shifts, size=(H, W), mode="bicubic", align_corners=True).view(B, T, 2, H, W)
    field = (field * amount * (torch.arange(T) > 0)[:, None, None, None]).flatten(0, 1).permute(0, 2, 3, 1)
    straight = F.affine_grid(torch.eye(2, 3)[None], [1, 1, H, W], align_corners=False)
    moved = F.grid_sample(video.flatten(0, 1), straight + field, padding_mode="border", align_corners=False)
    return moved.view_as(video)
