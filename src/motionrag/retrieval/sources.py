"""Where clips come from: folders with captions, tables of videos, and sidecar texts, each row a `Job`.

Column names, captions and times are understood here; how the tables' files are read, `tables` knows.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from motionrag.errors import MotionRAGError
from motionrag.retrieval.schema import OWN_COLUMNS
from motionrag.retrieval.tables import (
    TABLE_SUFFIXES,
    VIDEO_SUFFIXES,
    Table,
    apart,
    escaped,
    number,
    plain,
    read_table,
)
from motionrag.retrieval.worker import span_text

CAPTION_FILES = tuple(f"captions{suffix}" for suffix in TABLE_SUFFIXES)
NAMES = {  # our word for a column -> the names it goes by, most telling first; upper or lower case
    "video": ("video", "video_path", "path", "file_name", "filename", "file", "clip", "video_file", "video_name"),
    "caption": ("caption", "text", "prompt", "description", "llm_caption", "name", "label"),
    "start": ("start_s", "start", "start_time", "start_sec", "start_second", "begin"),
    "end": ("end_s", "end", "end_time", "end_sec", "end_second", "stop"),
}
COLLECTION = "collection"
MISSING = {"", "nan", "nat", "none", "null"}  # what tables write for a time that is not there
NO_TEXT = "holds NUL or characters that are no text"


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
    retrieval_caption: str | None = None
    """What search compares in place of `caption`, where the source has a column for it."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """The row's other columns: text, int, float, bool or None."""
    fault: str | None = None
    """Why it cannot be used at all, known from the row itself."""

    @property
    def span(self) -> str:
        """The part as text: "whole" or "START-END"."""
        return span_text(self.start_s, self.end_s)

    @property
    def compared(self) -> str:
        """The text that search compares with prompts."""
        return self.retrieval_caption or self.caption


def read_jobs(
    source: Path, *, caption_column: str | None = None, retrieval_caption_column: str | None = None
) -> list[Job]:
    """All rows of a source, in order; those that cannot be used say why (`Job.fault`).

    Args:
        source: A folder with `captions.jsonl` (or .csv, .tsv, .parquet), or with a `.txt` beside each video; or such
            a table itself. Paths in it are relative to the folder it lies in.
        caption_column: The column to take captions from, where its name is not among the usual ones.
        retrieval_caption_column: The column that search is to compare with prompts, where it is another one, as
            OpenVid-1M's `motion_caption` is; a row in which it is empty is compared by its caption.

    Raises:
        MotionRAGError: If the source is missing, unreadable as a whole, empty, has no column of videos or captions,
            or is a folder whose subfolders are sources.
    """
    table = _caption_file(source)
    asked = {"caption": caption_column, "retrieval": retrieval_caption_column}
    if table is None and any(asked.values()):
        name = next(name for name in asked.values() if name)
        raise MotionRAGError(
            f"{source}: holds no table, so there is no column {name!r}; its captions are .txt files"
        )
    jobs = list(_sidecars(source) if table is None else _jobs(table, read_table(table), asked))
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


# -- folders


def _caption_file(source: Path) -> Path | None:
    if source.is_dir():
        found = {path.name.lower(): path for path in sorted(source.iterdir(), reverse=True) if path.is_file()}
        return next((found[name] for name in CAPTION_FILES if name in found), None)
    if not source.exists():
        raise MotionRAGError(f"{source}: no such file or folder")
    if source.suffix.lower() not in TABLE_SUFFIXES:
        raise MotionRAGError(
            f"{source}: is no source of clips; give a folder, or a .jsonl, .csv, .tsv or .parquet file"
        )
    return source


