"""Sizes of DynamiCrafter's parts, read off the shapes of their weights (under our names)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from motionrag.bases.dynamicrafter.unet import INIT_HEADS
from motionrag.errors import MotionRAGError

State = Mapping[str, Tensor]

CLIP_HEADS = 16
"""Of both towers of OpenCLIP's ViT-H; no shape tells."""
RESAMPLER_HEAD_DIM = 64
"""Likewise."""


def unet_sizes(state: State) -> dict[str, Any]:
    """Arguments of a `DynamiCrafterUNet`, but for those that no shape tells."""
    first = _shape(state, "input_blocks.0.0.weight")
    model_channels, levels = first[0], [(first[0], 0, False)]
    for i in range(1, _count(state, r"input_blocks\.(\d+)\.")):
        if f"input_blocks.{i}.0.conv.weight" in state:
            levels.append((0, 0, False))
        else:
            width = _shape(state, f"input_blocks.{i}.0.norm2.weight")[0]
            levels[-1] = (width, levels[-1][1] + 1, f"input_blocks.{i}.1.norm.weight" in state)
    return {
        "in_channels": first[1],
        "out_channels": _shape(state, "out.2.weight")[0],
        "model_channels": model_channels,
        "channel_mult": tuple(width // model_channels for width, _, _ in levels),
        "attention_resolutions": tuple(2**i for i in reversed(range(len(levels))) if levels[i][2]),
        "num_res_blocks": levels[0][1],
        "attention_head_dim": _shape(state, "init_attn.proj_in.weight")[0] // INIT_HEADS,
        "transformer_depth": _count(state, r"middle_block\.1\.transformer_blocks\.(\d+)\."),
        "cross_attention_dim": _shape(state, "middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        "learnable_image_scale": any(name.endswith(".alpha") for name in state),
    }


def projection_sizes(state: State, frames: int) -> dict[str, Any]:
    """Arguments of an `ImageProjection` for clips of some frames."""
    width, input_dim = _shape(state, "resampler.proj_in.weight")
    return {
        "input_dim": input_dim,
        "width": width,
        "depth": _count(state, r"resampler\.blocks\.(\d+)\."),
        "heads": _shape(state, "resampler.blocks.0.attention.to_q.weight")[0] // RESAMPLER_HEAD_DIM,
        "head_dim": RESAMPLER_HEAD_DIM,
        "queries": _shape(state, "resampler.latents")[1] // frames,
        "frames": frames,
        "output_dim": _shape(state, "resampler.proj_out.weight")[0],
        "ff_mult": _shape(state, "resampler.blocks.0.feed_forward.up.weight")[0] // width,
    }


def vae_sizes(state: State) -> dict[str, Any]:
    """Arguments of an `AutoencoderKL`."""
    levels = _count(state, r"encoder\.down_blocks\.(\d+)\.")
    return {
        "in_channels": _shape(state, "encoder.conv_in.weight")[1],
        "out_channels": _shape(state, "decoder.conv_out.weight")[0],
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(
            _shape(state, f"encoder.down_blocks.{i}.resnets.0.conv1.weight")[0] for i in range(levels)
        ),
        "layers_per_block": _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": _shape(state, "post_quant_conv.weight")[0],
        "scaling_factor": 0.18215,
    }


def text_sizes(state: State) -> dict[str, Any]:
    """Arguments of a `CLIPTextConfig`."""
    vocabulary, width = _shape(state, "embeddings.token_embedding.weight")
    positions = _shape(state, "embeddings.position_embedding.weight")[0]
    return {"vocab_size": vocabulary, "max_position_embeddings": positions, **_tower_sizes(state, width)}


def vision_sizes(state: State) -> dict[str, Any]:
    """Arguments of a `CLIPVisionConfig`."""
    width, _, patch, _ = _shape(state, "embeddings.patch_embedding.weight")
    patches = _shape(state, "embeddings.position_embedding.weight")[0] - 1
    return {"patch_size": patch, "image_size": patch * isqrt(patches), **_tower_sizes(state, width)}


def _tower_sizes(state: State, width: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "projection_dim": width,
        "intermediate_size": _shape(state, "encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(state, r"encoder\.layers\.(\d+)\."),
        "num_attention_heads": CLIP_HEADS,
        "hidden_act": "gelu",
    }


def _shape(state: State, name: str) -> tuple[int, ...]:
    """Of a weight that tells a size.

    Raises:
        MotionRAGError: If it is not there.
    """
    if name not in state:
        raise MotionRAGError(
            f"it holds nothing for {name}: not a complete DynamiCrafter checkpoint; download it again"
        )
    return tuple(state[name].shape)


def _count(state: State, pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})
