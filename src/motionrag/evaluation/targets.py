"""The clips that systems are asked for: first frames and captions, and the truth to measure against."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from motionrag.errors import MotionRAGError
from motionrag.evaluation.held_out import HeldOut, held_out
from motionrag.evaluation.metrics import Targets as MetricTargets
from motionrag.evaluation.suite import Targets
from motionrag.pipeline.picture import fitted, picture, pixels
from motionrag.retrieval.sources import Job, read_jobs
from motionrag.types import WHOLE, Sampling, View
from motionrag.video import read_view


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked for, N clips; the true ones of real videos are decoded as they are needed."""

    prompts: list[str]
    """A caption of each."""
    queries: list[str]
    """What finds the references of each: its caption too, unless the source has another text for that."""
    sources: list[str]
    """Their videos, which must not be among the references; empty for simulated ones."""
    groups: list[str]
    """The kind of motion of each, where that is known; else empty."""
    sampling: Sampling
    """Size and frames."""
    simulated: HeldOut | None = None
    """The clips, where they are simulated."""
    jobs: Sequence[Job] = ()
    """The rows of the source, where they are real."""
    view: View = WHOLE
    """Whether their clips are read as a whole, or the window at their start."""

    def __len__(self) -> int:
        return len(self.prompts)

    def true(self, numbers: Sequence[int]) -> NDArray[np.uint8]:
        """True clips by number, u8 [B,T,3,H,W] in the base's size.

        Raises:
            VideoError: If one cannot be read.
        """
        if self.simulated is not None:
            return self.simulated.clips.video[list(numbers)].numpy()
        made = []
        for job in (self.jobs[number] for number in numbers):
            view, start = self.view.over(self.sampling.frames), job.start_s or 0.0
            clip = read_view(job.video, view, frames=self.sampling.frames, start_s=start, end_s=job.end_s)
            made.append(np.stack([self._fitted(frame) for frame in clip.frames]))
        return np.stack(made)

    def _fitted(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A frame as the base gets its target image."""
        return pixels(fitted(picture(frame), self.sampling.height, self.sampling.width))

    def targets(self, numbers: Sequence[int], true: NDArray[np.uint8]) -> MetricTargets:
        """What metrics are told of clips by number, whose true clips are u8 [B,T,3,H,W]."""
        frames = torch.from_numpy(true)
        return MetricTargets(
            true=frames,
            first=frames[:, 0],
            prompts=[self.prompts[number] for number in numbers],
            scenes=self.simulated.clips.of(numbers) if self.simulated is not None else None,
        )

    def digest(self, number: int, seed: int, true: NDArray[np.uint8]) -> str:
        """SHA-256 of what a clip is asked with, and of the true clip u8 [T,3,H,W]: 64 hex digits."""
        words = repr((self.prompts[number], seed, true.shape)).encode()
        return hashlib.sha256(words + true.tobytes()).hexdigest()


def asked(targets: Targets, sampling: Sampling, view: View = WHOLE) -> Asked:
    """Open what a suite asks for, in a base's size, and as a bundle sees clips.

    Raises:
        MotionRAGError: If the source has no usable row, or the base makes no square clips, which simulated ones are.
    """
    if (synth := targets.synth) is not None:
        if sampling.height != sampling.width:
            raise MotionRAGError(
                f"simulated clips are square, the base makes {sampling.width}x{sampling.height}: name videos instead"
            )
        clips = held_out(synth.group, synth.count, synth.seed, size=sampling.height, frames=sampling.frames)
        return Asked(
            prompts=clips.prompts,
            queries=clips.prompts,
            sources=[],
            groups=list(clips.clips.family),
            sampling=sampling,
            simulated=clips,
        )
    assert targets.videos is not None
    column = targets.videos.retrieval_caption_column
    jobs = read_jobs(Path(targets.videos.source), retrieval_caption_column=column)
    jobs = [job for job in jobs if job.fault is None and job.caption]
    if not jobs:
        raise MotionRAGError(f"{targets.videos.source}: has no captioned clip that can be used")
    count = min(targets.videos.count or len(jobs), len(jobs))
    jobs = [jobs[i * len(jobs) // count] for i in range(count)]
    return Asked(
        prompts=[job.caption for job in jobs],
        queries=[job.compared for job in jobs],
        sources=[job.video for job in jobs],
        groups=[],
        sampling=sampling,
        jobs=jobs,
        view=view,
    )
