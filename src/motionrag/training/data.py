"""The data of a training as a recipe names it: sources of clips, the cache made of them, the clips held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionrag.encoders import load_appearance_encoder, load_motion_encoder
from motionrag.errors import MotionRAGError
from motionrag.training.cache import Cache, Maker, Report, build
from motionrag.training.conditioning import Conditioning
from motionrag.training.fingerprints import digest
from motionrag.training.sources import Clips, SourceSettings, open_sources
from motionrag.types import WHOLE, Sampling, View


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which clips, and where what is computed of them is kept."""

    cache: str
    """Folder; made or completed if there are sources."""
    sources: list[SourceSettings] = field(default_factory=list)
    """Of clips; none takes the cache as it is."""
    captions: int = 1
    """Captions of each clip that prompts are made of; clips with fewer repeat theirs."""
    retrieval_caption_column: str | None = None
    """Column of tables of videos that finds references, where it is not the captions': `motion_caption`."""
    motion_encoder: str | None = None
    """Folder or hub id; adds its features of each clip."""
    appearance_encoder: str | None = None
    """Folder or hub id; adds its features of each first frame."""
    view: View | None = None
    """What is seen of clips: `{frames: 17, fps: 8, height: 480, width: 720}` takes windows, at a random place of
    longer clips, and that frame of the picture; None is the bundle's, for a new one as published for its base."""
    held_out: int = 64
    """Clips that are only sampled, spread evenly."""
    frames: int | None = None
    """T; None for what the base makes."""
    height: int | None = None
    """In pixels; None for what the base makes."""
    width: int | None = None
    """Likewise."""

    def __post_init__(self) -> None:
        column = self.retrieval_caption_column
        if column is not None and not any(source.videos for source in self.sources):
            raise MotionRAGError(
                f"retrieval_caption_column={column!r} names a column of videos, and no source is such"
            )

    def sized(self, sampling: Sampling) -> Sampling:
        """The base's sampling with the sizes given here."""
        given = {name: getattr(self, name) for name in ("frames", "height", "width") if getattr(self, name)}
        return replace(sampling, **given)


def open_cache(
    settings: DataSettings,
    conditioning: Conditioning | None,
    sampling: Sampling,
    *,
    device: torch.device | str,
    report: Report | None = None,
) -> Cache:
    """The cache of a training, made or completed first where its sources are given.

    Args:
        settings: Of the data.
        conditioning: Of the base; None for trainings that need no latents.
        sampling: Size and frames of the clips.
        device: Where encoders run.
        report: Told how far it is.

    Raises:
        MotionRAGError: If it cannot be made, was made by something else, or lacks what the base takes.
    """
    folder = Path(settings.cache)
    if settings.sources:
        if sampling.height != sampling.width and any(source.synth for source in settings.sources):
            raise MotionRAGError(
                f"simulated clips are square, not {sampling.width}x{sampling.height}: set data.width and data.height"
            )
        source = open_sources(
            settings.sources,
            frames=sampling.frames,
            size=sampling.height,
            retrieval_caption_column=settings.retrieval_caption_column,
            view=(settings.view or WHOLE).over(sampling.frames),
        )
        makers = conditioning.makers(sampling, settings.captions) if conditioning is not None else []
        cache = build(folder, source, [*makers, *feature_makers(settings, str(device))], report=report)
    else:
        cache = Cache(folder)
    if cache.failures:
        warnings.warn(f"{folder}: {cache.failures} clips cannot be read, see failures.jsonl there", stacklevel=2)
    for name in conditioning.arrays if conditioning is not None else ():
        cache.shape(name)
    if len(cache) <= settings.held_out:
        raise MotionRAGError(f"{folder}: holds {len(cache)} clips, of which {settings.held_out} are held out")
    return cache


def split(count: int, held_out: int) -> tuple[Tensor, Tensor]:
    """Numbers of the clips that are trained on, and of those held out."""
    out = torch.from_numpy(np.linspace(0, count - 1, held_out).round().astype(np.int64))
    keep = torch.ones(count, dtype=torch.bool)
    keep[out] = False
    return keep.nonzero().flatten(), out


def feature_makers(settings: DataSettings, device: str) -> list[Maker]:
    """What makes motion and appearance features and, beside them, the captions' vectors that retrieval compares."""
    makers, view = list[Maker](), settings.view or WHOLE
    if settings.motion_encoder is not None:
        makers.append(_features("motion", load_motion_encoder(settings.motion_encoder, device=device, view=view)))
    if settings.appearance_encoder is not None:
        makers.append(
            _features("appearance", load_appearance_encoder(settings.appearance_encoder, device=device, view=view))
        )
        makers += _search_makers(device)
    return makers


def _features(name: str, encoder: Any) -> Maker:
    def make(clips: Clips) -> Tensor:
        parts = [
            encoder.encode(np.stack([encoder.preparation(frames) for frames in part])).cpu()
            for part in _chunks(clips.frames, 32)
        ]
        return torch.cat(parts)

    constant = (lambda: encoder.no_motion().cpu()) if name == "motion" else None
    return Maker(name=name, fingerprint=encoder.info.fingerprint, make=make, constant=constant)


def _search_makers(device: str) -> list[Maker]:
    """Vectors of the captions that search compares, and signatures of frames: what decides the references' order."""
    from motionrag.retrieval.vectors import load_caption_encoder, method_fingerprint
    from motionrag.video import pick, signature

    encoder = load_caption_encoder(device=device)

    def vectors(clips: Clips) -> Tensor:
        return torch.from_numpy(
            encoder.encode([row.get("retrieval_caption") or row["captions"][0] for row in clips.rows])
        )

    def signatures(clips: Clips) -> Tensor:
        made = [signature(frames[pick(len(frames), 16)])[0] for frames in clips.frames]
        return torch.from_numpy(np.stack(made))

    return [
        Maker(name="caption", fingerprint=digest(encoder.info.fingerprint, method_fingerprint()), make=vectors),
        Maker(name="signature", fingerprint=digest("signature 1"), make=signatures),
    ]


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
