"""How much memory a training of stage 1, 2 or 3 takes, found without any weights.

Base and bundle are made at full size on the meta device, where nothing is stored, and a forward pass is run on them:
what it saves for the backward pass is counted as it would lie on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.bases.attachment import attach, new_adapter
from motionrag.bases.full_size import full_size
from motionrag.config import parse, read_yaml
from motionrag.errors import MotionRAGError
from motionrag.models.adapter import AdapterConfig
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.registry import base_spec
from motionrag.training.adapter import AdapterSettings
from motionrag.training.conditioning import conditioning_of
from motionrag.training.context import ContextSettings
from motionrag.training.joint import JointSettings
from motionrag.training.objectives import Noised
from motionrag.training.parts import BundleSettings, trained
from motionrag.training.saved import Saved
from motionrag.training.settings import TrainSettings
from motionrag.types import Sampling

LENGTHS = {"motion": 1568, "appearance": 257}
"""Features of a clip by VideoMAE-base, and of a frame by DINOv2-large."""
_PARTS = ("adapter", "motion_resampler", "appearance_resampler", "context")
_NO_ADAPTER = AdapterConfig(base="", motion_dim=1, sites={"none": 1})


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes that a training keeps on its device; what torch itself and gaps between tensors take comes on top."""

    frozen: int
    """The base without its text encoder, and parts of the bundle that are not trained."""
    trained: int
    """The weights that are trained, f32, and their copies in the precision of autocast."""
    gradients: int
    """Of these."""
    optimizer: int
    """AdamW's two moments (Muon keeps one)."""
    average: int
    """The moving average of the weights."""
    activations: int
    """What a forward pass saves for the backward pass, and two of its largest tensors to work with."""

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))


def estimate(settings: Any, train: TrainSettings, *, gradient_checkpointing: bool | None = None) -> Estimate:
    """The memory of a training.

    Args:
        settings: Of the task: `AdapterSettings`, `ContextSettings` or `JointSettings`. A bundle that they name and
            that is not there yet is taken to be of the published sizes.
        train: Of the loop.
        gradient_checkpointing: In place of the recipe's.

    Raises:
        MotionRAGError: If it is another task, or its base is none of full size.
    """
    if isinstance(settings, ContextSettings):
        bundle = _bundle(settings.bundle, None)
        parts: tuple[str, ...] = ("context", "appearance_resampler")
        frozen, saved = _size([bundle.motion_resampler]), _context_pass(bundle, settings.references.most, train)
        return _summed(frozen, bundle, parts, saved, train)
    if not isinstance(settings, AdapterSettings | JointSettings):
        raise MotionRAGError("memory can be estimated of the stages: tasks adapter, context and joint")
    base = settings.base
    pipe = full_size(base.name, dtype=torch.bfloat16 if base.bf16 else torch.float32)
    denoiser = getattr(pipe, base_spec(base.name).denoiser)
    if base.gradient_checkpointing if gradient_checkpointing is None else gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    with torch.device("meta"):
        adapter = new_adapter(denoiser, base.name).config
    bundle = _bundle(settings.bundle, adapter)
    K = settings.references.most if isinstance(settings, JointSettings) else 0
    if isinstance(settings, JointSettings):
        parts = settings.parts
    else:
        parts = ("adapter",) if settings.freeze_resampler else ("adapter", "motion_resampler")
    frozen = _size(_modules(pipe)) + _size(getattr(bundle, name) for name in _PARTS if name not in parts)
    trained(bundle, parts)
    sampling = settings.data.sized(base_spec(base.name).sampling(pipe))
    saved = denoising_pass(pipe, bundle, sampling, train, references=K)
    return _summed(frozen, bundle, parts, saved, train)


