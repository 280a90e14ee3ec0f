"""DynamiCrafter's image resampler: CLIP tokens of one image to tokens for every frame of the clip.

It is the perceiver resampler of the method itself, with queries of its own for each frame.
"""

from __future__ import annotations

from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from motionrag.models.resampler import PerceiverResampler, ResamplerConfig


class ImageProjection(ModelMixin, ConfigMixin):
    """The resampler as a component of a pipeline; its defaults are the sizes of all released models.

    Args:
        input_dim: Width of the image encoder's tokens.
        width: Width of the latents inside.
        depth: Blocks.
        heads: Attention heads.
        head_dim: Width of one.
        queries: Tokens for each frame.
        frames: T.
        output_dim: Width of the tokens it returns.
        ff_mult: Feed-forward expansion.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        input_dim: int = 1280,
        width: int = 1024,
        depth: int = 4,
        heads: int = 12,
        head_dim: int = 64,
        queries: int = 16,
        frames: int = 16,
        output_dim: int = 1024,
        ff_mult: int = 4,
    ) -> None:
        super().__init__()
        self.resampler = PerceiverResampler(
            ResamplerConfig(
                input_dim=input_dim,
                width=width,
                depth=depth,
                heads=heads,
                head_dim=head_dim,
                queries=queries * frames,
                output_dim=output_dim,
                ff_mult=ff_mult,
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """CLIP tokens [B,L,C] to image tokens [B,(T Q),D]."""
        return self.resampler(features)
