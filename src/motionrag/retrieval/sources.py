"""Where clips come from: folders with captions, tables of videos, sidecar texts, and exported databases."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.retrieval.schema import OWN_COLUMNS
from motionrag.retrieval.worker import span_text

VIDEO_SUFFIXES = {".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi", ".gif", ".webp", ".mpg", ".mpeg", ".ts", ".wmv"}
VIDEO_SUFFIXES |= {".flv", ".ogv", ".3gp"}
CAPTION_FILES = ("captions.jsonl", "captions.csv", "captions.tsv", "captions.parquet")
NAMES = {  # our word for a column -> the names it goes by, most telling first
    "video": ("video", "video_path", "path", "file_name", "filename", "file", "clip", "video_file", "video_name"),
    "caption": ("caption", "text", "prompt", "description", "name", "label"),
    "start": ("start_s", "start", "start_time", "start_sec", "start_second", "begin"),
    "end": ("end_s", "end", "end_time", "end_sec", "end_second", "stop"),
}
COLLECTION = "collection"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One row of a source: a video, or a part of it, and its caption."""

    video: str
    """Absolute path."""
    caption: str = ""
    start_s: float | None = None
    """First second of the part; None for the whole video."""
    end_s: float | None = None
    """End of the part; None for the end of the video."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The row's other columns: text, numbers, truth values or None."""
    fault: str | None = None
    """Why it cannot be used at all, known from the row itself."""

    @property
    def span(self) -> str:
        """The part as text: "whole" or "START-END"."""
        return span_text(self.start_s, self.end_s)

    def to_json(self) -> str:
        """As one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Job:
        """Read what `to_json` wrote."""
        return parse(cls, json.loads(line), "quarantined job")


def read_jobs(source: Path, *, caption_column: str | None = None) -> list[Job]:
    """All rows of a source, in order.

    Args:
        source: A folder with `captions.jsonl` (or .csv, .tsv, .parquet), or with a `.txt` beside each video; or such
            a table itself. Paths in it are relative to the folder it lies in.
        caption_column: The column to take captions from, where its name is not among the usual ones.

    Raises:
        MotionRAGError: If the source is missing, unreadable as a whole, empty, or has no column of videos.
    """
    table = _caption_file(source)
    if table is None:
        jobs = list(_sidecars(source))
    else:
        rows = _rows(table)
        jobs = list(_jobs(table, rows, caption_column))
    if not jobs:
        wanted = f"{', '.join(CAPTION_FILES[:2])} or videos with a .txt of the same name beside each"
        raise MotionRAGError(f"{source}: holds no clips; wanted: {wanted}")
    return jobs


def column_types(jobs: Iterable[Job]) -> dict[str, pa.DataType]:
    """The source's own columns and the types that hold all their values; mixed ones become text."""
    kinds: dict[str, set[type]] = {}
    for job in jobs:
        for name, value in job.metadata.items():
            found = kinds.setdefault(name, set())
            if value is not None:
                found.add(type(value))
    return {name: _arrow_type(found) for name, found in kinds.items() if found}


def _arrow_type(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    return pa.float64() if kinds <= {int, float} else pa.string()


def as_type(value: Any, kind: pa.DataType) -> Any:
    """A value for a column of that type; text takes any value."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return str(value)
    return float(value) if pa.types.is_floating(kind) else value


def _caption_file(source: Path) -> Path | None:
    if source.is_dir():
        return next((source / name for name in CAPTION_FILES if (source / name).is_file()), None)
    if not source.exists():
        raise MotionRAGError(f"{source}: no such file or folder")
    if source.suffix not in {".jsonl", ".csv", ".tsv", ".parquet"}:
        raise MotionRAGError(
            f"{source}: is no source of clips; give a folder, or a .jsonl, .csv, .tsv or .parquet file"
        )
    return source


def _sidecars(folder: Path) -> Iterator[Job]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in VIDEO_SUFFIXES or any(part.startswith(".") for part in path.parts):
            continue
        text = path.with_suffix(".txt")
        metadata = {COLLECTION: folder.resolve().name}
        try:
            caption, fault = text.read_text(encoding="utf-8").strip(), None
        except FileNotFoundError:
            caption, fault = "", f"no caption: {text.name} is missing"
        except (OSError, UnicodeDecodeError) as error:
            caption, fault = "", f"no caption: {text.name} cannot be read ({error})"
        if not caption and fault is None:
            fault = "no caption: its text file is empty"
        yield Job(video=str(_absolute(path)), caption=caption, metadata=metadata, fault=fault)


def _rows(table: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, row) for each row; a row that cannot be read is its complaint, as text."""
    if table.suffix == ".parquet":
        for part in _parquet(table).iter_batches():
            yield from ((f"{table.name}", row) for row in part.to_pylist())
        return
    try:
        text = table.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise MotionRAGError(f"{table}: is not UTF-8 text ({error}); save it as UTF-8") from error
    if table.suffix == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield f"{table.name} line {number}", _json_row(line)
        return
    reader = csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if table.suffix == ".tsv" else ",")
    for row in reader:
        place = f"{table.name} line {reader.line_num}"
        yield (
            place,
            "has more values than the header has names" if None in row else {k: _number(v) for k, v in row.items()},
        )


