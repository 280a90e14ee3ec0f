"""What all metrics share: rows measured of each clip, batch by batch, and one figure of all rows or of some.

A metric keeps its rows, so that its figure can be had of any subset of clips (intervals by resampling) and of clips
that several processes measured.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.synth import SynthBatch

Clips = Tensor | NDArray[np.uint8]
"""RGB u8 [B,T,3,H,W]."""
Rows = NDArray[np.floating[Any]]
"""[N,K], one a clip: f64 [N,1] of scores, f32 features of set metrics."""
Direction = Literal["higher", "lower", "none"]
"""What is better; "none" is to be compared with the true clips' figure."""
Need = Literal["true", "first", "prompts", "scenes"]
T = TypeVar("T")


class Seen:
    """Clips, and what metrics take of them - flow, tracks, features - each once, however many metrics read it.

    Args:
        video: RGB u8 [B,T,3,H,W].
        what: They are, for the message.

    Raises:
        MotionRAGError: If they are no such clips.
    """

    def __init__(self, video: Tensor, what: str = "the clips") -> None:
        check_clips(video, what)
        self.video = video.cpu()
        self._taken: dict[Hashable, Any] = {}

    def take(self, what: Hashable, make: Callable[[Tensor], T]) -> T:
        """What `make` gives for the clips; made the first time that `what` is asked for."""
        if what not in self._taken:
            self._taken[what] = make(self.video)
        taken: T = self._taken[what]
        return taken


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the clips of a batch were to be; a metric's `needs` say which fields it reads.

    What metrics take of the true clips stays here: all systems of a batch are to be given the same targets.
    """

    true: Tensor | None = None
    """The true clips, RGB u8 [B,T,3,H,W]."""
    first: Tensor | None = None
    """The images that generation started from, RGB u8 [B,3,H,W]."""
    prompts: Sequence[str] | None = None
    """B."""
    scenes: SynthBatch | None = None
    """Of simulated clips: how they were rendered."""

    @cached_property
    def seen(self) -> Seen:
        """The true clips, which must be there."""
        assert self.true is not None
        return Seen(self.true)

    @cached_property
    def rendered(self) -> Seen:
        """The clips of the scenes, which must be there."""
        assert self.scenes is not None
        return Seen(self.scenes.video)


@dataclass(frozen=True, kw_only=True)
class MetricResult:
    """One figure."""

    name: str
    """Of the metric; marked where its network is not the published one."""
    value: float
    """The figure."""
    per_sample: NDArray[np.float64] | None
    """Score of each clip [N], NaN where it says nothing; None of metrics of whole sets."""
    direction: Direction
    """What is better."""
    n: int
    """Clips that count."""
    settings: Mapping[str, Any]
    """All that decides the figure besides the clips."""


class Metric(ABC):
    """One metric: `measure` gives rows, `reduce` their figure; `update` and `compute` do both over batches."""

    direction: ClassVar[Direction]
    """What is better."""
    of_sets: ClassVar[bool] = False
    """Whether it compares the set of clips with the set of true ones, and has no score of one clip."""
    partial: ClassVar[bool] = False
    """Whether some clips may have no score (NaN); they do not count."""

    def __init__(self, name: str, needs: Sequence[Need] = (), settings: Mapping[str, Any] | None = None) -> None:
        self.name = name
        self.needs: tuple[Need, ...] = tuple(needs)
        """The fields of `Targets` that it reads, beside the generated clips."""
        self.settings: dict[str, Any] = dict(settings or {})
        """All that decides the figure besides the clips; JSON-able."""
        self.reset()

    @abstractmethod
    def _measure(self, generated: Seen, targets: Targets) -> Rows: ...

    @abstractmethod
    def reduce(self, rows: Rows, reference: Rows | None = None) -> float:
        """The figure of clips.

        Args:
            rows: Of the generated clips, [N,K], from `measure`.
            reference: Of the true ones, [M,K], from `reference`; for metrics of sets.

        Raises:
            MotionRAGError: If there are too few, or they are of another shape or not finite.
        """

    def measure(self, generated: Clips | Seen, targets: Targets | None = None) -> Rows:
        """Rows [B,K] of a batch.

        Args:
            generated: RGB u8 [B,T,3,H,W]; as `Seen`, if several metrics measure them.
            targets: What they were to be.

        Raises:
            MotionRAGError: If something is missing, of another shape or type, or a row is not finite.
        """
        targets = targets or Targets()
        if isinstance(generated, np.ndarray):
            generated = torch.from_numpy(np.ascontiguousarray(generated))
        if not isinstance(generated, Seen):
            generated = Seen(generated, f"{self.name}: the generated clips")
        self._check(targets, len(generated.video))
        return self._finite(self._measure(generated, targets))

    def reference(self, targets: Targets) -> Rows | None:
        """Rows [B,K] of the true clips, for metrics of sets; None of others. The same for all systems."""
        return None

    def reset(self) -> None:
        """Forget all clips."""
        self._rows: list[Rows] = []
        self._references: list[Rows] = []

    def update(self, generated: Clips, targets: Targets | None = None) -> None:
        """Add a batch; see `measure`."""
        rows = self.measure(generated, targets)
        reference = self.reference(targets or Targets())
        self._rows.append(rows)
        if reference is not None:
            self._references.append(reference)

    def compute(self) -> MetricResult:
        """The figure of all clips so far.

        Raises:
            MotionRAGError: If there are none, or too few.
        """
        state = self.state()
        rows, reference = state["rows"], state["reference"]
        if rows is None:
            raise MotionRAGError(f"{self.name}: no clips were measured; call update first")
        return self.result(rows, reference)

    def result(self, rows: Rows, reference: Rows | None = None) -> MetricResult:
        """The figure of rows that were measured before, as `compute` gives it."""
        return MetricResult(
            name=self.name,
            value=self.reduce(rows, reference),
            per_sample=None if self.of_sets else rows[:, 0].astype(np.float64),
            direction=self.direction,
            n=int(np.isfinite(rows).all(axis=1).sum()),
            settings=dict(self.settings),
        )

    def state(self) -> dict[str, Any]:
        """All that another process needs to `merge` these clips; arrays and plain values."""
        return {
            "metric": self.name,
            "settings": dict(self.settings),
            "rows": np.concatenate(self._rows) if self._rows else None,
            "reference": np.concatenate(self._references) if self._references else None,
        }

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add the clips of another process's `state`; in which order does not change the figure.

        Raises:
            MotionRAGError: If they were measured by another metric or with other settings.
        """
        if (state["metric"], state["settings"]) != (self.name, self.settings):
            raise MotionRAGError(
                f"{self.name}: cannot merge with {state['metric']} of settings {state['settings']}; "
                "measure all clips in the same way"
            )
        for kept, key in ((self._rows, "rows"), (self._references, "reference")):
            if state[key] is not None:
                kept.append(state[key])

    def _check(self, targets: Targets, count: int) -> None:
        for need in self.needs:
            value = getattr(targets, need)
            if value is None:
                raise MotionRAGError(f"{self.name} needs {need}: give Targets({need}=...)")
            got = len(value.scenes) if need == "scenes" else len(value)
            if got != count:
                raise MotionRAGError(f"{self.name}: there are {count} generated clips, but {got} of {need}")
        if "true" in self.needs:
            check_clips(targets.true, f"{self.name}: the true clips")
        if "first" in self.needs and targets.first is not None:
            check_clips(targets.first[:, None], f"{self.name}: the first images")

    def _finite(self, rows: Rows) -> Rows:
        if not self.partial and not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows)).any(axis=1).sum())
            raise MotionRAGError(f"{self.name}: {bad} of {len(rows)} clips have values that are not finite")
        return rows


