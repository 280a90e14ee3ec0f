"""Systems that make the same simulated clips, judged: how their objects move, and whether they stay whole.

Everything is told from the frames alone; which system made them is only a name here.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionrag.evaluation.families import FamilyClassifier
from motionrag.evaluation.tracking import centroids, path_error, track
from motionrag.synth import SynthBatch, families, render

Values = NDArray[np.float64]
GROUPS = ("known", "unseen")
"""Of motion families."""
DRAWS = 2000
"""Bootstrap samples of an interval."""
TRUE, BARE, OURS, ORACLE, ALONE = "true", "bare", "ours", "oracle", "unextended"
"""True clips, the bare base, ours, a clip's own motion, and ours with nothing unseen in the database."""
FUSIONS = ("top1", "mean")
"""Rules in place of the context transformer."""


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Clips that no training and no database has, with what is asked of a system and the truth."""

    clips: SynthBatch
    """Rendered."""
    images: NDArray[np.uint8]
    """Their first frames, RGB u8 [B,3,H,W]."""
    prompts: list[str]
    """A caption of each."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was measured of each clip of a system, [B] each."""

    right: Values
    """1 where the classifier finds the true family."""
    path: Values
    """Path error; NaN where the motion is of no predictable path."""
    similarity: Values
    """Of the object to its first frame, over the same of the true clip."""
    lost: Values
    """Share of frames in which there is no object."""


