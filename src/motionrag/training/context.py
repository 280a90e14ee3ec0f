"""Stage 2, the task "context": context transformer and appearance resampler, from cached features and tokens alone.

Paper, section 3.3: every block of clips, references least similar first and the target last, is predicted from the
blocks before it; the loss is the mean squared error over all blocks. No video is decoded and no base is loaded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from motionrag import checkpoint
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import MotionBundle
from motionrag.models.context import block_losses
from motionrag.models.fusion import fuse
from motionrag.training.cache import Cache, Report
from motionrag.training.data import DataSettings, open_cache, split
from motionrag.training.kin import KinSettings, kin_blocks, open_kin
from motionrag.training.neighbours import neighbours
from motionrag.training.parts import check_features, check_view, trained
from motionrag.types import Sampling

SIZE = Sampling(height=224, width=224, frames=16, fps=8.0, steps=1, guidance=1.0)
"""Clips of this stage as published; a cache that another stage made has its own."""


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """The references of each clip."""

    most: int = 9
    """K, references of a clip; the published number."""
    least: int | None = None
    """If given, each batch has a random K from this to `most`."""
    pool: int | None = None
    """If given, K random ones of this many nearest, in their order; None takes the K nearest."""

    def __post_init__(self) -> None:
        if not 1 <= (self.least or 1) <= self.most <= (self.pool or self.most):
            raise MotionRAGError(
                f"references: 1 <= least={self.least} <= most={self.most} <= pool={self.pool} does not hold"
            )

    @property
    def wanted(self) -> int:
        """Neighbours that must be known."""
        return self.pool or self.most

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Which neighbours B clips refer to: places [B,K], nearest first."""
        least = self.least or self.most
        K = int(torch.randint(least, self.most + 1, (), generator=generator))
        if self.pool is None:
            return torch.arange(K).expand(size, K)
        order = torch.rand(size, self.pool, generator=generator).argsort(dim=1)
        return order[:, :K].sort(dim=1).values


@dataclass(frozen=True, kw_only=True)
class ContextSettings:
    """What stage 2 trains, on what, and how."""

    data: DataSettings
    """The clips; their cache holds motion and appearance features and captions' vectors."""
    bundle: str
    """Folder of the bundle that stage 1 made."""
    references: ReferenceSettings = ReferenceSettings()
    """Of each clip."""
    kin: KinSettings | None = None
    """Simulated clips, each ten of one motion: with few kinds of motion to train on, the transformer learns them by
    heart otherwise, and does not follow references of others. Not in the paper."""

    def __post_init__(self) -> None:
        if self.kin is not None:
            self.kin.check(self.references.most, self.data)


