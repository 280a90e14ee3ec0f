"""Simulated clips to measure with, that no training and no database has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motionrag.synth import SynthBatch, families, render


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Clips, with what is asked of a system and the truth."""

    clips: SynthBatch
    """Rendered."""
    images: NDArray[np.uint8]
    """Their first frames, RGB u8 [B,3,H,W]."""
    prompts: list[str]
    """A caption of each."""


def held_out(group: str, count: int, seed: int, *, size: int = 64, frames: int = 16) -> HeldOut:
    """Clips of all families of a group, "known" or "unseen", whose captions foretell the path, in turn.

    Args:
        group: Of families.
        count: B.
        seed: One that nothing else has.
        size: Side of the frames in pixels.
        frames: T.
    """
    names = [name for name, one in families().items() if one.predictable and one.known == (group == "known")]
    clips = render(seed, range(count), names, size=size, frames=frames)
    prompts = [said[i // len(names) % len(said)] for i, said in enumerate(clips.captions)]
    return HeldOut(clips=clips, images=clips.video[:, 0].numpy(), prompts=prompts)
