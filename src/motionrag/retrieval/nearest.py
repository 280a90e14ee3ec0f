"""Search in a table of clips, by words and by vectors; these as is quickest for how many rows a condition leaves."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBES = 32  # partitions of the index looked into: see benchmarks/README.md for these
REFINE = 10  # candidates compared exactly, as a multiple of those wanted
AHEAD = 6  # as many times the rows wanted are fetched before a condition is applied
ENOUGH = 2  # as many times the rows wanted must be expected among those
COMPARE_ALL = 2_000  # rows that are all compared, if a condition leaves no more
REMEMBERED = 64  # conditions whose number of rows is kept


class Nearest:
    """Vector search in one table.

    Args:
        clips: The table; with a vector index, or small.
    """

    def __init__(self, clips: Any) -> None:
        self._clips = clips
        self._version, self._columns = -1, frozenset[str]()
        self._counts: dict[str | None, int] = {}

    def rows(
        self, column: str, vector: NDArray[np.float32], limit: int, *, where: str | None = None, exact: bool = False
    ) -> pa.Table:
        """`_rowid` and `_distance` (1 - cosine) of the nearest rows, nearest first; see `MotionDatabase.nearest`."""

        def query(count: int) -> Any:
            found = self._clips.search(np.asarray(vector, dtype=np.float16), vector_column_name=column)
            return found.distance_type("cosine").select(["_distance"]).with_row_id(True).limit(count)

        self._look()
        if exact or column not in self._columns:
            every = query(limit).bypass_vector_index()
            return (every.where(where, prefilter=True) if where else every).to_arrow()
        if where is None:
            return query(limit).nprobes(PROBES).refine_factor(REFINE).to_arrow()
        left, all_rows = self._count(where), self._count(None)
        allowed = query(limit).where(where, prefilter=True)
        if left <= COMPARE_ALL:
            return allowed.bypass_vector_index().to_arrow()
        if AHEAD * left >= ENOUGH * all_rows:  # most likely enough of the nearest fulfil it: that is quicker
            near = query(AHEAD * limit).nprobes(PROBES).refine_factor(2).where(where, prefilter=False).to_arrow()
            if near.num_rows >= limit:
                return near.slice(0, limit)
        probes = math.ceil(PROBES * all_rows / left)
        return allowed.nprobes(probes).refine_factor(5 * REFINE).to_arrow()

    def _look(self) -> None:
        """Notice a new version of the table: its indices, and counts that no longer hold."""
        version = self._clips.version
        if self._version != version:
            self._counts = {}
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


def sharing_words(clips: Any, column: str, text: str, limit: int, where: str | None = None) -> dict[int, float]:
    """`_rowid` -> BM25 of the rows of a table that share words (or their stems) with a text, best first."""
    from lancedb.query import MatchQuery

    words = " ".join(dict.fromkeys(re.findall(r"\w+", text.lower())))  # each counts once
    query = (
        clips.search(MatchQuery(words, column), query_type="fts").select(["_score"]).with_row_id(True).limit(limit)
    )
    found = (query.where(where, prefilter=True) if where else query).to_arrow()
    return dict(zip(found.column("_rowid").to_pylist(), found.column("_score").to_pylist(), strict=True))
