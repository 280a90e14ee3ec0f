"""The simulated corpus on disk: a folder of captioned clips as `motionrag ingest` reads them, with the truth beside.

Frames and tables are the same whether it was written at once, in several runs or grown from a smaller one. (So are
nearly all files: about one H.264 encoding in a hundred decides otherwise for the same frames.)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.synth.corpus import Scene, chosen, draw, scenes, truth
from motionrag.synth.picture import contact_sheet
from motionrag.video import write_video
from motionrag.video.files import replacing_file

SETTINGS, CAPTIONS, TRUTH, PICTURE = "corpus.json", "captions.jsonl", "truth.npz", "families.png"
FORMATS = ("mp4", "mov", "mkv", "webm", "webp", "gif")
PIXELS = 2**22  # of the clips rendered at once
SCENES = 512  # drawn at once for the tables


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Which clips a corpus holds."""

    clips: int
    """How many; what a clip is does not depend on it."""
    seed: int = 0
    """Of the corpus."""
    families: list[str] = field(default_factory=lambda: ["known"])
    """Motion families that clips take in turn: names, or "known" or "unseen" for all of those."""
    size: int = 64
    """Side of the frames in pixels; even, at least 16."""
    frames: int = 16
    """Frames a clip, at least 2; the motion spans them all."""
    fps: float = 8.0
    """Frames a second."""
    format: str = "mp4"
    """Suffix of the videos, one of `FORMATS`."""

    def __post_init__(self) -> None:
        chosen(self.families)
        for name, least in (("clips", 1), ("seed", 0), ("size", 16), ("frames", 2)):
            if getattr(self, name) < least:
                raise MotionRAGError(f"{name} {getattr(self, name)} must be at least {least}")
        if self.size % 2:
            raise MotionRAGError(f"size {self.size} must be even: video encoders want it so")
        if not 0 < self.fps <= 50:
            raise MotionRAGError(f"fps {self.fps:g} must be more than 0 and at most 50")
        if self.format not in FORMATS:
            raise MotionRAGError(f"format {self.format!r} must be one of {', '.join(FORMATS)}")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a corpus is."""

    done: int
    """Clips that are there."""
    total: int
    """Clips there will be."""
    fresh: int
    """Clips that this run has written."""
    elapsed_s: float
    """Since this run began."""


def write_corpus(folder: Path, settings: CorpusSettings, progress: Callable[[Progress], None] | None = None) -> int:
    """Write a corpus, or what is missing of it; a corpus that is whole stays untouched.

    `clips/` holds the videos, `captions.jsonl` a row for each (video, caption, all captions, family, choices,
    index), `truth.npz` the same rows' centers [N,T,2], angles [N,T], scales [N,T], radii [N] (see `SynthBatch`) and
    index [N], `families.png` a clip of each family, and `corpus.json` the settings. Tables are written last.

    Args:
        folder: A new or empty one, or one with a corpus of the same settings and at most as many clips.
        settings: Which clips.
        progress: Called after each batch.

    Returns:
        How many clips were written.

    Raises:
        MotionRAGError: If the folder holds something else, or cannot be written.
    """
    begun = _begun(folder, settings)
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    if begun is None or begun.clips != settings.clips:
        for name in (CAPTIONS, TRUTH, PICTURE):
            (folder / name).unlink(missing_ok=True)
        _write_text(folder / SETTINGS, json.dumps(asdict(settings), indent=2) + "\n")
    if not (folder / PICTURE).exists():
        kinds = min(settings.clips, len(chosen(settings.families)))
        contact_sheet(_drawn(settings, range(kinds)), folder / PICTURE)
    missing = [i for i in range(settings.clips) if not (folder / video_name(settings, i)).exists()]
    _write_videos(folder, settings, missing, progress)
    if not ((folder / CAPTIONS).exists() and (folder / TRUTH).exists()):
        _write_tables(folder, settings)
    return len(missing)


def video_name(settings: CorpusSettings, index: int) -> str:
    """Where a clip lies in its corpus."""
    return f"clips/{index:06d}.{settings.format}"


def _begun(folder: Path, settings: CorpusSettings) -> CorpusSettings | None:
    """The settings of the corpus in a folder, None if it is empty; refuses whatever else is there."""
    if folder.exists() and not folder.is_dir():
        raise MotionRAGError(f"{folder}: is a file, a folder is wanted")
    file = folder / SETTINGS
    if not file.exists():
        if folder.exists() and any(folder.iterdir()):
            raise MotionRAGError(f"{folder}: is not empty and holds no simulated corpus; choose another folder")
        return None
    try:
        found = parse(CorpusSettings, json.loads(file.read_text(encoding="utf-8")), str(file))
    except (ValueError, TypeError, AttributeError) as error:
        raise MotionRAGError(f"{file}: is not what motionrag wrote ({error}); choose another folder") from error
    for name in (f.name for f in fields(CorpusSettings) if f.name != "clips"):
        there, wanted = getattr(found, name), getattr(settings, name)
        if there != wanted:
            raise MotionRAGError(
                f"{folder}: holds a corpus with {name} {_said(there)}, not {_said(wanted)}; choose another folder"
            )
    if found.clips > settings.clips:
        raise MotionRAGError(
            f"{folder}: holds a corpus of {found.clips} clips; ask for as many or more, or choose another folder"
        )
    return found


def _said(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else f"{value}"


def _drawn(settings: CorpusSettings, indices: range | list[int]) -> list[Scene]:
    return scenes(settings.seed, indices, settings.families, settings.frames)


def _write_videos(
    folder: Path, settings: CorpusSettings, missing: list[int], progress: Callable[[Progress], None] | None
) -> None:
    begin = time.monotonic()
    there, batch = settings.clips - len(missing), max(1, PIXELS // (settings.frames * settings.size**2))
    for first in range(0, len(missing), batch):
        indices = missing[first : first + batch]
        frames = draw(_drawn(settings, indices), size=settings.size).video.numpy()
        for index, clip in zip(indices, frames, strict=True):
            write_video(folder / video_name(settings, index), clip, settings.fps)
        if progress is not None:
            fresh = first + len(indices)
            elapsed = time.monotonic() - begin
            progress(Progress(done=there + fresh, total=settings.clips, fresh=fresh, elapsed_s=elapsed))


def _write_tables(folder: Path, settings: CorpusSettings) -> None:
    """Truth first: a folder with captions is whole."""
    rows: list[str] = []
    columns: dict[str, list[torch.Tensor]] = {}
    for drawn in _in_parts(settings):
        rows += [json.dumps(_row(settings, scene)) for scene in drawn]
        for name, values in truth(drawn, size=settings.size).items():
            columns.setdefault(name, []).append(values)  # type: ignore[arg-type]
    arrays: dict[str, Any] = {name: torch.cat(parts).numpy() for name, parts in columns.items()}
    with replacing_file(folder / TRUTH) as temporary:
        np.savez(temporary, index=np.arange(settings.clips), **arrays)
    _write_text(folder / CAPTIONS, "".join(f"{row}\n" for row in rows))


def _in_parts(settings: CorpusSettings) -> Iterator[list[Scene]]:
    for first in range(0, settings.clips, SCENES):
        yield _drawn(settings, range(first, min(first + SCENES, settings.clips)))


def _row(settings: CorpusSettings, scene: Scene) -> dict[str, Any]:
    return {
        "video": video_name(settings, scene.index),
        "caption": scene.captions[0],
        "captions": scene.captions,
        "family": scene.family.name,
        "choices": scene.motion.choices,
        "index": scene.index,
    }


def _write_text(path: Path, text: str) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
