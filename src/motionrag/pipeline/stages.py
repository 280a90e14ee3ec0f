"""The stages of the method, one by one and in batches: retrieve, encode, adapt, generate (paper, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from motionrag.bases.attachment import attach
from motionrag.bases.loading import quietly
from motionrag.bases.schedulers import scheduled
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import MotionBundle
from motionrag.models.fusion import fuse
from motionrag.pipeline.identity import base_fingerprint
from motionrag.pipeline.memory import FULL, arrange, check_memory, move_encoders, told_plainly
from motionrag.pipeline.picture import TargetImage, fitted, picture, pixels
from motionrag.registry import base_spec
from motionrag.retrieval.ingest import FRAMES, clip_id
from motionrag.retrieval.search import Retriever
from motionrag.types import ClipRecord, Reference, Sampling, Scale
from motionrag.video import content_hash, read_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

Report = Callable[[int, int], None]
"""Called after each denoising step with the steps done and their number."""


class Stages:
    """A base model, a bundle and a database with its encoders, put together.

    The adapter stays attached to the pipeline, idle outside of `generate`.

    Args:
        pipe: The diffusers pipeline of the base.
        bundle: The bundle made for that base; it is moved to the device, and put into float32.
        retriever: A database of this bundle's tokens, with its caption, motion and appearance encoders, there too.
        device: Where the pipeline runs; None to ask it.
        memory: The mode of `motionrag.pipeline.memory` it shall run in. Modes other than "full" want a pipeline that
            is on the CPU; they move the encoders out of the way of the base too.
        compile: Whether to compile the denoiser; only in the mode "full".
        quantize: What of `motionrag.pipeline.quantize` to keep denoiser and text encoder in; None is as they are.

    Raises:
        MotionRAGError: If the bundle is not made for that base, or the mode cannot be had.
    """

    def __init__(
        self,
        pipe: Any,
        bundle: MotionBundle,
        retriever: Retriever,
        *,
        device: torch.device | str | None = None,
        memory: str = FULL,
        compile: bool = False,
        quantize: str | None = None,
    ) -> None:
        self.spec = base_spec(bundle.config.adapter.base)
        self.pipe, self.retriever = pipe, retriever
        self.device = torch.device(device or pipe._execution_device)
        self.memory, self.compiled, self.quantized = memory, compile, quantize
        check_memory(memory, self.device, quantized=quantize, compiled=compile)
        self.bundle = bundle.float().to(self.device).eval()
        if memory != FULL:
            self.bundle.adapter.to("cpu")
        if self.spec.pipeline not in [cls.__name__ for cls in type(pipe).__mro__]:
            raise MotionRAGError(
                f"the bundle is made for {self.spec.name}, a {self.spec.pipeline}; the base is {type(pipe).__name__}"
            )
        self._attached = attach(pipe, self.bundle.adapter)
        self.sampling: Sampling = self.spec.sampling(pipe)
        """What clips are made with unless something else is asked for."""
        self.null = self._no_motion()
        """Motion tokens [1,Q,D] of a clip in which nothing is, against which guidance sets the motion."""
        retriever.query("something moves")  # the first is slower
        self.fingerprint = base_fingerprint(pipe, self.spec)  # of the weights as loaded, before they are arranged
        """Of the base: SHA-256, 64 hex digits."""
        self.dtype = str(getattr(pipe, self.spec.denoiser).dtype).removeprefix("torch.")
        """What the base computes in."""
        arrange(pipe, self.spec, memory, self.device, quantized=quantize)
        if compile:
            getattr(pipe, self.spec.denoiser).compile()

    def retrieve(self, prompt: str, k: int = 9, **options: Any) -> list[Reference]:
        """The references for a prompt, best first, with their tokens; options are those of `Retriever.search`."""
        self._place_encoders(self.device)
        return self.retriever.search(self.retriever.query(prompt), k, tokens=True, **options)

    def read_references(self, videos: Sequence[str | Path]) -> list[Reference]:
        """Decode and encode videos as references, in their order.

        Raises:
            VideoError: If one cannot be read.
        """
        frames = max(FRAMES, self.retriever.motion.preparation.frames)  # type: ignore[union-attr]
        clips = [read_view(video, self.bundle.config.view, frames=frames) for video in videos]
        motion = self.encode_motion([clip.frames for clip in clips]).cpu().numpy().astype(np.float16)
        looks = self._tokens("appearance", [clip.frames for clip in clips]).cpu().numpy().astype(np.float16)
        made = []
        for rank, (video, clip) in enumerate(zip(videos, clips, strict=True)):
            digest = content_hash(video)
            record = ClipRecord(
                id=clip_id(digest, "whole"),
                video=str(Path(video).absolute()),
                start_s=clip.start_s,
                end_s=clip.end_s,
                caption=Path(video).stem,
                content_hash=digest,
            )
            tokens = {"motion_tokens": motion[rank], "appearance_tokens": looks[rank]}
            made.append(Reference(record=record, score=1.0, rank=rank, **tokens))
        return made

    def encode_motion(self, clips: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Clips, each RGB u8 [T,3,H,W], to motion tokens [B,Q,D]: those of the true clip are the oracle."""
        return self._tokens("motion", clips)

    def encode_images(self, images: Sequence[TargetImage]) -> Tensor:
        """Target images to appearance tokens [B,Q,D]."""
        targets = [self._target(image, self.sampling)[1] for image in images]
        return self._tokens("appearance", [pixels(target)[None] for target in targets])

    @torch.no_grad()
    def adapt(self, references: Sequence[Reference], target: Tensor, fusion: str | None = None) -> Tensor:
        """The motion of references, adapted to the target.

        Args:
            references: K references with their tokens, best first.
            target: Appearance tokens of the target image [1,Q,D]; a fusion ignores them.
            fusion: A rule of `motionrag.models.fusion` in place of the context transformer, to compare with.

        Returns:
            Motion tokens [1,Q,D]; [1,K*Q,D] by the fusion "concatenate".
        """
        motion, appearance = (
            torch.from_numpy(np.stack([getattr(reference, f"{kind}_tokens") for reference in references]))
            .float()[None]
            .to(self.device)
            for kind in ("motion", "appearance")
        )
        scores = torch.tensor([[reference.score for reference in references]], device=self.device)
        if fusion is not None:
            return fuse(fusion, motion, scores)
        return self.bundle.adapt(motion, appearance, target, scores)

    @torch.no_grad()
    def generate(
        self,
        images: Sequence[TargetImage],
        prompts: Sequence[str],
        motion: Tensor | None = None,
        *,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        scale: Scale = 1.0,
        report: Report | None = None,
    ) -> NDArray[np.uint8]:
        """B clips in one run of the base.

        Args:
            images: B target images.
            prompts: B prompts.
            motion: Motion tokens [B,Q,D]: adapted, fused, or a true clip's own; None is the bare base.
            seeds: B seeds of the noise, so that systems can be compared from the same.
            sampling: `MotionRAG.sampling`, or that with changes.
            scale: Strength of the motion.
            report: Called after each denoising step.

        Returns:
            RGB u8 [B,T,3,H,W], range [0, 255].

        Raises:
            MotionRAGError: If there are not B of each, a prompt is empty, or the base does not make such clips.
        """
        counts = {len(images), len(prompts), len(seeds), len(images) if motion is None else len(motion)}
        if len(counts) > 1 or not images:
            raise MotionRAGError(
                "generate wants as many images as prompts, seeds and rows of motion tokens, at least 1"
            )
        for prompt, seed in zip(prompts, seeds, strict=True):
            check_prompt(prompt)
            check_seed(seed)
        sampling = sampling or self.sampling
        self.spec.rules(self.pipe).check(self.spec.name, asdict(sampling))
        targets = [self._target(image, sampling)[1] for image in images]
        arguments = self.spec.arguments(self.pipe, targets, prompts, sampling)
        if self.memory != FULL:
            arguments |= self.spec.thrifty
        arguments["generator"] = [torch.Generator().manual_seed(seed) for seed in seeds]
        if report is not None:
            arguments["callback_on_step_end"] = _after_step(report)
        self._place_encoders(torch.device("cpu"))
        conditioned = nullcontext() if motion is None else self._attached.condition(motion, self.null, scale)
        work = f"making {sampling.frames} frames of {sampling.width}x{sampling.height}"
        swapped = scheduled(self.pipe, sampling.scheduler)
        with quietly(), told_plainly(work, self.memory, compiled=self.compiled), swapped, conditioned:
            frames: Tensor = self.pipe(**arguments, output_type="pt").frames
        if not torch.isfinite(frames).all():
            raise MotionRAGError(f"the base made values that are not finite in {self.dtype}: try float32")
        return (frames.float() * 255).round().to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def _tokens(self, kind: str, clips: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Frames of clips, each u8 [T,3,H,W], to tokens [B,Q,D], as an ingest makes them."""
        self._place_encoders(self.device)
        encoder: Any = getattr(self.retriever, kind)
        features = encoder.encode(np.stack([encoder.preparation(frames) for frames in clips]))
        return getattr(self.bundle, f"{kind}_resampler")(features.to(self.device))

    @torch.no_grad()
    def _no_motion(self) -> Tensor:
        encoder: Any = self.retriever.motion
        return self.bundle.motion_resampler(encoder.no_motion().to(self.device))

    def _place_encoders(self, device: torch.device) -> None:
        """Where memory is short, bring the encoders to their work, and out of the way of the base."""
        if self.memory != FULL:
            move_encoders(self.retriever, device)

    def _target(self, image: TargetImage, sampling: Sampling) -> tuple[str | None, Image.Image]:
        """Where it lies, if it is a file, and what the base gets of it."""
        source = None if isinstance(image, (Image.Image, np.ndarray)) else str(Path(image).absolute())
        return source, fitted(picture(image), sampling.height, sampling.width)


def _after_step(report: Report) -> Callable[..., dict[str, Any]]:
    def after(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        report(step + 1, len(pipe.scheduler.timesteps))  # a schedule may have one more than was asked for
        return tensors

    return after


def check_prompt(prompt: str) -> None:
    """Refuse a prompt that says nothing."""
    if not prompt.strip():
        raise MotionRAGError("the prompt is empty; say what shall move, and how")


def check_seed(seed: int) -> None:
    """Refuse a seed that is none."""
    if not 0 <= seed < 2**63:
        raise MotionRAGError(f"seed={seed} must be at least 0 and less than 2**63")
