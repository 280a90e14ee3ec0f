"""A base's linear layers in fewer bits: int8 by torchao, nf4 by bitsandbytes. The adapter is no part of the base.

Of the denoiser and the text encoder, in place, once they are loaded: whichever pipeline it is, and after its
fingerprint is taken. Weights alone are quantised; each layer computes in the precision it had.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import nn

from motionrag.encoders.source import one_line, quiet
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.types import BaseSpec


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """One way to keep a linear layer."""

    package: str
    """What does it; an extra brings it."""
    quantise: Callable[[nn.Linear, torch.device], nn.Module]
    """Layer, device -> the layer with its weight quantised, or one in its place; on the device, where it is done."""


def _int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig(), device=device)
    return layer


def _nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    sizes: dict[str, Any] = {"input_features": layer.in_features, "output_features": layer.out_features}
    has_bias = layer.bias is not None
    made = Linear4bit(**sizes, bias=has_bias, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta")
    made.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=made)
    made.bias = layer.bias
    moved: nn.Module = made.to(device)  # which quantises it
    return moved


QUANTIZERS = {
    "int8": Quantizer(package="torchao", quantise=_int8),
    "nf4": Quantizer(package="bitsandbytes", quantise=_nf4),
}
"""What a base can be kept in, and by what."""


@torch.no_grad()
def check_quantize(kind: str, device: torch.device | str) -> None:
    """Refuse, before anything is loaded, what cannot be done: one layer is tried.

    Raises:
        MotionRAGError: If there is no such kind, or its package is not installed, or does not work with the others
            or on the device.
    """
    if kind not in QUANTIZERS:
        raise MotionRAGError(f"quantize={kind!r} is no kind of quantised base{did_you_mean(kind, QUANTIZERS)}")
    package = QUANTIZERS[kind].package
    try:
        with quiet():
            import_module(package)
            layer = QUANTIZERS[kind].quantise(nn.Linear(64, 64, dtype=torch.bfloat16), torch.device(device))
            layer.to(device)(torch.zeros(1, 64, dtype=torch.bfloat16, device=device))
    except Exception as error:  # what its own code, or a kernel that is not there, raises
        raise MotionRAGError(
            f"quantize={kind} is done by {package}, which does not work on {device} here ({one_line(error)}): "
            f"pip install 'motionrag[quantize]', or leave quantize out"
        ) from error


def quantize(pipe: Any, spec: BaseSpec, kind: str, *, on: torch.device, home: torch.device) -> None:
    """Quantise the linear layers of a base's denoiser and text encoder, one after the other.

    Layers that the authors of a model want in full precision stay as they are.

    Args:
        pipe: The pipeline.
        spec: Of its base.
        kind: One of `QUANTIZERS`.
        on: Where each layer is quantised.
        home: Where it goes then.
    """
    for part in (getattr(pipe, spec.denoiser), getattr(pipe, "text_encoder", None)):
        if part is not None:
            exact = set(getattr(part, "_keep_in_fp32_modules", None) or ())
            for name, layer in list(part.named_modules()):
                if type(layer) is nn.Linear and not exact & set(name.split(".")):
                    part.set_submodule(name, QUANTIZERS[kind].quantise(layer, on).to(home))
