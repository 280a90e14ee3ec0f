"""Runs a suite: makes the clips that are missing, measures what was not measured, and writes both as it goes.

A clip's frames are kept under the digest of all that decides it, so that suites share clips, and a run that was
stopped, or another suite in the same folder, makes none of them again. All systems make a batch of clips before the
next is begun, so that what metrics take of the true ones is taken once.
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

from motionrag.evaluation.metrics import Metric, Seen, Targets
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
    for rows in run.rows():
        table |= {(row.system, row.number): row for row in rows}
        if time.monotonic() - written > WRITE_S:
            write_samples(folder, table.values(), facts)
            written = time.monotonic()
    samples = [table[system, number] for system in systems for number in range(len(maker.asked))]
    write_samples(folder, samples, facts)
    return samples


def describe(metric: Metric) -> dict[str, Any]:
    """Of a metric: direction, whether it is of sets, settings, and the digest that its statistics are kept under."""
    return {
        "direction": metric.direction,
        "of_sets": metric.of_sets,
        "settings": dict(metric.settings),
        "digest": digest(metric),
    }


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
        self.done, self.fresh, self.total = 0, 0, len(maker.asked) * (1 + len(suite.systems))
        self.began = time.monotonic()

    def rows(self) -> Iterable[list[Sample]]:
        """Of a batch of true clips, and then of each system's, and so on with the next batch."""
        count = len(self.maker.asked)
        for first in range(0, count, self.batch):
            batch = _Batch(self.maker, range(first, min(first + self.batch, count)))
            for name in (TRUE, *self.suite.systems):
                rows = self._true(batch) if name == TRUE else self._made(name, batch)
                self.done += len(rows)
                self._tell(name)
                yield rows

    def _tell(self, name: str) -> None:
        if self.report is not None:
            elapsed = time.monotonic() - self.began
            self.report(Progress(system=name, done=self.done, total=self.total, fresh=self.fresh, elapsed_s=elapsed))

    def _row(self, name: str, number: int, asked_for: str, key: str, references: Sequence[Reference] = ()) -> Sample:
        asked = self.maker.asked
        return Sample(
            system=name,
            number=number,
            asked=asked_for,
            key=key,
            prompt=asked.prompts[number],
            group=asked.groups[number] if asked.groups else "",
            references=[reference.record.caption for reference in references],
            scores=[float(reference.score) for reference in references],
            videos=[f"{one.record.video}#{one.record.start_s:g},{one.record.end_s:g}" for one in references],
        )

    def _true(self, batch: _Batch) -> list[Sample]:
        rows = [self._row(TRUE, number, one, one) for number, one in zip(batch.numbers, batch.asked, strict=True)]
        self._measure(rows, batch, None)
        return rows

    def _made(self, name: str, batch: _Batch) -> list[Sample]:
        system, numbers = self.suite.systems[name], batch.numbers
        references = self.maker.references(system, numbers)
        motion = self.maker.motion(system, numbers, references)
        keys = [self.maker.key(system, *one) for one in zip(numbers, motion, batch.asked, strict=True)]
        if missing := [i for i, key in enumerate(keys) if key not in self.store]:
            made = self.maker.frames(system, [numbers[i] for i in missing], [motion[i] for i in missing])
            for i, frames in zip(missing, made, strict=True):
                self.store.put(keys[i], frames)
            self.fresh += len(missing)
        rows = [self._row(name, *one) for one in zip(numbers, batch.asked, keys, references, strict=True)]
        self._measure(rows, batch, keys)
        return rows

    def _measure(self, rows: list[Sample], batch: _Batch, keys: list[str] | None) -> None:
        """Fill in the statistics of rows; a metric that all of them have is not measured again."""
        for row in rows:
            found = {one: self.known.get((row.key, row.asked, one)) for one in self.digests}
            row.statistics = {one: values for one, values in found.items() if values is not None}
        wanted = [one for one in self.digests if any(one not in row.statistics for row in rows)]
        if not wanted:
            return
        targets = batch.targets
        clips = targets.seen
        if keys is not None:
            clips = Seen(torch.from_numpy(np.stack([self.store.get(key) for key in keys])))
        for one in wanted:
            measured = self.digests[one].measure(clips, targets)
            for row, values in zip(rows, measured, strict=True):
                row.statistics[one] = [float(value) for value in values]
                self.known[row.key, row.asked, one] = row.statistics[one]


class _Batch:
    """Clips that all systems are asked for together, and what is true of them."""

    def __init__(self, maker: Maker, numbers: Sequence[int]) -> None:
        self.numbers = list(numbers)
        true = maker.asked.true(self.numbers)
        self.asked = [
            maker.asked.digest(number, maker.seed(number), clip)
            for number, clip in zip(self.numbers, true, strict=True)
        ]
        """64 hex digits of what each is asked with."""
        self.targets: Targets = maker.asked.targets(self.numbers, true)


def _known(out: Path) -> dict[tuple[str, str, str], list[float]]:
    """What all suites of a folder have measured: (key, asked, digest of a metric) -> statistics."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for table in sorted(out.glob(f"*/{NAME}")):
        for sample in read_samples(table.parent)[0]:
            for name, values in sample.statistics.items():
                found[sample.key, sample.asked, name] = values
    return found
