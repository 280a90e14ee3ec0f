"""Plots of a report as SVG text: curves over an axis, and differences to a baseline, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from motionrag.evaluation.statistics import Figure

WIDTH, HEIGHT = 420, 250
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 14, 44
ROW, LETTER = 24, 7.7


def curve(points: Mapping[str, tuple[float, Figure]], axis: str, title: str, level: Figure | None = None) -> str:
    """A metric of systems over their places on an axis.

    Args:
        points: System -> its place, and its figure.
        axis: What the axis says.
        title: What the figures are.
        level: Of the baseline where it has no place: a dashed line.
    """
    ordered = sorted(points.values(), key=lambda point: point[0])
    ends = [value for _, figure in ordered for value in (figure.low, figure.high)]
    ends += [level.value] if level else []
    low, high = _padded(min(ends), max(ends))
    first, last = ordered[0][0], ordered[-1][0]

    def x(value: float) -> float:
        return LEFT + (value - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in _ticks(low, high)
    ]
    upper = " ".join(f"{x(place):.1f},{y(figure.high):.1f}" for place, figure in ordered)
    lower = " ".join(f"{x(place):.1f},{y(figure.low):.1f}" for place, figure in reversed(ordered))
    parts.append(f'<polygon class="band" points="{upper} {lower}"/>')
    line = " ".join(f"{x(place):.1f},{y(figure.value):.1f}" for place, figure in ordered)
    parts.append(f'<polyline class="line" points="{line}"/>')
    for place, figure in ordered:
        parts.append(f'<circle class="dot" cx="{x(place):.1f}" cy="{y(figure.value):.1f}" r="3"/>')
        parts.append(f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{place:g}</text>')
    if level:
        at = f"{y(level.value):.1f}"
        parts.append(f'<line class="level" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(axis)}</text>')
    return _svg(WIDTH, HEIGHT, title, parts)


def changes(rows: Mapping[str, tuple[Figure, bool | None]], title: str) -> str:
    """Differences of systems, with whether they are for the better."""
    ends = [value for figure, _ in rows.values() for value in (figure.low, figure.high)]
    low, high = _padded(min(0.0, *ends), max(0.0, *ends))
    names = max(map(len, rows)) * LETTER + 16
    width = max(WIDTH, round(names + WIDTH / 2))

    def x(value: float) -> float:
        return names + (value - low) / (high - low) * (width - names - RIGHT)

    bottom = 6 + ROW * len(rows)
    parts = [
        f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="6" y2="{bottom}"/>'
        f'<text x="{x(tick):.1f}" y="{bottom + 17}" text-anchor="middle">{f"{tick:+g}" if tick else 0}</text>'
        for tick in _ticks(low, high, 4)
    ]
    parts.append(f'<line class="level" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="6" y2="{bottom}"/>')
    for i, (name, (figure, good)) in enumerate(rows.items()):
        at = 6 + ROW * (i + 0.5)
        kind = {True: "good", False: "bad", None: "same"}[good]
        ends_x = f'x1="{x(figure.low):.1f}" x2="{x(figure.high):.1f}"'
        parts.append(f'<text x="{names - 8:.1f}" y="{at + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<line class="span {kind}" {ends_x} y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{x(figure.value):.1f}" cy="{at:.1f}" r="4"/>')
    return _svg(width, bottom + 24, title, parts)


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return head + "".join(parts) + "</svg>"


def _padded(low: float, high: float) -> tuple[float, float]:
    room = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
    return low - room, high + room


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between two."""
    raw = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw)
    return [round(step * i, 10) for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
