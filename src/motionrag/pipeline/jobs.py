"""Clips by the list: a JSONL file says what to make, and each clip is made unless it is there already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.pipeline.rag import MotionRAG
from motionrag.pipeline.result import GenerationSettings, check_suffix
from motionrag.pipeline.stages import Report, check_prompt, check_seed
from motionrag.video.files import content_hash

Number = int | float


@dataclass(frozen=True, kw_only=True)
class Job:
    """One image and prompt, as a line of a file or the options of a command have it; None is the base's own."""

    image: str
    """Path of the target image."""
    prompt: str
    """What shall happen."""
    out: str | None = None
    """Path of the clip inside the folder of all; the line's number names it otherwise."""
    seed: int | list[int] = 0
    """Of the noise; with several, each makes a clip."""
    references: int = 9
    """K, how many clips of the database to follow."""
    reference_videos: list[str] = field(default_factory=list)
    """Videos to follow instead of a search."""
    scale: Number = 1.0
    """Strength of the motion."""
    steps: int | None = None
    """Denoising steps."""
    guidance: Number | None = None
    """Strength of guidance."""
    frames: int | None = None
    """T."""
    size: str | None = None
    """Width and height, as in 720x480."""
    fps: Number | None = None
    """Frames a second."""
    negative_prompt: str | None = None
    """What guidance leads away from."""
    guidance_rescale: Number | None = None
    """How far guidance is brought back, in [0, 1]."""
    timestep_spacing: str | None = None
    """Where the denoising steps lie: "trailing" or "leading"."""
    scheduler: str | None = None
    """Class of diffusers that samples."""

    @property
    def seeds(self) -> list[int]:
        """All its seeds."""
        return [self.seed] if isinstance(self.seed, int) else self.seed

    def changes(self) -> dict[str, Any]:
        """To the base's sampling.

        Raises:
            MotionRAGError: If the size is none.
        """
        height, width = parse_size(self.size) if self.size is not None else (None, None)
        given = {
            "height": height,
            "width": width,
            "frames": self.frames,
            "fps": None if self.fps is None else float(self.fps),
            "steps": self.steps,
            "guidance": None if self.guidance is None else float(self.guidance),
            "negative_prompt": self.negative_prompt,
            "guidance_rescale": None if self.guidance_rescale is None else float(self.guidance_rescale),
            "timestep_spacing": self.timestep_spacing,
            "scheduler": self.scheduler,
        }
        return {name: value for name, value in given.items() if value is not None}

    def request(self, seed: int) -> dict[str, Any]:
        """Keyword arguments for `MotionRAG`."""
        return {
            "image": self.image,
            "prompt": self.prompt,
            "references": self.references,
            "reference_videos": self.reference_videos,
            "scale": float(self.scale),
            "seed": seed,
            **self.changes(),
        }

    def check(self) -> None:
        """Refuse what can be refused without any model.

        Raises:
            MotionRAGError: If prompt, seed or size is none, or a seed is named twice.
        """
        check_prompt(self.prompt)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise MotionRAGError(f"seeds {self.seeds} must be at least one, and each another")
        for seed in self.seeds:
            check_seed(seed)
        self.changes()


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One clip of a list."""

    line: int
    """Of the file, from 1 on."""
    job: Job
    """What is asked for."""
    seed: int
    """The one of its seeds."""
    out: Path
    """Where the clip goes."""


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of a size, written as 720x480 is.

    Raises:
        MotionRAGError: If it is no size.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise MotionRAGError(f"size {text!r}: write it as WIDTHxHEIGHT, such as 720x480")
    return int(height), int(width)


def seeded(out: Path, seed: int, seeds: Sequence[int]) -> Path:
    """Where the clip of a seed goes: with several of them, clip.mp4 becomes clip.seed1.mp4."""
    return out if len(seeds) == 1 else out.with_suffix(f".seed{seed}{out.suffix}")


def read_list(path: Path, folder: Path, defaults: Mapping[str, Any]) -> tuple[list[Piece], dict[int, str]]:
    """The clips that a JSONL file asks for; empty lines count but ask for nothing.

    Args:
        path: The file; paths in it are relative to its folder.
        folder: Where the clips go.
        defaults: What a line that does not say otherwise asks for.

    Returns:
        The clips, and by line number what is wrong with the other lines.

    Raises:
        MotionRAGError: If the file cannot be read, or asks for nothing.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MotionRAGError(f"{path}: cannot be read ({error})") from error
    pieces: list[Piece] = []
    bad: dict[int, str] = {}
    taken: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                made = _pieces(number, line, path.parent, folder, defaults)
                for piece in made:
                    if piece.out.with_suffix("") in taken:
                        raise MotionRAGError(
                            f"out {piece.out.name} is also that of line {taken[piece.out.with_suffix('')]}"
                        )
            except MotionRAGError as error:
                bad[number] = str(error)
                continue
            taken |= {piece.out.with_suffix(""): number for piece in made}
            pieces += made
    if not pieces and not bad:
        raise MotionRAGError(f"{path}: asks for no clip; each line is an object with image and prompt")
    return pieces, bad


def _pieces(number: int, line: str, home: Path, folder: Path, defaults: Mapping[str, Any]) -> list[Piece]:
    try:
        document = json.loads(line)
    except ValueError as error:
        raise MotionRAGError(f"not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise MotionRAGError(f"is no object with image and prompt, but {line.strip()[:60]}")
    own = {key: value for key, value in document.items() if value is not None}
    for key, value in own.items():
        if isinstance(value, bool):  # to Python a number
            raise MotionRAGError(f"{key} is {json.dumps(value)}")
    job = parse(Job, {**defaults, **own}, "this line")
    job.check()
    if "references" in own and job.reference_videos:
        raise MotionRAGError("reference_videos take the place of a search: leave references out")
    out = Path(job.out or f"{number:04d}.mp4")
    if out.is_absolute() or ".." in out.parts:
        raise MotionRAGError(f"out {job.out!r} must be a path inside the folder of all clips")
    check_suffix(out)
    within = {
        "image": str(home / job.image),
        "reference_videos": [str(home / name) for name in job.reference_videos],
    }
    placed = Job(**{**vars(job), **within})
    return [
        Piece(line=number, job=placed, seed=seed, out=folder / seeded(out, seed, job.seeds)) for seed in job.seeds
    ]


def make(rag: MotionRAG, piece: Piece, report: Report | None = None) -> bool:
    """Make a clip with its settings beside it, unless both are there and it is the one asked for.

    Args:
        rag: What makes it.
        piece: What is asked for.
        report: Called after each denoising step.

    Returns:
        Whether it was made now.

    Raises:
        MotionRAGError: If it cannot be made or written.
    """
    request = piece.job.request(piece.seed)
    if _is_made(piece.out, rag.asked(**request), piece.job.reference_videos):
        return False
    piece.out.parent.mkdir(parents=True, exist_ok=True)
    rag(**request, report=report).save(piece.out)
    return True


def _is_made(out: Path, asked: GenerationSettings, videos: Sequence[str]) -> bool:
    beside = out.with_suffix(".json")
    if not (out.is_file() and beside.is_file()):
        return False
    try:
        found = GenerationSettings.load(beside)
    except MotionRAGError:
        return False
    if found.asks_for() != asked.asks_for():
        return False
    return not videos or [one.content_hash for one in found.references] == [content_hash(video) for video in videos]
