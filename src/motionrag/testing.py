"""Real diffusers pipelines at tiny size with random weights, for tests, the demo and benchmarks.

Classes and code paths are those of the full models; only the sizes are small, and nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def tiny_cogvideox(*, layers: int = 2, heads: int = 2, head_dim: int = 16, seed: int = 0) -> Any:
    """A `CogVideoXImageToVideoPipeline`; give it `prompt_embeds` [B,6,12] instead of a prompt.

    Its smallest clips are 16x16 with 5 frames; width is heads x head_dim.
    """
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXTransformer3DModel,
    )

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = CogVideoXTransformer3DModel(
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=8,
            out_channels=4,
            time_embed_dim=8,
            text_embed_dim=12,
            num_layers=layers,
            sample_width=2,
            sample_height=2,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=6,
            use_rotary_positional_embeddings=True,
        )
        vae = AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
        )
    pipe = CogVideoXImageToVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=CogVideoXDDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_svd(*, channels: tuple[int, int] = (32, 64), heads: tuple[int, int] = (2, 4), seed: int = 0) -> Any:
    """A `StableVideoDiffusionPipeline`; its clips are 16x16 or any larger multiple of 8, with 2 frames or more."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from motionrag.bases.full_size import svd_scheduler

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(
            block_out_channels=channels,
            layers_per_block=1,
            sample_size=8,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=16,
            num_attention_heads=heads,
            projection_class_embeddings_input_dim=48,
            addition_time_embed_dim=16,
            num_frames=3,
        )
        vae = AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            latent_channels=4,
            layers_per_block=1,
        )
        image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=16,
                projection_dim=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=224,
                intermediate_size=32,
                patch_size=56,
            )
        )
    pipe = StableVideoDiffusionPipeline(
        vae=vae.eval(),
        image_encoder=image_encoder.eval(),
        unet=unet.eval(),
        scheduler=svd_scheduler(),
        feature_extractor=CLIPImageProcessor(crop_size=224, size=224),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_dynamicrafter(*, seed: int = 0) -> Any:
    """A `DynamiCrafterPipeline` without text encoder: give it `prompt_embeds` [B,6,16].

    Its clips have 4 frames of 16x16 or any larger multiple of 4.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from motionrag.bases.dynamicrafter.pipeline import DynamiCrafterPipeline
    from motionrag.bases.dynamicrafter.resampler import ImageProjection
    from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler
    from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = DynamiCrafterUNet(
            model_channels=32,
            channel_mult=(1, 2),
            attention_resolutions=(2, 1),
            num_res_blocks=1,
            attention_head_dim=8,
            cross_attention_dim=16,
            num_frames=4,
            sample_size=(8, 8),
        )
        projection = ImageProjection(
            input_dim=16, width=16, depth=1, heads=2, head_dim=8, queries=2, frames=4, output_dim=16
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            layers_per_block=1,
            scaling_factor=0.18215,
        )
        image_encoder = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=16,
                projection_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=32,
                intermediate_size=32,
                patch_size=16,
            )
        )
    pipe = DynamiCrafterPipeline(
        tokenizer=None,
        text_encoder=None,
        image_encoder=image_encoder.eval(),
        image_projection=projection.eval(),
        vae=vae.eval(),
        unet=unet.eval(),
        scheduler=DynamiCrafterScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_weights(module: torch.nn.Module, *, std: float = 0.3, seed: int = 0) -> None:
    """Fill every parameter with normal noise, in place: an adapter whose effect shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    """Normal noise of a shape from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
