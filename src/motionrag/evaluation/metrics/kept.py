"""Metrics of rows that were measured before and kept: their figures, with no network loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from motionrag.errors import MotionRAGError
from motionrag.evaluation.metrics.base import Metric, Rows, ScoreMetric, Seen, Targets
from motionrag.evaluation.metrics.frechet import FrechetMetric


class KeptScores(ScoreMetric):
    """A metric that scored each clip."""

    partial = True

    def __init__(self, name: str, described: Mapping[str, Any]) -> None:
        super().__init__(name, (), described["settings"])
        self.direction = described["direction"]  # type: ignore[misc]

    def _measure(self, generated: Seen, targets: Targets) -> NoReturn:
        raise MotionRAGError(f"{self.name}: known by what was measured before; load_metrics loads what measures")


class KeptDistance(FrechetMetric):
    """A Frechet distance of kept features."""

    def __init__(self, name: str, described: Mapping[str, Any]) -> None:
        Metric.__init__(self, name, (), described["settings"])
        self._frames = self.settings.get("frames")

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        raise MotionRAGError(f"{self.name}: known by what was measured before; load_metrics loads what measures")


def kept_metric(name: str, described: Mapping[str, Any]) -> Metric:
    """A metric as it is described beside its rows.

    Args:
        name: Its own.
        described: "direction", "settings" and "of_sets".
    """
    return KeptDistance(name, described) if described["of_sets"] else KeptScores(name, described)
