"""Frechet distance of two sets of features, and FVD and FID on it.

    d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)

(Heusel et al. 2017, equation 6; Unterthiner et al. 2018 for video). With centred features A^T A = S1 and B^T B = S2
the last trace is the sum of the singular values of A B^T: no root of a matrix, and exact for fewer samples than
dimensions, where covariances have no full rank.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError
from motionrag.evaluation.features import BY_FRAME, Features
from motionrag.evaluation.metrics.base import Direction, Rows, Seen, SetMetric, Targets
from motionrag.video import pick

Array = NDArray[np.float64]


def frechet_distance(x: NDArray[Any], y: NDArray[Any]) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features, in float64.

    Args:
        x: Features [N,D].
        y: Features [M,D].

    Raises:
        MotionRAGError: If a set has fewer than two features, widths differ, or something is not finite.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise MotionRAGError(
            f"Frechet distance: features are {list(x.shape)} and {list(y.shape)}, not [N,D] and [M,D]"
        )
    mean_x, root_x = _gaussian(x)
    mean_y, root_y = _gaussian(y)
    shared = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    apart = np.square(mean_x - mean_y).sum()
    return max(float(apart + np.square(root_x).sum() + np.square(root_y).sum() - 2 * shared), 0.0)


def _gaussian(features: NDArray[Any]) -> tuple[Array, Array]:
    """Mean [D] and a root R [min(N,D),D] of the unbiased covariance R^T R."""
    values = features.astype(np.float64)
    if not np.isfinite(values).all():
        raise MotionRAGError("Frechet distance: features are not finite")
    if len(values) < 2:
        raise MotionRAGError(f"Frechet distance: {len(values)} features in a set, at least 2 are needed")
    mean = values.mean(axis=0)
    root = (values - mean) / (len(values) - 1) ** 0.5
    if len(root) > root.shape[1]:
        root = np.asarray(np.linalg.qr(root, mode="r"))
    return mean, root


class FrechetMetric(SetMetric):
    """Frechet distance of features; its rows are the features of each clip."""

    direction: ClassVar[Direction] = "lower"

    def __init__(self, features: Features, *, frames: int | None = None) -> None:
        super().__init__(features.name, ["true"], {**features.settings, "covariance": "unbiased"})
        self._features, self._frames = features, frames
        if frames is not None:
            self.settings["frames"] = frames

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        if self._frames in (None, generated.video.shape[1]):
            features = generated.take(self._features, self._features)
        else:
            features = self._features(generated.video[:, pick(generated.video.shape[1], self._frames)])
        return np.asarray(features.flatten(1).numpy(), dtype=np.float32)

    def reduce(self, rows: Rows, reference: Rows | None = None) -> float:
        """The distance; rows are sorted first, so that their order leaves no trace."""
        x, y = self._samples(rows), self._samples(reference)
        return frechet_distance(_sorted(x), _sorted(y))

    def _samples(self, rows: Rows | None) -> Rows:
        if rows is None:
            raise MotionRAGError(f"{self.name}: the rows of the true clips are missing; `reference` makes them")
        each = self._frames or 1
        if rows.ndim != 2 or rows.shape[1] % each:
            raise MotionRAGError(f"{self.name}: rows are {list(rows.shape)}, wanted are those that `measure` makes")
        return rows.reshape(len(rows) * each, -1)


class FVD(FrechetMetric):
    """Of clips; the published one on the Kinetics-400 logits of I3D, all frames of each clip."""

    def __init__(self, features: Features) -> None:
        if features.kind in BY_FRAME:
            raise MotionRAGError(f"FVD takes features of clips, {features.name} are of frames")
        super().__init__(features)


class FID(FrechetMetric):
    """Of frames; each clip counts with as many, picked uniformly.

    Frames of a clip are no independent samples: intervals come from leaving out clips.
    """

    def __init__(self, features: Features, *, frames: int = 16) -> None:
        if features.kind not in BY_FRAME:
            raise MotionRAGError(f"FID takes features of frames, {features.name} are of clips")
        super().__init__(features, frames=frames)


def _sorted(rows: Rows) -> Rows:
    """In an order that their values alone decide."""
    return rows[np.lexsort(rows.T[::-1])]