def held_out(group: str, count: int, seed: int, *, size: int = 64, frames: int = 16) -> HeldOut:
    """Clips of all predictable families of a group, "known" or "unseen", in turn."""
    names = [name for name, one in families().items() if one.predictable and one.known == (group == "known")]
    clips = render(seed, range(count), names, size=size, frames=frames)
    prompts = [said[i // len(names) % len(said)] for i, said in enumerate(clips.captions)]
    return HeldOut(clips=clips, images=clips.video[:, 0].numpy(), prompts=prompts)


def judge(video: Tensor, true: HeldOut, classifier: FamilyClassifier) -> Scores:
    """Measure the clips of one system.

    Args:
        video: Made from the images and prompts, RGB u8 [B,T,3,H,W].
        true: What they were to be.
        classifier: Which tells families apart.
    """
    clips = true.clips
    found = track(video, clips.background, clips.mask[:, 0])
    tracks = [scene.family.moves and scene.family.predictable for scene in clips.scenes]
    error = path_error(found.centers, centroids(clips.mask)).masked_fill(~torch.tensor(tracks), torch.nan)
    whole = track(clips.video, clips.background, clips.mask[:, 0]).similarity.mean(dim=1)
    said = classifier.classify(video)
    return Scores(
        right=np.array([a == b for a, b in zip(said, clips.family, strict=True)], dtype=np.float64),
        path=error.double().numpy(),
        similarity=(found.similarity.mean(dim=1) / whole.clamp(min=1e-6)).double().numpy(),
        lost=(~found.found).double().mean(dim=1).numpy(),
    )


def mean(values: Values) -> Values:
    """Over the last axis: [...,B] to [...]."""
    return np.asarray(values.mean(axis=-1))


def median(values: Values) -> Values:
    """Likewise."""
    return np.asarray(np.median(values, axis=-1))


def ratio(values: Values, others: Values) -> Values:
    """Of two means, likewise."""
    return mean(values) / np.maximum(mean(others), 1e-9)


def interval(measure: Callable[..., Values], *values: Values) -> list[float]:
    """95% bootstrap interval over clips of a measure of one or more paired [B]."""
    picks = np.random.default_rng(0).integers(len(values[0]), size=(DRAWS, len(values[0])))
    drawn = measure(*(value[picks] for value in values))
    return [round(float(np.quantile(drawn, q)), 4) for q in (0.025, 0.975)]


def _figure(measure: Callable[..., Values], *values: Values) -> dict[str, Any]:
    kept = ~np.any(np.isnan(values), axis=0)
    clear = [value[kept] for value in values]
    if not kept.any():
        return {"value": None, "interval": None, "clips": 0}
    value = round(float(measure(*clear)), 4)
    return {"value": value, "interval": interval(measure, *clear), "clips": int(kept.sum())}


def summary(scores: Mapping[str, Scores], names: Sequence[str]) -> dict[str, Any]:
    """Figures of each system, with intervals and by family.

    Args:
        scores: System -> what was measured; `BARE` among them where ratios to it are wanted.
        names: Family of each clip.
    """
    out: dict[str, Any] = {}
    for system, score in scores.items():
        out[system] = {
            "accuracy": _figure(mean, score.right),
            "path_error": _figure(mean, score.path),
            "path_error_median": _figure(median, score.path),
            "similarity": _figure(mean, score.similarity),
            "lost": _figure(mean, score.lost),
            "families": _by_family(score, names),
        }
        if BARE in scores and system not in (BARE, TRUE):
            out[system]["path_error_to_bare"] = _figure(ratio, score.path, scores[BARE].path)
    return out


def _by_family(score: Scores, names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    rows: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(names):
        own = np.array([other == name for other in names])
        path = score.path[own]
        rows[name] = {
            "accuracy": round(float(score.right[own].mean()), 4),
            "path_error": None if np.isnan(path).all() else round(float(path.mean()), 4),
            "similarity": round(float(score.similarity[own].mean()), 4),
        }
    return rows


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A line to reach."""

    name: str
    """What is measured."""
    value: float | None
    """Of ours, or as the name says; None where it was not measured."""
    rule: str
    """One of `RULES`."""
    limit: float | None
    """The line; None where it is another system's figure that was not measured."""

    @property
    def passed(self) -> bool | None:
        """Whether it is reached; None where that is not known."""
        if self.value is None or self.limit is None:
            return None
        return bool(RULES[self.rule](self.value, self.limit))


RULES: dict[str, Callable[[float, float], bool]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "more than": operator.gt,
    "less than": operator.lt,
}


def bars(figures: Mapping[str, Mapping[str, Any]], added_time: float | None) -> list[Bar]:
    """The lines that the embedded default is to reach.

    Args:
        figures: "known" and "unseen" -> what `summary` gives.
        added_time: Of ours over the bare base, as a share of the bare base's.
    """

    def got(group: str, system: str, measure: str) -> float | None:
        value: float | None = figures.get(group, {}).get(system, {}).get(measure, {}).get("value")
        return value

    known, unseen = "known", "unseen"
    lines: list[tuple[str, float | None, str, float | None]] = [
        *((f"{g}: the judge's accuracy on true clips", got(g, TRUE, "accuracy"), "at least", 0.95) for g in GROUPS),
        (
            "known: accuracy, to the bare base's",
            got(known, OURS, "accuracy"),
            "at least",
            got(known, BARE, "accuracy"),
        ),
        ("known: path error over the bare base's", got(known, OURS, "path_error_to_bare"), "at most", 0.8),
        ("unseen: accuracy", got(unseen, OURS, "accuracy"), "at least", 0.6),
        ("unseen: accuracy of the bare base", got(unseen, BARE, "accuracy"), "less than", 0.2),
        ("unseen: path error over the bare base's", got(unseen, OURS, "path_error_to_bare"), "at most", 0.6),
    ]
    for rule in FUSIONS:
        for measure, way in (("accuracy", "more than"), ("path_error", "less than")):
            name = f"unseen: {measure.replace('_', ' ')}, to that of {rule}"
            lines.append((name, got(unseen, OURS, measure), way, got(unseen, rule, measure)))
    lines += [
        (f"{g}: likeness of the object, of true clips'", got(g, OURS, "similarity"), "at least", 0.95)
        for g in GROUPS
    ]
    lines.append(("time added to the bare base", added_time, "at most", 0.08))
    return [Bar(name=name, value=value, rule=rule, limit=limit) for name, value, rule, limit in lines]
