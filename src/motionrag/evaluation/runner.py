"""Runs a suite: makes the clips that are missing, measures what was not measured, and writes both as it goes.

A clip's frames are kept under the digest of all that decides it, so that suites share clips, and a run that was
stopped, or another suite in the same folder, makes none of them again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from motionrag.evaluation.metrics import Metric
from motionrag.evaluation.samples import NAME, Sample, read_samples, write_samples
from motionrag.evaluation.suite import TRUE, Suite, System
from motionrag.evaluation.targets import Asked
from motionrag.types import Reference
from motionrag.video.files import replacing_file

Frames = NDArray[np.uint8]
WRITE_S = 20.0
"""Seconds between two times that the table is written while clips are made."""


class Maker(Protocol):
    """What makes the clips of systems; `motionrag.pipeline.systems.Systems` is one."""

    asked: Asked

    def seed(self, number: int) -> int:
        """Of a clip's noise."""

    def references(self, system: System, numbers: Sequence[int]) -> list[list[Reference]]:
        """Of each clip, best first."""

    def motion(self, system: System, numbers: Sequence[int], references: Sequence[Sequence[Reference]]) -> list[Any]:
        """What steers each clip."""

    def key(self, system: System, number: int, motion: Any, asked_for: str) -> str:
        """64 hex digits of all that decides a clip."""

    def frames(self, system: System, numbers: Sequence[int], motion: list[Any]) -> Frames:
        """Clips by number, u8 [B,T,3,H,W]."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a suite is."""

    system: str
    """The one that is being made or measured."""
    done: int
    """Clips of all systems that are made and measured."""
    total: int
    """Clips in all."""
    fresh: int
    """Those of them that were made, and not found."""
    elapsed_s: float
    """Since the suite began."""


class Store:
    """Frames of clips in a folder, by key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where a clip is, or would be."""
        return self.folder / key[:2] / f"{key}.npz"

    def __contains__(self, key: str) -> bool:
        return self.path(key).is_file()

    def put(self, key: str, frames: Frames) -> None:
        """Keep a clip u8 [T,3,H,W]."""
        path = self.path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, frames=frames)

    def get(self, key: str) -> Frames:
        """A clip u8 [T,3,H,W]."""
        with np.load(self.path(key)) as kept:
            frames: Frames = kept["frames"]
        return frames


def run_suite(
    name: str,
    suite: Suite,
    maker: Maker,
    metrics: Sequence[Metric],
    out: Path,
    *,
    about: Mapping[str, Any],
    batch: int = 8,
    report: Callable[[Progress], None] | None = None,
) -> list[Sample]:
    """Make and measure the clips of all systems, and the true ones.

    Args:
        name: Of the suite: its table is out/name/samples.parquet.
        suite: What is compared.
        maker: Makes the clips.
        metrics: What is measured.
        out: Folder of this and other suites; clips are in out/clips.
        about: What is to be kept beside the rows, such as versions and fingerprints.
        batch: Clips made at once.
        report: Called after each batch.

    Returns:
        The rows, those of the true clips among them.
    """
    run = _Run(suite, maker, metrics, out, batch, report)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    facts = {
        "suite": asdict(suite),
        "metrics": {metric.name: describe(metric) for metric in metrics},
        **about,
    }
    systems = [TRUE, *suite.systems]
    before = read_samples(folder)[0] if (folder / NAME).is_file() else []
    table = {(row.system, row.number): row for row in before if row.system in systems}  # what it says is not lost
    written = time.monotonic()
    for system in systems:
        for rows in run.system(system):
            table |= {(row.system, row.number): row for row in rows}
            if time.monotonic() - written > WRITE_S:
                write_samples(folder, table.values(), facts)
                written = time.monotonic()
    samples = [table[system, number] for system in systems for number in range(len(maker.asked))]
    write_samples(folder, samples, facts)
    return samples


def describe(metric: Metric) -> dict[str, Any]:
    """Of a metric: direction, settings, and the digest that its statistics are kept under."""
    return {"direction": metric.direction, "settings": dict(metric.settings), "digest": digest(metric)}


def digest(metric: Metric) -> str:
    """16 hex digits of a metric's name and settings."""
    settings = json.dumps([metric.name, metric.settings], sort_keys=True, default=str)
    return hashlib.sha256(settings.encode()).hexdigest()[:16]


