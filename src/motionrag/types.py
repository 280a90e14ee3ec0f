"""The few dataclasses everything passes around.

Shape letters used in the whole code: B batch, K references, Q queries (tokens a motion), L tokens,
D width, T frames, C channels, H, W; R rows of motion tokens that a denoiser call is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import isfinite
from typing import TYPE_CHECKING, Any

from motionrag.errors import MotionRAGError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Decoded frames of one stretch of a video."""

    frames: NDArray[np.uint8]
    """RGB, u8 [T, 3, H, W], range [0, 255], upright (rotation flags applied)."""
    fps: float
    """Frames a second at which `frames` play in real time; 0 for a single frame."""
    start_s: float
    """First second of the stretch in the source."""
    end_s: float
    """Where the stretch ends in the source, in seconds."""
    source: str
    """Path of the video."""


@dataclass(frozen=True, kw_only=True)
class View:
    """What encoders see of a clip: the whole of it, or a window in time and a frame of the picture.

    The published system sees `frames` / 8 seconds at 8 frames a second, cut to the frame of its base.
    """

    frames: int | None = None
    """T, frames of the window; None is the whole clip, however long."""
    fps: float | None = None
    """Frames a second of the window, which lasts `frames` / `fps` seconds."""
    height: int | None = None
    """Of the frame that pictures are scaled to cover and cropped to; None is the whole picture."""
    width: int | None = None
    """Of the same frame."""

    def __post_init__(self) -> None:
        for one, other in (("frames", "fps"), ("height", "width")):
            values = (getattr(self, one), getattr(self, other))
            if (values[0] is None) != (values[1] is None):
                raise MotionRAGError(
                    f"View: {one}={values[0]} and {other}={values[1]} go together: give both or neither"
                )
            if any(value is not None and not (isfinite(value) and value > 0) for value in values):
                raise MotionRAGError(f"View: {one}={values[0]} and {other}={values[1]} must be above 0")

    def over(self, frames: int) -> View:
        """The same seconds in another number of frames."""
        if self.frames is None or self.fps is None:
            return self
        return replace(self, frames=frames, fps=self.fps * frames / self.frames)

    def __str__(self) -> str:
        window = f"windows of {self.frames} frames at {self.fps:g} fps" if self.frames else "whole clips"
        return f"{window}, {self.width}x{self.height}" if self.height else window


