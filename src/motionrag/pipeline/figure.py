"""A sheet like figure 5 of the paper: the bare base, ours, and below them the references."""

from __future__ import annotations

import os

import numpy as np

from motionrag.pipeline.result import Video
from motionrag.types import Reference
from motionrag.video import Strip, VideoError, read_clip, sheet

_FRAMES = 8


def compare_sheet(base: Video, ours: Video, path: str | os.PathLike[str]) -> None:
    """Draw two clips of one image, prompt and seed, and the references of the second, as a PNG.

    Raises:
        MotionRAGError: If it cannot be written.
    """
    settings = ours.settings
    K = len(ours.references)
    count = f"{K} reference{'s' if K > 1 else ''}" if K else "no relevant reference"
    rows = [
        Strip(frames=base.frames, caption=settings.prompt, details=f"base alone, seed {settings.seed}"),
        Strip(frames=ours.frames, caption=settings.prompt, details=f"with motion, seed {settings.seed}, {count}"),
        *map(reference_strip, ours.references),
    ]
    sheet(rows, path)


def reference_strip(reference: Reference) -> Strip:
    """One row; a reference whose video has gone is an empty row that says so."""
    record = reference.record
    seconds = f"{record.start_s:.1f}-{record.end_s:.1f} s"
    name = os.path.basename(record.video)
    details = f"reference {reference.rank + 1}, score {reference.score:.3f}, {seconds} of {name}"
    try:
        clip = read_clip(record.video, frames=_FRAMES, start_s=record.start_s, end_s=record.end_s)
        return Strip(frames=clip.frames, caption=record.caption, details=details)
    except VideoError as error:
        blank = np.full((1, 3, 90, 160), 220, np.uint8)
        return Strip(frames=blank, caption=record.caption, details=f"{details}: {error}")
