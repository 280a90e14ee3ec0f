"""A released DynamiCrafter checkpoint (`model.ckpt` of the 256, 512 or 1024 model) to a folder of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from torch import Tensor, nn

from motionrag.bases.dynamicrafter import sizes
from motionrag.bases.dynamicrafter.keys import KeyAccount, account_of
from motionrag.checkpoint import load_strict, replacing
from motionrag.encoders.source import one_line, quiet
from motionrag.errors import MotionRAGError, did_you_mean

TOKENIZER = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
"""Where CLIP's vocabulary is taken from: the checkpoints do not hold it."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """What no weight of a released model tells."""

    sample_size: tuple[int, int]
    """Height and width of its latents."""
    default_rate: int
    """The rate it is told unless another is given."""
    rate_is_stride: bool = False
    """Whether that is a stride instead of frames a second."""
    scheduler: Mapping[str, Any]
    """Settings of its scheduler."""


VARIANTS = {
    "1024": Variant(sample_size=(72, 128), default_rate=10, scheduler={"base_scale": 0.3}),
    "512": Variant(sample_size=(40, 64), default_rate=24, scheduler={"base_scale": 0.7}),
    "256": Variant(
        sample_size=(32, 32),
        default_rate=3,
        rate_is_stride=True,
        scheduler={
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "rescale_betas_zero_snr": False,
            "base_scale": 1.0,
        },
    ),
}
"""The released models by the width of their clips."""


def convert(
    checkpoint: Path,
    folder: Path,
    *,
    variant: str | None = None,
    tokenizer: str = TOKENIZER,
    frames: int = 16,
    dtype: torch.dtype = torch.float32,
) -> list[KeyAccount]:
    """Write a released checkpoint as a folder that `load_base` and `DynamiCrafterPipeline.from_pretrained` take.

    Args:
        checkpoint: The released file.
        folder: Where it is written; it must not be there yet.
        variant: A key of `VARIANTS`; None asks the file.
        tokenizer: Folder or hub id of CLIP's tokenizer.
        frames: T of its clips, 16 in all released models.
        dtype: Precision of the written weights.

    Returns:
        What became of every key of the file.

    Raises:
        MotionRAGError: If the file cannot be read safely, is no complete DynamiCrafter, or holds a key that nothing
            is known of; if the folder is there; if there is no such tokenizer.
    """
    checkpoint, folder = Path(checkpoint), Path(folder)
    if folder.exists():
        raise MotionRAGError(f"{folder}: is there already; give another folder, or remove it")
    tensors = _read(checkpoint)
    try:
        account, states = states_of(tensors)
        pipe = _assemble(states, tensors, variant, tokenizer, frames, dtype)
    except MotionRAGError as error:
        raise MotionRAGError(f"{checkpoint}: {error}") from error
    with replacing(folder) as temporary, quiet():
        pipe.save_pretrained(temporary)
    return account


def states_of(tensors: Mapping[str, Tensor]) -> tuple[list[KeyAccount], dict[str, dict[str, Tensor]]]:
    """Released tensors, by the part they belong to and under our names.

    Raises:
        MotionRAGError: If there is a key that nothing is known of.
    """
    account = [account_of(key) for key in tensors]
    unknown = [entry.key for entry in account if not entry.name]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise MotionRAGError(f"nothing is known of its key {unknown[0]!r}{more}; wanted is a released DynamiCrafter")
    states: dict[str, dict[str, Tensor]] = {}
    for entry in account:
        if entry.part is not None:
            states.setdefault(entry.part, {})[entry.name] = tensors[entry.key]
    if "vae" in states:
        states["vae"] = _counted_from_the_first(states["vae"])
    for part in ("text_encoder", "image_encoder"):
        if part in states:
            states[part] = _split_qkv(states[part])
    if "text_encoder" in states:
        account, states["text_encoder"] = _without_last_block(account, states["text_encoder"])
    return account, states


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, mapped into memory; nothing in it is run."""
    if not path.is_file():
        raise MotionRAGError(f"{path}: no such file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # torch names no limit to what a damaged file may raise
        raise MotionRAGError(
            f"{path}: refused, it is damaged or holds more than tensors ({one_line(error)}); download it again"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        raise MotionRAGError(f"{path}: holds no state dict of tensors alone; download it again")
    return tensors


def _counted_from_the_first(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released decoder counts its levels from the finest, diffusers from the coarsest."""
    levels = [int(match[1]) for name in state if (match := re.match(r"decoder\.up_blocks\.-(\d+)\.", name))]
    return {
        re.sub(r"up_blocks\.-(\d+)", lambda match: f"up_blocks.{max(levels) - int(match[1])}", name): tensor
        for name, tensor in state.items()
    }


