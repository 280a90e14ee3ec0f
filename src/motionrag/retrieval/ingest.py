"""Ingest: decode and encode each clip once, in batches that are written whole; what is there is not done again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.failures import Failure, retrial
from motionrag.retrieval.known import Known, Row, stamp
from motionrag.retrieval.lance import quoted
from motionrag.retrieval.pool import DecodePool
from motionrag.retrieval.schema import RETRIEVAL_CAPTION, ClipRow
from motionrag.retrieval.sources import COLLECTION, Job, as_type, column_types
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.worker import Decoded, Refused, Splitting, Task, span_text
from motionrag.types import ClipRecord
from motionrag.video import VideoError, content_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray

FRAMES = 16  # decoded of a clip, unless an encoder wants more
COMMIT_CLIPS, COMMIT_S = 256, 20.0  # a batch is written when either is reached
COMPACT_EVERY = 64  # batches
CAPTIONS_AT_ONCE = 64  # encoded, where nothing else is


@dataclass(kw_only=True)
class IngestReport:
    """What an ingest did so far."""

    total: int = 0
    """Rows of the source."""
    done: int = 0
    """Rows dealt with."""
    added: int = 0
    """Clips new in the database."""
    unchanged: int = 0
    """Clips that were there already, by their content."""
    updated: int = 0
    """Clips there already whose caption, columns or path the source has changed."""
    replaced: int = 0
    """Clips that went because another video lies at their path now."""
    repeated: int = 0
    """Rows of the source that name a clip a second time; the first counts."""
    duplicates: int = 0
    """Of those added, how many nearly equal another clip."""
    set_aside: int = 0
    """Clips that could not be read."""
    decoded: int = 0
    """Clips decoded in this run, written or not yet."""
    fresh: int = 0
    """Rows dealt with in this run that were not there before: what the rate is reckoned by."""
    decode_s: float = 0.0
    """Time of the decode workers, all together."""
    encode_s: float = 0.0
    """Time of the encoders."""
    write_s: float = 0.0
    """Time of the database."""
    elapsed_s: float = 0.0
    """Time since the start."""


Progress = Callable[[IngestReport], None]


def ingest(
    jobs: Sequence[Job],
    database: MotionDatabase,
    encoders: ClipEncoders,
    *,
    splitting: Splitting | None = None,
    workers: int = 1,
    batch_size: int = 8,
    retry: bool = False,
    progress: Progress | None = None,
) -> IngestReport:
    """Bring the clips of a source into a database.

    It may be stopped at any moment and run again: a batch is in the database whole or not at all. Two ingests may
    write to one database at once.

    Args:
        jobs: Rows of the source, as `sources.read_jobs` gives them.
        database: Where to; its settings must be those of `encoders`.
        encoders: What makes its vectors and tokens.
        splitting: How to take long recordings apart; None keeps each row one clip.
        workers: Decoding processes.
        batch_size: Clips an encoder takes at once.
        retry: Try again what was set aside although its file has not changed.
        progress: Called after every step, with the report so far.

    Raises:
        MotionRAGError: If the database cannot be written, or a column's type does not fit the source.
    """
    run = _Ingest(jobs, database, encoders, splitting, batch_size, retry, progress)
    with nullcontext() if encoders.video else _few_torch_threads(workers):
        return run.run(workers)


@contextmanager
def _few_torch_threads(workers: int) -> Iterator[None]:
    """Leave the decode workers their cores: threads that wait for one another slow short texts down twofold."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) - workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Ingest:
    """One run."""

    def __init__(
        self,
        jobs: Sequence[Job],
        database: MotionDatabase,
        encoders: ClipEncoders,
        splitting: Splitting | None,
        batch_size: int,
        retry: bool,
        progress: Progress | None,
    ) -> None:
        self.database, self.encoders, self.splitting = database, encoders, splitting
        self.batch_size = batch_size if encoders.video else CAPTIONS_AT_ONCE
        self.retry = retry
        sound = [job for job in jobs if job.fault is None]
        self.jobs = {(job.video, job.span): job for job in reversed(sound)}
        self.progress = progress or (lambda report: None)
        self.report = IngestReport(total=len(jobs), repeated=len(sound) - len(self.jobs))
        self.report.done = self.report.repeated
        self.failures = [
            Failure.of(job, job.fault, *stamp(job.video), None) for job in jobs if job.fault is not None
        ]
        types = column_types(jobs)
        two = any(job.retrieval_caption for job in jobs)
        database.ensure_columns({**types, RETRIEVAL_CAPTION: pa.string()} if two else types)
        database.release(self._mended(jobs))
        self.types = {name: database.column_type(name) for name in types}
        self.captions = ["caption", RETRIEVAL_CAPTION] if two else ["caption"]
        """The source's captions; a database keeps its retrieval captions where a source has none."""
        self.known = Known(database)
        self.decoded: list[tuple[Job, Decoded]] = []
        self.rows: list[ClipRow] = []
        self.hashes: dict[str, tuple[str, int, int]] = {}  # video -> content hash, size and time when it was read
        self.outdated = dict(self.known.left_over())  # id -> the path at which another video lies now
        self.batches = 0
        self.began = self.written = time.monotonic()

    def _mended(self, jobs: Sequence[Job]) -> list[str]:
        """Failures of this source's own rows, not of their videos, that do not arise any more."""
        collections = {job.metadata.get(COLLECTION) for job in jobs}
        still = {failure.id for failure in self.failures}
        stored = [(row["id"], retrial(row["job"])[0]) for row in self.database.failures()]
        return [
            key
            for key, job in stored
            if job.fault is not None and job.metadata.get(COLLECTION) in collections and key not in still
        ]

    def run(self, workers: int) -> IngestReport:
        """Do all of it."""
        self.report.done += len(self.failures)
        tasks = list(self._tasks())
        self._correct_captions()
        with DecodePool(max(1, min(workers, len(tasks)))) as pool:
            try:
                for task, answer in pool.run(tasks, self._look):
                    self._take(task, answer)
            except KeyboardInterrupt:
                self._encode()
                self._write()
                raise
        self._encode()
        self._write()
        self._remove_outdated()
        if self.batches:
            self.database.compact()
        self._tell()
        return self.report

    # -- what is to be done

    def _tasks(self) -> Iterator[Task]:
        """What is left of the source, in its order."""
        preparations = self.encoders.preparations
        for job in reversed(self.jobs.values()):
            refused = frozenset() if self.retry else self.known.refused(job.video)
            if self.known.settled(job, self.splitting):
                self.report.unchanged += 1
                self.report.done += 1
            elif job.span in refused:
                self.report.set_aside += 1
                self.report.done += 1
            else:
                yield Task(
                    video=job.video,
                    start_s=job.start_s,
                    end_s=job.end_s,
                    splitting=self.splitting,
                    frames=max([FRAMES, *(part.frames for part in preparations.values())]),
                    view=self.encoders.view,
                    preparations=preparations,
                    done=refused,
                )

    def _look(self, task: Task) -> Task | None:
        """Read a file's content hash, in a thread of the pool; what the database has of that content is left out."""
        now = stamp(task.video)
        digest, *seen = self.hashes.get(task.video, ("", 0, 0))
        if tuple(seen) != now:
            try:
                digest = content_hash(task.video)
            except VideoError:
                return task  # the worker says why
            self.hashes[task.video] = (digest, *now)
        spans = self.known.of_content(digest)
        if span_text(task.start_s, task.end_s) in spans and task.splitting is None:
            return None
        return replace(task, done=task.done | frozenset(spans))

    def _correct_captions(self) -> None:
        """Write the captions and columns that the source has changed since the clips were added."""
        changed = [
            (row, job) for job in self.jobs.values() for row in self.known.made_of(job) if self._differs(row, job)
        ]
        self._correct(changed)
        self.report.unchanged = max(0, self.report.unchanged - len(changed))

    def _differs(self, row: Row, job: Job) -> bool:
        said = {**self._columns(job), **{name: getattr(job, name) for name in self.captions}}
        return any(row.said.get(name) != value for name, value in said.items())

    def _correct(self, changed: Sequence[tuple[Row, Job]]) -> None:
        for start in range(0, len(changed), COMMIT_CLIPS):
            part = changed[start : start + COMMIT_CLIPS]
            compared = [self._compared(row, job) for row, job in part]
            self.database.update(
                [row.id for row, _ in part],
                {
                    **{name: [getattr(job, name) for _, job in part] for name in self.captions},
                    **{name: [self._columns(job)[name] for _, job in part] for name in self.types},
                },
                {"text_vector": self.encoders.caption.encode(compared)},
            )
        self.report.updated += len(changed)

    def _compared(self, row: Row, job: Job) -> str:
        """What search is to compare of a stored clip: its retrieval caption stays where the source has none."""
        kept = None if RETRIEVAL_CAPTION in self.captions else row.said.get(RETRIEVAL_CAPTION)
        return kept or job.compared

    def _columns(self, job: Job) -> dict[str, object]:
        return {name: as_type(job.metadata.get(name), kind) for name, kind in self.types.items()}

    # -- what comes back

    def _take(self, task: Task, answer: Decoded | Refused | None) -> None:
        job = self.jobs[task.video, span_text(task.start_s, task.end_s)]
        if answer is None:
            self.report.done += 1
            self.report.fresh += 1
            self._same_content(job)
        elif isinstance(answer, Refused):
            part = replace(job, start_s=answer.asked_start_s, end_s=answer.asked_end_s)
            self.failures.append(Failure.of(part, answer.reason, *stamp(job.video), self.splitting))
        elif self.hashes.get(job.video, ("", 0, 0))[1:] != stamp(job.video):
            reason = "it changed while it was read; ingest again"
            self.failures.append(Failure.of(job, reason, 0, 0, self.splitting))
        else:
            self.report.decode_s += answer.seconds
            self.report.decoded += 1
            self.decoded.append((job, answer))
        if len(self.decoded) >= self.batch_size:
            self._encode()
        if len(self.rows) >= COMMIT_CLIPS or time.monotonic() - self.written > COMMIT_S:
            self._write()
        self._tell()

    def _same_content(self, job: Job) -> None:
        """Where a file's content was there already: follow it if it was moved or touched."""
        if job.video not in self.hashes:
            return
        digest, size, changed = self.hashes[job.video]
        if self.known.with_content(digest):
            self._replaces(job.video, digest)
        rows = [row for row in self.known.with_content(digest) if row.made_of(job)]
        if not rows:
            return
        self.report.unchanged += len(rows)
        moved = [row for row in rows if row.video == job.video or row.stamp != stamp(row.video)]
        if moved:
            count = len(moved)
            columns = {"video": job.video, "file_size": size, "file_mtime_ns": changed}
            self.database.update([row.id for row in moved], {k: [v] * count for k, v in columns.items()}, {})
            self._correct([(row, job) for row in moved if self._differs(row, job)])

    def _encode(self) -> None:
        begin = time.perf_counter()
        arrays = self.encoders.encode_clips([answer.prepared for _, answer in self.decoded])
        texts = self.encoders.caption.encode([job.compared for job, _ in self.decoded])
        for (job, answer), made, text in zip(self.decoded, arrays, texts, strict=True):
            self.rows.append(self._row(job, answer, {**made, "text_vector": text, "signature": answer.signature}))
        self.decoded = []
        self.report.encode_s += time.perf_counter() - begin

    def _row(self, job: Job, answer: Decoded, arrays: Mapping[str, NDArray[Any]]) -> ClipRow:
        digest, size, changed = self.hashes[job.video]
        span = span_text(answer.asked_start_s, answer.asked_end_s)
        record = ClipRecord(
            id=clip_id(digest, span),
            video=job.video,
            start_s=answer.start_s,
            end_s=answer.end_s,
            caption=job.caption,
            content_hash=digest,
            retrieval_caption=job.retrieval_caption,
            metadata=self._columns(job),
        )
        whole = self.splitting is None or job.span != "whole"
        return ClipRow(
            record=record,
            span=span,
            split="" if whole or self.splitting is None else f"{self.splitting.label}:{answer.parts}",
            file_size=size,
            file_mtime_ns=changed,
            bands=answer.bands,
            arrays=arrays,
        )

    def _write(self) -> None:
        begin = time.perf_counter()
        if self.rows:
            added, duplicates = self.database.add(self.rows)
            self.report.added += added
            self.report.unchanged += len(self.rows) - added
            self.report.duplicates += duplicates
            for row in self.rows:
                self._replaces(row.record.video, row.record.content_hash)
            read = {
                (row.record.video, span)
                for row in self.rows
                for span in (row.span, "whole" if row.split else row.span)
            }
            self.database.release([Failure.id_of(video, span) for video, span in read])
            self.batches += 1
            if self.batches % COMPACT_EVERY == 0:
                self.database.compact()
        self.database.set_aside(self.failures)
        self.report.set_aside += len(self.failures)
        self.rows, self.failures = [], []
        self.written = time.monotonic()
        self.report.write_s += time.perf_counter() - begin

    def _replaces(self, video: str, content_hash: str) -> None:
        self.outdated |= dict.fromkeys(self.known.outdated(video, content_hash), video)

    def _remove_outdated(self) -> None:
        """Delete the clips of what lay at a path before, but for those that have been found elsewhere meanwhile."""
        pairs = [f"(id = {quoted(key)} AND video = {quoted(video)})" for key, video in self.outdated.items()]
        for start in range(0, len(pairs), COMMIT_CLIPS):
            self.report.replaced += self.database.remove(" OR ".join(pairs[start : start + COMMIT_CLIPS]))

    def _tell(self) -> None:
        self.report.elapsed_s = time.monotonic() - self.began
        self.progress(self.report)


def clip_id(content_hash: str, span: str) -> str:
    """32 hex digits for a part of a video's content."""
    return hashlib.sha256(f"{content_hash} {span}".encode()).hexdigest()[:32]