WHOLE = View()
"""Whole clips, whole pictures."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """One clip of a motion database, without its vectors and tokens."""

    id: str
    """32 hex digits made from the video's content and the clip's seconds."""
    video: str
    """Path of the video, absolute."""
    start_s: float
    """First second of the clip in the video."""
    end_s: float
    """Where the clip ends in the video, in seconds."""
    caption: str
    """What happens in it."""
    content_hash: str
    """SHA-256 of the video file, as hex digits."""
    retrieval_caption: str | None = None
    """What search compares with prompts in place of `caption`, where the source has a text for it."""
    duplicate_of: str | None = None
    """Id of the earlier clip that shows nearly the same frames, if there is one."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The source's other columns."""

    @property
    def compared(self) -> str:
        """The text that search compares with prompts."""
        return self.retrieval_caption or self.caption


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A clip that a search found."""

    record: ClipRecord
    score: float
    """How well it fits the query, at most 1."""
    rank: int
    """0 for the best."""
    words: float = 0.0
    """What words that prompt and caption share add to the score."""
    motion_tokens: NDArray[np.float16] | None = None
    """f16 [Q, D], if the database keeps tokens and they were asked for."""
    appearance_tokens: NDArray[np.float16] | None = None
    """f16 [Q, D], likewise."""


SPACINGS = ("trailing", "leading")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a base makes a clip."""

    height: int
    """Of the clip, in pixels."""
    width: int
    """Likewise."""
    frames: int
    """T."""
    fps: float
    """Frames a second at which the clip plays."""
    steps: int
    """Denoising steps."""
    guidance: float
    """Strength of classifier-free guidance; 1 and less is without."""
    negative_prompt: str = ""
    """What shall not be seen, for guidance to lead away from; empty for nothing in particular."""
    guidance_rescale: float | None = None
    """How far guidance is brought back to the spread of what it guides, in [0, 1]; None where it cannot be set."""
    timestep_spacing: str | None = None
    """Where the steps lie in the schedule, counted from its end ("trailing") or its start ("leading"); likewise."""
    scheduler: str | None = None
    """Class of diffusers that samples in place of the model's own scheduler, with its settings; None is its own."""

    def __post_init__(self) -> None:
        for name in ("height", "width", "frames", "steps"):
            if getattr(self, name) < 1:
                raise MotionRAGError(f"{name}={getattr(self, name)} must be at least 1")
        if not (isfinite(self.fps) and self.fps > 0):
            raise MotionRAGError(f"fps={self.fps} must be more than 0")
        if not (isfinite(self.guidance) and self.guidance >= 0):
            raise MotionRAGError(f"guidance={self.guidance} must be 0 or more")
        if self.guidance_rescale is not None and not 0 <= self.guidance_rescale <= 1:
            raise MotionRAGError(f"guidance_rescale={self.guidance_rescale} must be between 0 and 1")
        if self.timestep_spacing not in (None, *SPACINGS):
            near = did_you_mean(str(self.timestep_spacing), SPACINGS)
            raise MotionRAGError(f"no timestep_spacing {self.timestep_spacing!r}{near}")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which clips a base can make."""

    multiple: int = 8
    """Height and width are multiples of it."""
    size: tuple[int, int] | None = None
    """The only height and width; None for any."""
    frame_step: int = 1
    """Frames are one more than a multiple of it."""
    least_frames: int = 1
    """The fewest."""
    frames: int | None = None
    """The only number of frames; None for any."""
    negative_prompt: bool = False
    """Whether it takes one."""
    guidance_rescale: bool = False
    """Whether it can be set."""
    timestep_spacing: bool = False
    """Likewise."""

    def check(self, base: str, asked: Mapping[str, Any]) -> None:
        """Refuse what the base cannot make.

        Args:
            base: Its name, for the message.
            asked: Fields of `Sampling`, all or those that are known so far.

        Raises:
            MotionRAGError: If a rule is broken; the message names it.
        """
        height, width = asked.get("height"), asked.get("width")
        for name, side in (("height", height), ("width", width)):
            if side is not None and side % self.multiple:
                raise MotionRAGError(f"{name}={side} must be a multiple of {self.multiple} with the base {base}")
        if self.size is not None and (height or self.size[0], width or self.size[1]) != self.size:
            only = f"{self.size[1]}x{self.size[0]}"
            raise MotionRAGError(f"size={width}x{height}: this {base} model makes clips of {only} alone")
        frames = asked.get("frames")
        if frames is not None and frames < self.least_frames:
            raise MotionRAGError(f"frames={frames} must be at least {self.least_frames} with the base {base}")
        if frames is not None and self.frames not in (None, frames):
            raise MotionRAGError(f"frames={frames}: this {base} model makes clips of {self.frames} frames alone")
        if frames is not None and (frames - 1) % self.frame_step:
            below = (frames - 1) // self.frame_step * self.frame_step + 1
            raise MotionRAGError(
                f"frames={frames} must be one more than a multiple of {self.frame_step} with the base {base}, "
                f"such as {below} or {below + self.frame_step}"
            )
        if asked.get("negative_prompt") and not self.negative_prompt:
            raise MotionRAGError(f"the base {base} takes no negative prompt: leave it out")
        for name in ("guidance_rescale", "timestep_spacing"):
            if asked.get(name) is not None and not getattr(self, name):
                raise MotionRAGError(f"the base {base} takes no {name.replace('_', ' ')}: leave it out")
        if asked.get("negative_prompt") and asked.get("guidance", 2.0) <= 1:
            raise MotionRAGError(
                f"a negative prompt acts through guidance, which is off at guidance={asked['guidance']}: "
                "set it above 1, or leave the negative prompt out"
            )


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
    sampling: Callable[[Any], Sampling]
    """Pipeline -> size, frames and steps that its clips are made with unless others are asked for."""
    arguments: Callable[[Any, Sequence[Image], Sequence[str], Sampling], dict[str, Any]]
    """Pipeline, B target images of the sampling's size, B prompts, sampling -> what the pipeline is called with."""
    rules: Callable[[Any], Rules] = lambda pipe: Rules()
    """Pipeline, or None while it is not loaded yet -> which clips it can make, as far as can be said by then."""
    view: View = WHOLE
    """What the encoders of its published adapter saw of a clip."""
    thrifty: Mapping[str, Any] = field(default_factory=dict)
    """What the pipeline is called with besides where memory is short."""
    parameters: Mapping[str, int] = field(default_factory=dict)
    """Parameters of each component of the weights in `repository`, to estimate memory with."""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Hub id -> files wanted of it, where the weights are no diffusers pipeline, which tells its files itself."""
    loader: str | None = None
    """"module:function" that makes the pipeline, of a folder or the embedded one, for one that is not on the hub."""
    converter: str | None = None
    """"module:function" that writes a released checkpoint as a pipeline's folder, and accounts for its keys."""


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
"""A plain strength for all sites and the steps that the adapter is for, or ranges of it."""


def scale_at(scale: Scale, site: str, progress: float) -> float:
    """The scale of a site at a progress in [0, 1): see `ScaleRange` for how ranges combine."""
    if isinstance(scale, (int, float)):
        return float(scale)
    covering = [value for part in scale if (value := part.at(site, progress)) is not None]
    return covering[-1] if covering else 0.0
