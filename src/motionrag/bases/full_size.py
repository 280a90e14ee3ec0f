"""Each base at its published size without its weights: on the meta device, or with random values made where it runs.

For estimates of memory and measurements of time; nothing is downloaded. Sizes are those of `BaseSpec.repository`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from motionrag.errors import MotionRAGError, did_you_mean


def full_size(base: str, *, device: str = "meta", dtype: torch.dtype = torch.bfloat16) -> Any:
    """A base's pipeline at full size, untrained and without text encoder: give it `prompt_embeds`.

    Args:
        base: A key of `PIPELINES`.
        device: Where its weights are made; "meta" makes none.
        dtype: What it computes in.

    Raises:
        MotionRAGError: If there is no such base.
    """
    if base not in PIPELINES:
        raise MotionRAGError(f"no base of full size named {base!r}{did_you_mean(base, PIPELINES)}")
    with _made_on(device, dtype):
        parts = PIPELINES[base]()
    for part in parts.values():
        torch.nn.Module.to(part, device, dtype).requires_grad_(False).eval()  # a few are made elsewhere, or in f64
    pipe = _assembled(base, parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompt_shape(base: str) -> tuple[int, int] | None:
    """L and D of a base's prompt embeddings at full size; None for one that takes no prompt."""
    return {"cogvideox": (226, 4096), "dynamicrafter": (77, 1024)}.get(base)


def cogvideox() -> dict[str, Any]:
    """CogVideoX-5B image-to-video."""
    from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel

    return {
        "transformer": CogVideoXTransformer3DModel(
            num_attention_heads=48,
            in_channels=32,
            out_channels=16,
            num_layers=42,
            sample_frames=49,
            use_rotary_positional_embeddings=True,
            use_learned_positional_embeddings=True,
        ),
        "vae": AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(128, 256, 256, 512),
            latent_channels=16,
            scaling_factor=0.7,
        ),
    }


def svd() -> dict[str, Any]:
    """Stable Video Diffusion, the model of 25 frames."""
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

    widths = (128, 256, 512, 512)
    return {
        "unet": UNetSpatioTemporalConditionModel(sample_size=96, num_attention_heads=(5, 10, 20, 20), num_frames=25),
        "vae": AutoencoderKLTemporalDecoder(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            layers_per_block=2,
            sample_size=768,
        ),
        "image_encoder": CLIPVisionModelWithProjection(_clip_vision(projection_dim=1024)),
    }


def svd_scheduler() -> Any:
    """That of Stable Video Diffusion."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def dynamicrafter() -> dict[str, Any]:
    """DynamiCrafter 1024."""
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionModel

    from motionrag.bases.dynamicrafter.resampler import ImageProjection
    from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet

    widths = (128, 256, 512, 512)
    return {
        "unet": DynamiCrafterUNet(),
        "vae": AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            layers_per_block=2,
            latent_channels=4,
            scaling_factor=0.18215,
        ),
        "image_encoder": CLIPVisionModel(_clip_vision(projection_dim=1280)),
        "image_projection": ImageProjection(),
    }


PIPELINES: dict[str, Callable[[], dict[str, Any]]] = {
    "cogvideox": cogvideox,
    "svd": svd,
    "dynamicrafter": dynamicrafter,
}
"""Base -> what makes the parts of its pipeline that have weights, on the default device and in the default dtype."""


def _clip_vision(projection_dim: int) -> Any:
    """OpenCLIP's ViT-H."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=16,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=projection_dim,
    )


def _assembled(base: str, parts: dict[str, Any]) -> Any:
    import diffusers

    if base == "cogvideox":
        scheduler = diffusers.CogVideoXDPMScheduler(
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            set_alpha_to_one=True,
            snr_shift_scale=1.0,
            timestep_spacing="trailing",
        )
        return diffusers.CogVideoXImageToVideoPipeline(
            tokenizer=None, text_encoder=None, scheduler=scheduler, **parts
        )
    if base == "svd":
        from transformers import CLIPImageProcessor

        extractor = CLIPImageProcessor(crop_size=224, size=224)
        return diffusers.StableVideoDiffusionPipeline(
            scheduler=svd_scheduler(), feature_extractor=extractor, **parts
        )
    from motionrag.bases.dynamicrafter.pipeline import DynamiCrafterPipeline
    from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler

    return DynamiCrafterPipeline(
        tokenizer=None,
        text_encoder=None,
        scheduler=DynamiCrafterScheduler(),
        **parts,
    )


@contextmanager
def _made_on(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Inside the block modules are made on a device, and in a dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
