"""The report: one HTML page that needs nothing else, and the same tables in Markdown and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2

from motionrag.evaluation import plots
from motionrag.evaluation.comparison import Compared
from motionrag.evaluation.examples import examples, judge, shown_system
from motionrag.evaluation.figures import SystemFigures, better
from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.runner import describe
from motionrag.evaluation.samples import Sample
from motionrag.evaluation.suite import Suite
from motionrag.evaluation.tables import Tabled, change_cell, changed, figure_cell, markdown, title
from motionrag.evaluation.targets import Asked
from motionrag.video.files import replacing_file


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
    def about(self) -> str:
        """What it shows, in a sentence."""
        return self.suite.about

    @property
    def count(self) -> int:
        """Clips of each system."""
        return len(self.asked)

    @property
    def against(self) -> str:
        """What differences are to."""
        return f"“{self.suite.baseline}”"


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
    made_with = ", ".join(f"{part} {version}" for part, version in about["versions"].items())
    made_of = ", ".join(f"{part} {mark[:8]}" for part, mark in about["fingerprints"].items())
    page = {
        "heading": "MotionRAG, measured",
        "said": "All systems of a suite made their clips from the same images, prompts and seeds.",
        "facts": [made_with, made_of],
        "suites": [_suite(one, out / "clips") for one in measured],
    }
    document = {**about, "suites": {one.name: _figures(one) | {"suite": asdict(one.suite)} for one in measured}}
    return _write(out, "report", page, measured, document, command)


def write_comparison(out: Path, compared: Sequence[Compared], *, command: str) -> list[Path]:
    """Write comparison.html, comparison.md and comparison.json of two runs.

    Args:
        out: A folder.
        compared: Suites that both have.
        command: What makes it once more.

    Returns:
        Their paths.
    """
    page = {
        "heading": "MotionRAG, two runs",
        "said": "Both runs made their clips from the same images, prompts and seeds.",
        "facts": list(dict.fromkeys(fact for one in compared for fact in one.facts)),
        "suites": [_section(one) for one in compared],
    }
    document = {"suites": {one.name: _figures(one) | {"left_out": one.left_out} for one in compared}}
    return _write(out, "comparison", page, compared, document, command)


def _write(
    out: Path,
    name: str,
    page: Mapping[str, Any],
    shown: Sequence[Tabled],
    document: Mapping[str, Any],
    command: str,
) -> list[Path]:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    contents = {
        f"{name}.html": environment.get_template("report.html.j2").render(command=command, **page),
        f"{name}.md": f"Made by `{command}`.\n\n" + "\n".join(markdown(one) for one in shown),
        f"{name}.json": json.dumps({"command": command, **document}, indent=2) + "\n",
    }
    out.mkdir(parents=True, exist_ok=True)
    for file, text in contents.items():
        with replacing_file(out / file) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [out / file for file in contents]


def _figures(shown: Tabled) -> dict[str, Any]:
    return {
        "clips": shown.count,
        "metrics": {metric.name: describe(metric) for metric in shown.metrics},
        "systems": {system: asdict(own) for system, own in shown.figures.items()},
    }


def _section(shown: Tabled) -> dict[str, Any]:
    """What the page says of any tables."""
    return {
        "name": shown.name,
        "about": shown.about,
        "count": shown.count,
        "against": shown.against,
        "metrics": [
            {
                "title": title(metric),
                "settings": ", ".join(f"{key} {value}" for key, value in metric.settings.items()),
            }
            for metric in shown.metrics
        ],
        "tables": [
            (caption, [(system, [cell(metric, own) for metric in shown.metrics]) for system, own in rows.items()])
            for caption, rows, cell in (
                ("", shown.figures, figure_cell),
                (f"Differences to {shown.against}, paired by clip", changed(shown), change_cell),
            )
            if rows
        ],
        "plots": _changes(shown),
        "plots_title": f"Differences to {shown.against}",
        "examples": [],
        "shown": "",
        "by": "",
        "settings": json.dumps({metric.name: describe(metric) for metric in shown.metrics}, indent=1),
    }


def _suite(measured: Measured, clips: Path) -> dict[str, Any]:
    """What it says of a suite besides."""
    suite, metrics = measured.suite, measured.metrics
    by = judge(metrics)
    own = {
        "examples": examples(suite, measured.rows, metrics, measured.asked, clips),
        "shown": shown_system(suite),
        "by": by.name if by else "",
        "settings": json.dumps(
            {"suite": asdict(suite), "metrics": {one.name: describe(one) for one in metrics}}, indent=1
        ),
    }
    if suite.axis:
        own |= {"plots": _curves(measured), "plots_title": suite.axis_name}
    return _section(measured) | own


def _changes(shown: Tabled) -> list[dict[str, str]]:
    made = []
    for metric in shown.metrics:
        rows = {
            system: (own.changes[metric.name].difference, better(metric, own.changes[metric.name]))
            for system, own in shown.figures.items()
            if metric.name in own.changes
        }
        if rows:
            made.append({"title": title(metric), "svg": plots.changes(rows, title(metric))})
    return made


def _curves(measured: Measured) -> list[dict[str, str]]:
    suite, made = measured.suite, []
    for metric in measured.metrics:
        points = {
            system: (place, measured.figures[system].figures[metric.name])
            for system, place in suite.axis.items()
            if metric.name in measured.figures[system].figures
        }
        level = measured.figures[suite.baseline].figures.get(metric.name)
        if points:
            level = None if suite.baseline in suite.axis else level
            svg = plots.curve(points, suite.axis_name, title(metric), level)
            made.append({"title": title(metric), "svg": svg})
    return made
