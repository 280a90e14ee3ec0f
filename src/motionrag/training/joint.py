"""Stage 3, the task "joint": context transformer, both resamplers and the adapter, with the denoising loss.

The motion that conditions the frozen base is what the context transformer makes of each clip's references.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.training.adapter import MEASURED
from motionrag.training.cache import Report
from motionrag.training.context import ReferenceSettings
from motionrag.training.data import DataSettings
from motionrag.training.denoise import SampleSettings, grid
from motionrag.training.neighbours import neighbours
from motionrag.training.objectives import ObjectiveSettings
from motionrag.training.parts import Adapted, BundleSettings, FrozenBase, check_features, spread, trained


@dataclass(frozen=True, kw_only=True)
class JointSettings:
    """What stage 3 trains, on what, and how."""

    data: DataSettings
    """The clips; their cache holds latents, motion and appearance features and captions' vectors."""
    bundle: str
    """Folder of the bundle that stage 2 made."""
    base: FrozenBase = field(default_factory=FrozenBase)
    """The base."""
    references: ReferenceSettings = field(default_factory=ReferenceSettings)
    """Of each clip."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """Of the loss."""
    drop_motion: float = 0.15
    """How often the motion is that of a still grey video."""
    drop_prompt: float = 0.15
    """How often the prompt is replaced by what guidance puts in its place."""
    samples: SampleSettings = field(default_factory=SampleSettings)
    """What is drawn now and then."""


class JointTask:
    """Trains all parts of a bundle; see `Task`."""

    Settings = JointSettings

    def __init__(
        self, settings: JointSettings, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """Open base, cache and bundle, and find the references of all clips.

        Args:
            settings: The recipe.
            device: Where it is trained.
            report: Told how far the making of the cache is.
        """
        self.settings = settings
        bundle = BundleSettings(folder=settings.bundle)
        self.adapted = Adapted(
            settings.base, settings.data, settings.objective, bundle, device=device, report=report
        )
        check_features(self.adapted.base.cache, self.adapted.bundle, ("motion", "appearance"))
        if settings.references.most > self.adapted.bundle.config.context.max_references:
            raise MotionRAGError(
                f"references.most={settings.references.most}: the bundle's position table holds "
                f"{self.adapted.bundle.config.context.max_references}"
            )
        self.neighbours = neighbours(self.adapted.base.cache, settings.references.wanted)
        parts = ("context", "motion_resampler", "appearance_resampler", "adapter")
        self.model = trained(self.adapted.bundle, parts)

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cached arrays of random clips, features of their references, and which motions are dropped."""
        rows = self.adapted.base.draw(size, generator)
        batch = self.adapted.base.batch(rows, self.settings.drop_prompt, generator)
        batch |= self._references(rows, self.settings.references.draw(size, generator))
        batch["drop"] = torch.rand(size, generator=generator) < self.settings.drop_motion
        return batch

    def _references(self, rows: Tensor, places: Tensor) -> dict[str, Tensor]:
        cache = self.adapted.base.cache
        references = self.neighbours.rows[rows].gather(1, places)
        return {
            "motion": cache.take("motion", references),
            "appearance": cache.take("appearance", torch.cat([references, rows[:, None]], dim=1)),
        }

    def _adapted_motion(self, batch: dict[str, Tensor]) -> Tensor:
        """Motion tokens [B,Q,D] that the bundle makes of references, best first, for the targets."""
        bundle = self.adapted.bundle
        motion = bundle.motion_resampler(batch["motion"].float())
        appearance = bundle.appearance_resampler(batch["appearance"].float())
        return bundle.adapt(motion, appearance[:, :-1], appearance[:, -1])

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The base's own objective, under the motion adapted from references."""
        tokens = self._adapted_motion(batch)
        motion = self.adapted.dropped(tokens, batch["drop"])
        return self.adapted.loss(motion, batch, generator), {"spread": spread(tokens)}

    def sample(self, folder: Path, step: int) -> None:
        """Held-out clips by the base alone, under adapted and own motion, and in truth; losses as JSON."""
        adapted, base = self.adapted, self.adapted.base
        rows = base.held_out[:MEASURED]
        if len(rows):
            own, ours = self._own(rows), self._ours(rows)
            kinds = {"adapted": ours, "own": own, "none": adapted.null().expand_as(own)}
            figures = adapted.held_out_losses(kinds, rows)
            (folder / f"step-{step:06d}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        shown = base.shown(self.settings.samples)
        if not len(shown):
            return
        truth = base.truth(shown)
        motions = {"base alone": None, "adapted": self._ours(shown), "own motion": self._own(shown)}
        made = [
            (name, adapted.generate(shown, truth[:, 0], self.settings.samples, motion))
            for name, motion in motions.items()
        ]
        grid(folder / f"step-{step:06d}.png", base.captions(shown), [*made, ("truth", truth)])

    def _own(self, rows: Tensor) -> Tensor:
        features = self.adapted.base.cache.take("motion", rows).float().to(self.adapted.base.device)
        tokens: Tensor = self.adapted.bundle.motion_resampler(features)
        return tokens

    def _ours(self, rows: Tensor) -> Tensor:
        K = self.settings.references.most
        parts = [self._references(part, torch.arange(K).expand(len(part), K)) for part in rows.split(16)]
        device = self.adapted.base.device
        return torch.cat([self._adapted_motion({n: v.to(device) for n, v in part.items()}) for part in parts])

    def export(self, folder: Path) -> None:
        """Write the whole bundle."""
        self.adapted.bundle.save_pretrained(folder)
