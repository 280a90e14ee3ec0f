"""Stage 3, the task "joint": context transformer, both resamplers and the adapter, with the denoising loss.

The motion that conditions the frozen base is what the context transformer makes of each clip's references: the
adapter gets to know motion that was predicted, and the transformer what of it the base has a use for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.training.adapter import MEASURED
from motionrag.training.cache import Cache, Report
from motionrag.training.context import ReferenceSettings
from motionrag.training.data import DataSettings
from motionrag.training.denoise import SampleSettings, grid
from motionrag.training.kin import KinSettings, kin_blocks
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
    kin: KinSettings | None = None
    """Clips of kin, as in stage 2. Not in the paper."""
    freeze_resampler: bool = False
    """Whether the motion resampler stays as it is: databases made with it then keep their tokens."""
    own_motion: float = 0.0
    """How often the motion is the clip's own, as in stage 1: the adapter then keeps what it knows of true motion.
    Not in the paper."""
    token_weight: float = 0.0
    """Weight in the loss of the squared error of adapted tokens to the clip's own, as in stage 2: the denoising loss
    says little about tokens, and alone lets them drift together. Not in the paper."""
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
            settings.base, settings.data, settings.objective, bundle, device=device, report=report, kin=settings.kin
        )
        check_features(self.adapted.base.cache, self.adapted.bundle, ("motion", "appearance"))
        if settings.references.most > self.adapted.bundle.config.context.max_references:
            raise MotionRAGError(
                f"references.most={settings.references.most}: the bundle's position table holds "
                f"{self.adapted.bundle.config.context.max_references}"
            )
        self.neighbours = neighbours(self.adapted.base.cache, settings.references.wanted)
        parts = ("context", "motion_resampler", "appearance_resampler", "adapter")
        self.model = trained(
            self.adapted.bundle,
            tuple(name for name in parts if name != "motion_resampler" or not settings.freeze_resampler),
        )

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cached arrays of random clips, features of their references, and whose motion is dropped or their own."""
        others = self.adapted.kin
        kin = self.settings.kin.of(size) if self.settings.kin is not None else 0
        rows = self.adapted.base.draw(size - kin, generator)
        places = self.settings.references.draw(size - kin, generator)
        batch = self._clips(self.adapted.base.cache, rows, self._references(rows, places), generator)
        if others is not None:
            blocks, _ = kin_blocks(len(others), kin, places.shape[1], generator)
            more = self._clips(others, blocks[:, -1], blocks[:, :-1].flip(1), generator)
            batch = {name: torch.cat([values, more[name]]) for name, values in batch.items()}
        batch["drop"] = torch.rand(size, generator=generator) < self.settings.drop_motion
        batch["own"] = torch.rand(size, generator=generator) < self.settings.own_motion
        return batch

    def _clips(
        self, cache: Cache, rows: Tensor, references: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The base's arrays of clips [B], and features of their references [B,K], best first, then their own."""
        blocks = torch.cat([references, rows[:, None]], dim=1)
        return {
            **self.adapted.base.batch(rows, self.settings.drop_prompt, generator, cache),
            "motion": cache.take("motion", blocks),
            "appearance": cache.take("appearance", blocks),
        }

    def _references(self, rows: Tensor, places: Tensor) -> Tensor:
        return self.neighbours.rows[rows].gather(1, places)

    def _tokens(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Motion tokens [B,Q,D] that the bundle makes of references for the targets, and the targets' own."""
        bundle = self.adapted.bundle
        motion = bundle.motion_resampler(batch["motion"].float())
        appearance = bundle.appearance_resampler(batch["appearance"].float())
        return bundle.adapt(motion[:, :-1], appearance[:, :-1], appearance[:, -1]), motion[:, -1]

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The base's own objective, under the motion adapted from references, and how far that is from the own."""
        adapted, own = self._tokens(batch)
        motion = torch.where(batch["own"][:, None, None], own, adapted)
        motion = self.adapted.dropped(motion, batch["drop"])
        tokens = (adapted.float() - own.float()).square().mean()
        denoising = self.adapted.loss(motion, batch, generator)
        metrics: dict[str, float | Tensor] = {"denoising": denoising, "tokens": tokens, "spread": spread(adapted)}
        return denoising + self.settings.token_weight * tokens, metrics

    def sample(self, folder: Path, step: int) -> None:
        """Held-out clips by the base alone, under adapted and own motion, and in truth; losses as JSON."""
        adapted, base = self.adapted, self.adapted.base
        rows = base.held_out[:MEASURED]
        if len(rows):
            ours, own = self._held_out(rows)
            kinds = {"adapted": ours, "own": own, "none": adapted.null().expand_as(own)}
            figures = adapted.held_out_losses(kinds, rows)
            (folder / f"step-{step:06d}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        shown = base.shown(self.settings.samples)
        if not len(shown):
            return
        truth = base.truth(shown)
        ours, own = self._held_out(shown)
        motions = {"base alone": None, "adapted": ours, "own motion": own}
        made = [
            (name, adapted.generate(shown, truth[:, 0], self.settings.samples, motion))
            for name, motion in motions.items()
        ]
        grid(folder / f"step-{step:06d}.png", base.captions(shown), [*made, ("truth", truth)])

    def _held_out(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Motion tokens [N,Q,D] adapted from the nearest references, and the clips' own."""
        K, cache, device = self.settings.references.most, self.adapted.base.cache, self.adapted.base.device
        parts = []
        for part in rows.split(16):
            blocks = torch.cat([self._references(part, torch.arange(K).expand(len(part), K)), part[:, None]], dim=1)
            parts.append(
                self._tokens({name: cache.take(name, blocks).to(device) for name in ("motion", "appearance")})
            )
        adapted, own = zip(*parts, strict=True)
        return torch.cat(adapted), torch.cat(own)

    def export(self, folder: Path) -> None:
        """Write the whole bundle."""
        self.adapted.bundle.save_pretrained(folder)
