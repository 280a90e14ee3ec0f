"""Ways to turn several references into one motion without the context transformer, to compare with.

Each takes the same motion tokens and similarities.
"""

from __future__ import annotations

from collections.abc import Callable

from einops import rearrange
from torch import Tensor

from motionrag.errors import MotionRAGError, did_you_mean

TEMPERATURE = 0.07
"""Difference of similarities, scores of a search, at which one reference weighs e times as much as another."""


def mean(motion: Tensor, similarity: Tensor) -> Tensor:
    """Plain average over the references: [B,K,Q,D] to [B,Q,D]."""
    return motion.mean(dim=1)


def top1(motion: Tensor, similarity: Tensor) -> Tensor:
    """The most similar reference alone: [B,K,Q,D] to [B,Q,D]."""
    best = similarity.argmax(dim=1)[:, None, None, None].expand(-1, 1, *motion.shape[2:])
    return motion.gather(1, best).squeeze(1)


def weighted(motion: Tensor, similarity: Tensor) -> Tensor:
    """Average weighted by the softmax of similarities over `TEMPERATURE`: [B,K,Q,D] to [B,Q,D]."""
    weights = (similarity / TEMPERATURE).softmax(dim=1).to(motion.dtype)
    return (weights[:, :, None, None] * motion).sum(dim=1)


def concatenate(motion: Tensor, similarity: Tensor) -> Tensor:
    """All tokens of all references, for the adapter to attend to: [B,K,Q,D] to [B,K*Q,D]."""
    return rearrange(motion, "b k q d -> b (k q) d")


FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mean": mean,
    "top1": top1,
    "weighted": weighted,
    "concatenate": concatenate,
}


def fuse(name: str, motion: Tensor, similarity: Tensor) -> Tensor:
    """Fuse reference motions by the named rule.

    Args:
        name: A key of `FUSIONS`.
        motion: Motion tokens of the references [B,K,Q,D], K at least 1.
        similarity: Similarity of each reference to the prompt [B,K], higher is more similar.

    Raises:
        MotionRAGError: If the name is unknown or the shapes do not belong together.
    """
    if name not in FUSIONS:
        raise MotionRAGError(f"no fusion named {name!r}{did_you_mean(name, FUSIONS)}")
    if motion.ndim != 4 or motion.shape[1] == 0 or similarity.shape != motion.shape[:2]:
        raise MotionRAGError(
            f"motion tokens {tuple(motion.shape)} and similarities {tuple(similarity.shape)} must be "
            "[B,K,Q,D] and [B,K] with at least one reference"
        )
    return FUSIONS[name](motion, similarity)
