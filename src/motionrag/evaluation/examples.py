"""Clips to look at: a system's best, median and worst, beside the base's, the true one and the references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.runner import Store, digest
from motionrag.evaluation.samples import Sample, statistics_of
from motionrag.evaluation.suite import TRUE, Suite, System
from motionrag.evaluation.tables import number
from motionrag.evaluation.targets import Asked
from motionrag.video import VideoError, read_clip
from motionrag.video.inline import moving

HEIGHT = 128
"""Of the clips shown, in pixels."""
REFERENCES = 3
"""Shown of each clip."""


def shown_system(suite: Suite) -> str:
    """Whose clips are picked: the first system that is as the product is, else the first with references."""
    following = {name: system for name, system in suite.systems.items() if system.motion == "references"}
    as_is = (name for name, system in following.items() if _as_is(system))
    return next(as_is, next(iter(following or suite.systems)))


def judge(metrics: Sequence[Metric]) -> Metric | None:
    """What they are picked by: the first metric that scores clips one by one and has a direction."""
    return next((metric for metric in metrics if not metric.of_sets and metric.direction != "none"), None)


def picked(rows: Sequence[Sample], metric: Metric) -> dict[str, int]:
    """Numbers of the best, median and worst clip of a system by a score."""
    scores = statistics_of(rows, digest(metric))[:, 0]
    order = np.argsort(scores if metric.direction == "lower" else -scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    if not len(order):
        return {}
    return {"best": int(order[0]), "median": int(order[len(order) // 2]), "worst": int(order[-1])}


def examples(
    suite: Suite, rows: Mapping[str, Sequence[Sample]], metrics: Sequence[Metric], asked: Asked, clips: Path
) -> list[dict[str, Any]]:
    """Three clips of the system shown, each with those beside it, as films for a page.

    Args:
        suite: What was compared.
        rows: Of each system.
        metrics: What was measured.
        asked: The true clips.
        clips: The folder of frames.
    """
    metric, own = judge(metrics), shown_system(suite)
    if metric is None:
        return []
    store, fps = Store(clips), asked.sampling.fps
    beside = list(dict.fromkeys([own, suite.baseline, TRUE]))
    rest = [name for name in rows if name not in beside]

    def film(name: str, number_: int) -> dict[str, str]:
        row = rows[name][number_]
        frames = asked.true([number_])[0] if name == TRUE else store.get(row.key)
        score = row.statistics[digest(metric)][0]
        details = "" if name == TRUE or np.isnan(score) else f"{metric.name} {number(score)}"
        return {"label": name, "film": _film(frames, fps), "details": details}

    return [
        {
            "which": which,
            "prompt": rows[own][chosen].prompt,
            "clips": [
                *(film(name, chosen) for name in beside),
                *_references(rows[own][chosen], fps),
                *(film(name, chosen) for name in rest),
            ],
        }
        for which, chosen in picked(rows[own], metric).items()
    ]


def _as_is(system: System) -> bool:
    plain = System(database=system.database)
    return system == plain


def _references(row: Sample, fps: float) -> list[dict[str, str]]:
    made = []
    for rank in range(min(REFERENCES, len(row.videos))):
        path, _, seconds = row.videos[rank].rpartition("#")
        start, end = map(float, seconds.split(","))
        try:
            frames = read_clip(path, frames=16, start_s=start, end_s=end).frames
        except VideoError:
            continue  # it has been moved since; its caption is in the table of samples
        details = f"{row.references[rank]} ({row.scores[rank]:.2f})"
        made.append({"label": f"reference {rank + 1}", "film": _film(frames, fps), "details": details})
    return made


def _film(frames: NDArray[np.uint8], fps: float) -> str:
    return moving(frames, fps, HEIGHT, ".webp")
