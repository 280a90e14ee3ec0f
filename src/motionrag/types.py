"""The few dataclasses everything passes around.

Shape letters used in the whole code: B batch, K references, Q queries (tokens a motion), L tokens,
D width, T frames, C channels, H, W; R rows of motion tokens that a denoiser call is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class BaseSpec:
    """What motionrag needs to know of one base model; a new base is one of these and a registry line."""

    name: str
    """Short name, as in `--base`."""
    repository: str
    """Hub id of the weights it was made for."""
    license: str
    """Licence of those weights, as their authors name it."""
    pipeline: str
    """Class name of the diffusers pipeline."""
    denoiser: str
    """The pipeline's component that carries the adapter: "unet" or "transformer"."""
    denoiser_class: str
    """Class name of that component; it decides which spec fits a given pipeline."""
    sites: str
    """Regular expression that matches the names of the adapted attention layers in full."""
    guided: Callable[[Any], bool]
    """Pipeline, at its first denoising step -> whether a call carries [no-motion; motion] rows."""


@dataclass(frozen=True, kw_only=True)
class ScaleRange:
    """The adapter's strength over a part of the denoising steps and of the sites.

    Progress runs from 0 (the first, noisiest step) towards 1: step i of n is at i / n. A range covers
    `start` <= progress < `end`. Where several ranges cover a site and step, the last one counts; where
    none does, the scale is 0.
    """

    scale: float
    """Strength at `start`; 0 is the bare base, 1 the strength it was trained with."""
    end_scale: float | None = None
    """Strength approached at `end`, linear between the two (a fade); None keeps `scale`."""
    start: float = 0.0
    """First covered progress, in [0, 1)."""
    end: float = 1.0
    """Progress from which on it no longer covers, in (start, 1]."""
    sites: str = "*"
    """Shell pattern of site names, such as "up_blocks.*"."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise MotionRAGError(
                f"ScaleRange: start={self.start} and end={self.end} must satisfy 0 <= start < end <= 1"
            )

    @property
    def follows_steps(self) -> bool:
        """Whether the scale differs between denoising steps."""
        return (self.start, self.end) != (0.0, 1.0) or self.end_scale is not None

    def covers_site(self, site: str) -> bool:
        """Whether a site's name matches the pattern."""
        return fnmatchcase(site, self.sites)

    def at(self, site: str, progress: float) -> float | None:
        """The scale for a site at a progress in [0, 1), or None where this range does not cover it."""
        if not (self.start <= progress < self.end and self.covers_site(site)):
            return None
        if self.end_scale is None:
            return self.scale
        weight = (progress - self.start) / (self.end - self.start)
        return self.scale + weight * (self.end_scale - self.scale)


Scale = float | Sequence[ScaleRange]
"""A plain strength for all sites and steps, or ranges of it."""


def scale_at(scale: Scale, site: str, progress: float) -> float:
    """The scale of a site at a progress in [0, 1): see `ScaleRange` for how ranges combine."""
    if isinstance(scale, (int, float)):
        return float(scale)
    covering = [value for part in scale if (value := part.at(site, progress)) is not None]
    return covering[-1] if covering else 0.0
