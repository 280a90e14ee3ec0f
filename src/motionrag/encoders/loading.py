"""Loads motion and appearance encoders; the class stands in one table, by the model's own `model_type`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import constants

from motionrag.encoders.identity import fingerprint, model_settings
from motionrag.encoders.processor import find_settings, to_preparation
from motionrag.encoders.protocols import EncoderInfo, Kind, VideoEncoder
from motionrag.encoders.source import Source, checked_device, one_line, quiet, read_json, refuse_missing, resolve
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.registry import EMBEDDED, embedded
from motionrag.types import WHOLE, View

if TYPE_CHECKING:
    from motionrag.encoders.vision import VisionEncoder
    from motionrag.video import Preparation

ENCODERS: dict[Kind, dict[str, str]] = {
    "motion": {
        "videomae": "motionrag.encoders.videomae:VideoMAEEncoder",
        "vjepa2": "motionrag.encoders.vjepa2:VJEPA2Encoder",
    },
    "appearance": {
        "dinov2": "motionrag.encoders.dinov2:Dinov2Encoder",
        "dinov2_with_registers": "motionrag.encoders.dinov2:Dinov2WithRegistersEncoder",
    },
}
"""What it encodes -> `model_type` in the model's config.json -> the class, imported on first use."""


def load_motion_encoder(
    model: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 8,
    view: View = WHOLE,
) -> VideoEncoder:
    """Load a motion encoder: VideoMAE or V-JEPA 2.

    Args:
        model: A local folder, a hub id such as "MCG-NJU/videomae-base-finetuned-ssv2", or "tiny", the embedded one.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        dtype: What it computes in; features are float32 all the same.
        batch_size: Clips a pass; `encode` splits larger batches.
        view: What it sees of a clip; part of its fingerprint.

    Raises:
        MotionRAGError: If the model is not there, damaged, incomplete or of another kind.
    """
    return _load("motion", str(model), revision, device, dtype, batch_size, view)


def load_appearance_encoder(
    model: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_size: int = 32,
    view: View = WHOLE,
) -> VideoEncoder:
    """Load an appearance encoder: DINOv2, with registers or without.

    Args:
        model: A local folder, a hub id such as "facebook/dinov2-large", or "tiny", the embedded one.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        dtype: What it computes in; features are float32 all the same.
        batch_size: Frames a pass; `encode` splits larger batches.
        view: What it sees of a clip; part of its fingerprint.

    Raises:
        MotionRAGError: If the model is not there, damaged, incomplete or of another kind.
    """
    return _load("appearance", str(model), revision, device, dtype, batch_size, view)


def _load(
    kind: Kind, model: str, revision: str | None, device: str, dtype: torch.dtype, batch_size: int, view: View
) -> VisionEncoder:
    if batch_size < 1:
        raise MotionRAGError(f"batch_size={batch_size} must be at least 1")
    source = _embedded(kind) if model == EMBEDDED else resolve(model, revision)
    cls = _class_of(kind, source)
    checked_device(device)
    network = load_network(source, cls.network_class, dtype, cls.spare_weights)
    preparation = replace(_preparation(source, cls, network.config), view=view)
    try:
        length = cls.length(network.config, preparation.crop)
    except MotionRAGError as error:
        raise MotionRAGError(f"{source.model}: {error}") from error
    part = cls.part(network)
    settings = {
        "model": model_settings(network.config),
        "preparation": asdict(preparation),
        "pooling": cls.pooling,
    }
    info = EncoderInfo(
        kind=kind,
        model=source.model,
        revision=source.revision,
        dimension=network.config.hidden_size,
        length=length,
        fingerprint=fingerprint(part, settings, cls.spare_weights),
    )
    return cls(part.to(device).requires_grad_(False), preparation, info, batch_size)


def _embedded(kind: Kind) -> Source:
    """The encoder that comes with the package, known by its name wherever the package lies."""
    return Source(model=EMBEDDED, revision=None, folder=embedded(kind), cache=constants.HF_HUB_CACHE)


def _class_of(kind: Kind, source: Source) -> type[VisionEncoder]:
    """The class for a model, by its `model_type`.

    Raises:
        MotionRAGError: If it is of another kind, or unknown.
    """
    model_type = str(read_json(source.folder / "config.json").get("model_type"))
    for other, types in ENCODERS.items():
        if other != kind and model_type in types:
            raise MotionRAGError(
                f"{source.model}: is a {model_type} model, which encodes {other}; "
                f"known {kind} encoders are {', '.join(sorted(ENCODERS[kind]))}"
            )
    if model_type not in ENCODERS[kind]:
        raise MotionRAGError(
            f"{source.model}: no {kind} encoder for models of type {model_type!r}"
            f"{did_you_mean(model_type, ENCODERS[kind])}"
        )
    module, name = ENCODERS[kind][model_type].split(":")
    cls: type[VisionEncoder] = getattr(import_module(module), name)
    return cls


def load_network(source: Source, name: str, dtype: torch.dtype, spare_weights: Sequence[str] = ()) -> Any:
    """A model of transformers with all of its weights, on the CPU.

    Args:
        source: Where it is.
        name: Class name of it.
        dtype: What it computes in.
        spare_weights: Parts of the names of those that may be missing.

    Raises:
        MotionRAGError: If the weights cannot be read, or some are missing or of another shape.
    """
    try:
        with quiet():
            network, report = getattr(import_module("transformers"), name).from_pretrained(
                str(source.folder) if source.revision is None else source.model,
                revision=source.revision or "main",
                cache_dir=source.cache,
                dtype=dtype,
                output_loading_info=True,
            )
    except Exception as error:  # readers of weights and configurations raise all kinds
        raise MotionRAGError(
            f"{source.model}: its weights cannot be loaded ({one_line(error)}); fetch or save the model again"
        ) from error
    refuse_missing(report["missing_keys"], spare_weights, source.model)
    return network


def _preparation(source: Source, cls: type[VisionEncoder], config: Any) -> Preparation:
    """From the model's processor file, or as published where there is none."""
    found = find_settings(source.folder)
    where = found[0] if found else source.model
    settings = cls.settle(found[1], where) if found else cls.published(config)
    return to_preparation(settings, frames=cls.frames(config), which=cls.which, where=where)