class ScoreMetric(Metric):
    """A metric that scores each clip; its figure is the mean."""

    def reduce(self, rows: Rows, reference: Rows | None = None) -> float:
        """The mean score, exact whatever the order."""
        if rows.ndim != 2 or rows.shape[1] != 1:
            raise MotionRAGError(f"{self.name}: rows are {list(rows.shape)}, scores are [N,1]")
        scores = self._finite(rows)[:, 0].astype(np.float64)
        scores = scores[~np.isnan(scores)]
        if not len(scores):
            raise MotionRAGError(f"{self.name}: none of {len(rows)} clips has a score; give others or leave it out")
        return math.fsum(scores) / len(scores)


class SetMetric(Metric):
    """A metric of the set of generated clips against the set of true ones; its rows are features."""

    of_sets = True

    def reference(self, targets: Targets) -> Rows:
        """What `measure` gives for the true clips."""
        if targets.true is None:
            raise MotionRAGError(f"{self.name} needs true: give Targets(true=...)")
        return self.measure(targets.seen, targets)


def check_clips(video: Any, what: str) -> None:
    """Refuse what is not a batch of clips.

    Raises:
        MotionRAGError: If it is not u8 [B,T,3,H,W], or empty.
    """
    if not isinstance(video, Tensor):
        raise MotionRAGError(f"{what} are a {type(video).__name__}, wanted is a tensor uint8 [B,T,3,H,W]")
    if video.ndim != 5 or video.shape[2] != 3 or video.dtype != torch.uint8 or not video.numel():
        raise MotionRAGError(f"{what} are {video.dtype} {list(video.shape)}, wanted are uint8 [B,T,3,H,W]")


def same_length(generated: Seen, true: Seen, name: str) -> None:
    """Refuse clips that cannot be compared frame by frame.

    Raises:
        MotionRAGError: If they have other numbers of frames.
    """
    own, wanted = generated.video.shape[1], true.video.shape[1]
    if own != wanted:
        raise MotionRAGError(
            f"{name} compares frame by frame: generated clips have {own} frames, the true ones {wanted}; "
            "pick as many of both"
        )


def scores(values: Tensor) -> NDArray[np.float64]:
    """[B] to rows [B,1]."""
    return values.detach().cpu().double().numpy()[:, None]
