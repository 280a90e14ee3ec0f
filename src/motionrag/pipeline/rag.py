"""MotionRAG, the method (paper, section 3): retrieve -> adapt -> attach -> generate, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from motionrag.bases.loading import load_base
from motionrag.encoders.source import checked_device
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import MotionBundle
from motionrag.pipeline.identity import fingerprints, image_hash, versions
from motionrag.pipeline.parts import (
    check_base,
    check_tokens,
    default_dtype,
    load_bundle,
    load_retriever,
    recorded_references,
)
from motionrag.pipeline.picture import TargetImage, pixels
from motionrag.pipeline.result import GenerationSettings, RecordedReference, Video
from motionrag.pipeline.stages import Report, Stages, check_prompt
from motionrag.registry import BASES, EMBEDDED
from motionrag.retrieval.search import Retriever
from motionrag.types import Reference, Sampling, Scale


class MotionRAG(Stages):
    """Images and prompts to clips; the stages one by one, and in batches, are methods too.

    Args:
        pipe: The diffusers pipeline of the base, on its device; the adapter stays attached, idle outside calls.
        bundle: The bundle made for that base; it is moved there, and put into float32.
        retriever: A database of this bundle's tokens, with its caption, motion and appearance encoders, there too.
        names: Where they are from, for the settings: "base", "bundle" and "database".

    Raises:
        MotionRAGError: If they do not belong together.
    """

    def __init__(
        self, pipe: Any, bundle: MotionBundle, retriever: Retriever, *, names: Mapping[str, str] | None = None
    ) -> None:
        self.names = dict(names or {})
        check_tokens(retriever.database, bundle, self.names.get("bundle", "the bundle given"))
        made = bundle.fingerprint()  # as it was loaded
        super().__init__(pipe, bundle, retriever)
        self.fingerprints = {**fingerprints(pipe, self.spec, retriever.database.settings), "bundle": made}
        """Of all that decides a clip: base, bundle, motion and appearance encoder."""

    @classmethod
    def from_pretrained(
        cls,
        *,
        base: str | None = None,
        bundle: str = EMBEDDED,
        db: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> MotionRAG:
        """Load all parts.

        Args:
            base: A name of `motionrag.registry.BASES`, a diffusers folder or a hub id; the bundle's own if left out.
            bundle: The embedded one, "tiny", or a folder or hub id.
            db: A database of the bundle's tokens, as for `MotionDatabase.open`; the embedded bundle has one of its
                own, "tiny".
            device: Where everything runs.
            dtype: What the base computes in: by default float32 on the CPU and bfloat16 elsewhere.

        Raises:
            MotionRAGError: If a part is missing, or they do not belong together.
        """
        checked_device(device)
        if db is None and bundle != EMBEDDED:
            raise MotionRAGError(f"the bundle {bundle} needs a database of its tokens: name one with --db")
        parts = load_bundle(bundle)
        base = base or parts.config.adapter.base
        check_base(base, parts, bundle)
        retriever = load_retriever(db or EMBEDDED, bundle, device)
        check_tokens(retriever.database, parts, bundle)  # before the base, which may be large, is loaded
        names = {"base": base, "bundle": bundle, "database": db or EMBEDDED}
        made = parts.config.adapter.base
        pipe = load_base(base, like=made, device=device, dtype=dtype or default_dtype(device))
        return cls(pipe, parts, retriever, names={kind: _absolute(name) for kind, name in names.items()})

    def __call__(
        self,
        image: TargetImage,
        prompt: str,
        *,
        references: int = 9,
        reference_videos: Sequence[str | Path] = (),
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        scale: Scale = 1.0,
        report: Report | None = None,
    ) -> Video:
        """Let an image move as a prompt says, and as the references do.

        Args:
            image: The first frame; of another size than the clip's, it is scaled to cover it and cropped.
            prompt: What shall happen.
            references: K, how many clips of the database to follow; fewer where no more are relevant. Where none is,
                the bare base makes the clip.
            reference_videos: Videos to follow instead of a search, the most fitting first.
            seed: Of the noise: the same seed gives the same clip.
            steps: Denoising steps; the base's own number if left out.
            guidance: Strength of guidance; likewise.
            scale: Strength of the motion, as for `AttachedAdapter.condition`.
            report: Called after each denoising step.

        Raises:
            MotionRAGError: If an argument is impossible, or a reference video cannot be read.
        """
        asked = len(reference_videos) or references
        self._check_count(asked)
        sampling = self._sampling(steps, guidance)
        source, target = self._target(image, sampling)
        check_prompt(prompt)
        timings: dict[str, float] = {}
        with _timed(timings, "retrieve"):
            found = self.read_references(reference_videos) if reference_videos else self.retrieve(prompt, asked)
        settings = GenerationSettings(
            prompt=prompt,
            image=source,
            image_hash=image_hash(target),
            seed=seed,
            scale=scale if isinstance(scale, (int, float)) else list(scale),
            sampling=sampling,
            asked=asked,
            references=[_recorded(reference) for reference in found],
            from_videos=bool(reference_videos),
            device=str(self.device),
            fingerprints=self.fingerprints,
            versions=versions(),
            timings=timings,
            base=self.names.get("base"),
            bundle=self.names.get("bundle"),
            database=self.names.get("database"),
        )
        return self._make(target, found, settings, report)

    def repeat(
        self, settings: GenerationSettings, image: TargetImage | None = None, *, report: Report | None = None
    ) -> Video:
        """Make a clip once more, from the references that its settings name, whatever the database has got since.

        Args:
            settings: Those saved beside the clip.
            image: The target image, where it is not at its old place.
            report: Called after each denoising step.

        Raises:
            MotionRAGError: If a part, the image, or a reference is not what it was.
        """
        for part, fingerprint in settings.fingerprints.items():
            if self.fingerprints.get(part) != fingerprint:
                raise MotionRAGError(
                    f"the clip was made with another {part} ({fingerprint[:8]}) than this one "
                    f"({str(self.fingerprints.get(part))[:8]}): name that one, or make a new clip"
                )
        if image is None and settings.image is None:
            raise MotionRAGError("the settings name no file as target image, it was in memory: give it once more")
        source, target = self._target(settings.image if image is None else image, settings.sampling)  # type: ignore[arg-type]
        if image_hash(target) != settings.image_hash:
            raise MotionRAGError(f"{source or 'the image'}: is not the target image that the clip was made from")
        timings: dict[str, float] = {}
        with _timed(timings, "retrieve"):
            found = self._recorded_references(settings)
        again = replace(
            settings,
            image=source,
            base=self.names.get("base"),
            bundle=self.names.get("bundle"),
            database=self.names.get("database"),
            device=str(self.device),
            versions=versions(),
            timings=timings,
        )
        return self._make(target, found, again, report)

    def bare(
        self, settings: GenerationSettings, image: TargetImage | None = None, *, report: Report | None = None
    ) -> Video:
        """What the base alone makes of the same image, prompt and seed; see `repeat`."""
        return self.repeat(replace(settings, references=[], from_videos=False), image, report=report)

    def _make(
        self,
        target: Image.Image,
        references: Sequence[Reference],
        settings: GenerationSettings,
        report: Report | None,
    ) -> Video:
        """Adapt the references to the target and generate; without references the bare base."""
        motion, timings = None, settings.timings
        if references:
            with _timed(timings, "appearance"):
                looks = self._tokens("appearance", [pixels(target)[None]])
            with _timed(timings, "adapt"):
                motion = self.adapt(references, looks)
        with _timed(timings, "generate"):
            frames = self.generate(
                [target],
                [settings.prompt],
                motion,
                seeds=[settings.seed],
                sampling=settings.sampling,
                scale=settings.scale,
                report=report,
            )[0]
        return Video(frames=frames, fps=settings.sampling.fps, references=references, settings=settings)

    def _recorded_references(self, settings: GenerationSettings) -> list[Reference]:
        if not settings.from_videos:
            return recorded_references(self.retriever.database, settings.references)
        found = self.read_references([reference.video for reference in settings.references])
        for now, then in zip(found, settings.references, strict=True):
            if now.record.content_hash != then.content_hash:
                raise MotionRAGError(f"{then.video}: is not the reference video that the clip was made with")
        return found

    def _sampling(self, steps: int | None, guidance: float | None) -> Sampling:
        own = self.sampling
        return replace(
            own,
            steps=own.steps if steps is None else steps,
            guidance=own.guidance if guidance is None else guidance,
        )

    def _check_count(self, references: int) -> None:
        most = self.bundle.config.context.max_references
        if not 1 <= references <= most:
            raise MotionRAGError(f"references={references} must be at least 1 and, with this bundle, at most {most}")


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - began, 6)


def _recorded(reference: Reference) -> RecordedReference:
    record = reference.record
    return RecordedReference(
        id=record.id,
        score=reference.score,
        video=record.video,
        start_s=record.start_s,
        end_s=record.end_s,
        caption=record.caption,
        content_hash=record.content_hash,
    )


def _absolute(name: str) -> str:
    """A folder by its full path; names of the registry and hub ids as they are."""
    path = Path(name)
    return name if name in BASES or not path.is_dir() else str(path.resolve())
