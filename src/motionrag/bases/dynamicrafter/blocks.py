"""Layers of DynamiCrafter's UNet (Xing et al., ECCV 2024): diffusers' own, but for the attention to text and image.

All of them take hidden states of single frames [(B T),D,H,W], frames inner, and the conditions of the call.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.resnet import Downsample2D, ResnetBlock2D, TemporalConvLayer, Upsample2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


class Conditions(NamedTuple):
    """What every layer of one call of the UNet is given besides hidden states; its rows are single frames."""

    embedding: Tensor
    """Of time step and rate, [(B T),D]."""
    text: Tensor
    """Prompt embeddings, the same for all frames of a clip, [(B T),L,D]."""
    image: Tensor
    """Image tokens of each frame, [(B T),Q,D]."""
    frames: int
    """T."""


class TextImageAttention(nn.Module):
    """Cross-attention to the prompt plus, with keys and values of its own, to the image tokens of the frame.

    h = softmax(q k_text^T / sqrt(d)) v_text + a softmax(q k_image^T / sqrt(d)) v_image, where the strength a is 1
    or, if it was learnt, 1 + tanh(alpha). An adapter adds to h, before `to_out`.
    """

    def __init__(
        self, width: int, context_width: int, heads: int, head_dim: int, *, learnable_scale: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k = nn.Linear(context_width, inner, bias=False)
        self.to_v = nn.Linear(context_width, inner, bias=False)
        self.to_k_ip = nn.Linear(context_width, inner, bias=False)
        self.to_v_ip = nn.Linear(context_width, inner, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(inner, width), nn.Dropout(0.0)])
        self.alpha = nn.Parameter(torch.zeros(())) if learnable_scale else None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [N,L,D], and text [N,L',D'] and image tokens [N,Q,D'], to an update [N,L,D].

        Raises:
            MotionRAGError: If a mask is given; the model knows none.
        """
        if attention_mask is not None:
            raise MotionRAGError("DynamiCrafter attends to all tokens of a prompt: leave the attention mask out")
        text, image = encoder_hidden_states
        q = self._heads(self.to_q(hidden_states))
        h = self._attend(q, self.to_k(text), self.to_v(text))
        seen = self._attend(q, self.to_k_ip(image), self.to_v_ip(image))
        h = h + (seen if self.alpha is None else (1 + self.alpha.tanh()) * seen)
        return self.to_out[1](self.to_out[0](rearrange(h, "n h l d -> n l (h d)")))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, self._heads(k), self._heads(v))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "n l (h d) -> n h l d", h=self.heads)


class ResBlock(ResnetBlock2D):
    """Two spatial convolutions with the embedding, then four temporal ones, each half around an identity."""

    def __init__(self, width_in: int, width_out: int, embedding_width: int, dropout: float) -> None:
        super().__init__(
            in_channels=width_in, out_channels=width_out, temb_channels=embedding_width, dropout=dropout, eps=1e-5
        )
        self.temporal_conv = TemporalConvLayer(width_out, width_out, dropout=0.1)

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] to the same, of another width D."""
        return self.temporal_conv(super().forward(x, given.embedding), num_frames=given.frames)


class SpatialTransformer(Transformer2DModel):
    """Self-attention within each frame, then attention to text and image: the adapter's sites."""

    def __init__(
        self, width: int, heads: int, head_dim: int, depth: int, context_width: int, *, learnable_scale: bool
    ) -> None:
        super().__init__(
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            in_channels=width,
            num_layers=depth,
            cross_attention_dim=context_width,
            use_linear_projection=True,
        )
        for block in self.transformer_blocks:
            block.attn2 = TextImageAttention(
                heads * head_dim, context_width, heads, head_dim, learnable_scale=learnable_scale
            )

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] to the same."""
        return super().forward(x, encoder_hidden_states=(given.text, given.image), return_dict=False)[0]


class TemporalTransformer(TransformerTemporalModel):
    """Twice self-attention over the frames of each place."""

    def __init__(self, width: int, heads: int, head_dim: int, depth: int) -> None:
        super().__init__(num_attention_heads=heads, attention_head_dim=head_dim, in_channels=width, num_layers=depth)

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] to the same."""
        return super().forward(x, num_frames=given.frames, return_dict=False)[0]


class Downsample(Downsample2D):
    """A convolution of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__(width, use_conv=True, name="op")

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] to [(B T),D,H/2,W/2]."""
        return super().forward(x)


class Upsample(Upsample2D):
    """Each pixel four times, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__(width, use_conv=True)

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] to [(B T),D,2H,2W]."""
        return super().forward(x)


class Stage(nn.ModuleList):
    """Layers one after the other, computed again in the backward pass if gradient checkpointing is on."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Any

    def forward(self, x: Tensor, given: Conditions) -> Tensor:
        """[(B T),D,H,W] through all of them."""
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self:
            if again and not hasattr(layer, "gradient_checkpointing"):  # those that have it see to it themselves
                x = self._gradient_checkpointing_func(layer, x, given)
            else:
                x = layer(x, given)
        return x
