"""MotionRAG, the method (paper, section 3): retrieve -> adapt -> attach -> generate, in one call."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from motionrag.bases.loading import load_base, quietly
from motionrag.bases.schedulers import check_scheduler
from motionrag.encoders.source import checked_device
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.models.bundle import MotionBundle
from motionrag.pipeline.identity import encoder_fingerprints, image_hash, versions
from motionrag.pipeline.memory import FULL, check_memory, told_plainly
from motionrag.pipeline.parts import (
    check_base,
    check_tokens,
    default_dtype,
    load_bundle,
    load_retriever,
    recorded,
    recorded_references,
)
from motionrag.pipeline.picture import TargetImage, pixels
from motionrag.pipeline.result import GenerationSettings, Video
from motionrag.pipeline.stages import Report, Stages, check_prompt, check_seed
from motionrag.registry import BASES, EMBEDDED, base_spec
from motionrag.retrieval.search import Retriever
from motionrag.types import Reference, Sampling, Scale


class MotionRAG(Stages):
    """Images and prompts to clips; the stages one by one, and in batches, are methods too.

    Args:
        pipe: The diffusers pipeline of the base; the adapter stays attached, idle outside calls.
        bundle: The bundle made for that base; it is moved to the device, and put into float32.
        retriever: A database of this bundle's tokens, with its caption, motion and appearance encoders, there too.
        names: Where they are from, for the settings: "base", "bundle" and "database".
        device: Where the pipeline runs; None to ask it.
        memory: "full" leaves the pipeline as it is; "offload" and "low" want it on the CPU and arrange it.
        compile: Whether to compile the denoiser, which "full" alone allows.
        quantize: What denoiser and text encoder are to be kept in: "int8" or "nf4", which "low" does not allow.

    Raises:
        MotionRAGError: If they do not belong together.
    """

    def __init__(
        self,
        pipe: Any,
        bundle: MotionBundle,
        retriever: Retriever,
        *,
        names: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
        memory: str = FULL,
        compile: bool = False,
        quantize: str | None = None,
    ) -> None:
        self.names = dict(names or {})
        check_tokens(retriever.database, bundle, self.names.get("bundle", "the bundle given"))
        made = bundle.fingerprint()  # as it was loaded
        super().__init__(pipe, bundle, retriever, device=device, memory=memory, compile=compile, quantize=quantize)
        encoders = encoder_fingerprints(retriever.database.settings)
        self.fingerprints = {"base": self.fingerprint, **encoders, "bundle": made}
        """Of all that decides a clip: base, bundle, motion and appearance encoder."""

    @classmethod
    def from_pretrained(
        cls,
        *,
        base: str | None = None,
        model: str | None = None,
        bundle: str = EMBEDDED,
        db: str | None = None,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        memory: str = FULL,
        compile: bool = False,
        quantize: str | None = None,
        asked: Mapping[str, Any] | None = None,
    ) -> MotionRAG:
        """Load all parts.

        Args:
            base: A name of `motionrag.registry.BASES`, a diffusers folder or a hub id; the bundle's own if left out.
            model: Folder or hub id of the base's weights; those its authors published if left out.
            bundle: The embedded one, "tiny", or a folder or hub id.
            db: A database of the bundle's tokens, as for `MotionDatabase.open`; the embedded bundle has one of its
                own, "tiny".
            device: Where everything runs.
            dtype: What the base computes in: by default float32 on the CPU and bfloat16 elsewhere.
            memory: "full" has all on the device; "offload" one model at a time; "low" one layer at a time, and the
                denoiser in float8.
            compile: Whether to compile the denoiser: minutes to begin with, then faster.
            quantize: Keep denoiser and text encoder in fewer bits: "int8" by torchao, "nf4" by bitsandbytes.
            asked: Changes to `MotionRAG.sampling` to come: what the base cannot make is refused before it is loaded.

        Raises:
            MotionRAGError: If a part is missing, or they do not belong together.
        """
        check_memory(memory, checked_device(device), quantized=quantize, compiled=compile)
        if db is None and bundle != EMBEDDED:
            raise MotionRAGError(f"the bundle {bundle} needs a database of its tokens: name one with --db")
        parts = load_bundle(bundle)
        made = parts.config.adapter.base
        base = base or made
        check_base(base, parts, bundle)
        if model is not None and base not in BASES:
            raise MotionRAGError(
                f"base {base} and model {model} both say where the weights are: leave one of them out"
            )
        base_spec(made).rules(None).check(made, asked or {})
        retriever = load_retriever(db or EMBEDDED, bundle, device)
        check_tokens(retriever.database, parts, bundle)  # before the base, which may be large, is loaded
        source = model or base
        names = {"base": source, "bundle": bundle, "database": db or EMBEDDED}
        start = device if memory == FULL and quantize is None else "cpu"
        names = {kind: _absolute(name) for kind, name in names.items()}
        with quietly(), told_plainly("loading the base", memory):
            pipe = load_base(source, like=made, device=start, dtype=dtype or default_dtype(device))
            given: dict[str, Any] = {"device": device, "memory": memory, "compile": compile, "quantize": quantize}
            return cls(pipe, parts, retriever, names=names, **given)

    def __call__(
        self,
        image: TargetImage,
        prompt: str,
        *,
        references: int = 9,
        reference_videos: Sequence[str | Path] = (),
        seed: int = 0,
        scale: Scale = 1.0,
        report: Report | None = None,
        **changes: Any,
    ) -> Video:
        """Let an image move as a prompt says, and as the references do.

        Args:
            image: The first frame; of another size than the clip's, it is scaled to cover it and cropped.
            prompt: What shall happen.
            references: K, how many clips of the database to follow; fewer where no more are relevant. Where none is,
                the bare base makes the clip.
            reference_videos: Videos to follow instead of a search, the most fitting first.
            seed: Of the noise: the same seed gives the same clip.
            scale: Strength of the motion, as for `AttachedAdapter.condition`.
            report: Called after each denoising step.
            changes: To `MotionRAG.sampling`, field by field: height, width, frames, fps, steps, guidance,
                negative_prompt, guidance_rescale, timestep_spacing, scheduler.

        Raises:
            MotionRAGError: If an argument is impossible, or a reference video cannot be read.
        """
        videos = list(reference_videos)
        settings, target = self._asked(image, prompt, references, videos, seed, scale, changes)
        with _timed(settings.timings, "retrieve"):
            found = self.read_references(videos) if videos else self.retrieve(prompt, settings.asked)
        settings = replace(settings, references=[recorded(reference) for reference in found])
        return self._make(target, found, settings, report)

    def asked(
        self,
        image: TargetImage,
        prompt: str,
        *,
        references: int = 9,
        reference_videos: Sequence[str | Path] = (),
        seed: int = 0,
        scale: Scale = 1.0,
        **changes: Any,
    ) -> GenerationSettings:
        """The settings of a clip before its references are found; arguments as for making it.

        Raises:
            MotionRAGError: If an argument is impossible.
        """
        return self._asked(image, prompt, references, list(reference_videos), seed, scale, changes)[0]

    def _asked(
        self,
        image: TargetImage,
        prompt: str,
        references: int,
        videos: Sequence[str | Path],
        seed: int,
        scale: Scale,
        changes: Mapping[str, Any],
    ) -> tuple[GenerationSettings, Image.Image]:
        """Settings without references, and what the base gets of the image."""
        asked = len(videos) or references
        self._check_count(asked)
        sampling = self.changed_sampling(changes)
        source, target = self._target(image, sampling)
        check_prompt(prompt)
        check_seed(seed)
        settings = GenerationSettings(
            prompt=prompt,
            image=source,
            image_hash=image_hash(target),
            seed=seed,
            scale=scale if isinstance(scale, (int, float)) else list(scale),
            sampling=sampling,
            asked=asked,
            references=[],
            from_videos=bool(videos),
            fingerprints=self.fingerprints,
            **self._here(),
        )
        return settings, target

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
        again = replace(settings, image=source, **self._here())
        with _timed(again.timings, "retrieve"):
            found = self._recorded_references(settings)
        return self._make(target, found, again, report)

    def bare(
        self, settings: GenerationSettings, image: TargetImage | None = None, *, report: Report | None = None
    ) -> Video:
        """What the base alone makes of the same image, prompt and seed; see `repeat`."""
        return self.repeat(replace(settings, references=[], from_videos=False), image, report=report)

    def changed_sampling(self, changes: Mapping[str, Any]) -> Sampling:
        """The base's own sampling with changes.

        Args:
            changes: Fields of `motionrag.types.Sampling`.

        Raises:
            MotionRAGError: If there is no such field, or the base makes no such clips.
        """
        known = [field.name for field in fields(Sampling)]
        for name in changes:
            if name not in known:
                raise MotionRAGError(f"{name!r} is no part of a base's sampling{did_you_mean(name, known)}")
        sampling = replace(self.sampling, **changes)
        self.spec.rules(self.pipe).check(self.spec.name, asdict(sampling))
        check_scheduler(self.pipe, sampling.scheduler)
        return sampling

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

    def _here(self) -> dict[str, Any]:
        """What settings tell of this `MotionRAG`."""
        return {
            **{part: self.names.get(part) for part in ("base", "bundle", "database")},
            "device": str(self.device),
            "dtype": self.dtype,
            "memory": self.memory,
            "compile": self.compiled,
            "quantize": self.quantized,
            "versions": versions(self.quantized),
            "timings": {},
        }

    def _check_count(self, references: int) -> None:
        most = self.bundle.config.context.max_references
        if not 1 <= references <= most:
            raise MotionRAGError(f"references={references} must be at least 1 and, with this bundle, at most {most}")


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - began, 6)


def _absolute(name: str) -> str:
    """A folder by its full path; names of the registry and hub ids as they are."""
    path = Path(name)
    return name if name in BASES or not path.is_dir() else str(path.resolve())
