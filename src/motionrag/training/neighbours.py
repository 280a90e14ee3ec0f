"""The references of every cached clip, found once by its caption, in the order of a search by vectors alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.retrieval.search import CANDIDATES, Candidate, varied
from motionrag.training.cache import Cache
from motionrag.training.fingerprints import digest
from motionrag.video import DUPLICATE_COSINE
from motionrag.video.files import replacing_file

BLOCK = 512  # clips compared at once with all others


@dataclass(frozen=True)
class Neighbours:
    """References of N clips, best first."""

    rows: Tensor
    """Numbers of the clips in the cache, int64 [N,K]."""
    scores: Tensor
    """Their captions' cosines to the clip's own, f32 [N,K]."""


def neighbours(cache: Cache, k: int) -> Neighbours:
    """The k clips whose captions fit each clip's own best, kept in the cache's folder once they are found.

    Left out, as in a search whose query is the clip itself: the clip, others of the same recording, near-duplicates,
    more than a few of one other recording, and what looks the same as a better one, where there is something else.

    Args:
        cache: With the arrays `caption` and `signature`.
        k: How many.

    Raises:
        MotionRAGError: If the cache lacks these arrays, or has too few clips for some of its own.
    """
    name = digest(cache.fingerprint("caption"), cache.fingerprint("signature"), str(k))[:16]
    file = cache.folder / "neighbours" / f"{name}.npz"
    if not file.is_file():
        rows, scores = _search(cache, k)
        file.parent.mkdir(exist_ok=True)
        with replacing_file(file) as temporary, temporary.open("wb") as handle:
            np.savez(handle, rows=rows, scores=scores)
    with np.load(file) as found:
        return Neighbours(torch.from_numpy(found["rows"]).long(), torch.from_numpy(found["scores"]))


def _search(cache: Cache, k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    count = len(cache)
    everything = torch.arange(count)
    vectors = cache.take("caption", everything).float()
    signatures = cache.take("signature", everything).float().numpy()
    names: dict[str, int] = {}
    videos = torch.tensor([names.setdefault(str(row["video"]), len(names)) for row in cache.rows])
    rows = np.empty((count, k), dtype=np.int32)
    points = np.empty((count, k), dtype=np.float32)
    for block in everything.split(BLOCK):
        scores = vectors[block] @ vectors.T
        scores[videos[block][:, None] == videos] = -torch.inf
        wanted = min(count, CANDIDATES * k)
        best = scores.topk(wanted, dim=1)
        for own, values, places in zip(block.tolist(), best.values.numpy(), best.indices.numpy(), strict=True):
            chosen = _chosen(own, values, places, signatures, videos, k)
            if len(chosen) < k:  # copies, or many clips of one recording: look at all there is
                values, places = (part.numpy() for part in scores[own - int(block[0])].sort(descending=True))
                chosen = _chosen(own, values, places, signatures, videos, k)
            if len(chosen) < k:
                raise MotionRAGError(
                    f"{cache.folder}: clip {own} has {len(chosen)} others to refer to, {k} are wanted; add clips, "
                    "or set fewer references"
                )
            rows[own] = [item.row["id"] for item in chosen]
            points[own] = [item.score for item in chosen]
    return rows, points


def _chosen(
    own: int,
    scores: NDArray[np.float32],
    places: NDArray[np.int64],
    signatures: NDArray[np.float32],
    videos: Tensor,
    k: int,
) -> list[Candidate]:
    """The references among candidates, best first, by the rules of a search."""
    found = [
        Candidate({"id": int(place), "duplicate_of": None, "video": int(videos[place])}, float(score), looks)
        for score, place, looks in zip(scores, places, signatures[places], strict=True)
        if np.isfinite(score) and looks @ signatures[own] < DUPLICATE_COSINE
    ]
    return varied(found, k, these_are_all=True)
