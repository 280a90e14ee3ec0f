"""Figures as people read them: a table of each system's, and one of the differences to what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from motionrag.evaluation.figures import SystemFigures, verdict
from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.statistics import Change, Figure

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


class Tabled(Protocol):
    """What can be shown as tables: a suite that was measured, or one of two runs."""

    @property
    def name(self) -> str:
        """Of the suite."""

    @property
    def about(self) -> str:
        """What it shows, in a sentence."""

    @property
    def count(self) -> int:
        """Clips of each system."""

    @property
    def against(self) -> str:
        """What differences are to, in words."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """What was measured."""

    @property
    def figures(self) -> Mapping[str, SystemFigures]:
        """Of each system."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a table."""

    value: str = ""
    """The figure or the difference; empty where there is none."""
    interval: str = ""
    """Its 95% interval."""
    verdict: str = ""
    """Of a difference: "better", "worse", "differs", or empty where 0 may be it."""
    more: str = ""
    """Of a difference: its share of the baseline's figure, and p."""


def title(metric: Metric) -> str:
    """A metric's name, with an arrow to the better."""
    return f"{metric.name} {ARROWS[metric.direction]}".strip()


def figure_cell(metric: Metric, own: SystemFigures) -> Cell:
    """A system's figure."""
    figure = own.figures.get(metric.name)
    return Cell() if figure is None else Cell(value=number(figure.value), interval=_span(figure, number))


def change_cell(metric: Metric, own: SystemFigures) -> Cell:
    """How a system differs."""
    change = own.changes.get(metric.name)
    if change is None:
        return Cell()
    return Cell(
        value=_signed(change.difference.value),
        interval=_span(change.difference, _signed),
        verdict=verdict(metric, change),
        more=", ".join(_more(change)),
    )


def changed(shown: Tabled) -> dict[str, SystemFigures]:
    """The systems that have differences."""
    return {system: own for system, own in shown.figures.items() if own.changes}


def markdown(shown: Tabled) -> str:
    """Both tables: a row a system; differences say where they are clear of 0, and which way."""
    lines = [f"### {shown.name}", "", f"{shown.about} {shown.count} clips.", ""]
    lines += _rows(shown, shown.figures, figure_cell)
    if rows := changed(shown):
        lines += ["", f"Differences to {shown.against}, paired by clip:", "", *_rows(shown, rows, change_cell)]
    return "\n".join([*lines, ""])


def number(value: float) -> str:
    """As a table has it."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _rows(
    shown: Tabled, systems: Mapping[str, SystemFigures], cell: Callable[[Metric, SystemFigures], Cell]
) -> list[str]:
    names = [title(metric) for metric in shown.metrics]
    lines = ["| system | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
    for system, own in systems.items():
        cells = [cell(metric, own) for metric in shown.metrics]
        said = [f"{one.value} ({one.interval}) {one.verdict}".strip() if one.value else "" for one in cells]
        lines.append(f"| {system} | " + " | ".join(said) + " |")
    return lines


def _more(change: Change) -> list[str]:
    said = [] if change.relative is None else [f"{change.relative:+.0%}"]
    if change.p is not None:
        said.append("p < 0.001" if change.p < 0.001 else f"p = {change.p:.3f}")
    return said


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "") + number(value)


def _span(figure: Figure, say: Callable[[float], str]) -> str:
    return f"{say(figure.low)} to {say(figure.high)}"
