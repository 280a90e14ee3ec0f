"""The perceiver resampler: encoder features of any length to a fixed number of tokens (paper, section 3.2).

Used twice with the same shape: for motion (VideoMAE features) and for appearance (DINOv2 features).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """Sizes of a perceiver resampler; the defaults are the published ones for motion."""

    input_dim: int = 768
    """Width of the encoder features: 768 for VideoMAE-base, 1024 for DINOv2-large."""
    width: int = 1024
    """Width of the latents inside."""
    depth: int = 4
    """Number of attention + feed-forward blocks."""
    heads: int = 12
    """Attention heads; heads x head_dim may differ from the width."""
    head_dim: int = 64
    """Width of one attention head."""
    queries: int = 25
    """Number of tokens it returns."""
    output_dim: int = 1024
    """Width of the tokens it returns."""
    ff_mult: int = 4
    """Feed-forward expansion."""


class PerceiverAttention(nn.Module):
    """Latents attend to [features; latents], each normalised by its own LayerNorm; no biases."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, width, bias=False)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """Latents [B,Q,D] and features [B,L,D] to an update of the latents [B,Q,D]."""
        latents = self.norm_latents(latents)
        context = torch.cat([self.norm_features(features), latents], dim=1)
        q = rearrange(self.to_q(latents), "b q (h d) -> b h q d", h=self.heads)
        k, v = rearrange(self.to_kv(context), "b l (kv h d) -> kv b h l d", kv=2, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(out, "b h q d -> b q (h d)"))


class FeedForward(nn.Module):
    """LayerNorm, expansion, GELU, contraction; the two linear layers have no biases."""

    def __init__(self, width: int, mult: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, mult * width, bias=False)
        self.down = nn.Linear(mult * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,Q,D] to an update of the same shape."""
        return self.down(F.gelu(self.up(self.norm(x))))


class ResamplerBlock(nn.Module):
    """One residual attention and one residual feed-forward."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.attention = PerceiverAttention(config.width, config.heads, config.head_dim)
        self.feed_forward = FeedForward(config.width, config.ff_mult)

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """Latents [B,Q,D] and features [B,L,D] to latents [B,Q,D]."""
        latents = latents + self.attention(latents, features)
        return latents + self.feed_forward(latents)


class PerceiverResampler(nn.Module):
    """Encoder features to a fixed number of tokens."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(1, config.queries, config.width) / config.width**0.5)
        self.proj_in = nn.Linear(config.input_dim, config.width)
        self.blocks = nn.ModuleList(ResamplerBlock(config) for _ in range(config.depth))
        self.proj_out = nn.Linear(config.width, config.output_dim)
        self.norm_out = nn.LayerNorm(config.output_dim)

    def forward(self, features: Tensor) -> Tensor:
        """Features [..., L, C] of any length L to tokens [..., Q, D].

        Raises:
            MotionRAGError: If the features' width is not the one it was built for, or an axis is missing.
        """
        if features.ndim < 3:
            raise MotionRAGError(f"features are {tuple(features.shape)}, wanted are [...,L,C] with a batch axis")
        if features.shape[-1] != self.config.input_dim:
            raise MotionRAGError(
                f"features are {features.shape[-1]} wide, this resampler takes {self.config.input_dim}: "
                "they come from another encoder"
            )
        x = self.proj_in(features.flatten(0, -3))
        latents = self.latents.expand(len(x), -1, -1)
        for block in self.blocks:
            latents = block(latents, x)
        tokens = self.norm_out(self.proj_out(latents))
        return tokens.unflatten(0, features.shape[:-2])
