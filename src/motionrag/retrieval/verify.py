"""Verify: read every row of a database and check that it is what an ingest writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from motionrag.errors import MotionRAGError
from motionrag.retrieval.ingest import clip_id
from motionrag.retrieval.schema import SIGNATURE_WIDTH, array_of, clip_schema
from motionrag.retrieval.store import MotionDatabase

UNIT_TOLERANCE = 5e-3  # of a float16 vector's length


def verify(database: MotionDatabase, progress: Callable[[int], None] | None = None) -> list[str]:
    """Read all of a database; returns what is wrong with it, one sentence each, and an empty list if nothing is.

    Checked: the columns, ids (against content and span, and each once), captions, seconds, every vector (finite,
    of length 1), every token (finite, not all zero), and that marks of near-duplicates name a clip that is there.
    """
    problems = list(_columns(database))
    if problems:
        return problems
    seen: dict[str, str] = {}
    marks: dict[str, str] = {}
    done = 0
    try:
        for part in database.scan(batch=256):
            for row in part.select(database.light_columns).to_pylist():
                problems += _row(row, seen)
                seen[row["id"]] = row["video"]
                if row["duplicate_of"]:
                    marks[row["id"]] = row["duplicate_of"]
            problems += _arrays(part, database)
            done += part.num_rows
            if progress is not None:
                progress(done)
    except (OSError, RuntimeError) as error:
        raise MotionRAGError(f"{database.uri}: a file of it is missing or damaged ({str(error)[:200]})") from error
    for own, other in marks.items():
        if other not in seen:
            problems.append(f"{own}: is marked a near-duplicate of {other}, which is not there")
        elif other in marks:
            problems.append(f"{own}: is marked a near-duplicate of {other}, itself one")
    return problems


def _columns(database: MotionDatabase) -> Iterator[str]:
    there = {field.name: field.type for field in database.schema}
    for field in clip_schema(database.settings):
        if field.name not in there:
            yield f"column {field.name} is missing"
        elif not _same(there[field.name], field.type):
            yield f"column {field.name} holds {there[field.name]}, not {field.type}"


def _same(one: pa.DataType, other: pa.DataType) -> bool:
    if pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other):
        return (one.list_size, one.value_type) == (other.list_size, other.value_type)
    if pa.types.is_list(one) and pa.types.is_list(other):
        return bool(one.value_type == other.value_type)
    return bool(one == other)


def _row(row: dict[str, Any], seen: dict[str, str]) -> Iterator[str]:
    name = f"{row['id']} ({row['video']})"
    if row["id"] in seen:
        yield f"{name}: is there twice"
    if row["id"] != clip_id(row["content_hash"], row["span"]):
        yield f"{name}: its id does not fit its content and span"
    if not (row["caption"] or "").strip():
        yield f"{name}: has no caption"
    if not 0 <= row["start_s"] < row["end_s"]:
        yield f"{name}: its seconds {row['start_s']}-{row['end_s']} hold nothing"
    if not row["bands"]:
        yield f"{name}: has no bands to find near-duplicates by"


def _arrays(part: pa.Table, database: MotionDatabase) -> Iterator[str]:
    shapes = {"signature": (SIGNATURE_WIDTH,), **database.settings.arrays()}
    ids = part.column("id").to_pylist()
    for name, shape in shapes.items():
        if part.column(name).null_count:
            yield f"{part.column(name).null_count} clips have no {name}"
            continue
        values = array_of(part, name, shape).reshape(len(ids), -1).astype(np.float32)
        length = np.linalg.norm(values, axis=1)
        bad = ~np.isfinite(length) | (length == 0)
        if name.endswith("_vector"):
            bad |= np.abs(length - 1) > UNIT_TOLERANCE
        if name == "signature":  # zero for a clip of one plain colour
            bad = ~np.isfinite(length)
        yield from (f"{ids[i]}: its {name} is not a {name} (length {length[i]:.3g})" for i in np.flatnonzero(bad))
