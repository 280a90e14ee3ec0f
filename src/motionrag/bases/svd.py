"""Stable Video Diffusion: the 16 spatial cross-attentions of its UNet, not the temporal ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from motionrag.types import BaseSpec, Rules, Sampling, View

if TYPE_CHECKING:
    from PIL.Image import Image


def _sampling(pipe: Any) -> Sampling:
    """Frames of 16:9 with as many pixels as the UNet's square has: 576x1024 as published.

    At most 16 of them: so many were published, of a UNet that was trained with 14; the one called xt has 25.
    """
    trained = pipe.unet.config.num_frames
    edge = pipe.unet.config.sample_size * pipe.vae_scale_factor
    return Sampling(
        height=8 * round(edge * 3 / 4 / 8),
        width=8 * round(edge * 4 / 3 / 8),
        frames=16 if trained >= 14 else trained,
        fps=7.0,
        steps=25,
        guidance=3.0,
    )


def _rules(pipe: Any) -> Rules:
    """Every level of the UNet halves the sides of the latents; halves that meet again must be of one size."""
    if pipe is None:
        return Rules(multiple=8, least_frames=2)
    levels = len(pipe.unet.config.down_block_types)
    return Rules(multiple=max(8, pipe.vae_scale_factor * 2 ** (levels - 1)), least_frames=2)


def _arguments(pipe: Any, images: Sequence[Image], prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
    """It takes no prompt: what it says reaches the clip through the references."""
    return {
        "image": list(images),
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.frames,
        "num_inference_steps": sampling.steps,
        "max_guidance_scale": sampling.guidance,
        "fps": max(1, round(sampling.fps)),
    }


SPEC = BaseSpec(
    name="svd",
    repository="stabilityai/stable-video-diffusion-img2vid",
    license="stable-video-diffusion-community",
    pipeline="StableVideoDiffusionPipeline",
    denoiser="unet",
    denoiser_class="UNetSpatioTemporalConditionModel",
    sites=r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn2",
    guided=lambda pipe: bool(pipe.do_classifier_free_guidance),
    sampling=_sampling,
    arguments=_arguments,
    rules=_rules,
    view=View(frames=16, fps=8.0, height=576, width=1024),
    thrifty={"decode_chunk_size": 2},
    parameters={"unet": 1_524_623_082, "image_encoder": 632_076_800, "vae": 97_742_847},
)
