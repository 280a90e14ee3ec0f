"""Where the clips of a training come from: the simulator, folders or tables of videos, databases; or several."""

from __future__ import annotations

import hashlib
import json
import os
import random
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError
from motionrag.types import WHOLE, View

if TYPE_CHECKING:
    from motionrag.retrieval.sources import Job


@dataclass(frozen=True, kw_only=True)
class SynthSettings:
    """A stretch of the simulated corpus."""

    count: int
    """Clips."""
    seed: int = 1
    """Of the corpus."""
    first: int = 0
    """Number of the first clip."""
    families: list[str] = field(default_factory=lambda: ["known"])
    """Names of motion families, or "known" or "unseen" for all of those."""


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One source of clips; exactly one of the three."""

    synth: SynthSettings | None = None
    """The simulator."""
    videos: str | None = None
    """A folder or table of captioned videos, as `motionrag ingest` reads them."""
    database: str | None = None
    """A motion database: the clips it lists, read from their videos."""

    def __post_init__(self) -> None:
        given = [name for name in ("synth", "videos", "database") if getattr(self, name) is not None]
        if len(given) != 1:
            raise MotionRAGError(f"a source of clips is one of synth, videos or database, not {given or 'none'}")


@dataclass
class Clips:
    """Some clips, read."""

    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    """RGB u8 [T,3,H,W] each, at the size they have."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of each: `captions` (one or more), `video` (which recording it is of), and what else the source says."""
    failures: list[dict[str, str]] = field(default_factory=list)
    """Of those that could not be read: `video` and `reason`."""


class Source(Protocol):
    """Clips in a fixed order."""

    @property
    def fingerprint(self) -> str:
        """Of which clips they are."""

    def __len__(self) -> int:
        """How many, with those that may turn out to be unreadable."""

    def read(self, first: int, last: int) -> Clips:
        """The clips of numbers first <= i < last."""


class SynthSource:
    """Simulated clips."""

    def __init__(self, settings: SynthSettings, *, frames: int, size: int) -> None:
        from motionrag.synth import corpus

        self.settings, self.frames, self.size = settings, frames, size
        names = [family.name for family in corpus.chosen(settings.families)]
        self.fingerprint = _digest({"synth": asdict(settings), "of": names, "frames": frames, "size": size})

    def __len__(self) -> int:
        return self.settings.count

    def read(self, first: int, last: int) -> Clips:
        """Render them."""
        from motionrag.synth.corpus import render

        seed, start = self.settings.seed, self.settings.first
        numbers = range(start + first, start + last)
        batch = render(seed, numbers, self.settings.families, size=self.size, frames=self.frames)
        rows = [
            {"captions": turned(captions, number), "video": f"synth:{seed}:{number}", "family": family}
            for number, captions, family in zip(numbers, batch.captions, batch.family, strict=True)
        ]
        return Clips(frames=list(batch.video.numpy()), rows=rows)


class VideoSource:
    """Clips of videos, decoded by several threads (FFmpeg leaves the interpreter alone while it works)."""

    def __init__(self, jobs: Sequence[Job], *, frames: int, threads: int = 4, view: View = WHOLE) -> None:
        self.jobs, self.frames, self.threads, self.view = jobs, frames, threads, view
        windows = {} if view.frames is None else {"window": [view.frames, view.fps]}
        self.fingerprint = _digest({"clips": [_identity(job) for job in jobs], "frames": frames, **windows})

    def __len__(self) -> int:
        return len(self.jobs)

    def read(self, first: int, last: int) -> Clips:
        """Decode them; those that cannot be are among the failures."""
        clips = Clips()
        with ThreadPoolExecutor(self.threads) as pool:
            for job, frames in zip(
                self.jobs[first:last], pool.map(self._frames, self.jobs[first:last]), strict=True
            ):
                if isinstance(frames, str):
                    clips.failures.append({"video": job.video, "reason": frames})
                    continue
                plain = {name: value for name, value in job.metadata.items() if name not in ("captions", "video")}
                clips.frames.append(frames)
                plain |= {"retrieval_caption": job.retrieval_caption} if job.retrieval_caption else {}
                clips.rows.append({"captions": [job.caption], "video": job.video, "span": job.span, **plain})
        return clips

    def _frames(self, job: Job) -> NDArray[np.uint8] | str:
        from motionrag.video import VideoError, read_view

        if job.fault is not None:
            return job.fault
        try:
            start = self._start(job)
            return read_view(
                job.video, self.view, frames=self.frames, start_s=start, end_s=job.end_s, threads=1
            ).frames
        except VideoError as error:
            return error.reason

    def _start(self, job: Job) -> float:
        """First second of what is read: of a clip longer than the window, a random one, always the same."""
        from motionrag.video import probe

        start = job.start_s or 0.0
        if self.view.frames is None or self.view.fps is None:
            return start
        end = probe(job.video).duration_s if job.end_s is None else job.end_s
        spare = max(0.0, end - start - self.view.frames / self.view.fps)
        return start + spare * random.Random(_digest(_identity(job))).random()