class ContextTask:
    """Trains context transformer, start block and appearance resampler; see `Task`."""

    Settings = ContextSettings

    def __init__(
        self, settings: ContextSettings, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """Open cache and bundle, make the tokens and find the references of all clips, if they are not there yet.

        Args:
            settings: The recipe.
            device: Where it is trained.
            report: Told how far the making of the cache is.
        """
        self.settings, self.device = settings, torch.device(device)
        self.bundle = MotionBundle.from_pretrained(settings.bundle).float().to(device)
        check_view(self.bundle, settings.data.view, settings.bundle)
        self.bundle.adapter.to("cpu")  # large, and not used here
        data = replace(settings.data, view=self.bundle.config.view)
        self.cache = open_cache(data, None, data.sized(SIZE), device=device, report=report)
        check_features(self.cache, self.bundle, ("motion", "appearance"))
        if settings.references.most > self.bundle.config.context.max_references:
            raise MotionRAGError(
                f"references.most={settings.references.most}: the bundle's position table holds "
                f"{self.bundle.config.context.max_references}"
            )
        self.rows, self.held_out = split(len(self.cache), data.held_out)
        self.neighbours = neighbours(self.cache, settings.references.wanted)
        self.tokens = self._make_tokens(self.cache)
        self.kin: Cache | None = None
        """Clips of kin, with their tokens."""
        if settings.kin is not None:
            self.kin = open_kin(settings.kin, data, None, data.sized(SIZE), device=device, report=report)
            check_features(self.kin, self.bundle, ("motion", "appearance"))
            self._make_tokens(self.kin)
        self.model = trained(self.bundle, ("context", "appearance_resampler"))

    def _make_tokens(self, cache: Cache) -> str:
        """Motion tokens of all clips by the frozen resampler; the name of their array."""
        resampler = self.bundle.motion_resampler
        made_by = checkpoint.fingerprint(resampler.state_dict())
        name = f"motion_tokens-{made_by[:8]}"

        def make(features: Tensor) -> Tensor:
            with torch.inference_mode():
                return torch.cat([resampler(part.float().to(self.device)).cpu() for part in features.split(64)])

        cache.derive(name, "motion", made_by, make)
        return name

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Motion tokens and appearance features of random clips and their references."""
        kin = self.settings.kin.of(size) if self.settings.kin is not None else 0
        rows = self.rows[torch.randint(len(self.rows), (size - kin,), generator=generator)]
        places = self.settings.references.draw(size - kin, generator)
        batch = self._blocks(rows, places)
        if self.kin is not None:
            blocks, scores = kin_blocks(len(self.kin), kin, places.shape[1], generator)
            own = {"motion": self.kin.take(self.tokens, blocks), "appearance": self.kin.take("appearance", blocks)}
            batch = {name: torch.cat([batch[name], values]) for name, values in {**own, "scores": scores}.items()}
        return batch

    def _blocks(self, rows: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Blocks [B,K+1,...] of clips: their references least similar first, then themselves."""
        references = self.neighbours.rows[rows].gather(1, places)
        blocks = torch.cat([references.flip(1), rows[:, None]], dim=1)
        return {
            "motion": self.cache.take(self.tokens, blocks),
            "appearance": self.cache.take("appearance", blocks),
            "scores": self.neighbours.scores[rows].gather(1, places),
        }

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """Mean squared error over all blocks; of the last block beside it, and what simpler fusions leave of it."""
        motion = batch["motion"].float()
        predicted = self._predicted(batch)
        errors = block_losses(predicted.float(), motion)
        return errors.mean(), {"target": errors[-1], **_fused(batch)}

    def _predicted(self, batch: dict[str, Tensor]) -> Tensor:
        appearance = self.bundle.appearance_resampler(batch["appearance"].float())
        predicted: Tensor = self.bundle.context(batch["motion"][:, :-1].float(), appearance)
        return predicted

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> None:
        """The error on held-out clips, with K references and with 1, and what simpler fusions leave, as JSON."""
        figures: dict[str, dict[str, float]] = {}
        most = self.settings.references.most
        for K in sorted({1, most}) if len(self.held_out) else []:
            sums: dict[str, float] = {}
            for rows in self.held_out.split(16):
                batch = self._blocks(rows, torch.arange(K).expand(len(rows), K))
                batch = {name: values.to(self.device) for name, values in batch.items()}
                errors = block_losses(self._predicted(batch).float(), batch["motion"].float())
                for name, value in {"target": errors[-1], **_fused(batch)}.items():
                    sums[name] = sums.get(name, 0.0) + float(value) * len(rows) / len(self.held_out)
            figures[f"{K} references"] = sums
        (folder / f"step-{step:06d}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    def export(self, folder: Path) -> None:
        """Write the bundle with what was trained in it."""
        self.bundle.save_pretrained(folder)


def _fused(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The target's error when its references are averaged, and when only the best is taken."""
    motion = batch["motion"].float()
    references, target = motion[:, :-1].flip(1), motion[:, -1]
    return {
        name: (fuse(name, references, batch["scores"].to(motion)) - target).square().mean()
        for name in ("mean", "top1")
    }