def _json_row(line: str) -> Any:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return f"is not valid JSON ({error.msg})"
    return row if isinstance(row, dict) else "is no JSON object"


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise MotionRAGError(f"{path}: is no readable Parquet file ({str(error).splitlines()[0]})") from error


def _number(text: Any) -> Any:
    """A CSV value as a number if it is one."""
    if not isinstance(text, str) or not re.fullmatch(r"\s*-?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text):
        return text if text not in ("", None) else None
    return int(text) if re.fullmatch(r"\s*-?(0|[1-9]\d{0,17})\s*", text) else float(text)


def _jobs(table: Path, rows: Iterator[tuple[str, Any]], caption_column: str | None) -> Iterator[Job]:
    folder = table.parent.resolve()
    base = {COLLECTION: folder.name if table.name in CAPTION_FILES else table.stem}
    for place, row in rows:
        if isinstance(row, str):
            yield Job(video=str(folder / place), metadata=base, fault=f"{place} {row}")
        else:
            yield _job(row, folder, place, caption_column, base)


def _job(
    row: Mapping[str, Any], folder: Path, place: str, caption_column: str | None, base: Mapping[str, Any]
) -> Job:
    found = {word: next((name for name in names if name in row), None) for word, names in NAMES.items()}
    if caption_column is not None:
        if caption_column not in row:
            raise MotionRAGError(f"{folder / place}: has no column {caption_column!r}; it has {', '.join(row)}")
        found["caption"] = caption_column
    if found["video"] is None:
        raise MotionRAGError(
            f"{folder / place}: no column names the video; wanted is one of {', '.join(NAMES['video'])}"
        )
    values = {word: row[name] if name is not None else None for word, name in found.items()}
    taken = set(found.values())
    metadata = {**base, **{_column_name(k): _plain(v) for k, v in row.items() if k not in taken and k is not None}}
    video = str(values["video"] or "").strip()
    caption = " ".join(str(values["caption"] or "").split())
    start, end, fault = _seconds(values["start"]), _seconds(values["end"]), None
    if not video:
        fault = f"{place}: names no video"
    elif not caption:
        fault = f"{place}: no caption"
    elif isinstance(start, str) or isinstance(end, str):
        fault = f"{place}: {start if isinstance(start, str) else end}"
        start = end = None
    return Job(
        video=str(_absolute(folder / video)) if video else str(folder / place),
        caption=caption,
        start_s=start if not isinstance(start, str) else None,
        end_s=end if not isinstance(end, str) else None,
        metadata=metadata,
        fault=fault,
    )


def _absolute(path: Path) -> Path:
    """Absolute, with ".." taken out but links kept: a link's own name is what the user knows."""
    return Path(os.path.abspath(path))


def _column_name(name: str) -> str:
    plain = re.sub(r"\W+", "_", str(name).strip().lower()).strip("_") or "column"
    plain = f"_{plain}" if plain[0].isdigit() else plain
    return f"source_{plain}" if plain in OWN_COLUMNS else plain


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return json.dumps(value, default=str)


def _seconds(value: Any) -> float | str | None:
    """Seconds from a number or "[HH:]MM:SS[.f]"; a complaint, as text, if it is neither."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and re.fullmatch(r"(\d+:)?\d{1,2}:\d{1,2}(\.\d+)?", value.strip()):
        parts = [float(part) for part in value.split(":")]
        return sum(part * 60**power for power, part in enumerate(reversed(parts)))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return f"{value!r} is no time in seconds"
    return seconds if math.isfinite(seconds) and seconds >= 0 else f"{value!r} is no time in seconds"
