"""The plot of the losses as a training runs, drawn with Pillow: log-y, raw and smoothed, axes with ticks."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIZE = (960, 540)
LEFT, RIGHT, TOP, BOTTOM = 90, 20, 40, 60
COLOURS = ("#1f5fa8", "#c8501e", "#2e8540", "#7a3fa0", "#8a6d00", "#00808a")
POINTS = 800  # more than a pixel's worth of points are averaged first
SMOOTH = 60  # the smoothed curve's windows to the width of the plot

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def plot_losses(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw every metric with "loss" in its name against the steps; nothing is written before there are two lines.

    Args:
        lines: Lines of metrics.jsonl, in order.
        path: The PNG to write.
    """
    names = sorted(
        {name for line in lines for name in line if "loss" in name}, key=lambda name: (name != "loss", name)
    )
    curves = {name: curve for name in names[: len(COLOURS)] if len((curve := _curve(lines, name))[0]) > 1}
    if not curves:
        return
    temporary = path.with_name(f".{path.name}.tmp")
    _draw(curves).save(temporary, format="PNG")
    os.replace(temporary, path)


def _curve(lines: Sequence[dict[str, Any]], name: str) -> Curve:
    pairs = [(line["step"], line[name]) for line in lines if (line.get(name) or 0) > 0]
    points = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(points) > POINTS:
        points = np.stack([part.mean(0) for part in np.array_split(points, POINTS)])
    return points[:, 0], points[:, 1]


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian mean in log space, over what there is at the ends."""
    width = max(1.0, len(values) / SMOOTH)
    window = np.exp(-0.5 * (np.arange(-int(3 * width), int(3 * width) + 1) / width) ** 2)
    total = np.convolve(np.log(values), window)
    weight = np.convolve(np.ones_like(values), window)
    inner = slice(len(window) // 2, len(window) // 2 + len(values))
    smoothed: NDArray[np.float64] = np.exp(total[inner] / weight[inner])
    return smoothed


def _draw(curves: dict[str, Curve]) -> Image.Image:
    image = Image.new("RGB", SIZE, "white")
    draw = ImageDraw.Draw(image, "RGBA")
    font = ImageFont.load_default(14)
    steps = np.concatenate([curve[0] for curve in curves.values()])
    values = np.concatenate([curve[1] for curve in curves.values()])
    low, high = float(values.min()) / 1.05, float(np.quantile(values, 0.999)) * 1.05
    first, last = float(steps.min()), float(steps.max())
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM

    def at(step: float, value: float) -> tuple[float, float]:
        across = (step - first) / max(last - first, 1e-9)
        up = math.log(min(value, high) / low) / max(math.log(high / low), 1e-9)
        return LEFT + across * width, TOP + (1 - up) * height

    for tick in log_ticks(low, high):
        y = at(first, tick)[1]
        draw.line([(LEFT, y), (LEFT + width, y)], "#e4e4e4")
        draw.text((LEFT - 8, y), f"{tick:.3g}", "black", font, anchor="rm")
    for tick in linear_ticks(first, last):
        x = at(tick, low)[0]
        draw.line([(x, TOP), (x, TOP + height)], "#e4e4e4")
        draw.text((x, TOP + height + 8), f"{tick:,.0f}", "black", font, anchor="mt")
    draw.rectangle([LEFT, TOP, LEFT + width, TOP + height], outline="#606060")
    draw.text((LEFT + width / 2, SIZE[1] - 22), "step", "black", font, anchor="mm")
    x = float(LEFT)
    for colour, (name, (across, raw)) in zip(COLOURS, curves.items(), strict=False):
        draw.line([at(*point) for point in zip(across, raw, strict=True)], f"{colour}50", 1)
        draw.line([at(*point) for point in zip(across, _smooth(raw), strict=True)], colour, 2)
        label = f"{name} {_smooth(raw)[-1]:.4g}"
        draw.text((x, TOP - 20), label, colour, font, anchor="lm")
        x += draw.textlength(label, font) + 24
    return image


def linear_ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers between two ends, 1, 2 or 5 times a power of ten apart."""
    span = max(high - low, 1e-9) / about
    power = 10.0 ** math.floor(math.log10(span))
    apart = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span)
    return [index * apart for index in range(math.ceil(low / apart), math.floor(high / apart) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis: 1, 2, 5 a decade, or evenly apart where less than a decade is shown."""
    if high / low < 8:
        return linear_ticks(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    return [tick for power in decades for factor in factors if low <= (tick := factor * 10.0**power) <= high]