def denoising_pass(
    pipe: Any, bundle: MotionBundle, sampling: Sampling, train: TrainSettings, *, references: int = 0
) -> Saved:
    """What a forward pass of stage 1 or 3 saves, on the device of the pipeline.

    Args:
        pipe: The base's pipeline.
        bundle: What is trained; but for the adapter it is put into the precision of autocast.
        sampling: Size of the clips.
        train: Batch and precision.
        references: K of stage 3; 0 for stage 1, whose motion is each clip's own.
    """
    spec = base_spec(bundle.config.adapter.base)
    denoiser, conditioning = getattr(pipe, spec.denoiser), conditioning_of(pipe, spec)
    _as_in_autocast(bundle, train)
    like = next(denoiser.parameters())
    batch = {name: like.new_zeros(train.batch, *shape) for name, shape in conditioning.shapes(sampling).items()}
    x0 = conditioning.latents(batch)
    noised = Noised(x0, x0.new_zeros(train.batch), x0)
    with attach(denoiser, bundle.adapter) as attached, Saved([*_modules(pipe), bundle]) as saved:
        with attached.condition(_motion(bundle, train.batch, references)):
            prediction = conditioning.predict(denoiser, noised, batch)
        loss = (prediction.float() - x0).square().mean()
    del loss  # until here it holds all that was saved
    return saved


def _context_pass(bundle: MotionBundle, K: int, train: TrainSettings) -> Saved:
    """The same of stage 2."""
    trained(bundle, ("context", "appearance_resampler"))
    _as_in_autocast(bundle, train)
    start = bundle.context.start
    with Saved([bundle]) as saved:
        looks = bundle.appearance_resampler(_features(bundle, "appearance", train.batch, K + 1))
        predicted = bundle.context(start.new_zeros(train.batch, K, *start.shape[1:]), looks)
        loss = (predicted.float() - predicted.detach().float()).square().mean()
    del loss
    return saved


def _motion(bundle: MotionBundle, B: int, K: int) -> Tensor:
    """Motion tokens [B,Q,D], of the clips or adapted from K references, some of them dropped."""
    if K:
        motion = bundle.motion_resampler(_features(bundle, "motion", B, K))
        looks = bundle.appearance_resampler(_features(bundle, "appearance", B, K + 1))
        tokens = bundle.adapt(motion, looks[:, :-1], looks[:, -1])
    else:
        tokens = bundle.motion_resampler(_features(bundle, "motion", B))
    null = bundle.motion_resampler(_features(bundle, "motion", 1))
    return torch.where(torch.zeros(B, 1, 1, dtype=torch.bool, device=tokens.device), null, tokens)


def _features(bundle: MotionBundle, kind: str, *rows: int) -> Tensor:
    resampler = getattr(bundle, f"{kind}_resampler")
    features: Tensor = resampler.latents.new_zeros(*rows, LENGTHS[kind], resampler.config.input_dim)
    return features.detach()


def _bundle(named: BundleSettings | str, adapter: AdapterConfig | None) -> MotionBundle:
    """A bundle's sizes on the meta device; with the adapter given, or with as good as none."""
    settings = BundleSettings(folder=named) if isinstance(named, str) else named
    config = BundleConfig(
        adapter=adapter or _NO_ADAPTER,
        motion_resampler=settings.motion_resampler,
        appearance_resampler=settings.appearance_resampler,
        context=settings.context,
    )
    file = Path(settings.folder or "") / checkpoint.CONFIG_NAME
    if settings.folder is not None and file.is_file():
        document = {key: value for key, value in read_yaml(file).items() if key in _PARTS}
        config = parse(BundleConfig, {**document, "adapter": vars(adapter or _NO_ADAPTER)}, where=str(file))
    with torch.device("meta"):
        return MotionBundle(config)


def _as_in_autocast(bundle: MotionBundle, train: TrainSettings) -> None:
    """Put resamplers and context transformer into the precision they compute in; the adapter keeps its own."""
    if train.precision != "no":
        for name in _PARTS[1:]:
            getattr(bundle, name).to(torch.bfloat16)


def _summed(
    frozen: int, bundle: MotionBundle, parts: tuple[str, ...], saved: Saved, train: TrainSettings
) -> Estimate:
    counts = {name: sum(value.numel() for value in getattr(bundle, name).parameters()) for name in parts}
    weights = 4 * sum(counts.values())
    copies = 0 if train.precision == "no" else 2 * sum(n for name, n in counts.items() if name != "adapter")
    return Estimate(
        frozen=frozen,
        trained=weights + copies,
        gradients=weights,
        optimizer=2 * weights,
        average=weights,
        activations=saved.kept + saved.block + 2 * saved.largest,
    )


def _modules(pipe: Any) -> list[nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, nn.Module)]


def _size(modules: Iterable[nn.Module]) -> int:
    """Bytes of the weights."""
    return sum(value.numel() * value.element_size() for module in modules for value in module.parameters())
