"""Databases on the move: one file that holds all of one, and rows taken over from it or from another database."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from motionrag.errors import MotionRAGError
from motionrag.retrieval.ingest import IngestReport, Progress
from motionrag.retrieval.lance import is_remote
from motionrag.retrieval.schema import (
    OWN_COLUMNS,
    RETRIEVAL_CAPTION,
    SETTINGS_KEY,
    ClipRow,
    DatabaseSettings,
    array_of,
    record_of,
)
from motionrag.retrieval.sources import Job
from motionrag.retrieval.store import CLIPS, MotionDatabase

if TYPE_CHECKING:
    from motionrag.retrieval.vectors import CaptionEncoder

BATCH = 512


@dataclass(frozen=True)
class Shelf:
    """Rows of a database, wherever they lie."""

    name: str
    settings: DatabaseSettings
    rows: int
    batches: Callable[[], Iterator[pa.Table]]

    @property
    def home(self) -> str:
        """Folder that relative paths of its videos are in."""
        return self.name if Path(self.name).is_dir() else ""


def open_shelf(source: str) -> Shelf | None:
    """A database, or a file that `export` wrote, as a source; None if it is neither.

    Raises:
        MotionRAGError: If it is one, but of another schema version.
    """
    path = Path(source)
    if is_remote(source) or (path / f"{CLIPS}.lance").is_dir():
        database = MotionDatabase.open(source)
        return Shelf(source, database.settings, database.count(), lambda: database.scan(batch=BATCH))
    if path.suffix != ".parquet" or not path.is_file():
        return None
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return None  # whoever reads it as a table says what is wrong
    if SETTINGS_KEY not in (schema.metadata or {}):
        return None
    settings = DatabaseSettings.from_metadata(schema.metadata, source)
    return Shelf(source, settings, pq.ParquetFile(path).metadata.num_rows, lambda: _file_batches(path))


def _file_batches(path: Path) -> Iterator[pa.Table]:
    try:
        for part in pq.ParquetFile(path).iter_batches(BATCH):
            yield pa.Table.from_batches([part])
    except (pa.ArrowException, OSError) as error:
        raise MotionRAGError(
            f"{path}: damaged or cut short ({str(error).splitlines()[0]}); export it again"
        ) from error


def export(database: MotionDatabase, path: Path, progress: Callable[[int], None] | None = None) -> int:
    """Write all clips, with vectors and tokens but without videos, to one Parquet file.

    Returns:
        How many clips.

    Raises:
        MotionRAGError: If the file cannot be written.
    """
    if path.suffix != ".parquet":
        raise MotionRAGError(f"{path}: the exported file is a Parquet file; give it the suffix .parquet")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    written = 0
    try:
        with pq.ParquetWriter(temporary, database.schema, compression="zstd") as writer:
            for part in database.scan(batch=BATCH):
                writer.write_table(part.select(database.schema.names).cast(database.schema))
                written += part.num_rows
                if progress is not None:
                    progress(written)
        os.replace(temporary, path)
    except OSError as error:
        raise MotionRAGError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
    return written


def take_over(
    shelf: Shelf, database: MotionDatabase, caption: CaptionEncoder, progress: Progress | None = None
) -> IngestReport:
    """Add a shelf's rows as they are, captions encoded anew if that is done differently now; no video is decoded.

    Raises:
        MotionRAGError: If their motion or appearance vectors or tokens are of other encoders than the database's.
    """
    same_text = replace(
        shelf.settings,
        text=database.settings.text,
        caption_method=database.settings.caption_method,
        text_width=database.settings.text_width,
    )
    difference = database.settings.difference(same_text)
    if difference:
        raise MotionRAGError(f"{shelf.name}: its clips do not fit {database.uri} ({difference})")
    encode = database.settings.difference(shelf.settings) is not None
    report, began = IngestReport(total=shelf.rows), time.monotonic()
    for part in shelf.batches():
        taken = [f for f in part.schema if f.name not in OWN_COLUMNS or f.name == RETRIEVAL_CAPTION]
        database.ensure_columns({f.name: f.type for f in taken})
        rows = _clip_rows(part, shelf.settings, shelf.home)
        if encode:
            vectors = caption.encode([row.record.compared for row in rows])
            pairs = zip(rows, vectors, strict=True)
            rows = [replace(row, arrays={**row.arrays, "text_vector": vector}) for row, vector in pairs]
        added, duplicates = database.add(rows)
        report.done += len(rows)
        report.added += added
        report.unchanged += len(rows) - added
        report.duplicates += duplicates
        report.elapsed_s = time.monotonic() - began
        if progress is not None:
            progress(report)
    database.compact()
    return report


def jobs_of(shelf: Shelf) -> list[Job]:
    """A shelf's clips as rows of a source, to be decoded and encoded anew."""
    jobs: list[Job] = []
    for part in shelf.batches():
        names = [name for name in part.column_names if not pa.types.is_fixed_size_list(part.schema.field(name).type)]
        for row in part.select(names).to_pylist():
            start, _, end = row["span"].partition("-")
            whole = row["span"] == "whole"
            jobs.append(
                Job(
                    video=os.path.join(shelf.home, row["video"]),
                    caption=row["caption"],
                    start_s=None if whole else float(start),
                    end_s=None if whole or not end else float(end),
                    retrieval_caption=row.get(RETRIEVAL_CAPTION),
                    metadata=dict(record_of(row).metadata),
                )
            )
    return jobs


def _clip_rows(part: pa.Table, settings: DatabaseSettings, home: str) -> list[ClipRow]:
    shapes = {"signature": (-1,), **settings.arrays()}
    arrays = {name: array_of(part, name, shape) for name, shape in shapes.items()}
    light = part.drop_columns(list(shapes)).to_pylist()
    return [
        ClipRow(
            record=replace(record_of(row, home), duplicate_of=None),
            **{name: row[name] for name in ("span", "split", "file_size", "file_mtime_ns", "bands")},
            arrays={name: values[i] for name, values in arrays.items()},
        )
        for i, row in enumerate(light)
    ]


def describe(database: MotionDatabase) -> dict[str, Any]:
    """What is in a database, in plain values."""
    settings = database.settings
    parts = {name: getattr(settings, name) for name in ("text", "motion", "appearance")}
    tokens = {name: getattr(settings, name) for name in ("motion_tokens", "appearance_tokens")}
    return {
        "database": database.uri,
        "clips": database.count(),
        "duplicates": database.count("duplicate_of IS NOT NULL"),
        "set_aside": len(database.failures()),
        "schema_version": settings.schema_version,
        "encoders": {
            k: v and {"model": v.model, "revision": v.revision, "dimension": v.dimension} for k, v in parts.items()
        },
        "tokens": {k: v and {"bundle": v.bundle, "queries": v.queries, "width": v.width} for k, v in tokens.items()},
        "features": settings.features,
        "columns": database.metadata_columns,
        "indices": database.indices(),
        "fingerprints": {
            **{name: part.fingerprint for name, part in {**parts, **tokens}.items() if part is not None},
            "captions": settings.caption_method,
        },
    }
