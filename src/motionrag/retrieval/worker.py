"""A process that decodes, videos in and prepared frames out; the pool starts its `main`.

It is a program of its own rather than a fork (LanceDB and FFmpeg's threads do not survive one), and imports no
torch, so that it is there in a moment. A file that crashes the decoder takes down this process and no other.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from motionrag.types import WHOLE, View
from motionrag.video import Preparation, VideoError, pick, probe, read_view, scene_cuts, signature, split

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


READY = "ready"  # a worker's first word
SIGNATURE_FRAMES = 16  # those that `read_clip` picks by default


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How whole videos are taken apart; parts that a source names are left as they are."""

    seconds: float | None = None
    """Length of a clip; None for no limit."""
    scenes: bool = False
    """Whether a clip ends where the scene does."""

    @property
    def label(self) -> str:
        """As kept with each clip, to know a recording that was split like this already."""
        return f"{'scenes' if self.scenes else ''}{f'{self.seconds:g}s' if self.seconds else ''}"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is to decode: one video, or one part of it."""

    video: str
    start_s: float | None = None
    end_s: float | None = None
    splitting: Splitting | None = None
    frames: int = 16
    view: View = WHOLE
    """Whether the whole part is read, or a window at its start."""
    preparations: Mapping[str, Preparation] = field(default_factory=dict)
    """Name of an encoder -> what its frames must look like."""
    done: frozenset[str] = frozenset()
    """Parts of this very file (`span_text`) that need no decoding."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A clip read and made ready for the encoders."""

    asked_start_s: float | None
    asked_end_s: float | None
    parts: int
    """Into how many parts the video was split."""
    start_s: float
    end_s: float
    signature: NDArray[np.float32]
    bands: list[int]
    prepared: dict[str, NDArray[np.uint8]]
    seconds: float
    """Time it took."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A clip that could not be read."""

    asked_start_s: float | None
    asked_end_s: float | None
    reason: str


def span_text(start_s: float | None, end_s: float | None) -> str:
    """A part of a video as text, to the millisecond: "whole" or "START-END"."""
    if start_s is None and end_s is None:
        return "whole"
    return f"{start_s or 0.0:.3f}-{'' if end_s is None else f'{end_s:.3f}'}"


def carry_out(task: Task) -> Iterator[Decoded | Refused]:
    """Decode what a task asks for, clip by clip."""
    spans: list[tuple[float | None, float | None]] = [(task.start_s, task.end_s)]
    try:
        if task.splitting is not None and task.start_s is None and task.end_s is None:
            spans = parts_of(task.video, task.splitting)
    except VideoError as error:
        yield Refused(asked_start_s=task.start_s, asked_end_s=task.end_s, reason=error.reason)
        return
    for start, end in spans:
        if span_text(start, end) in task.done:
            continue
        begin = time.perf_counter()
        try:
            clip = read_view(task.video, task.view, frames=task.frames, start_s=start or 0.0, end_s=end)
        except VideoError as error:
            yield Refused(asked_start_s=start, asked_end_s=end, reason=error.reason)
            continue
        vector, bands = signature(clip.frames[pick(len(clip.frames), SIGNATURE_FRAMES)])
        yield Decoded(
            asked_start_s=start,
            asked_end_s=end,
            parts=len(spans),
            start_s=clip.start_s,
            end_s=clip.end_s,
            signature=vector,
            bands=bands,
            prepared={name: prepare(clip.frames) for name, prepare in task.preparations.items()},
            seconds=time.perf_counter() - begin,
        )


def parts_of(video: str, splitting: Splitting) -> list[tuple[float | None, float | None]]:
    """The stretches a video is split into; one that is not split is (None, None)."""
    info = probe(video)
    cuts = scene_cuts(video) if splitting.scenes else []
    length = splitting.seconds or info.duration_s
    parts = [(round(start, 3), round(end, 3)) for start, end in split(info, length_s=length, cuts=cuts)]
    return [(None, None)] if len(parts) == 1 else list(parts)


def main() -> None:
    """Serve tasks from standard input until it closes; answers go to what standard output was."""
    inbox, outbox = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a library prints must not come between the answers
    try:
        outbox.send(READY)
        while True:
            task = inbox.recv()
            for answer in carry_out(task):
                outbox.send(answer)
            outbox.send(None)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)
