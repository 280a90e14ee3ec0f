"""CogVideoX image-to-video: the joint text and video attention of every transformer block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from motionrag.types import WHOLE, BaseSpec, Rules, Sampling, View

if TYPE_CHECKING:
    from PIL.Image import Image


def _sampling(pipe: Any) -> Sampling:
    """The model's own size; 17 frames by the scheduler of the published runs, or fewer where it makes fewer."""
    config = pipe.transformer.config
    return Sampling(
        height=config.sample_height * pipe.vae_scale_factor_spatial,
        width=config.sample_width * pipe.vae_scale_factor_spatial,
        frames=min(17, config.sample_frames),
        fps=8.0,
        steps=25,
        guidance=3.0,
        scheduler="CogVideoXDPMScheduler",
    )


def _rules(pipe: Any) -> Rules:
    """Of the model at hand: one that has learned its positions makes one size alone."""
    if pipe is None:
        return Rules(multiple=16, frame_step=8, negative_prompt=True)
    config, cell, pace = pipe.transformer.config, pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    return Rules(
        multiple=cell * config.patch_size,
        size=(cell * config.sample_height, cell * config.sample_width)
        if config.use_learned_positional_embeddings
        else None,
        frame_step=2 * pace if pace > 1 else 1,  # CogVideoX's VAE decodes an even number of latents to more frames
        negative_prompt=True,
    )


def _arguments(pipe: Any, images: Sequence[Image], prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
    return {
        "image": list(images),
        "prompt": list(prompts),
        "negative_prompt": sampling.negative_prompt,
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
    rules=_rules,
    view=View(frames=17, fps=8.0, height=480, width=720),
    parameters={"transformer": 5_570_479_680, "text_encoder": 4_762_310_656, "vae": 215_583_907},
)

TINY = replace(
    SPEC,
    name="tiny",
    repository="",
    license="MIT",
    loader="motionrag.bases.tiny:load",
    sampling=lambda pipe: replace(_sampling(pipe), steps=12, guidance=2.0, scheduler=None),
    rules=lambda pipe: _rules(pipe) if pipe is not None else Rules(multiple=16, negative_prompt=True),
    view=WHOLE,
    parameters={},
)
"""The embedded base: the same classes at 64x64, made by our own recipes; more steps change its clips little."""
