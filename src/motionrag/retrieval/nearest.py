"""Search in a table of clips, by words and by vectors; these as is quickest for how many rows a condition leaves."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from motionrag.retrieval.lance import INDEX_FROM
from motionrag.retrieval.schema import array_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBES = 32  # partitions of the index looked into: see benchmarks/README.md for these
SPARE = 1.5  # as many times the rows expected to be enough are fetched before a condition is applied
AHEAD = 6  # as many times the rows wanted are fetched so at most
COMPARE_ALL = INDEX_FROM  # rows that are all compared, in memory, if there are no more or a condition leaves no more
KEPT = 2  # conditions whose rows' vectors stay there: at most 70 MB each
REMEMBERED = 64  # conditions whose number of rows is kept


class Nearest:
    """Search in one table.

    Args:
        clips: The table; with a vector index, or small.
    """

    def __init__(self, clips: Any) -> None:
        self._clips = clips
        self._version, self._columns = -1, frozenset[str]()
        self._counts: dict[str | None, int] = {}
        self._vectors: dict[tuple[str, str | None], tuple[NDArray[np.integer[Any]], NDArray[np.float32]]] = {}

    def rows(
        self, column: str, vector: NDArray[np.float32], limit: int, *, where: str | None = None, exact: bool = False
    ) -> list[int]:
        """`_rowid` of the rows with the largest cosines, largest first; where there is an index, as it estimates."""

        def query(count: int) -> Any:
            found = self._clips.search(np.asarray(vector, dtype=np.float16), vector_column_name=column)
            return found.distance_type("cosine").select(["_distance"]).with_row_id(True).limit(count)

        self._look()
        left, all_rows = self._count(where), self._count(None)
        if left <= COMPARE_ALL and not exact:
            return self._among(column, vector, limit, where)
        if exact or column not in self._columns:
            every = query(limit).bypass_vector_index()
            return _row_ids(every.where(where, prefilter=True) if where else every)
        if where is None:
            return _row_ids(query(limit).nprobes(PROBES))
        if ahead := self._ahead(limit, where):
            near = _row_ids(query(ahead).nprobes(PROBES).where(where, prefilter=False))
            if len(near) >= limit:
                return near[:limit]
        return _row_ids(query(limit).nprobes(math.ceil(PROBES * all_rows / left)).where(where, prefilter=True))

    def words(self, column: str, text: str, limit: int, *, where: str | None = None) -> dict[int, float]:
        """`_rowid` -> BM25 of the rows that share words (or their stems) with a text, best first."""
        from lancedb.query import MatchQuery

        words = " ".join(dict.fromkeys(re.findall(r"\w+", text.lower())))  # each counts once

        def query(count: int) -> Any:
            found = self._clips.search(MatchQuery(words, column), query_type="fts")
            return found.select(["_score"]).with_row_id(True).limit(count)

        self._look()
        ahead = self._ahead(limit, where)
        if where is None:
            found = query(limit)
        elif ahead:
            found = query(ahead).where(where, prefilter=False)
        else:
            found = query(limit).where(where, prefilter=True)
        table = found.to_arrow().slice(0, limit)
        return dict(zip(table.column("_rowid").to_pylist(), table.column("_score").to_pylist(), strict=True))

    def _ahead(self, limit: int, where: str | None) -> int:
        """Of how many of the best most likely enough fulfil a condition; 0 if it is quicker to apply that before."""
        left, all_rows = (self._count(where), self._count(None)) if where else (0, 0)
        if all_rows < limit or AHEAD * left < SPARE * all_rows:
            return 0
        return math.ceil(SPARE * limit * all_rows / left)

    def _among(self, column: str, vector: NDArray[np.float32], limit: int, where: str | None) -> list[int]:
        """Compare with all of the few rows that fulfil a condition; the next query with it finds them in memory."""
        kept = self._vectors.get((column, where))
        if kept is None:
            query = self._clips.search().select([column]).with_row_id(True).limit(None)
            table = (query.where(where) if where else query).to_arrow()
            kept = (table.column("_rowid").to_numpy(), array_of(table, column, vector.shape).astype(np.float32))
            others = list(self._vectors.items())[1 - KEPT :]
            self._vectors = {**dict(others), (column, where): kept}
        rows, vectors = kept
        cosines = vectors @ vector
        best = np.argsort(-cosines, kind="stable")[:limit]
        found: list[int] = rows[best].tolist()
        return found

    def _look(self) -> None:
        """Notice a new version of the table: its indices, and counts and vectors that no longer hold."""
        version = self._clips.version
        if self._version != version:
            self._counts, self._vectors = {}, {}
            self._columns = frozenset(column for index in self._clips.list_indices() for column in index.columns)
            self._version = version  # last: another thread may be looking

    def _count(self, where: str | None) -> int:
        """Rows that fulfil a condition, counted once for a version of the table."""
        found = self._counts.get(where)
        if found is None:
            found = int(self._clips.count_rows(where))
            kept = self._counts if len(self._counts) < REMEMBERED else {}
            self._counts = {**kept, where: found}
        return found


def _row_ids(query: Any) -> list[int]:
    found: list[int] = query.to_arrow().column("_rowid").to_pylist()
    return found
