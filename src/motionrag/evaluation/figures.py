"""From the rows of a suite to its figures: each system's, and its change against the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.runner import digest
from motionrag.evaluation.samples import Sample, statistics_of
from motionrag.evaluation.statistics import (
    Change,
    Figure,
    Values,
    change_of_scores,
    change_of_set,
    figure_of_scores,
    figure_of_set,
)
from motionrag.evaluation.suite import TRUE


@dataclass(frozen=True, kw_only=True)
class SystemFigures:
    """What was measured of one system."""

    figures: dict[str, Figure] = field(default_factory=dict)
    """By metric."""
    changes: dict[str, Change] = field(default_factory=dict)
    """Against the baseline; none for the baseline itself and the true clips."""


def figures(
    rows: Mapping[str, Sequence[Sample]], metrics: Sequence[Metric], baseline: str
) -> dict[str, SystemFigures]:
    """All figures.

    Args:
        rows: Of each system, in the same order; the true clips under "true".
        metrics: What was measured.
        baseline: The system to compare with.
    """
    found = {system: SystemFigures() for system in rows}
    for metric in metrics:
        name = digest(metric)
        values = {system: statistics_of(own, name) for system, own in rows.items()}
        for system, own in values.items():
            if metric.of_sets:
                if system == TRUE:
                    continue  # no distance of a set to itself
                true, other = values[TRUE], values[baseline]
                take = _taken(metric, own, true)
                found[system].figures[metric.name] = figure_of_set(len(own), take)
                if system != baseline:
                    found[system].changes[metric.name] = change_of_set(len(own), take, _taken(metric, other, true))
            else:
                if np.isnan(own).all():
                    continue  # nothing to be measured, as the true path of what does not move
                found[system].figures[metric.name] = figure_of_scores(own[:, 0])
                compared = system not in (baseline, TRUE)
                if compared and np.isfinite(own[:, 0] - values[baseline][:, 0]).any():  # a clip that both say of
                    found[system].changes[metric.name] = change_of_scores(own[:, 0], values[baseline][:, 0])
    return found


def _taken(metric: Metric, own: Values, true: Values) -> Callable[[NDArray[np.int64]], float]:
    return lambda kept: metric.reduce(own[kept], true[kept])


def better(metric: Metric, change: Change) -> bool | None:
    """Whether a change is clearly for the better; None where it is not clear, or the metric has no better."""
    if not change.difference.clear or metric.direction == "none":
        return None
    return (change.difference.value > 0) == (metric.direction == "higher")


def verdict(metric: Metric, change: Change) -> str:
    """A change in a word: "better", "worse", "differs" where the metric has no better, "" where 0 may be it."""
    if metric.direction == "none":
        return "differs" if change.difference.clear else ""
    return {True: "better", False: "worse", None: ""}[better(metric, change)]
