"""LanceDB as the motion database uses it: connections, one writer at a time, errors for people."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from motionrag.errors import MotionRAGError, did_you_mean

ID_CHUNK = 4_000  # ids in one condition
INDEX_FROM = 20_000  # rows; below, a query is compared with all of them in memory
SCALAR_INDEX_FROM = 10_000


def plain_uri(uri: str | Path) -> str:
    """A folder as a path, also from file://; other URIs as they are."""
    return str(uri).removeprefix("file://")


def is_remote(uri: str) -> bool:
    """Whether a database lies in an object store rather than a folder."""
    return "://" in uri


def quoted(text: str) -> str:
    """A string as a literal of SQL conditions."""
    return "'" + text.replace("'", "''") + "'"


def any_of(column: str, values: Sequence[str]) -> Iterator[str]:
    """Conditions that a column holds one of many values, a few thousand in each."""
    for start in range(0, len(values), ID_CHUNK):
        yield f"{column} IN ({', '.join(quoted(value) for value in values[start : start + ID_CHUNK])})"


def connect(uri: str) -> Any:
    """A connection; nothing is made by it.

    Raises:
        MotionRAGError: If an object store does not answer.
    """
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of every table it makes
    import lancedb

    try:
        return lancedb.connect(uri)
    except (OSError, RuntimeError, ValueError) as error:
        raise MotionRAGError(f"{uri}: cannot be opened ({first_line(error)})") from error


def table_names(connection: Any) -> list[str]:
    """The tables that are there."""
    try:
        return list(connection.list_tables(limit=100).tables)
    except Exception as error:
        raise MotionRAGError(f"{connection.uri}: cannot be opened ({first_line(error)})") from error


def create_table(connection: Any, name: str, schema: pa.Schema) -> Any:
    """A table, made empty if it is not there, also when another process makes it at the same time."""
    if name not in table_names(connection):
        try:
            return connection.create_table(name, schema=schema)
        except (OSError, RuntimeError, ValueError):
            if name not in table_names(connection):
                raise
    return connection.open_table(name)


def lock(uri: str) -> AbstractContextManager[Any]:
    """One writer at a time in a folder; an object store's conditional writes see to it themselves."""
    if is_remote(uri):
        return nullcontext()
    from filelock import FileLock

    return FileLock(Path(uri) / ".lock", is_singleton=True)


@contextmanager
def explained(uri: str, where: str | None = None, columns: Sequence[str] = ()) -> Iterator[None]:
    """Turn the store's complaint about a condition, or about files that are missing, into one for people."""
    try:
        yield
    except MotionRAGError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        message = first_line(error)
        if where is None or "not found" in message.lower():
            raise MotionRAGError(
                f"{uri}: a file of it is missing or damaged ({message}); bring it back, or ingest anew"
            ) from error
        _, _, rest = message.partition("No field named ")
        unknown = rest.split(".")[0].strip("\"'`")
        if unknown:
            raise MotionRAGError(
                f"filter {where!r}: the database has no column {unknown!r}{did_you_mean(unknown, columns)}"
            ) from error
        raise MotionRAGError(f"filter {where!r}: is no condition ({message})") from error


def index_words(clips: Any, columns: Sequence[str]) -> None:
    """Index the words of columns that are not indexed yet: without, words are compared without their stems."""
    from lancedb.index import FTS

    _index(clips, {name: FTS(stem=True, remove_stop_words=True) for name in columns})


def build_indices(clips: Any, columns: Sequence[str]) -> None:
    """Build the indices that a table of clips is large enough for and does not have.

    Args:
        clips: The table; captions and motion get a vector index, bands one to look up any of a list.
        columns: Columns that conditions are on.
    """
    from lancedb.index import BTree, IvfRq, LabelList

    rows, kinds = clips.count_rows(), dict[str, Any]()
    if rows >= SCALAR_INDEX_FROM:
        kinds = {"bands": LabelList(), **{name: BTree() for name in columns}}
    if rows >= INDEX_FROM:
        partitions = 2 ** round(math.log2(math.sqrt(rows) / 4))
        vectors = [name for name in ("text_vector", "motion_vector") if name in clips.schema.names]
        kinds |= {name: IvfRq(distance_type="cosine", num_partitions=partitions, num_bits=4) for name in vectors}
    _index(clips, kinds)


def _index(clips: Any, kinds: Mapping[str, Any]) -> None:
    """Build the indices of columns that have none; another process may build them at the same time."""
    for column, kind in kinds.items():
        if column in _indexed(clips):
            continue
        try:
            clips.create_index(column, config=kind)
        except (OSError, RuntimeError):
            clips.checkout_latest()
            if column not in _indexed(clips):
                raise


def _indexed(clips: Any) -> set[str]:
    return {column for index in clips.list_indices() for column in index.columns}


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return re.split(r",? /\S*\.rs:", said)[0][:300]  # its authors' own files are of no use here
