"""What was measured of each clip of each system, as a table on disk: one Parquet file a suite.

A row is known by what was asked (`asked`: image, words, seed and truth) and by what was made (`key`). Statistics of
a metric are kept with the digest of its settings, so that a later run takes over what it can and no more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError
from motionrag.video.files import replacing_file

NAME = "samples.parquet"
Values = NDArray[np.float64]


@dataclass(kw_only=True)
class Sample:
    """One clip of one system."""

    system: str
    """Its name in the suite."""
    number: int
    """Of the clip."""
    asked: str
    """64 hex digits of image, words, seed and truth."""
    key: str
    """64 hex digits of all that decides the clip; those of its frames are kept under it."""
    prompt: str
    """What was asked for."""
    group: str = ""
    """Its kind of motion, where that is known."""
    references: list[str] = field(default_factory=list)
    """Captions of the references, best first."""
    scores: list[float] = field(default_factory=list)
    """How well they fitted."""
    videos: list[str] = field(default_factory=list)
    """Where they lie: path, and seconds in it."""
    statistics: dict[str, list[float]] = field(default_factory=dict)
    """Digest of a metric -> what it measured."""


SCHEMA = pa.schema(
    [
        ("system", pa.string()),
        ("number", pa.int64()),
        ("asked", pa.string()),
        ("key", pa.string()),
        ("prompt", pa.string()),
        ("group", pa.string()),
        ("references", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("videos", pa.list_(pa.string())),
        ("statistics", pa.map_(pa.string(), pa.list_(pa.float64()))),
    ]
)


def write_samples(folder: Path, samples: Iterable[Sample], about: Mapping[str, Any]) -> None:
    """Write a suite's table, whole or not at all.

    Args:
        folder: Of the suite.
        samples: The rows.
        about: What the rows do not say: settings of the metrics and of the suite; as JSON.
    """
    rows = [{**vars(sample), "statistics": list(sample.statistics.items())} for sample in samples]
    table = pa.Table.from_pylist(rows, schema=SCHEMA).replace_schema_metadata({"motionrag": json.dumps(about)})
    with replacing_file(folder / NAME) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_samples(folder: Path) -> tuple[list[Sample], dict[str, Any]]:
    """What `write_samples` wrote.

    Raises:
        MotionRAGError: If it is missing or no such table.
    """
    path = folder / NAME
    if not path.is_file():
        raise MotionRAGError(f"{path}: no such file; run `motionrag evaluate` first")
    try:
        table = pq.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"motionrag"])
        rows = table.to_pylist()
        samples = [Sample(**{**row, "statistics": dict(row["statistics"])}) for row in rows]
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise MotionRAGError(f"{path}: is no table of samples ({error}); delete it to measure anew") from error
    return samples, about


def statistics_of(samples: Sequence[Sample], digest: str) -> Values:
    """What a metric measured of clips, [N,D]."""
    return np.array([sample.statistics[digest] for sample in samples], dtype=np.float64)


def by_system(samples: Iterable[Sample]) -> dict[str, list[Sample]]:
    """Rows of each system, in the order of their numbers.

    Raises:
        MotionRAGError: If two systems were not asked for the same clips: they cannot be compared.
    """
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.system, []).append(sample)
    for rows in found.values():
        rows.sort(key=lambda sample: sample.number)
    first = next(iter(found), "")
    for name, rows in found.items():
        check_same(found[first], rows, first, name, "run both in one suite")
    return found


def check_same(ours: Sequence[Sample], others: Sequence[Sample], name: str, other: str, remedy: str) -> None:
    """Refuse to compare systems, or runs, that were asked for other clips.

    Raises:
        MotionRAGError: If they were; it names them and the first clip that differs, and says what to do.
    """
    wanted, found = ({row.number: row.asked for row in rows} for rows in (ours, others))
    if wanted != found:
        number = min(number for number, _ in {*wanted.items()} ^ {*found.items()})
        has = (
            "differs in image, prompt, seed or truth" if number in wanted and number in found else "is of one alone"
        )
        raise MotionRAGError(
            f"{name} and {other} were not asked for the same clips (clip {number} {has}): they cannot be compared; "
            f"{remedy}"
        )
