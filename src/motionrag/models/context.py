"""The Motion Context Transformer: reference motions adapted to the target image (paper, section 3.3).

In-context learning over blocks of tokens, one a clip: each block predicts the motion tokens of its clip
from that clip's appearance and from the motions and appearances of the clips before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """Sizes of the Motion Context Transformer; the defaults are the published ones."""

    width: int = 1024
    """Width of motion and appearance tokens."""
    queries: int = 25
    """Tokens in a block, the number the resamplers return."""
    layers: int = 4
    """Encoder layers, post-norm."""
    heads: int = 16
    """Attention heads."""
    feed_forward: int = 4096
    """Width of the feed-forward layers."""
    max_positions: int = 256
    """Length of the position table, in tokens: it bounds the number of references."""
    kept: float = 0.0
    """Share in [0, 1] of the references' own motion, by the fusion `weighted`, in what they are adapted to: what the
    transformer predicts is nearer to the truth but smoother. Not in the paper; 0 as published."""

    def __post_init__(self) -> None:
        if self.width % 2:
            raise MotionRAGError(f"ContextConfig: width={self.width} is odd, positions need sine and cosine pairs")
        if self.width % self.heads:
            raise MotionRAGError(f"ContextConfig: width={self.width} is not divisible by heads={self.heads}")
        if not 0 <= self.kept <= 1:
            raise MotionRAGError(f"ContextConfig: kept={self.kept} is a share, 0 to 1")
        if self.max_positions < self.queries:
            raise MotionRAGError(
                f"ContextConfig: max_positions={self.max_positions} is less than one block, queries={self.queries}"
            )

    @property
    def max_references(self) -> int:
        """The most references K for which the K + 1 blocks fit the position table."""
        return self.max_positions // self.queries - 1


def sinusoidal_positions(length: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positions [L,D]: sine in the even channels, cosine in the odd ones, wavelengths 2 pi to 20,000 pi."""
    position = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(position * rate), torch.cos(position * rate)], dim=-1).flatten(1).to(dtype)


def block_causal_mask(blocks: int, queries: int, device: torch.device) -> Tensor:
    """Boolean [L,L], True where a token must not look: at tokens of any later block than its own."""
    block = torch.arange(blocks * queries, device=device) // queries
    return block[:, None] < block[None, :]


class MotionContextTransformer(nn.Module):
    """Causal over blocks; block i sees its own appearance and the motion of block i - 1 and earlier."""

    def __init__(self, config: ContextConfig) -> None:
        super().__init__()
        self.config = config
        self.start = nn.Parameter(torch.randn(1, config.queries, config.width) / config.width**0.5)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, config.feed_forward, dropout=0.0, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, motion: Tensor, appearance: Tensor) -> Tensor:
        """Predict the motion of every block.

        Args:
            motion: Motion tokens of the references [B,K,Q,D], **least similar first**; K may be 0.
            appearance: Appearance tokens [B,K+1,Q,D] of the references in the same order, then the target.

        Returns:
            Predicted motion tokens [B,K+1,Q,D]; the last block is the target's adapted motion.

        Raises:
            MotionRAGError: If the shapes do not belong together or K exceeds the position table.
        """
        self._check(motion, appearance)
        B, blocks, Q, D = appearance.shape
        shifted = torch.cat([self.start.expand(B, -1, -1), motion.flatten(1, 2)], dim=1)
        positions = sinusoidal_positions(blocks * Q, D, device=shifted.device, dtype=shifted.dtype)
        x = shifted + positions + (appearance + positions[:Q]).flatten(1, 2)
        x = self.encoder(x, mask=block_causal_mask(blocks, Q, x.device), is_causal=False)  # else it reads the mask
        return rearrange(x, "b (k q) d -> b k q d", q=Q)

    def _check(self, motion: Tensor, appearance: Tensor) -> None:
        B, K, Q, D = motion.shape if motion.ndim == 4 else (0, 0, 0, 0)
        if appearance.shape != (B, K + 1, Q, D) or (self.config.queries, self.config.width) != (Q, D):
            raise MotionRAGError(
                f"motion tokens {tuple(motion.shape)} and appearance tokens {tuple(appearance.shape)} must be "
                f"[B,K,Q,D] and [B,K+1,Q,D] with Q={self.config.queries}, D={self.config.width}"
            )
        if self.config.max_references < K:
            raise MotionRAGError(
                f"{K} references are too many: the position table holds {self.config.max_references}"
            )


def block_losses(predicted: Tensor, true: Tensor) -> Tensor:
    """Mean squared error of each block: two [B,K+1,Q,D] to [K+1].

    Its mean is the training loss of stage 2, over all blocks; its last entry is the target block's.
    """
    return (predicted - true).square().mean(dim=(0, 2, 3))
