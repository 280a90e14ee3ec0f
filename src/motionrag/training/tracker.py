"""Metrics on disk: one JSON object a line, through accelerate's tracker interface."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker


class JsonLines(GeneralTracker):
    """Appends metrics to a file; a resumed run's lines past its checkpoint are cut first.

    Args:
        path: The file; made on the first line.
        after: The last step whose lines stay.
    """

    name = "jsonl"
    requires_logging_directory = False

    def __init__(self, path: Path, after: int):
        super().__init__()
        self.path = path
        if path.exists():
            kept = [line for line in read_lines(path) if line["step"] <= after]
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(temporary, path)

    @property
    def tracker(self) -> Path:
        """What accelerate calls the run: the file."""
        return self.path

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Append one line: numbers with five digits, null for what is not finite."""
        rounded = {name: float(f"{value:.5g}") if math.isfinite(value) else None for name, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **rounded}) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, none before it is made; one that was cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


class Means:
    """Running means of named numbers, between two lines."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Any, int]] = {}

    def add(self, values: dict[str, Any]) -> None:
        """Take in one value each; tensors stay on their device."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = (total + value, count + 1)

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        return means
