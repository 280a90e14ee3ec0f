"""CogVideoX image-to-video: the joint text and video attention of every transformer block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from motionrag.types import BaseSpec, Sampling

if TYPE_CHECKING:
    from PIL.Image import Image


def _sampling(pipe: Any) -> Sampling:
    """The model's own size; 17 frames as published, or fewer where it makes fewer."""
    config = pipe.transformer.config
    return Sampling(
        height=config.sample_height * pipe.vae_scale_factor_spatial,
        width=config.sample_width * pipe.vae_scale_factor_spatial,
        frames=min(17, config.sample_frames),
        fps=8.0,
        steps=25,
        guidance=3.0,
    )


def _arguments(pipe: Any, images: Sequence[Image], prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
    return {
        "image": list(images),
        "prompt": list(prompts),
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.frames,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "max_sequence_length": pipe.transformer.config.max_text_seq_length,
    }


SPEC = BaseSpec(
    name="cogvideox",
    repository="zai-org/CogVideoX-5b-I2V",
    license="cogvideox",
    pipeline="CogVideoXImageToVideoPipeline",
    denoiser="transformer",
    denoiser_class="CogVideoXTransformer3DModel",
    sites=r"transformer_blocks\.\d+\.attn1",
    guided=lambda pipe: bool(pipe.guidance_scale > 1),
    sampling=_sampling,
    arguments=_arguments,
)

TINY = replace(SPEC, name="tiny", repository="", license="MIT", loader="motionrag.bases.tiny:load")
"""The embedded base: the same classes at 64x64, made by our own recipes."""
