"""A generated clip, and the settings beside it by which the same clip can be made again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.types import Reference, Sampling, ScaleRange
from motionrag.video import Strip, VideoError, sheet, write_video
from motionrag.video.files import replacing_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".png")
"""Of the files that `Video.save` writes; .png is a sheet of frames."""


@dataclass(frozen=True, kw_only=True)
class RecordedReference:
    """A reference as settings keep it."""

    id: str
    """Its id in the database."""
    score: float
    """How well it fitted the prompt."""
    video: str
    """Path of the video."""
    start_s: float
    """First second of the clip in the video."""
    end_s: float
    """Where the clip ends in the video, in seconds."""
    caption: str
    """What happens in it."""
    content_hash: str
    """SHA-256 of the video file, as hex digits."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """All that decides a clip. Where the parts lie may change; their fingerprints may not."""

    prompt: str
    """What shall happen."""
    image: str | None = None
    """Path of the target image; None for one that was in memory."""
    image_hash: str
    """SHA-256, 64 hex digits, over its size and pixels."""
    seed: int
    """Of the noise."""
    scale: float | list[ScaleRange]
    """Strength of the motion."""
    sampling: Sampling
    """How the base made the clip."""
    asked: int
    """K, the references asked for."""
    references: list[RecordedReference]
    """Those that were used, best first; none for the bare base."""
    from_videos: bool = False
    """Whether the references are the user's own videos instead of clips of the database."""
    base: str | None = None
    """Name, folder or hub id of the base; None for one that was in memory."""
    bundle: str | None = None
    """Likewise of the bundle."""
    database: str | None = None
    """Likewise of the database."""
    device: str = "cpu"
    """Where it ran."""
    dtype: str | None = None
    """What the base computed in; None for settings that do not tell, which is the device's own."""
    memory: str = "full"
    """The mode, of `motionrag.pipeline.memory`, in which it ran."""
    compile: bool = False
    """Whether the base was compiled."""
    quantize: str | None = None
    """What denoiser and text encoder were kept in, of `motionrag.pipeline.quantize`; None as they are loaded."""
    fingerprints: dict[str, str]
    """Of base, bundle, and motion and appearance encoder: SHA-256, 64 hex digits each."""
    versions: dict[str, str]
    """Of motionrag and the libraries it ran with."""
    timings: dict[str, float] = field(default_factory=dict)
    """Seconds each stage took."""

    def __post_init__(self) -> None:
        if isinstance(self.scale, (int, float)) and not isfinite(self.scale):
            raise MotionRAGError(f"scale={self.scale} must be finite")

    def asks_for(self) -> dict[str, Any]:
        """What was asked for, and of which parts, apart from what was found and how long it took."""
        told = asdict(self)
        for name in ("references", "device", "versions", "timings"):
            del told[name]
        return told

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> GenerationSettings:
        """Read what `Video.save` wrote beside a clip.

        Raises:
            MotionRAGError: If it is missing or no such file.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise MotionRAGError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:
            raise MotionRAGError(f"{path}: holds no settings of a clip ({error})") from error
        if not isinstance(document, dict):
            raise MotionRAGError(f"{path}: holds no settings of a clip")
        return parse(cls, document, str(path))


@dataclass(frozen=True, kw_only=True)
class Video:
    """A generated clip."""

    frames: NDArray[np.uint8]
    """RGB u8 [T, 3, H, W], range [0, 255]."""
    fps: float
    """Frames a second."""
    references: Sequence[Reference]
    """Whose motion it has, best first; none for the bare base."""
    settings: GenerationSettings
    """By which the same clip can be made again."""

    @property
    def timings(self) -> Mapping[str, float]:
        """Seconds each stage took: retrieve, appearance, adapt, generate."""
        return self.settings.timings

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the clip, in the format that the suffix says, and its settings as .json beside it.

        Returns:
            Path of the settings.

        Raises:
            MotionRAGError: If the suffix is unknown or a file cannot be written.
        """
        self.write(path)
        beside = Path(path).with_suffix(".json")
        with replacing_file(beside) as temporary:
            temporary.write_text(json.dumps(asdict(self.settings), indent=2) + "\n", encoding="utf-8")
        return beside

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the clip alone; see `save`."""
        path = check_output(path)
        if path.suffix.lower() == ".png":
            details = f"{len(self.frames)} frames, {self.fps:g} a second"
            sheet([Strip(frames=self.frames, caption=self.settings.prompt, details=details)], path)
        else:
            write_video(path, self.frames, self.fps)


def check_output(path: str | os.PathLike[str]) -> Path:
    """Refuse, before anything is computed, a place that no clip can be written to.

    Raises:
        VideoError: If the suffix is unknown, the folder missing or not writable, or the path a folder.
    """
    path = Path(path)
    check_suffix(path)
    if not path.parent.is_dir():
        raise VideoError(path, f"there is no folder {path.parent}; create it first")
    if path.is_dir():
        raise VideoError(path, "is a folder")
    if not os.access(path.parent, os.W_OK):
        raise VideoError(path, f"the folder {path.parent} cannot be written to")
    return path


def check_suffix(path: Path) -> None:
    """Refuse a name that says no format.

    Raises:
        VideoError: If its suffix is unknown.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise VideoError(path, f"the suffix {path.suffix!r} names no format; use one of {', '.join(SUFFIXES)}")
