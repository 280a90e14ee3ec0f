"""Stage 1, the task "adapter": adapter and motion resampler on the frozen base, under each clip's own motion.

Paper, section 3.4: motion is dropped now and then, so that guidance has something to set against it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from motionrag.training.cache import Report
from motionrag.training.data import DataSettings
from motionrag.training.denoise import SampleSettings, grid
from motionrag.training.objectives import ObjectiveSettings
from motionrag.training.parts import (
    Adapted,
    BundleSettings,
    FrozenBase,
    check_features,
    spread,
    standardise,
    trained,
)

MEASURED = 64  # held-out clips that losses are measured on


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """What stage 1 trains, on what, and how."""

    data: DataSettings
    """The clips; their cache holds motion features."""
    base: FrozenBase = field(default_factory=FrozenBase)
    """The base."""
    bundle: BundleSettings = field(default_factory=BundleSettings)
    """What is trained."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """Of the loss."""
    align_frames: bool = False
    """Whether a new adapter begins with each frame's places attending to its own token (`align_frames`); for
    resamplers that make one token a frame."""
    freeze_resampler: bool = False
    """Whether the adapter alone is trained: a motion resampler that has learned what to tell keeps it."""
    drop_motion: float = 0.15
    """How often the motion is that of a still grey video."""
    drop_prompt: float = 0.15
    """How often the prompt is replaced by what guidance puts in its place; more makes the motion say more."""
    samples: SampleSettings = field(default_factory=SampleSettings)
    """What is drawn now and then."""


class AdapterTask:
    """Trains adapter and motion resampler; see `Task`."""

    Settings = AdapterSettings

    def __init__(
        self, settings: AdapterSettings, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """Open base, cache and bundle.

        Args:
            settings: The recipe.
            device: Where it is trained.
            report: Told how far the making of the cache is.
        """
        self.settings = settings
        self.adapted = Adapted(
            settings.base, settings.data, settings.objective, settings.bundle, device=device, report=report
        )
        check_features(self.adapted.base.cache, self.adapted.bundle, ("motion",))
        parts = ("adapter",) if settings.freeze_resampler else ("adapter", "motion_resampler")
        self.model = trained(self.adapted.bundle, parts)
        rows = self.adapted.base.draw(512, torch.Generator().manual_seed(0))
        if settings.bundle.resampler is not None:
            features = self.adapted.base.cache.take("motion", rows).float()
            standardise(self.adapted.bundle.motion_resampler, features.to(self.adapted.base.device))
        self.alignment: dict[str, float] = {}
        """How well each site's hidden states tell frames, where the adapter was aligned."""
        if settings.align_frames:
            with torch.no_grad():
                tokens = self._tokens(rows).cpu()
            self.alignment = self.adapted.align_frames(tokens, rows[:64])

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cached arrays of random clips, their motion features, and which of these are dropped."""
        base = self.adapted.base
        rows = base.draw(size, generator)
        batch = base.batch(rows, self.settings.drop_prompt, generator)
        batch["motion"] = base.cache.take("motion", rows)
        batch["drop"] = torch.rand(size, generator=generator) < self.settings.drop_motion
        return batch

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The base's own objective, under the clips' own motion tokens."""
        tokens = self.adapted.bundle.motion_resampler(batch["motion"].float())
        motion = self.adapted.dropped(tokens, batch["drop"])
        return self.adapted.loss(motion, batch, generator), {"spread": spread(tokens)}

    def sample(self, folder: Path, step: int) -> None:
        """Held-out clips by the base alone, under their own motion (the oracle), and in truth; losses as JSON."""
        adapted, base = self.adapted, self.adapted.base
        rows = base.held_out[:MEASURED]
        if len(rows):
            own = self._tokens(rows)
            kinds = {"own": own, "none": adapted.null().expand_as(own), "another": own.roll(1, dims=0)}
            figures = adapted.held_out_losses(kinds, rows)
            (folder / f"step-{step:06d}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        shown = base.shown(self.settings.samples)
        if not len(shown):
            return
        truth = base.truth(shown)
        alone = adapted.generate(shown, truth[:, 0], self.settings.samples, None)
        oracle = adapted.generate(shown, truth[:, 0], self.settings.samples, self._tokens(shown))
        versions = [("base alone", alone), ("own motion", oracle), ("truth", truth)]
        grid(folder / f"step-{step:06d}.png", base.captions(shown), versions)

    def _tokens(self, rows: Tensor) -> Tensor:
        features = self.adapted.base.cache.take("motion", rows).float().to(self.adapted.base.device)
        tokens: Tensor = self.adapted.bundle.motion_resampler(features)
        return tokens

    def export(self, folder: Path) -> None:
        """Write the bundle; what later stages train is in it as it began."""
        self.adapted.bundle.save_pretrained(folder)
