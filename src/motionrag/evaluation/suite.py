"""A suite: which systems make which clips from which databases, and what is measured of them.

Suites are YAML files, those of `motionrag/suites` by name; `load_suite` checks every key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from motionrag.config import parse, read_yaml
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.models.fusion import FUSIONS
from motionrag.registry import EMBEDDED
from motionrag.types import Sampling, ScaleRange

_ANY = {"height": 1, "width": 1, "frames": 1, "fps": 1.0, "steps": 1, "guidance": 1.0}
"""What a sampling must have."""
MOTIONS = ("none", "references", "own")
SEARCHES = ("motion", "caption", "random")
TRUE = "true"
"""The name of the true clips among systems."""


@dataclass(frozen=True, kw_only=True)
class SynthClips:
    """Simulated clips of all families of a group whose captions foretell the path."""

    group: str
    """ "known" or "unseen"."""
    count: int
    """Clips, the families in turn."""
    seed: int
    """No training and no other part of the suite should have the same."""

    def __post_init__(self) -> None:
        if self.group not in ("known", "unseen"):
            raise MotionRAGError(f"group={self.group!r} must be known or unseen")
        if self.count < 1:
            raise MotionRAGError(f"count={self.count} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class VideoClips:
    """Captioned videos."""

    source: str
    """A folder or table, as `motionrag ingest` takes it."""
    count: int | None = None
    """Clips, spread evenly over the source; None takes all."""
    retrieval_caption_column: str | None = None
    """Column that finds a clip's references, where it is not that of the captions: OpenVid-1M's `motion_caption`."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is asked for: first frames, captions and the true clips; one of the two kinds."""

    synth: SynthClips | None = None
    """Simulated."""
    videos: VideoClips | None = None
    """Real."""

    def __post_init__(self) -> None:
        if (self.synth is None) == (self.videos is None):
            raise MotionRAGError("targets: give synth or videos, one of the two")


@dataclass(frozen=True, kw_only=True)
class DatabaseRecipe:
    """A motion database, and what is done with a copy of it first."""

    path: str = EMBEDDED
    """A database of the bundle's tokens; the embedded one, "tiny"."""
    add: SynthClips | None = None
    """Brought into a copy of it."""
    share: float = 1.0
    """Of its clips, spread evenly, that a copy keeps; more than 0, at most 1."""

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise MotionRAGError(f"share={self.share} must be more than 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class System:
    """A way to make the clips."""

    motion: str = "references"
    """ "none" (the base alone), "references", or "own": the true clip's, the oracle."""
    references: int = 9
    """K."""
    search: str = "motion"
    """How they are found: "motion" as the product does, by the "caption" as a whole, or at "random"."""
    fusion: str | None = None
    """A rule of `motionrag.models.fusion` in place of the context transformer."""
    database: str = "database"
    """One of the suite's."""
    scale: float | list[ScaleRange] = 1.0
    """Strength of the motion."""

    def __post_init__(self) -> None:
        for name, known in (("motion", MOTIONS), ("search", SEARCHES)):
            if getattr(self, name) not in known:
                raise MotionRAGError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        if self.fusion is not None and self.fusion not in FUSIONS:
            raise MotionRAGError(f"no fusion named {self.fusion!r}{did_you_mean(self.fusion, FUSIONS)}")
        if self.references < 1:
            raise MotionRAGError(f"references={self.references} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One comparison: all systems from the same images, prompts and seeds."""

    about: str
    """What it shows, in a sentence."""
    targets: Targets
    """The clips."""
    systems: dict[str, System]
    """By name; the true clips are measured beside them."""
    baseline: str
    """The system that the others are compared with."""
    metrics: list[str]
    """Names of metrics."""
    databases: dict[str, DatabaseRecipe] = field(default_factory=lambda: {"database": DatabaseRecipe()})
    """By name."""
    seed: int = 0
    """Clip i is made from the noise of seed + i."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Changes to the base's own sampling (`motionrag.types.Sampling`), such as steps, guidance or fps."""
    axis: dict[str, float] = field(default_factory=dict)
    """System -> its place on the axis of a curve, where the suite is one."""
    axis_name: str = ""
    """What the axis says."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sampling", _checked(self.sampling))
        for name, system in self.systems.items():
            if name == TRUE:
                raise MotionRAGError(f"no system can be named {TRUE!r}: the true clips are")
            if system.motion == "references" and system.database not in self.databases:
                raise MotionRAGError(
                    f"system {name}: no database named {system.database!r}"
                    f"{did_you_mean(system.database, self.databases)}"
                )
        for name in (self.baseline, *self.axis):
            if name not in self.systems:
                raise MotionRAGError(f"no system named {name!r}{did_you_mean(name, self.systems)}")

    def smaller(self, count: int, added: int | None = None) -> Suite:
        """The same with that many clips at most, and at most so many brought into each database."""
        kind = "synth" if self.targets.synth is not None else "videos"
        clips: Any = getattr(self.targets, kind)
        own = clips.count if clips.count is not None else count
        databases = {
            name: replace(one, add=replace(one.add, count=min(one.add.count, added)))
            if one.add is not None and added is not None
            else one
            for name, one in self.databases.items()
        }
        return replace(self, targets=Targets(**{kind: replace(clips, count=min(own, count))}), databases=databases)


def _checked(changes: dict[str, Any]) -> dict[str, Any]:
    """Changes to a base's sampling, in the types that it has."""
    parse(Sampling, {**_ANY, **changes}, where="sampling")
    real = {one.name for one in fields(Sampling) if "float" in str(one.type)}
    return {name: float(value) if name in real and value is not None else value for name, value in changes.items()}


def packaged_suites() -> dict[str, Path]:
    """Name -> file of the suites that come along."""
    folder = Path(str(files("motionrag"))) / "suites"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_suite(name: str, overrides: Sequence[str] = ()) -> Suite:
    """A suite that comes along, or that of a YAML file.

    Args:
        name: Its name, or the path of the file.
        overrides: `section.key=value` each; the value is YAML.

    Raises:
        MotionRAGError: If there is none, or a key or value of it is wrong.
    """
    path, known = Path(name), packaged_suites()
    if path.suffix not in (".yaml", ".yml"):
        if name not in known:
            raise MotionRAGError(f"no suite named {name!r}{did_you_mean(name, known)}; or name a .yaml file")
        path = known[name]
    return parse(Suite, read_yaml(path, overrides), where=str(path))
