"""DynamiCrafter: the 16 spatial cross-attentions of its UNet, to text and image, not the temporal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from motionrag.types import BaseSpec, Rules, Sampling, View

if TYPE_CHECKING:
    from PIL.Image import Image


def _sampling(pipe: Any) -> Sampling:
    """The model's own, 8 frames a second where it is told a stride; steps and guidance as MotionRAG's."""
    config = pipe.unet.config
    height, width = config.sample_size
    return Sampling(
        height=height * pipe.vae_scale_factor,
        width=width * pipe.vae_scale_factor,
        frames=config.num_frames,
        fps=8.0 if config.rate_is_stride else float(config.default_rate),
        steps=30,
        guidance=2.0,
        guidance_rescale=0.7,
        timestep_spacing=pipe.scheduler.config.timestep_spacing,
    )


_RULES = Rules(multiple=64, frames=16, negative_prompt=True, guidance_rescale=True, timestep_spacing=True)


def _rules(pipe: Any) -> Rules:
    """Every level of the UNet halves the sides of the latents; the image has tokens for so many frames."""
    if pipe is None:
        return _RULES
    config = pipe.unet.config
    multiple = pipe.vae_scale_factor * 2 ** (len(config.channel_mult) - 1)
    return replace(_RULES, multiple=multiple, frames=config.num_frames)


def _arguments(pipe: Any, images: Sequence[Image], prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
    """What is left out is the pipeline's own."""
    arguments = {
        "image": list(images),
        "prompt": list(prompts),
        "negative_prompt": sampling.negative_prompt,
        "height": sampling.height,
        "width": sampling.width,
        "num_frames": sampling.frames,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance,
        "guidance_rescale": sampling.guidance_rescale,
        "timestep_spacing": sampling.timestep_spacing,
        "rate": None if pipe.unet.config.rate_is_stride else round(sampling.fps),
    }
    return {name: value for name, value in arguments.items() if value is not None}


SPEC = BaseSpec(
    name="dynamicrafter",
    repository="Doubiiu/DynamiCrafter_1024",
    license="apache-2.0",
    pipeline="DynamiCrafterPipeline",
    denoiser="unet",
    denoiser_class="DynamiCrafterUNet",
    sites=r"(?:(?:in|out)put_blocks\.\d+|middle_block)\.1\.transformer_blocks\.\d+\.attn2",
    guided=lambda pipe: bool(pipe.do_classifier_free_guidance),
    sampling=_sampling,
    arguments=_arguments,
    rules=_rules,
    view=View(frames=16, fps=8.0, height=576, width=1024),
    thrifty={"decode_chunk_size": 1},
    parameters={
        "unet": 1_438_854_980,
        "image_encoder": 630_766_080,
        "text_encoder": 340_387_840,
        "vae": 83_653_863,
        "image_projection": 48_787_456,
    },
    files={
        "Doubiiu/DynamiCrafter_1024": ("model.ckpt",),
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": ("tokenizer_config.json", "vocab.json", "merges.txt"),
    },
    loader="motionrag.bases.dynamicrafter.loading:load",
    converter="motionrag.bases.dynamicrafter.convert:convert",
)