def _split_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP keeps queries, keys and values in one layer, transformers in three."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".qkv_proj." in name:
            split |= {name.replace("qkv_proj", f"{x}_proj"): t for x, t in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split


def _without_last_block(
    account: list[KeyAccount], state: Mapping[str, Tensor]
) -> tuple[list[KeyAccount], dict[str, Tensor]]:
    """The answer is taken from the last but one block of the text tower."""
    layers = [int(match[1]) for name in state if (match := re.match(r"encoder\.layers\.(\d+)\.", name))]
    if not layers:
        return account, dict(state)
    last = f"encoder.layers.{max(layers)}."
    reason = "not used: the answer is the last but one block's"
    account = [
        KeyAccount(entry.key, None, reason)
        if entry.part == "text_encoder" and entry.name.startswith(last)
        else entry
        for entry in account
    ]
    return account, {name: tensor for name, tensor in state.items() if not name.startswith(last)}


def _assemble(
    states: Mapping[str, Mapping[str, Tensor]],
    tensors: Mapping[str, Tensor],
    name: str | None,
    tokenizer: str,
    frames: int,
    dtype: torch.dtype,
) -> Any:
    """The pipeline, to be saved (its constants are not computed)."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

    from motionrag.bases.dynamicrafter.pipeline import DynamiCrafterPipeline
    from motionrag.bases.dynamicrafter.resampler import ImageProjection
    from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler
    from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet

    unet, projection, vae, text, vision = (
        states.get(part, {}) for part in ("unet", "image_projection", "vae", "text_encoder", "image_encoder")
    )
    variant = _variant(tensors, name)
    scheduler = DynamiCrafterScheduler(**variant.scheduler)
    _check_schedule(tensors, scheduler)
    told = {
        "num_frames": frames,
        "sample_size": variant.sample_size,
        "default_rate": variant.default_rate,
        "rate_is_stride": variant.rate_is_stride,
    }
    words = _tokenizer(tokenizer, sizes.text_sizes(text))
    ids = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": 0}
    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": DynamiCrafterUNet(**sizes.unet_sizes(unet), **told),
            "image_projection": ImageProjection(**sizes.projection_sizes(projection, frames)),
            "vae": AutoencoderKL(**sizes.vae_sizes(vae)),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**sizes.text_sizes(text), **ids)),
            "image_encoder": CLIPVisionModel(CLIPVisionConfig(**sizes.vision_sizes(vision))),
        }
    for part, module in parts.items():
        fill(module, states[part], part, dtype)
    return DynamiCrafterPipeline(tokenizer=words, scheduler=scheduler, **parts)


def fill(module: nn.Module, state: Mapping[str, Tensor], part: str, dtype: torch.dtype = torch.float32) -> None:
    """Give a module its weights, all of them and no others.

    Args:
        module: One of the parts.
        state: Its weights, as `states_of` names them.
        part: What it is called in messages.
        dtype: Their precision.

    Raises:
        MotionRAGError: If one is missing, left over or of another shape.
    """
    wanted = module.state_dict()
    prefix = next((p for p in ("text_model.", "vision_model.") if all(name.startswith(p) for name in wanted)), "")
    load_strict(
        module,
        {prefix + name: _linear(tensor, wanted.get(prefix + name)).to(dtype) for name, tensor in state.items()},
        part,
    )


def _linear(tensor: Tensor, wanted: Tensor | None) -> Tensor:
    """The weight of a 1x1 convolution as that of a linear layer, where one is wanted."""
    flat = wanted is not None and wanted.ndim == 2 < tensor.ndim and set(tensor.shape[2:]) == {1}
    return tensor.flatten(1) if flat else tensor


def _variant(tensors: Mapping[str, Tensor], name: str | None) -> Variant:
    """The released model that a file holds: its latents' scale tells, and the strengths that only one has learnt."""
    if name is not None:
        if name not in VARIANTS:
            raise MotionRAGError(f"no released model {name!r}{did_you_mean(name, VARIANTS)}")
        return VARIANTS[name]
    scale = tensors.get("scale_arr")
    for variant in VARIANTS.values():
        base_scale = variant.scheduler["base_scale"]
        learnt = any(key.endswith(".alpha") for key in tensors)
        if (scale is None and base_scale == 1.0 and learnt) or (
            scale is not None and abs(float(scale[-1]) - base_scale) < 1e-4
        ):
            return variant
    raise MotionRAGError(
        f"the file does not tell which released model it is: say so, variant= one of {', '.join(VARIANTS)}"
    )


def _check_schedule(tensors: Mapping[str, Tensor], scheduler: Any) -> None:
    """What the file says of noise and latents' scale must be what is computed."""
    for key, computed in (("alphas_cumprod", scheduler.alphas_cumprod), ("scale_arr", scheduler.latent_scale)):
        if key not in tensors:
            continue
        found = tensors[key].double()[: len(computed)]
        if found.shape != computed.shape or (found - computed).abs().max() > 1e-4:
            raise MotionRAGError(f"its {key} is another than that of the released model: give the right variant")


def _tokenizer(name: str, wanted: Mapping[str, Any]) -> Any:
    """CLIP's, filling up with token 0 as OpenCLIP does."""
    from transformers import CLIPTokenizer

    try:
        with quiet():
            tokenizer = CLIPTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise MotionRAGError(f"no tokenizer at {name!r}, which is needed besides ({one_line(error)})") from error
    if len(tokenizer) != wanted["vocab_size"]:
        raise MotionRAGError(
            f"{name!r} has {len(tokenizer)} tokens, the text encoder {wanted['vocab_size']}: give CLIP's tokenizer"
        )
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.model_max_length = wanted["max_position_embeddings"]
    return tokenizer
