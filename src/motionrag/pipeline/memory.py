"""Where the parts of a base are while it runs: diffusers' own offloading, tiling and float8, switched on by a word.

Of our own modules, resamplers and context transformer stay on the device; the adapter's keys and values are computed
once a clip, so that its weights, 2.6 GB for CogVideoX-5B, stay on the CPU where memory is short.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from motionrag.encoders.source import one_line
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.pipeline.quantize import check_quantize, quantize
from motionrag.types import BaseSpec

if TYPE_CHECKING:
    from motionrag.retrieval.search import Retriever

FULL, OFFLOAD, LOW = "full", "offload", "low"
MEMORY = {
    FULL: "all on the device",
    OFFLOAD: "one model on the device at a time, the VAE in tiles and slices",
    LOW: "one layer on the device at a time, the denoiser kept in float8, the VAE in tiles and slices",
}
"""Memory modes, and what each does."""

DTYPES = ("float32", "bfloat16", "float16")
"""What a base can compute in."""

_STORAGE = torch.float8_e4m3fn


def dtype_of(name: str) -> torch.dtype:
    """A dtype by its name.

    Raises:
        MotionRAGError: If a base cannot compute in it.
    """
    if name not in DTYPES:
        raise MotionRAGError(f"dtype {name!r}: use one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def check_memory(
    memory: str, device: torch.device | str, *, quantized: str | None = None, compiled: bool = False
) -> None:
    """Refuse, before anything is loaded, a mode that cannot be.

    Raises:
        MotionRAGError: If there is no such mode or quantiser, the device lacks float8, layers that are in float8 are
            to be quantised, or layers that move to be compiled.
    """
    if memory not in MEMORY:
        raise MotionRAGError(f"no memory mode {memory!r}{did_you_mean(memory, MEMORY)}")
    if compiled and memory != FULL:
        raise MotionRAGError(f"a base that is compiled stays on the device: leave out compile, or memory={memory}")
    if quantized is not None and memory == LOW:
        raise MotionRAGError(
            f"memory={memory} keeps the denoiser in float8: leave out quantize={quantized}, or use memory={OFFLOAD}"
        )
    if quantized is not None:
        check_quantize(quantized, device)
    if memory == LOW:
        try:
            torch.zeros(1, device=device).to(_STORAGE).to(torch.float32)
        except (RuntimeError, TypeError, NotImplementedError) as error:  # as the builds of torch put it
            raise MotionRAGError(
                f"memory=low keeps the denoiser in float8, which {device} cannot do ({one_line(error)}): "
                "use memory=offload"
            ) from error


def arrange(pipe: Any, spec: BaseSpec, memory: str, device: torch.device, *, quantized: str | None = None) -> None:
    """Put a pipeline that is on the CPU into a memory mode; in the mode "full" it is left as it is.

    Args:
        pipe: The pipeline, with its adapter attached.
        spec: Of its base.
        memory: One of `MEMORY`.
        device: Where it shall run.
        quantized: One of `motionrag.pipeline.quantize.QUANTIZERS`, or None; with one, the mode "full" brings the
            pipeline to the device, when it has become small.
    """
    if quantized is not None:
        quantize(pipe, spec, quantized, on=device, home=device if memory == FULL else torch.device("cpu"))
    if memory == FULL:
        if quantized is not None:
            pipe.to(device)
        return
    for switch in ("tiling", "slicing"):
        if hasattr(pipe.vae, f"use_{switch}"):
            getattr(pipe.vae, f"enable_{switch}")()
    if memory == OFFLOAD:
        pipe.enable_model_cpu_offload(device=device)
        return
    denoiser = getattr(pipe, spec.denoiser)
    denoiser.enable_layerwise_casting(storage_dtype=_STORAGE, compute_dtype=denoiser.dtype)
    pipe.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="leaf_level",
        use_stream=device.type == "cuda",
        exclude_modules=["vae"],  # small, and called by other ways than its forward
    )


def move_encoders(retriever: Retriever, device: torch.device) -> None:
    """Move the encoders of captions, motion and appearance to a device."""
    for encoder in (retriever.caption, retriever.motion, retriever.appearance):
        if encoder is not None:
            encoder.to(device)


@contextmanager
def told_plainly(work: str, memory: str, *, compiled: bool = False) -> Iterator[None]:
    """Say in one line, with the remedy, that memory ran out in the block or that the base cannot be compiled.

    Args:
        work: What the block does, as in "out of memory while ...".
        memory: The mode it runs in.
        compiled: Whether the denoiser is compiled.

    Raises:
        MotionRAGError: If one of the two happens.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if compiled and type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise MotionRAGError(
                f"the base cannot be compiled here ({one_line(error)}): leave compile out"
            ) from error
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(
            error
        ):
            raise
        less = {FULL: "memory=offload or low, or ", OFFLOAD: "memory=low, or "}.get(memory, "")
        raise MotionRAGError(f"out of memory while {work}: use {less}a smaller size or fewer frames") from error
