"""The report: one HTML page that needs nothing else, and the same tables in Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from motionrag.evaluation import plots
from motionrag.evaluation.figures import SystemFigures, better, examples
from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.runner import Store, describe
from motionrag.evaluation.samples import Sample
from motionrag.evaluation.statistics import Figure
from motionrag.evaluation.suite import TRUE, Suite
from motionrag.evaluation.targets import Asked
from motionrag.video import VideoError, read_clip
from motionrag.video.files import replacing_file
from motionrag.video.inline import moving

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}
HEIGHT = 128
"""Of the clips shown, in pixels."""
REFERENCES = 3
"""Shown of each clip."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One suite with all that is known of it."""

    name: str
    """Of the suite."""
    suite: Suite
    """What was compared."""
    rows: Mapping[str, Sequence[Sample]]
    """Of each system."""
    metrics: Sequence[Metric]
    """What was measured."""
    figures: Mapping[str, SystemFigures]
    """Of each system."""
    asked: Asked
    """The true clips."""

    @property
    def shown(self) -> str:
        """The system whose best and worst clips are shown: the first that follows references."""
        following = [name for name, system in self.suite.systems.items() if system.motion == "references"]
        return next((name for name in following if name != self.suite.baseline), next(iter(self.suite.systems)))

    @property
    def by(self) -> Metric | None:
        """The first metric that scores clips one by one and has a direction."""
        return next((metric for metric in self.metrics if not metric.of_sets and metric.direction != "none"), None)


def write_report(out: Path, measured: Sequence[Measured], about: Mapping[str, Any], *, command: str) -> list[Path]:
    """Write report.html, report.md and report.json.

    Args:
        out: The folder that also holds the suites' clips.
        measured: The suites.
        about: "versions" and "fingerprints" of what made the clips.
        command: What makes it all once more.

    Returns:
        Their paths.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    store = Store(out / "clips")
    page = environment.get_template("report.html.j2").render(
        command=command,
        versions=about["versions"],
        fingerprints=about["fingerprints"],
        suites=[_suite(one, store) for one in measured],
    )
    contents = {
        "report.html": page,
        "report.md": f"Made by `{command}`.\n\n" + "\n".join(markdown(one) for one in measured),
        "report.json": json.dumps({**about, "command": command, "suites": _json(measured)}, indent=2) + "\n",
    }
    for name, text in contents.items():
        with replacing_file(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [out / name for name in contents]


def markdown(measured: Measured) -> str:
    """One table: a row a system, figures with intervals, changes against the baseline with a star where clear."""
    names = [f"{metric.name} {ARROWS[metric.direction]}".strip() for metric in measured.metrics]
    lines = [f"### {measured.name}", "", f"{measured.suite.about} {len(measured.asked)} clips.", ""]
    lines += ["| system | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for system, own in measured.figures.items():
        cells = []
        for metric in measured.metrics:
            figure, change = own.figures.get(metric.name), own.changes.get(metric.name)
            said = "" if figure is None else f"{_number(figure.value)} ({_span(figure)})"
            if change is not None:
                star = "" if better(metric, change) is None else "*"
                said += f" {100 * change.relative.value:+.0f}%{star}"
            cells.append(said)
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _json(measured: Sequence[Measured]) -> dict[str, Any]:
    return {
        one.name: {
            "suite": asdict(one.suite),
            "clips": len(one.asked),
            "metrics": {metric.name: describe(metric) for metric in one.metrics},
            "systems": {system: asdict(own) for system, own in one.figures.items()},
        }
        for one in measured
    }


def _suite(measured: Measured, store: Store) -> dict[str, Any]:
    suite = measured.suite
    return {
        "name": measured.name,
        "about": suite.about,
        "count": len(measured.asked),
        "baseline": suite.baseline,
        "metrics": [
            {
                "name": metric.name,
                "arrow": ARROWS[metric.direction],
                "settings": ", ".join(f"{key} {value}" for key, value in metric.settings.items()),
            }
            for metric in measured.metrics
        ],
        "rows": [
            {"system": name, "cells": [_cell(metric, own) for metric in measured.metrics]}
            for name, own in measured.figures.items()
        ],
        "plots": _plots(measured),
        "plots_title": suite.axis_name or f"Change against “{suite.baseline}”",
        "examples": _examples(measured, store),
        "shown": measured.shown,
        "by": measured.by.name if measured.by else "",
        "settings": json.dumps(
            {"suite": asdict(suite), "metrics": {one.name: describe(one) for one in measured.metrics}}, indent=1
        ),
    }


def _cell(metric: Metric, own: SystemFigures) -> dict[str, str]:
    figure, change = own.figures.get(metric.name), own.changes.get(metric.name)
    if figure is None:
        return {"value": "", "interval": "", "kind": "", "title": ""}
    kind = title = ""
    if change is not None:
        kind = {True: "good", False: "bad", None: ""}[better(metric, change)]
        part = change.relative
        title = f"{part.value:+.1%} ({part.low:+.1%} to {part.high:+.1%}), {part.n} clips"
        title += f", p = {change.p:.4f}" if change.p is not None else ""
    return {"value": _number(figure.value), "interval": _span(figure), "kind": kind, "title": title}


def _plots(measured: Measured) -> list[dict[str, str]]:
    suite, made = measured.suite, []
    for metric in measured.metrics:
        title = f"{metric.name} {ARROWS[metric.direction]}".strip()
        if suite.axis:
            points = {
                system: (place, measured.figures[system].figures[metric.name])
                for system, place in suite.axis.items()
                if metric.name in measured.figures[system].figures
            }
            level = measured.figures[suite.baseline].figures.get(metric.name)
            if points:
                level = None if suite.baseline in suite.axis else level
                made.append({"title": title, "svg": plots.curve(points, suite.axis_name, title, level)})
        else:
            rows = {
                system: (own.changes[metric.name].relative, better(metric, own.changes[metric.name]))
                for system, own in measured.figures.items()
                if metric.name in own.changes
            }
            if rows:
                made.append({"title": title, "svg": plots.changes(rows, title)})
    return made


def _examples(measured: Measured, store: Store) -> list[dict[str, Any]]:
    """The best, median and worst clip of one system, beside the truth, the other systems and its references."""
    metric = measured.by
    if metric is None:
        return []
    found = []
    for which, number in examples(measured.rows[measured.shown], metric).items():
        row = measured.rows[measured.shown][number]
        fps = measured.asked.sampling.fps
        clips = [
            {
                "label": name,
                "film": moving(
                    measured.asked.true([number])[0] if name == TRUE else store.get(rows[number].key),
                    fps,
                    HEIGHT,
                    ".webp",
                ),
                "details": "",
            }
            for name, rows in measured.rows.items()
        ]
        found.append({"which": which, "prompt": row.prompt, "clips": [*clips, *_references(row, fps)]})
    return found


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
        made.append(
            {"label": f"reference {rank + 1}", "film": moving(frames, fps, HEIGHT, ".webp"), "details": details}
        )
    return made


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _span(figure: Figure) -> str:
    return f"{_number(figure.low)} to {_number(figure.high)}"
