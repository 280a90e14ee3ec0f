"""Two runs of the same suites, such as of two bundles: what the second changed, clip by clip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.evaluation.figures import SystemFigures, figures
from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.metrics.kept import kept_metric
from motionrag.evaluation.samples import NAME, Sample, by_system, check_same, read_samples
from motionrag.evaluation.suite import TRUE


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One suite of two runs."""

    name: str
    """Of the suite."""
    about: str
    """What it shows, and what the two have not in common."""
    count: int
    """Clips of each system."""
    against: str
    """What differences are to: the same system in the first run."""
    metrics: Sequence[Metric]
    """What both measured in the same way."""
    figures: Mapping[str, SystemFigures]
    """Of each system in the one and in the other."""
    left_out: list[str]
    """Systems and metrics that one of the runs has not, or otherwise."""
    facts: list[str]
    """What each run's clips were made with."""


def compare(first: Path, second: Path, suites: Sequence[str] = ()) -> list[Compared]:
    """What the second run changed.

    Args:
        first: Folder of a run, as `motionrag evaluate --out` has it.
        second: Another.
        suites: Their names; all that both have, if none are named.

    Raises:
        MotionRAGError: If there is nothing to compare, or they were not asked for the same clips.
    """
    if first.resolve() == second.resolve():
        raise MotionRAGError(f"{first} and {second} are one run: name two")
    has = {run: sorted(table.parent.name for table in run.glob(f"*/{NAME}")) for run in (first, second)}
    for run, own in has.items():
        if not own:
            raise MotionRAGError(f"{run}: holds no suite that was run; name the --out of a `motionrag evaluate`")
        for name in suites:
            if name not in own:
                raise MotionRAGError(f"{run}: holds no suite {name!r}{did_you_mean(name, own)}")
    both = list(suites) or [name for name in has[first] if name in has[second]]
    if not both:
        raise MotionRAGError(
            f"{first} and {second} have no suite in common: {', '.join(has[first])} and {', '.join(has[second])}"
        )
    labels = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    return [_compared(name, first, second, labels) for name in both]


def _compared(name: str, first: Path, second: Path, labels: tuple[str, str]) -> Compared:
    (ours, about), (others, about_others) = (_read(run / name) for run in (first, second))
    metrics = {
        metric: kept_metric(metric, described)
        for metric, described in about["metrics"].items()
        if about_others["metrics"].get(metric, {}).get("digest") == described["digest"]
    }
    systems = [system for system in ours if system in others and system != TRUE]
    check_same(ours[TRUE], others[TRUE], f"{name} of {labels[0]}", f"that of {labels[1]}", "run both alike")
    if not metrics or not systems:
        what = "system" if metrics else "metric of the same settings"
        raise MotionRAGError(f"{name}: {first} and {second} have no {what} in common")
    found: dict[str, SystemFigures] = {}
    for system in systems:
        one, other = (f"{system} ({label})" for label in labels)
        rows = {TRUE: ours[TRUE], one: ours[system], other: others[system]}
        made = figures(rows, list(metrics.values()), one)
        found |= {one: made[one], other: made[other]}
    left_out = _left_out(ours, others, [*systems, TRUE])
    left_out += _left_out(about["metrics"], about_others["metrics"], metrics)
    left = f" Not in both runs, or not measured alike in both: {', '.join(left_out)}." if left_out else ""
    return Compared(
        name=name,
        about=about["suite"]["about"] + left,
        count=len(ours[TRUE]),
        against=f"the same system in {labels[0]}",
        metrics=list(metrics.values()),
        figures=found,
        left_out=left_out,
        facts=[_fact(label, one) for label, one in zip(labels, (about, about_others), strict=True)],
    )


def _read(folder: Path) -> tuple[dict[str, list[Sample]], dict[str, Any]]:
    samples, about = read_samples(folder)
    systems = Counter(sample.system for sample in samples)
    digests = {one["digest"] for one in about["metrics"].values()}
    whole = systems.keys() == {TRUE, *about["suite"]["systems"]} and len(set(systems.values())) == 1
    whole &= all("of_sets" in one for one in about["metrics"].values())  # which early runs do not say
    if not whole or any(digests - sample.statistics.keys() for sample in samples):
        raise MotionRAGError(f"{folder}: was not run to its end; run it again, and it goes on where it was")
    return by_system(samples), about


def _left_out(ours: Iterable[str], others: Iterable[str], kept: Container[str]) -> list[str]:
    return [name for name in dict.fromkeys([*ours, *others]) if name not in kept]


def _fact(label: str, about: Mapping[str, Any]) -> str:
    marks = ", ".join(f"{part} {mark[:8]}" for part, mark in about["fingerprints"].items())
    return f"{label}: {marks}"