def _sidecars(folder: Path) -> Iterator[Job]:
    """The videos of a folder and its subfolders, but for hidden ones."""
    paths = [path for path in sorted(folder.rglob("*")) if not _is_hidden(path.relative_to(folder))]
    videos = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    nested = sorted({str(path.parent) for path in paths if path.name.lower() in CAPTION_FILES})
    if nested and not any(path.with_suffix(".txt").exists() for path in videos):
        shown = ", ".join(nested[:5]) + (f" and {len(nested) - 5} more" if len(nested) > 5 else "")
        raise MotionRAGError(f"{folder}: has no captions file, but its subfolders have; ingest each: {shown}")
    metadata = {COLLECTION: escaped(folder.resolve().name)}
    for path in videos:
        video, (caption, fault) = _absolute(path), _sidecar_caption(path)
        yield Job(video=escaped(video), caption=escaped(caption), metadata=metadata, fault=fault)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _sidecar_caption(video: Path) -> tuple[str, str | None]:
    """(caption, fault) of a video with a text file beside it."""
    text = video.with_suffix(".txt")
    if escaped(_absolute(video)) != _absolute(video):
        return "", "its path is not UTF-8; rename it"
    try:
        caption = " ".join(text.read_text(encoding="utf-8-sig").split())
    except FileNotFoundError:
        return "", f"no caption: {text.name} is missing"
    except (OSError, UnicodeDecodeError) as error:
        return "", f"no caption: {text.name} cannot be read ({error})"
    if not caption:
        return "", "no caption: its text file is empty"
    return caption, f"no caption: {text.name} {NO_TEXT}" if escaped(caption) != caption else None


def _absolute(path: Path) -> str:
    """Absolute, with ".." taken out but links kept: a link's own name is what the user knows."""
    return os.path.abspath(path)


# -- tables


