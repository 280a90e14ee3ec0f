"""Stage 3, the task "joint": context transformer, resamplers and adapter together, with the denoising loss.

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
    """Whether the motion resampler stays as it is."""
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

    def __post_init__(self) -> None:
        if not 0 <= self.own_motion <= 1:
            raise MotionRAGError(f"own_motion={self.own_motion} is a share, 0 to 1")
        if self.token_weight < 0:
            raise MotionRAGError(f"token_weight={self.token_weight} must be 0 or more")
        if self.token_weight and not self.freeze_resampler:
            raise MotionRAGError(
                f"token_weight={self.token_weight} wants freeze_resampler: a resampler that is trained would lower "
                "the error by telling clips apart no more"
            )
        if self.kin is not None:
            self.kin.check(self.references.most, self.data)

    @property
    def parts(self) -> tuple[str, ...]:
        """Of the bundle, those that are trained."""
        parts = ("context", "motion_resampler", "appearance_resampler", "adapter")
        return tuple(name for name in parts if name != "motion_resampler" or not self.freeze_resampler)

    @property
    def takes_own(self) -> bool:
        """Whether it has a use for the clips' own motion."""
        return self.own_motion > 0 or self.token_weight > 0


class JointTask:
    """Trains the parts of a bundle together; see `Task`."""

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
        if self.adapted.kin is not None:
            check_features(self.adapted.kin, self.adapted.bundle, ("motion", "appearance"))
        self.model = trained(self.adapted.bundle, settings.parts)

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cached arrays of random clips, features of their references, and whose motion is dropped or their own."""
        others = self.adapted.kin
        kin = self.settings.kin.of(size) if self.settings.kin is not None else 0
        rows = self.adapted.base.draw(size - kin, generator)
        places = self.settings.references.draw(size - kin, generator)
        batch = self._clips(self.adapted.base.cache, rows, *self._references(rows, places), generator)
        if others is not None:
            blocks, scores = kin_blocks(len(others), kin, places.shape[1], generator)
            more = self._clips(others, blocks[:, -1], blocks[:, :-1].flip(1), scores, generator)
            batch = {name: torch.cat([values, more[name]]) for name, values in batch.items()}
        batch["drop"] = torch.rand(size, generator=generator) < self.settings.drop_motion
        batch["own"] = torch.rand(size, generator=generator) < self.settings.own_motion
        return batch

    def _clips(
        self, cache: Cache, rows: Tensor, references: Tensor, scores: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The base's arrays of clips [B], what is taken of their references [B,K], best first, and their motion."""
        batch = self.adapted.base.batch(rows, self.settings.drop_prompt, generator, cache)
        batch |= self._features(cache, rows, references, scores)
        if self.settings.takes_own:
            batch["own_motion"] = cache.take("motion", rows)
        return batch

    def _features(self, cache: Cache, rows: Tensor, references: Tensor, scores: Tensor) -> dict[str, Tensor]:
        return {
            "scores": scores,
            "motion": cache.take("motion", references),
            "appearance": cache.take("appearance", torch.cat([references, rows[:, None]], dim=1)),
        }

    def _references(self, rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Numbers and scores [B,K] of the neighbours in these places."""
        found = self.neighbours
        return found.rows[rows].gather(1, places), found.scores[rows].gather(1, places)

    def _adapted_motion(self, batch: dict[str, Tensor]) -> Tensor:
        """Motion tokens [B,Q,D] that the bundle makes of references, best first, for the targets."""
        bundle = self.adapted.bundle
        motion = bundle.motion_resampler(batch["motion"].float())
        appearance = bundle.appearance_resampler(batch["appearance"].float())
        return bundle.adapt(motion, appearance[:, :-1], appearance[:, -1], batch["scores"])

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The base's own objective, under the motion adapted from references, and how far that is from the own."""
        adapted = motion = self._adapted_motion(batch)
        metrics: dict[str, float | Tensor] = {"spread": spread(adapted)}
        tokens = adapted.new_zeros(())
        if self.settings.takes_own:
            own = self.adapted.bundle.motion_resampler(batch["own_motion"].float())
            motion = torch.where(batch["own"][:, None, None], own, adapted)
            metrics["tokens"] = tokens = (adapted.float() - own.float()).square().mean()
        denoising = self.adapted.loss(self.adapted.dropped(motion, batch["drop"]), batch, generator)
        return denoising + self.settings.token_weight * tokens, {**metrics, "denoising": denoising}

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
        adapted, own = [], []
        for part in rows.split(16):
            references = self._references(part, torch.arange(K).expand(len(part), K))
            features = self._features(cache, part, *references)
            batch = {name: values.to(device) for name, values in features.items()}
            adapted.append(self._adapted_motion(batch))
            own.append(self.adapted.bundle.motion_resampler(cache.take("motion", part).float().to(device)))
        return torch.cat(adapted), torch.cat(own)

    def export(self, folder: Path) -> None:
        """Write the whole bundle."""
        self.adapted.bundle.save_pretrained(folder)
