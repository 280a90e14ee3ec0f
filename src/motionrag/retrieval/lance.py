"""LanceDB as the motion database uses it: connections, one writer at a time, errors for people."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from motionrag.errors import MotionRAGError, did_you_mean

ID_CHUNK = 4_000  # ids in one condition


def is_remote(uri: str) -> bool:
    """Whether a database lies in an object store rather than a folder."""
    return "://" in uri and not uri.startswith("file://")


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
def explained(where: str | None, columns: Sequence[str]) -> Iterator[None]:
    """Turn the store's complaint about a condition into one for people."""
    try:
        yield
    except MotionRAGError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        if where is None:
            raise
        message = first_line(error)
        _, _, rest = message.partition("No field named ")
        unknown = rest.split(".")[0].strip("\"'`")
        if unknown:
            raise MotionRAGError(
                f"filter {where!r}: the database has no column {unknown!r}{did_you_mean(unknown, columns)}"
            ) from error
        raise MotionRAGError(f"filter {where!r}: is no condition ({message})") from error


def first_line(error: BaseException) -> str:
    """What an error says, in short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
