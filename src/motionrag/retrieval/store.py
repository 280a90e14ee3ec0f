"""The motion database: a folder or an object store URI, kept by LanceDB; a change happens whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from motionrag.errors import MotionRAGError
from motionrag.retrieval.duplicates import mark_duplicates
from motionrag.retrieval.failures import QUARANTINE_SCHEMA, Failure
from motionrag.retrieval.lance import (
    any_of,
    build_indices,
    connect,
    create_table,
    explained,
    first_line,
    index_words,
    is_remote,
    lock,
    plain_uri,
    quoted,
    table_names,
)
from motionrag.retrieval.nearest import Nearest
from motionrag.retrieval.schema import (
    OWN_COLUMNS,
    RETRIEVAL_CAPTION,
    ClipRow,
    DatabaseSettings,
    clip_schema,
    rows_to_table,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIPS, QUARANTINE = "clips", "quarantine"
REFRESH_S = 5.0


class MotionDatabase:
    """Clips with their vectors and tokens, and the list of those that could not be read."""

    def __init__(self, uri: str, connection: Any, clips: Any) -> None:
        self.uri = uri
        self._connection = connection
        self._clips = clips
        self._refreshed = time.monotonic()
        self.settings = DatabaseSettings.from_metadata(clips.schema.metadata, uri)
        """What its contents were made with."""
        self._nearest = Nearest(clips)

    @classmethod
    def open(cls, uri: str | Path) -> MotionDatabase:
        """Open a database that is there.

        Args:
            uri: A folder, or an object store's URI such as "s3://bucket/db"; credentials and endpoints come from
                the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).

        Raises:
            MotionRAGError: If there is none, or it is of another schema version.
        """
        uri = plain_uri(uri)
        if not is_remote(uri) and not Path(uri).is_dir():
            raise MotionRAGError(f"{uri}: no such database; make one with `motionrag ingest SOURCE --db {uri}`")
        connection = connect(uri)
        names = table_names(connection)
        if CLIPS not in names:
            raise MotionRAGError(f"{uri}: is no motion database; make one with `motionrag ingest SOURCE --db {uri}`")
        with explained(uri):
            return cls(uri, connection, connection.open_table(CLIPS))

    @classmethod
    def create(cls, uri: str | Path, settings: DatabaseSettings) -> MotionDatabase:
        """Open a database, made if it is not there; `settings` of one that is there must agree.

        Raises:
            MotionRAGError: If the one there was made with other settings.
        """
        uri = plain_uri(uri)
        if not is_remote(uri):
            if Path(uri).is_file():
                raise MotionRAGError(f"{uri}: is a file; --db wants a folder")
            Path(uri).mkdir(parents=True, exist_ok=True)
        with lock(uri):
            connection = connect(uri)
            index_words(create_table(connection, CLIPS, clip_schema(settings)), ["caption"])
        database = cls.open(uri)
        database.check(settings)
        return database

    def check(self, settings: DatabaseSettings) -> None:
        """Refuse encoders that are not those it was made with.

        Raises:
            MotionRAGError: If they differ.
        """
        difference = self.settings.difference(settings)
        if difference:
            leave = "" if self.settings.caption_method != settings.caption_method else "leave the options out, or "
            raise MotionRAGError(
                f"{self.uri}: was made with other settings ({difference}); {leave}make a new one of it: `motionrag "
                f"ingest {self.uri} --db NEW`"
            )

    @classmethod
    def settings_of(cls, uri: str | Path) -> DatabaseSettings | None:
        """Settings of a database that may not be there yet: None if it is not."""
        uri = plain_uri(uri)
        if not is_remote(uri) and not Path(uri).is_dir():
            return None
        return cls.open(uri).settings if CLIPS in table_names(connect(uri)) else None

    # -- reading

    def refresh(self) -> None:
        """See what others have written; looked for every few seconds at most."""
        if time.monotonic() - self._refreshed > REFRESH_S:
            with explained(self.uri):
                self._clips.checkout_latest()
            self._refreshed = time.monotonic()

    def count(self, where: str | None = None) -> int:
        """Number of clips, of those that fulfil a condition (SQL) if one is given."""
        with explained(self.uri, where, self.light_columns):
            return int(self._clips.count_rows(where))

    @property
    def schema(self) -> pa.Schema:
        """All columns, with the settings as metadata."""
        return self._clips.schema

    def indices(self) -> list[str]:
        """Columns that have an index."""
        return sorted(column for index in self._clips.list_indices() for column in index.columns)

    def column_type(self, name: str) -> pa.DataType:
        """Type of a column."""
        return self._clips.schema.field(name).type

    @property
    def metadata_columns(self) -> list[str]:
        """Names of the sources' own columns."""
        return [name for name in self.schema.names if name not in OWN_COLUMNS]

    @property
    def source_columns(self) -> list[str]:
        """Names of the columns that come from a source: its captions, and columns of its own."""
        return [*self.captions, *self.metadata_columns]

    @property
    def captions(self) -> list[str]:
        """Names of the columns that hold captions."""
        return [name for name in ("caption", RETRIEVAL_CAPTION) if name in self.schema.names]

    @property
    def light_columns(self) -> list[str]:
        """Names of all columns but vectors, tokens and features."""
        return [field.name for field in self._clips.schema if not pa.types.is_fixed_size_list(field.type)]

    def scan(
        self,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        *,
        batch: int = 1024,
        limit: int | None = None,
    ) -> Iterator[pa.Table]:
        """Rows in batches, as Arrow tables."""
        with explained(self.uri, where, self.light_columns):
            query = self._clips.search().select(list(columns or self.schema.names))
            query = query.where(where) if where else query
            query = query.limit(limit) if limit is not None else query
            for part in query.to_batches(batch):
                if part.num_rows:
                    yield pa.Table.from_batches([part])

    def rows(
        self, columns: Sequence[str], where: str | None = None, limit: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows as dictionaries."""
        return [row for part in self.scan(columns, where, limit=limit) for row in part.to_pylist()]

    def find(self, name: str) -> list[dict[str, Any]]:
        """The clips with an id, an id that begins so, or a video path that ends so; all columns but arrays."""
        path = os.path.abspath(name)  # links keep their own names, as in an ingest
        condition = f"id = {quoted(name)} OR video = {quoted(path)}"
        exact = self.rows(self.light_columns, condition)
        if exact or len(name) < 6:
            return exact
        return self.rows(
            self.light_columns,
            f"starts_with(id, {quoted(name)}) OR ends_with(video, {quoted('/' + name.lstrip('/'))})",
        )

    def nearest(
        self, column: str, vector: NDArray[np.float32], limit: int, *, where: str | None = None, exact: bool = False
    ) -> list[int]:
        """`_rowid` of the rows whose vectors have the largest cosines with a given one, largest first.

        Where there is an index, and not all rows that fulfil the condition are compared, the cosines are estimates:
        fetch several times as many as are wanted, and compare their vectors.

        Args:
            column: A vector column.
            vector: f32 [W].
            limit: How many at most.
            where: Condition (SQL) they must fulfil.
            exact: Compare with every row, without the index.
        """
        with explained(self.uri, where, self.light_columns):
            return self._nearest.rows(column, vector, limit, where=where, exact=exact)

    def sharing_words(self, text: str, limit: int, *, where: str | None = None) -> dict[int, float]:
        """`_rowid` -> BM25 of the rows that share words with a text, in the caption that search compares.

        Args:
            text: Of any length.
            limit: How many rows at most; those with the highest BM25.
            where: Condition (SQL) they must fulfil.
        """
        found: dict[int, float] = {}
        with explained(self.uri, where, self.light_columns):
            for name in self.captions:
                conditions = [f"({where})"] if where else []
                if name == "caption" and RETRIEVAL_CAPTION in self.captions:
                    conditions.append(f"({RETRIEVAL_CAPTION} IS NULL OR {RETRIEVAL_CAPTION} = '')")
                found |= self._nearest.words(name, text, limit, where=" AND ".join(conditions) or None)
        return found

    def take(self, row_ids: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Rows by their `_rowid`, in that order."""
        if not row_ids:
            return self.schema.empty_table().select(list(columns))
        with explained(self.uri):
            table = self._clips.take_row_ids(list(row_ids)).select(list(columns)).with_row_id().to_arrow()
        order = {row: i for i, row in enumerate(table.column("_rowid").to_pylist())}
        return table.take([order[row] for row in row_ids])

    def failures(self) -> list[dict[str, Any]]:
        """The clips set aside, with their reasons."""
        if QUARANTINE not in table_names(self._connection):
            return []
        with explained(self.uri):
            table = self._connection.open_table(QUARANTINE).search().limit(None).to_arrow()
        return sorted(table.to_pylist(), key=lambda row: (row["video"], row["span"]))

    # -- writing

    def ensure_columns(self, wanted: Mapping[str, pa.DataType]) -> None:
        """Make room for a source's own columns.

        Raises:
            MotionRAGError: If a column is there with a type that cannot hold the new values.
        """
        with self._writing():
            there = {field.name: field.type for field in self._clips.schema}
            for name, kind in wanted.items():
                held = there.get(name, kind)
                if held not in (kind, pa.string()):
                    raise MotionRAGError(
                        f"{self.uri}: column {name!r} holds {held}, the source has {kind}; rename it there"
                    )
            new = [pa.field(name, kind) for name, kind in wanted.items() if name not in there]
            if new:
                self._clips.add_columns(pa.schema(new))
            index_words(self._clips, self.captions)

    def add(self, rows: Sequence[ClipRow]) -> tuple[int, int]:
        """Add clips in one step; those whose id is there already are left out, near-duplicates are marked.

        Returns:
            How many were added, and how many of these are near-duplicates of another clip.
        """
        with self._writing():
            there = self._present([row.record.id for row in rows])
            fresh = list({row.record.id: row for row in rows if row.record.id not in there}.values())
            if not fresh:
                return 0, 0
            marked = mark_duplicates(fresh, self._clips)
            table = rows_to_table(marked, self._clips.schema)
            result = self._clips.merge_insert("id").when_not_matched_insert_all().execute(table)
            return int(result.num_inserted_rows), sum(row.record.duplicate_of is not None for row in marked)

    def update(
        self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]], arrays: Mapping[str, NDArray[np.float32]]
    ) -> None:
        """Replace some columns of some rows.

        Args:
            ids: The rows.
            columns: Name -> values in their order.
            arrays: Name of a vector column -> f32 [rows, W].
        """
        with self._writing():
            self._replace(ids, columns, arrays)

    def _replace(
        self, ids: Sequence[str], columns: Mapping[str, Sequence[Any]], arrays: Mapping[str, NDArray[np.float32]]
    ) -> None:
        schema = self._clips.schema
        data: dict[str, Any] = {"id": list(ids), **columns}
        for name, values in arrays.items():
            flat = pa.array(np.asarray(values, dtype=np.float16).reshape(-1))
            data[name] = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(name).type)
        table = pa.table(data, schema=pa.schema([schema.field(name) for name in data]))
        self._clips.merge_insert("id").when_matched_update_all().execute(table)

    def set_aside(self, failures: Sequence[Failure]) -> None:
        """Put clips on the list of those that could not be read, each once."""
        if failures:
            unique = {failure.id: vars(failure) for failure in failures}
            table = pa.Table.from_pylist(list(unique.values()), schema=QUARANTINE_SCHEMA)
            with self._writing():
                merge = self._quarantine().merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(table)

    def release(self, failure_ids: Sequence[str]) -> None:
        """Take clips off that list."""
        if failure_ids:
            with self._writing():
                for condition in any_of("id", failure_ids):
                    self._quarantine().delete(condition)

    def remove(self, where: str) -> int:
        """Delete the clips that fulfil a condition; what was marked a near-duplicate of them is marked anew.

        Returns:
            How many were deleted.
        """
        with self._writing(), explained(self.uri, where, self.light_columns):
            gone = {row["id"] for row in self.rows(["id"], where)}
            if not gone:
                return 0
            marked = self.rows(["id", "duplicate_of"], "duplicate_of IS NOT NULL")
            orphans = [row for row in marked if row["duplicate_of"] in gone and row["id"] not in gone]
            heirs = {row["duplicate_of"]: row["id"] for row in reversed(orphans)}
            if orphans:  # before the others go: killed in between, no mark names a clip that is not there
                marks = [heirs[row["duplicate_of"]] for row in orphans]
                own = [None if mark == row["id"] else mark for mark, row in zip(marks, orphans, strict=True)]
                self._replace([row["id"] for row in orphans], {"duplicate_of": own}, {})
            self._clips.delete(where)
            return len(gone)

    def remove_ids(self, ids: Sequence[str]) -> int:
        """Delete clips by id; returns how many were there."""
        return sum(self.remove(condition) for condition in any_of("id", ids))

    def compact(self, *, keep: timedelta = timedelta(hours=1)) -> None:
        """Merge small files, drop versions older than `keep`, and build or extend the indices the size warrants."""
        with self._writing():
            self._clips.optimize(cleanup_older_than=keep)
            self._quarantine().optimize(cleanup_older_than=keep)
            build_indices(self._clips, ["id", "video", *self.metadata_columns])

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Alone, on the newest version, and with errors for people."""
        with lock(self.uri):
            try:
                self._clips.checkout_latest()
                yield
            except MotionRAGError:
                raise
            except (OSError, RuntimeError) as error:
                raise MotionRAGError(f"{self.uri}: cannot be written ({first_line(error)})") from error

    def _quarantine(self) -> Any:
        return create_table(self._connection, QUARANTINE, QUARANTINE_SCHEMA)

    def _present(self, ids: Sequence[str]) -> set[str]:
        return {row["id"] for condition in any_of("id", ids) for row in self.rows(["id"], condition)}
