"""Clips of kin beside the others of a training: their cache, and who refers to whom; see `motionrag.synth.kin`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.synth.kin import ALIKE, KIN
from motionrag.training.cache import Cache, Report
from motionrag.training.conditioning import Conditioning
from motionrag.training.data import DataSettings, open_cache
from motionrag.training.sources import SourceSettings, SynthSettings
from motionrag.types import Sampling

MIXED = 1.5
"""How much chance has a say in the order of references of kin, where being alike is 1."""
SPREAD = 0.3
"""How far below 1 the scores of references of kin reach, about as cosines of captions do."""


@dataclass(frozen=True, kw_only=True)
class KinSettings:
    """Clips of `motionrag.synth.kin`, beside the others."""

    cache: str
    """Folder of their features; made if it is not there."""
    clips: int = 20000
    """How many."""
    seed: int = 12
    """Of the corpus."""
    share: float = 0.5
    """Of each batch, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise MotionRAGError(f"kin: share={self.share} is a share, more than 0 and at most 1")
        if self.clips < 2 * KIN or self.clips % KIN:
            raise MotionRAGError(f"kin: clips={self.clips} must be a multiple of {KIN}, at least {2 * KIN}")

    def check(self, references: int, data: DataSettings) -> None:
        """Refuse what clips of kin cannot be used with, before they are made.

        Args:
            references: The most of a clip.
            data: Of the training.

        Raises:
            MotionRAGError: If there are fewer of one motion, or nothing makes their features.
        """
        if references >= KIN:
            raise MotionRAGError(f"references.most={references}: with kin at most {KIN - 1}, {KIN} are of a motion")
        for kind in ("motion", "appearance"):
            if getattr(data, f"{kind}_encoder") is None:
                raise MotionRAGError(f"kin: set data.{kind}_encoder, which makes the {kind} features of its clips")

    def of(self, size: int) -> int:
        """How many of a batch.

        Raises:
            MotionRAGError: If none.
        """
        if not (count := round(size * self.share)):
            raise MotionRAGError(f"kin.share={self.share} of train.batch={size} is no clip: set more of either")
        return count


def open_kin(
    settings: KinSettings,
    data: DataSettings,
    conditioning: Conditioning | None,
    sampling: Sampling,
    *,
    device: torch.device | str,
    report: Report | None = None,
) -> Cache:
    """The cache of clips of kin, with what the cache of the training's own data has; see `open_cache`."""
    synth = SynthSettings(count=settings.clips, seed=settings.seed, families=["kin"])
    data = replace(data, cache=settings.cache, sources=[SourceSettings(synth=synth)], held_out=0)
    return open_cache(data, conditioning, sampling, device=device, report=report)


def kin_blocks(clips: int, size: int, K: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blocks of clips of kin: targets that differ from most of their references by what captions leave open alone.

    As a search gives them: the best are mostly alike, others of the ten come later, and the least similar ones may
    be of other motions altogether.

    Args:
        clips: Of kin, in all.
        size: B.
        K: References, at most 9.
        generator: Decides.

    Returns:
        Numbers of clips [B,K+1], references least similar first, the target last; scores [B,K], best first.
    """
    groups = torch.randint(clips // KIN, (size, 1), generator=generator)
    target = torch.randint(ALIKE, (size, 1), generator=generator)
    others = (target + torch.arange(1, KIN)) % KIN
    score = (others < ALIKE) + MIXED * torch.rand(others.shape, generator=generator)
    kept = torch.rand(others.shape, generator=generator).argsort(dim=1)[:, :K]  # any K of the nine
    others, score = others.gather(1, kept), score.gather(1, kept)
    order = score.argsort(dim=1)
    members = torch.cat([KIN * groups + others.gather(1, order), KIN * groups + target], dim=1)
    foreign = (torch.rand(size, 1, generator=generator) - 0.5).clamp(min=0) * 2 * K  # none, for half of them
    strange = (members + KIN * torch.randint(1, clips // KIN, members.shape, generator=generator)) % clips
    places = torch.arange(K + 1)
    scores = score.sort(dim=1, descending=True).values.float() / (1 + MIXED)
    return torch.where(places < foreign.floor(), strange, members), 1 - SPREAD * (1 - scores)
