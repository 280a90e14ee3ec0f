"""How each base's denoiser is called in training: exactly as its pipeline calls it, from cached arrays.

One class a base: what of a clip is kept (latents, image, prompt), how the network is given it together with noised
latents, how the unmodified pipeline makes samples of it. A new base is one more class and a line in `KINDS`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from motionrag.bases.loading import load_base
from motionrag.errors import MotionRAGError
from motionrag.training.conditioning.protocol import Batch, Conditioning
from motionrag.types import BaseSpec

__all__ = ["KINDS", "Batch", "Conditioning", "conditioning_of", "open_base"]

KINDS = {
    "CogVideoXTransformer3DModel": "motionrag.training.conditioning.cogvideox:CogVideoX",
    "UNetSpatioTemporalConditionModel": "motionrag.training.conditioning.svd:SVD",
    "DynamiCrafterUNet": "motionrag.training.conditioning.dynamicrafter:DynamiCrafter",
}
"""Class of the denoiser, as in `BaseSpec.denoiser_class` -> "module:Class" that knows how it is called."""


def conditioning_of(pipe: Any, spec: BaseSpec) -> Conditioning:
    """How a pipeline's denoiser is called.

    Raises:
        MotionRAGError: If it is of another class than the spec says, or of one that cannot be trained yet.
    """
    found = type(getattr(pipe, spec.denoiser, None)).__name__
    if found != spec.denoiser_class:
        raise MotionRAGError(f"the base {spec.name} has a {spec.denoiser_class}, this pipeline a {found}")
    if found not in KINDS:
        raise MotionRAGError(f"training knows no {found}; known are {', '.join(KINDS)}")
    module, name = KINDS[found].split(":")
    made: Conditioning = getattr(import_module(module), name)(pipe)
    return made


def open_base(name: str, folder: str | None, *, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The pipeline of a base.

    Args:
        name: A key of `motionrag.registry.BASES`.
        folder: Where it is; None for the embedded one or the published one.
        device: Where it runs.
        dtype: What it computes in.

    Raises:
        MotionRAGError: If it is not there.
    """
    return load_base(folder or name, like=name, device=str(device), dtype=dtype)
