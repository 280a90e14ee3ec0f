"""What a database holds already, looked up by path and by content, so that an ingest does nothing twice."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from motionrag.retrieval.sources import Job
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.worker import Splitting


class Row(NamedTuple):
    """A stored clip, in short."""

    id: str
    video: str
    span: str
    split: str
    content_hash: str
    stamp: tuple[int, int]
    said: Mapping[str, Any]
    """Its captions and the source's own columns."""

    def made_of(self, job: Job) -> bool:
        """Whether it is the part that a source's row names, or one of the parts that its video was split into."""
        return self.span == job.span or (job.span == "whole" and self.split != "")


def stamp(video: str) -> tuple[int, int]:
    """Size and time of change of a file, by which it is known again unread; (0, 0) if it is not there."""
    try:
        status = os.stat(video)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class Known:
    """The clips and failures of a database when an ingest began."""

    def __init__(self, database: MotionDatabase) -> None:
        said = database.source_columns
        columns = ["id", "video", "span", "split", "content_hash", "file_size", "file_mtime_ns", *said]
        self._paths: defaultdict[str, list[Row]] = defaultdict(list)
        self._contents: defaultdict[str, list[Row]] = defaultdict(list)
        for values in database.rows(columns):
            row = Row(
                **{name: values[name] for name in ("id", "video", "span", "split", "content_hash")},
                stamp=(values["file_size"], values["file_mtime_ns"]),
                said={name: values[name] for name in said},
            )
            self._paths[row.video].append(row)
            self._contents[row.content_hash].append(row)
        self._failures: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for failure in database.failures():
            self._failures[failure["video"]].append(failure)

    def settled(self, job: Job, splitting: Splitting | None) -> bool:
        """Whether the file as it is has been ingested already, judged without reading it."""
        rows = [row for row in self._paths.get(job.video, ()) if row.stamp == stamp(job.video)]
        if splitting is None or job.span != "whole":
            return any(row.span == job.span for row in rows)
        parts = [row for row in rows if row.split.startswith(f"{splitting.label}:")]
        refused = self.refused(job.video) - {row.span for row in parts}
        return bool(parts) and len(parts) + len(refused) >= int(parts[0].split.rpartition(":")[2])

    def refused(self, video: str) -> frozenset[str]:
        """Parts of the file as it is that were set aside."""
        now = stamp(video)
        rows = self._failures.get(video, ())
        return frozenset(row["span"] for row in rows if (row["file_size"], row["file_mtime_ns"]) == now)

    def made_of(self, job: Job) -> Iterator[Row]:
        """The clips made of a source's row, at its path."""
        return (row for row in self._paths.get(job.video, ()) if row.made_of(job))

    def with_content(self, content_hash: str) -> list[Row]:
        """The clips of a file's content, wherever it lies."""
        return self._contents.get(content_hash, [])

    def of_content(self, content_hash: str) -> set[str]:
        """Parts that the database has of a file's content."""
        return {row.span for row in self.with_content(content_hash)}

    def outdated(self, video: str, content_hash: str) -> Iterable[str]:
        """Ids of the clips of what lay at a path before this content."""
        return (row.id for row in self._paths.get(video, ()) if row.content_hash != content_hash)

    def left_over(self) -> Iterator[tuple[str, str]]:
        """(id, path) of clips that an ingest, stopped before its end, has replaced and not removed yet."""
        for video, rows in self._paths.items():
            if len({row.content_hash for row in rows}) > 1:
                now = stamp(video)
                if any(row.stamp == now for row in rows):
                    yield from ((row.id, video) for row in rows if row.stamp != now)
