"""Figures of systems with 95% intervals, and the differences between two systems on the same clips.

Means of scores are bootstrapped over clips. What is taken of a set as a whole, such as a Frechet distance, is no
mean: drawing clips twice makes it larger, so its intervals are those of a jackknife over groups of clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError

Values = NDArray[np.float64]
DRAWS = 2000
"""Bootstrap samples of an interval, and flips of signs of a test."""
GROUPS = 20
"""Of clips, that a jackknife leaves out in turn."""
NORMAL = 1.959964
"""97.5% quantile of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A value and how sure it is."""

    value: float
    """Over all clips."""
    low: float
    """Lower end of the 95% interval."""
    high: float
    """Upper end."""
    n: int
    """Clips."""

    @property
    def clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A system against the baseline, on the same clips."""

    difference: Figure
    """Its figure less the baseline's, clip by clip, in the metric's unit."""
    relative: float | None
    """That as a share of the baseline's figure: 0.1 is a tenth more; None where the baseline's is 0."""
    p: float | None
    """Two-sided, of a test that flips the signs of the clips' differences; None for what is taken of a set."""


def figure_of_scores(scores: Values) -> Figure:
    """Mean of [N] scores."""
    scores = _clean(scores)[0]
    means = scores[_picks(len(scores))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return _figure(scores.mean(), low, high, len(scores))


def change_of_scores(scores: Values, baseline: Values) -> Change:
    """Of the means of two paired [N]."""
    scores, baseline = _clean(scores, baseline)
    difference = figure_of_scores(scores - baseline)
    return Change(
        difference=difference,
        relative=_share(difference.value, float(baseline.mean())),
        p=flip_test(scores - baseline),
    )


def figure_of_set(rows: int, take: Callable[[NDArray[np.int64]], float]) -> Figure:
    """Of a set of clips as a whole.

    Args:
        rows: N.
        take: Numbers of some clips to their figure.
    """
    value, left = take(np.arange(rows)), np.array([take(kept) for kept in _left(rows)])
    spread = _jackknife(left)
    return _figure(value, value - NORMAL * spread, value + NORMAL * spread, rows)


def change_of_set(
    rows: int, take: Callable[[NDArray[np.int64]], float], baseline: Callable[[NDArray[np.int64]], float]
) -> Change:
    """Of two such figures of the same N clips."""
    difference = figure_of_set(rows, lambda kept: take(kept) - baseline(kept))
    return Change(difference=difference, relative=_share(difference.value, baseline(np.arange(rows))), p=None)


def flip_test(differences: Values) -> float:
    """Two-sided p of [N] differences whose signs would be random if there were none."""
    if not differences.any():
        return 1.0
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(DRAWS, len(differences)))
    drawn = np.abs(signs @ differences)
    return float((1 + (drawn >= abs(differences.sum()) - 1e-12).sum()) / (DRAWS + 1))


def _picks(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(count, size=(DRAWS, count))


def _left(rows: int) -> list[NDArray[np.int64]]:
    groups = np.array_split(np.random.default_rng(0).permutation(rows), min(GROUPS, rows))
    return [np.setdiff1d(np.arange(rows), group) for group in groups]


def _jackknife(left: Values) -> float:
    return float(np.sqrt((len(left) - 1) * left.var()))


def _clean(*values: Values) -> tuple[Values, ...]:
    """Without the clips that one of them has no score of."""
    kept = ~np.any([np.isnan(value) for value in values], axis=0)
    if not kept.any():
        raise MotionRAGError("no clip has a score: nothing can be measured")
    return tuple(np.asarray(value, dtype=np.float64)[kept] for value in values)


def _share(difference: float, baseline: float) -> float | None:
    return difference / abs(baseline) if abs(baseline) > 1e-12 else None


def _figure(value: float, low: float, high: float, n: int) -> Figure:
    return Figure(value=float(value), low=float(low), high=float(high), n=n)