class Joined:
    """Several sources, one after the other."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self._starts = [0, *accumulate(len(source) for source in sources)]
        self.fingerprint = _digest([source.fingerprint for source in sources])

    def __len__(self) -> int:
        return self._starts[-1]

    def read(self, first: int, last: int) -> Clips:
        """Those of each source in turn."""
        clips = Clips()
        while first < last:
            which = bisect_right(self._starts, first) - 1
            start, end = self._starts[which], min(last, self._starts[which + 1])
            part = self.sources[which].read(first - start, end - start)
            clips.frames += part.frames
            clips.rows += part.rows
            clips.failures += part.failures
            first = end
        return clips


def open_sources(
    settings: Sequence[SourceSettings],
    *,
    frames: int,
    size: int,
    retrieval_caption_column: str | None = None,
    view: View = WHOLE,
) -> Source:
    """The clips that settings name.

    Args:
        settings: Sources, in order.
        frames: T, frames of each clip.
        size: Side of simulated frames in pixels.
        retrieval_caption_column: Of tables of videos, what finds references, where it is not the captions' column.
        view: Whether clips of videos are read as a whole, or windows of them.

    Raises:
        MotionRAGError: If a source is missing or empty.
    """
    sources = [_open(source, frames, size, retrieval_caption_column, view) for source in settings]
    return sources[0] if len(sources) == 1 else Joined(sources)


def _open(settings: SourceSettings, frames: int, size: int, column: str | None, view: View) -> Source:
    if settings.synth is not None:
        return SynthSource(settings.synth, frames=frames, size=size)
    if settings.videos is not None:
        from motionrag.retrieval.sources import read_jobs

        jobs = read_jobs(Path(settings.videos), retrieval_caption_column=column)
        return VideoSource(jobs, frames=frames, view=view)
    assert settings.database is not None
    return VideoSource(database_jobs(settings.database), frames=frames, view=view)


def database_jobs(uri: str) -> list[Job]:
    """The clips of a motion database as rows of a source, ordered by id; copies of others are left out."""
    from motionrag.retrieval.sources import Job
    from motionrag.retrieval.store import MotionDatabase

    database = MotionDatabase.open(uri)
    columns = ["id", "video", "start_s", "end_s", *database.source_columns]
    rows = sorted(database.rows(columns, "duplicate_of IS NULL"), key=lambda row: str(row["id"]))
    return [
        Job(
            video=os.path.join(database.uri, row["video"]),  # relative where the database holds its videos
            caption=row["caption"],
            start_s=row["start_s"],
            end_s=row["end_s"],
            retrieval_caption=row.get("retrieval_caption"),
            metadata={name: row[name] for name in ("id", *database.metadata_columns)},
        )
        for row in rows
    ]


def _identity(job: Job) -> list[str]:
    """What of a clip decides what is computed of it."""
    return [job.video, job.span, job.caption, *([job.retrieval_caption] if job.retrieval_caption else [])]


def turned(captions: list[str], number: int) -> list[str]:
    """The same wordings with another one in front for each clip, so that taking the first takes all kinds."""
    place = number % len(captions)
    return captions[place:] + captions[:place]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
