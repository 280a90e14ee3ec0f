"""DynamiCrafter's denoiser: a 2D UNet over the frames of a clip, with temporal layers between the spatial ones.

Stages and layers are numbered as in the released checkpoints, so adapter sites have the published names.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from einops import rearrange, repeat
from torch import Tensor, nn

from motionrag.bases.dynamicrafter.blocks import (
    Conditions,
    Downsample,
    ResBlock,
    SpatialTransformer,
    Stage,
    TemporalTransformer,
    Upsample,
)
from motionrag.errors import MotionRAGError

INIT_HEADS = 8
"""Attention heads of the temporal layer right after the first convolution, whatever its width."""


class DynamiCrafterUNet(ModelMixin, ConfigMixin):
    """The denoiser; its defaults are the sizes of the 1024 model.

    Args:
        in_channels: Channels of the noised latents and the image's latents together.
        out_channels: Channels of its answer.
        model_channels: Width of the first stage.
        channel_mult: Width of each level, in multiples of that.
        attention_resolutions: The levels with attention, by how many times smaller than the latents they are.
        num_res_blocks: Residual blocks of a level on the way down; one more on the way up.
        attention_head_dim: Width of an attention head.
        transformer_depth: Blocks of a transformer.
        cross_attention_dim: Width of text and image tokens.
        dropout: In the residual blocks, when training.
        learnable_image_scale: Whether each site has a learnt strength of the image (the 256 model).
        num_frames: T of the clips it was made for.
        sample_size: Height and width of their latents.
        default_rate: The rate it is told of a clip unless another is given.
        rate_is_stride: Whether that is not frames a second but a stride: every how many frames of a video are in
            the clip (the 256 model).
    """

    _supports_gradient_checkpointing = True
    _skip_layerwise_casting_patterns = ("norm", "time_embed", "rate_embed")

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        in_channels: int = 8,
        out_channels: int = 4,
        model_channels: int = 320,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        attention_resolutions: tuple[int, ...] = (4, 2, 1),
        num_res_blocks: int = 2,
        attention_head_dim: int = 64,
        transformer_depth: int = 1,
        cross_attention_dim: int = 1024,
        dropout: float = 0.1,
        learnable_image_scale: bool = False,
        num_frames: int = 16,
        sample_size: tuple[int, int] = (72, 128),
        default_rate: int = 10,
        rate_is_stride: bool = False,
    ) -> None:
        super().__init__()
        embedding_width = 4 * model_channels
        self.time_proj = Timesteps(model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = TimestepEmbedding(model_channels, embedding_width)
        self.rate_embed = TimestepEmbedding(model_channels, embedding_width)
        self.init_attn = TemporalTransformer(model_channels, INIT_HEADS, attention_head_dim, transformer_depth)

        def block(width_in: int, width_out: int) -> ResBlock:
            return ResBlock(width_in, width_out, embedding_width, dropout)

        def attention(width: int) -> list[nn.Module]:
            sizes = (width, width // attention_head_dim, attention_head_dim, transformer_depth)
            spatial = SpatialTransformer(*sizes, cross_attention_dim, learnable_scale=learnable_image_scale)
            return [spatial, TemporalTransformer(*sizes)]

        def stage(width_in: int, width_out: int, attends: bool) -> Stage:
            return Stage([block(width_in, width_out), *(attention(width_out) if attends else [])])

        levels = [(model_channels * mult, 2**i in attention_resolutions) for i, mult in enumerate(channel_mult)]
        width, skips = model_channels, [model_channels]
        self.input_blocks = nn.ModuleList([nn.ModuleList([nn.Conv2d(in_channels, width, 3, padding=1)])])
        for level, (width_out, attends) in enumerate(levels):
            if level:
                self.input_blocks.append(Stage([Downsample(width)]))
                skips.append(width)
            for _ in range(num_res_blocks):
                self.input_blocks.append(stage(width, width_out, attends))
                skips.append(width := width_out)

        self.middle_block = Stage([block(width, width), *attention(width), block(width, width)])

        self.output_blocks = nn.ModuleList()
        for level, (width_out, attends) in reversed(list(enumerate(levels))):
            for i in range(num_res_blocks + 1):
                layers = stage(width + skips.pop(), width_out, attends)
                if level and i == num_res_blocks:
                    layers.append(Upsample(width_out))
                self.output_blocks.append(layers)
                width = width_out

        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        image_embeds: Tensor,
        rate: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Predict noise or velocity.

        Args:
            sample: Noised latents and, on further channels, the image's, [B,C,T,H,W]; H and W divide by the
                reduction of the smallest level.
            timestep: Of the noise, [B] or one for all.
            encoder_hidden_states: Prompt embeddings [B,L,D].
            image_embeds: Image tokens [B,(T Q),D], Q for each frame.
            rate: Rate of the clip, [B]; None is `default_rate`.
            return_dict: Whether the answer is an object with `sample`; else a tuple.

        Returns:
            The prediction, [B,C,T,H,W].

        Raises:
            MotionRAGError: If the image tokens cannot be shared out among the frames.
        """
        B, _, T, _, _ = sample.shape
        if image_embeds.shape[1] % T:
            raise MotionRAGError(
                f"{image_embeds.shape[1]} image tokens are not a multiple of {T} frames: make clips of "
                f"{self.config.num_frames}, as the model was trained"
            )
        if rate is None:
            rate = torch.full((B,), self.config.default_rate, device=sample.device)
        embedding = self.time_embed(self._waves(timestep, sample)) + self.rate_embed(self._waves(rate, sample))
        given = Conditions(
            embedding=repeat(embedding, "b d -> (b t) d", t=T),
            text=repeat(encoder_hidden_states, "b l d -> (b t) l d", t=T),
            image=rearrange(image_embeds, "b (t q) d -> (b t) q d", t=T),
            frames=T,
        )
        x = rearrange(sample, "b c t h w -> (b t) c h w")
        (conv_in,) = self.input_blocks[0].children()
        x = self.init_attn(conv_in(x), given)
        skips = [x]
        for stage in self.input_blocks[1:]:
            x = stage(x, given)
            skips.append(x)
        x = self.middle_block(x, given)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), given)
        x = rearrange(self.out(x), "(b t) c h w -> b c t h w", b=B)
        return UNet3DConditionOutput(sample=x) if return_dict else (x,)

    def _waves(self, value: Tensor | float, sample: Tensor) -> Tensor:
        """Sinusoidal features [B,D] of one number, or of B."""
        values = torch.as_tensor(value, device=sample.device).expand(len(sample))
        return self.time_proj(values).to(sample.dtype)