@dataclass(frozen=True)
class _Columns:
    """What a table's columns are to us, decided once for all rows."""

    roles: Mapping[str, Sequence[str]]
    """Our word -> the table's columns of that name, which differ in case only."""
    names: Mapping[str, str]
    """Column -> its name in the database."""
    numeric: frozenset[str]
    """Columns of texts that are numbers."""

    def used(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Our word -> the row's column for it, where it has one."""
        present = {word: [c for c in columns if c in row] for word, columns in self.roles.items()}
        return {
            word: next((c for c in columns if row[c] not in (None, "")), columns[0])
            for word, columns in present.items()
            if columns
        }

    def metadata(self, row: Mapping[str, Any], used: Iterable[str], collection: str) -> dict[str, Any]:
        """The other columns, as plain values; `collection` is that of the source unless the row says another."""
        found: dict[str, Any] = {COLLECTION: collection}
        taken = set(used)
        for column, value in row.items():
            if column in taken:
                continue
            name = self.names[column]
            value = number(value) if column in self.numeric and value is not None else plain(value)
            if name != COLLECTION:
                found[name] = value
            elif value is not None:
                found[name] = str(value)
        return found


def _columns(table: Table, path: Path, asked: Mapping[str, str | None]) -> _Columns:
    folded: dict[str, list[str]] = {}
    for column in table.columns:
        folded.setdefault(_folded(column), []).append(column)
    roles = {word: next((folded[name] for name in names if name in folded), []) for word, names in NAMES.items()}
    has = f"it has {', '.join(map(repr, table.columns[:20]))}"
    for word, wanted in asked.items():
        if wanted is not None:
            roles[word] = [wanted] if wanted in table.columns else folded.get(_folded(wanted), [])
            if not roles[word]:
                raise MotionRAGError(f"{path}: has no column {wanted!r}; {has}")
    for word, what in (("video", "names the video"), ("caption", "holds captions")):
        if not roles[word]:
            hint = "" if word == "video" else ", or the one that --caption-column names"
            raise MotionRAGError(f"{path}: no column {what}; wanted is one of {', '.join(NAMES[word])}{hint}; {has}")
    ours = {columns[0] for columns in roles.values() if columns}
    names: dict[str, str] = {}
    for column in sorted(table.columns, key=ours.__contains__):  # ours last: they rarely need a name
        names[column] = apart(_column_name(column), set(names.values()))
    return _Columns(roles, names, table.numeric)


def _folded(name: str) -> str:
    return name.strip().casefold()


def _column_name(name: str) -> str:
    """Lower case, "_" for what is no letter or digit; none of the database's own names or LanceDB's (`_rowid`)."""
    found = re.sub(r"\W+", " ", name.lower()).strip().replace(" ", "_").rstrip("_") or "column"
    found = found if found[0].isalpha() else f"c_{found.lstrip('_')}"
    return f"source_{found}" if found in OWN_COLUMNS else found


def _jobs(path: Path, table: Table, asked: Mapping[str, str | None]) -> Iterator[Job]:
    folder = path.parent.resolve()
    collection = escaped(folder.name if path.name.lower() in CAPTION_FILES else path.stem)
    columns = _columns(table, path, asked) if table.columns else None
    for place, row in table.rows:
        fault = row if isinstance(row, str) else "is no object with columns"
        if columns is not None and not isinstance(row, str):
            try:
                yield _job(row, columns, folder, place, collection)
                continue
            except RecursionError:
                fault = "is nested too deeply"
        video = escaped(str(folder / place))
        yield Job(video=video, metadata={COLLECTION: collection}, fault=f"{place} {fault}")


def _job(row: Mapping[str, Any], columns: _Columns, folder: Path, place: str, collection: str) -> Job:
    used = columns.used(row)
    values = {word: row[used[word]] if word in used else None for word in (*NAMES, "retrieval")}
    name = _text(values["video"]).strip()
    video = _absolute(folder / name) if name else str(folder / place)
    caption, compared = (" ".join(_caption(values[word]).split()) for word in ("caption", "retrieval"))
    times = {word: _seconds(values[word]) for word in ("start", "end")}
    wrong = next((value for value in times.values() if isinstance(value, str)), None)
    fault = None
    if not name:
        fault = "names no video"
    elif escaped(video) != video:
        fault = f"its video's path {NO_TEXT}"
    elif objects := [word for word in ("caption", "retrieval") if isinstance(values[word], dict)]:
        fault = f"no caption: column {used[objects[0]]!r} holds an object, not text"
    elif not caption:
        fault = "no caption"
    elif escaped(caption) != caption:
        fault = f"its caption {NO_TEXT}"
    elif escaped(compared) != compared:
        fault = f"its retrieval caption {NO_TEXT}"
    elif wrong is not None:
        fault = wrong
    start, end = (None if wrong is not None or isinstance(value, str) else value for value in times.values())
    return Job(
        video=escaped(video),
        caption=escaped(caption),
        start_s=start,
        end_s=end,
        retrieval_caption=escaped(compared) or None,
        metadata=columns.metadata(row, used.values(), collection),
        fault=f"{place}: {fault}" if fault is not None else None,
    )


def _text(value: Any) -> str:
    """A value as text; nothing for what is none. Not escaped yet if it is text."""
    if isinstance(value, str):
        return value
    found = None if isinstance(value, (dict, list)) else plain(value)
    return "" if found is None else str(found)


def _caption(value: Any) -> str:
    """A caption's text; of several, the first that is not empty."""
    if isinstance(value, list):
        return next((text for text in value if isinstance(text, str) and text.strip()), "")
    return _text(value)


def _seconds(value: Any) -> float | str | None:
    """Seconds from a number, a duration or "[HH:]MM:SS[.f]"; a complaint, as text, if it is none of them."""
    if isinstance(value, time):
        value = timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        )
    complaint = escaped(f"{value!r:.100} is no time in seconds")
    if isinstance(value, (bool, dict, list)) or value in (math.inf, -math.inf):
        return complaint
    text = _text(value).strip()
    if text.lower() in MISSING:
        return None
    if re.fullmatch(r"(\d+:)?\d{1,2}:\d{1,2}(\.\d+)?", text):
        return sum(float(part) * 60**power for power, part in enumerate(reversed(text.split(":"))))
    try:
        seconds = float(text)
    except ValueError:
        return complaint
    return seconds if math.isfinite(seconds) and seconds >= 0 else complaint