class _Run:
    def __init__(
        self,
        suite: Suite,
        maker: Maker,
        metrics: Sequence[Metric],
        out: Path,
        batch: int,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self.suite, self.maker, self.metrics, self.batch, self.report = suite, maker, metrics, batch, report
        self.store = Store(out / "clips")
        self.digests = {digest(metric): metric for metric in metrics}
        self.known = _known(out)
        count = len(maker.asked)
        self.asked = [maker.asked.digest(number, maker.seed(number)) for number in range(count)]
        self.done, self.fresh, self.total = 0, 0, count * (1 + len(suite.systems))
        self.began = time.monotonic()

    def system(self, name: str) -> Iterable[list[Sample]]:
        """Rows of a system, batch by batch."""
        count = len(self.maker.asked)
        for first in range(0, count, self.batch):
            numbers = list(range(first, min(first + self.batch, count)))
            rows = self._true(numbers) if name == TRUE else self._made(name, numbers)
            self.done += len(rows)
            if self.report is not None:
                elapsed = time.monotonic() - self.began
                self.report(
                    Progress(system=name, done=self.done, total=self.total, fresh=self.fresh, elapsed_s=elapsed)
                )
            yield rows

    def _row(self, name: str, number: int, key: str, references: Sequence[Reference] = ()) -> Sample:
        asked = self.maker.asked
        return Sample(
            system=name,
            number=number,
            asked=self.asked[number],
            key=key,
            prompt=asked.prompts[number],
            group=asked.groups[number] if asked.groups else "",
            references=[reference.record.caption for reference in references],
            scores=[float(reference.score) for reference in references],
            videos=[f"{one.record.video}#{one.record.start_s:g},{one.record.end_s:g}" for one in references],
        )

    def _true(self, numbers: list[int]) -> list[Sample]:
        rows = [self._row(TRUE, number, self.asked[number]) for number in numbers]
        self._measure(rows, numbers, None)
        return rows

    def _made(self, name: str, numbers: list[int]) -> list[Sample]:
        system = self.suite.systems[name]
        references = self.maker.references(system, numbers)
        motion = self.maker.motion(system, numbers, references)
        keys = [
            self.maker.key(system, number, own, self.asked[number])
            for number, own in zip(numbers, motion, strict=True)
        ]
        if missing := [i for i, key in enumerate(keys) if key not in self.store]:
            made = self.maker.frames(system, [numbers[i] for i in missing], [motion[i] for i in missing])
            for i, frames in zip(missing, made, strict=True):
                self.store.put(keys[i], frames)
            self.fresh += len(missing)
        rows = [
            self._row(name, number, key, own) for number, key, own in zip(numbers, keys, references, strict=True)
        ]
        self._measure(rows, numbers, keys)
        return rows

    def _measure(self, rows: list[Sample], numbers: list[int], keys: list[str] | None) -> None:
        """Fill in the statistics of rows; those that are known are not taken again."""
        for row in rows:
            row.statistics = {
                one: self.known[row.key, row.asked, one]
                for one in self.digests
                if (row.key, row.asked, one) in self.known
            }
        left = [i for i, row in enumerate(rows) if len(row.statistics) < len(self.digests)]
        if not left:
            return
        own = [numbers[i] for i in left]
        true = self.maker.asked.true(own)
        made = true if keys is None else np.stack([self.store.get(keys[i]) for i in left])
        targets = self.maker.asked.targets(own, true)
        for name, metric in self.digests.items():
            measured = metric.reference(targets) if keys is None and metric.of_sets else None
            if measured is None:
                measured = metric.measure(torch.from_numpy(made), targets)
            for i, values in zip(left, measured, strict=True):
                rows[i].statistics[name] = [float(value) for value in values]


def _known(out: Path) -> dict[tuple[str, str, str], list[float]]:
    """What all suites of a folder have measured: (key, asked, digest of a metric) -> statistics."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for table in sorted(out.glob(f"*/{NAME}")):
        for sample in read_samples(table.parent)[0]:
            for name, values in sample.statistics.items():
                found[sample.key, sample.asked, name] = values
    return found
