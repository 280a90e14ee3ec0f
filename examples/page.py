"""The demo's page: sections of clips with their references, as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motionrag import MotionRAG
from motionrag.pipeline.result import Video
from motionrag.registry import EMBEDDED
from motionrag.types import Reference
from motionrag.video import VideoError, read_clip
from motionrag.video.files import replacing_file
from motionrag.video.inline import moving, sized, still

LARGE, SMALL = 256, 128
"""Heights in pixels of the clips and of the references."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One of the clips that a section compares."""

    label: str
    """What it is, in a few words."""
    frames: NDArray[np.uint8]
    """RGB u8 [T,3,H,W], range [0, 255]."""
    fps: float
    """Frames a second."""
    timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds each stage took; nothing for a true clip."""
    ours: bool = False
    """Whether it is the one to look at."""

    @classmethod
    def of(cls, label: str, video: Video, *, ours: bool = False) -> Clip:
        """A generated clip."""
        timings = video.timings if video.references else {"generate": video.timings["generate"]}
        return cls(label=label, frames=video.frames, fps=video.fps, timings=timings, ours=ours)


@dataclass(frozen=True, kw_only=True)
class References:
    """The references of one clip."""

    label: str
    """Whose they are."""
    clips: Sequence[Reference]
    """Best first."""
    new: Sequence[str] = ()
    """Ids of those to mark as new."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One prompt, or the words why there is none."""

    title: str
    """What it shows."""
    text: str
    """How it came about."""
    prompt: str = ""
    """What was asked for."""
    picture: Image.Image | None = None
    """The target image."""
    clips: Sequence[Clip] = ()
    """Side by side."""
    references: Sequence[References] = ()
    """Below them."""
    sheets: Sequence[Path] = ()
    """The same as film strips."""


def write_page(path: Path, rag: MotionRAG, sections: Sequence[Section]) -> None:
    """Write the page.

    Raises:
        VideoError: If it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("page.html.j2").render(
        sections=[shown(section, rag.sampling.fps) for section in sections],
        names=rag.names,
        embedded=set(rag.names.values()) == {EMBEDDED},
        parameters=sum(parameter.numel() for parameter in getattr(rag.pipe, rag.spec.denoiser).parameters()),
        sampling=rag.sampling,
    )
    with replacing_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def shown(section: Section, fps: float) -> dict[str, Any]:
    """A section with its pictures and videos as data URIs; references play at `fps`, as the base takes them over."""
    return {
        "title": section.title,
        "text": section.text,
        "prompt": section.prompt,
        "picture": "" if section.picture is None else still(sized(section.picture, LARGE)),
        "clips": [
            {
                "clip": clip,
                "video": moving(clip.frames, clip.fps, LARGE, ".mp4"),
                "seconds": ", ".join(f"{stage} {value:.2f} s" for stage, value in clip.timings.items()),
            }
            for clip in section.clips
        ],
        "references": [
            {
                "label": group.label,
                "clips": [
                    {"reference": one, "new": one.record.id in group.new, **reference_media(one, fps)}
                    for one in group.clips
                ],
            }
            for group in section.references
        ],
        "sheets": [still(Image.open(sheet)) for sheet in section.sheets],
    }


def reference_media(reference: Reference, fps: float) -> dict[str, str]:
    """A reference's "video", or under "gone" why it cannot be shown."""
    record = reference.record
    try:
        clip = read_clip(record.video, frames=16, start_s=record.start_s, end_s=record.end_s)
    except VideoError as error:
        return {"video": "", "gone": error.reason}
    return {"video": moving(clip.frames, fps, SMALL, ".webp"), "gone": ""}
