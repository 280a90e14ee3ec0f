"""The embedded base's VAE: latents of the first frame say what there is, those of the others where it went.

Every frame after the first is decoded by moving what stands out in the first one, as latent flow diffusion does
(Ni et al., CVPR 2023): a base then learns motion alone, and objects keep shape and colour whatever it generates.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from einops import rearrange, repeat
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


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

    def forward(self, x: Tensor) -> Tensor:
        """[N,D,H,W] to the same."""
        return x + self.layers(x)


class AttentionBlock(nn.Module):
    """Self-attention over all places of a picture and a feed-forward layer, both around an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.norm, self.norm_ff = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.ff = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        for layer in (self.out, self.ff[-1]):
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """[N,D,H,W] to the same."""
        tokens = rearrange(x, "n d h w -> n (h w) d")
        q, k, v = rearrange(self.qkv(self.norm(tokens)), "n l (three h d) -> three n h l d", three=3, h=self.heads)
        mixed = F.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.out(rearrange(mixed, "n h l d -> n l (h d)"))
        tokens = tokens + self.ff(self.norm_ff(tokens))
        return rearrange(tokens, "n (h w) d -> n d h w", h=x.shape[-2])


class Places(nn.Module):
    """Adds to features [N,D,H,W] where in the picture they are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(14, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N,D,H,W] to the same."""
        grid = coordinates(x.shape[-2], x.shape[-1], x.device)
        waves = [part(k * math.pi / 2 * grid) for k in (1, 2, 4) for part in (torch.sin, torch.cos)]
        return x + rearrange(self.project(torch.cat([grid, *waves], dim=-1).to(x.dtype)), "h w d -> d h w")


def coordinates(height: int, width: int, device: torch.device) -> Tensor:
    """Centres of cells, x and y in [-1, 1] across the picture, f32 [H,W,2]."""
    y, x = ((torch.arange(side, device=device) + 0.5) / side * 2 - 1 for side in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def warp(picture: Tensor, flow: Tensor) -> Tensor:
    """Each place of a frame from where in the picture it came from.

    Args:
        picture: [N,C,H,W].
        flow: From the first frame to this one in half pictures, x and y [N,2,H,W]: (x, y) shows what was at
            (x, y) - flow.
    """
    height, width = picture.shape[-2:]
    grid = coordinates(height, width, picture.device) - rearrange(flow.float(), "n c h w -> n h w c")
    return F.grid_sample(picture.float(), grid, padding_mode="border", align_corners=False)


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [ResidualBlock(width) for _ in range(count)]


def start_as_identities(module: nn.Module) -> None:
    """Set the blocks of a module to add nothing at first."""
    for block in module.modules():
        if isinstance(block, ResidualBlock):
            nn.init.zeros_(block.layers[-1].weight)  # type: ignore[arg-type]
        elif isinstance(block, AttentionBlock):
            nn.init.zeros_(block.out.weight)
            nn.init.zeros_(block.ff[-1].weight)  # type: ignore[arg-type]


def _up(wide: int, narrow: int) -> list[nn.Module]:
    """Twice the side."""
    return [nn.Conv2d(wide, 4 * narrow, 1), nn.PixelShuffle(2)]


def _head(width: int, channels: int) -> list[nn.Module]:
    return [nn.GroupNorm(16, width), nn.SiLU(), nn.Conv2d(width, channels, 3, padding=1)]


class Layers(NamedTuple):
    """The first frame taken apart."""

    picture: Tensor
    """The frame itself [B,3,H,W], about in [-1, 1]."""
    cover: Tensor
    """Logit of how much of each pixel belongs to what can move [B,1,H,W]."""
    behind: Tensor
    """What is seen once that has moved away [B,3,H,W]."""
    features: Tensor
    """Of cells of 8x8 pixels [B,D,h,w]."""


class Moved(NamedTuple):
    """A later frame, made of the first one's layers."""

    frame: Tensor
    """[N,3,H,W], about in [-1, 1]."""
    flow: Tensor
    """Of what moves, in half pictures [N,2,H,W]."""
    present: Tensor
    """Logit of whether what moves is near [N,1,H,W]."""


class PictureCoder(nn.Module):
    """A convolutional autoencoder of single pictures, 8 times smaller on both sides.

    Linear shortcuts around both halves, and blocks that start as identities: it learns several times faster.
    """

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, quarter, 3, padding=1),
            *_blocks(quarter, 1),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            *_blocks(eighth, 2),
            *_head(eighth, 2 * channels),
        )
        self.encoder_shortcut = nn.Conv2d(3, 2 * channels, 8, stride=8)
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, eighth, 3, padding=1),
            *_blocks(eighth, 2),
            *_up(eighth, quarter),
            *_blocks(quarter, 3),
            *_up(quarter, half),
            *_blocks(half, 2),
            *_head(half, 12),
            nn.PixelShuffle(2),
        )
        self.decoder_shortcut = nn.ConvTranspose2d(channels, 3, 8, stride=8)
        start_as_identities(self)
        # A fresh VAE starts with little noise on its latents: with much of it, it learns slowly.
        for layer in (self.encoder[-1], self.encoder_shortcut):
            nn.init.zeros_(layer.weight[channels:])  # type: ignore[index]
            nn.init.constant_(layer.bias[channels:], -3.0)  # type: ignore[index]

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Pictures [N,3,H,W] in [-1, 1] to mean and log variance of their latents [N,C,h,w]."""
        mean, log_variance = (self.encoder(pictures) + self.encoder_shortcut(pictures)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [N,C,h,w] to pictures [N,3,H,W]."""
        pictures: Tensor = self.decoder(latents) + self.decoder_shortcut(latents)
        return pictures


class LayerSplitter(nn.Module):
    """Tells in a picture what can move, and paints what is behind it."""

    def __init__(self, widths: tuple[int, int, int]) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.fine = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, half, 3, padding=1), *_blocks(half, 1))
        self.middle = nn.Sequential(nn.Conv2d(half, quarter, 3, stride=2, padding=1), *_blocks(quarter, 1))
        self.coarse = nn.Sequential(
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1), Places(eighth), *_blocks(eighth, 1)
        )
        self.look = nn.Sequential(AttentionBlock(eighth), *_blocks(eighth, 1))
        self.up_middle = nn.Sequential(*_up(eighth, quarter))
        self.at_middle = nn.Sequential(*_blocks(quarter, 1))
        self.up_fine = nn.Sequential(*_up(quarter, half))
        self.at_fine = nn.Sequential(*_blocks(half, 1), *_head(half, 4 * 4), nn.PixelShuffle(2))
        start_as_identities(self)

    def forward(self, picture: Tensor) -> Layers:
        """A picture [B,3,H,W] to its layers."""
        fine = self.fine(picture)
        middle = self.middle(fine)
        features = self.look(self.coarse(middle))
        middle = self.at_middle(middle + self.up_middle(features))
        cover, paint = self.at_fine(fine + self.up_fine(middle)).float().split([1, 3], dim=1)
        return Layers(picture, cover, picture + cover.sigmoid() * (paint - picture), features)


class MotionCoder(nn.Module):
    """Codes how a frame differs from the first one, and moves the first one's layers accordingly.

    Its blocks do not start as identities: then it does not learn to find what moved.
    """

    def __init__(self, widths: tuple[int, int, int], channels: int) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(96, quarter, 3, padding=1),
            *_blocks(quarter, 1),
            nn.Conv2d(quarter, eighth, 3, stride=2, padding=1),
            Places(eighth),
            *_blocks(eighth, 1),
            AttentionBlock(eighth),
            AttentionBlock(eighth),
            *_blocks(eighth, 1),
            *_head(eighth, 2 * channels),
        )
        nn.init.zeros_(self.encoder[-1].weight[channels:])  # type: ignore[index]
        nn.init.constant_(self.encoder[-1].bias[channels:], -5.0)  # type: ignore[index]
        self.read = nn.Sequential(nn.Conv2d(channels, eighth, 3, padding=1), Places(eighth))
        self.match = nn.Sequential(
            *_blocks(eighth, 1), AttentionBlock(eighth), AttentionBlock(eighth), *_blocks(eighth, 1)
        )
        self.refine = nn.Sequential(
            *_up(eighth, quarter), *_blocks(quarter, 1), *_up(quarter, half), *_blocks(half, 1), *_head(half, 3 + 12)
        )
        nn.init.zeros_(self.refine[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.refine[-1].bias)  # type: ignore[arg-type]

    def encode(self, frames: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Frames and their clips' first ones, both [N,3,H,W] in [-1, 1], to mean and log variance [N,M,h,w]."""
        mean, log_variance = self.encoder(torch.cat([frames - first, first], dim=1)).chunk(2, dim=1)
        return mean, log_variance

    def decode(self, latents: Tensor, layers: Layers) -> Moved:
        """Latents of motion [B,T,M,h,w] of clips with these layers [B,...] to their frames [B*T,...]."""
        T = latents.shape[1]
        spread = Layers(*(repeat(part, "b c h w -> (b t) c h w", t=T) for part in layers))
        seen = self.match(self.read(latents.flatten(0, 1)) + spread.features)
        flow, present, rest = self.refine(seen).float().split([2, 1, 12], dim=1)
        flow, present = (
            F.interpolate(part, scale_factor=2, mode="bilinear", align_corners=False) for part in (flow, present)
        )
        moved, cover = warp(torch.cat([spread.picture, spread.cover], dim=1), flow).split([3, 1], dim=1)
        alpha = cover.sigmoid() * present.sigmoid()
        frame = spread.behind + alpha * (moved - spread.behind) + F.pixel_shuffle(rest, 2)
        return Moved(frame, flow, present)


class WarpVAE(ModelMixin, ConfigMixin):
    """The VAE, with the interface that the CogVideoX pipeline expects; frames are never joined.

    Latents [B,C,T,H/8,W/8]: of the first frame all C channels say what it shows; of each other frame the first M say
    how it differs from the first, and the rest is zero.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        picture_widths: tuple[int, int, int] = (48, 96, 160),
        motion_widths: tuple[int, int, int] = (32, 80, 128),
        latent_channels: int = 8,
        motion_channels: int = 8,
        block_out_channels: tuple[int, ...] = (48, 96, 128, 160),
        temporal_compression_ratio: int = 1,
        scaling_factor: float = 1.0,
        invert_scale_latents: bool = False,
    ) -> None:
        """Sizes.

        Args:
            picture_widths: Channels at a half, a quarter and an eighth of the frame's side in what codes pictures;
                multiples of 16.
            motion_widths: The same in what tells layers and codes motion.
            latent_channels: C.
            motion_channels: M, at most C.
            block_out_channels: Read by the pipeline, for its length alone: 8 = 2 ** (length - 1).
            temporal_compression_ratio: Read by the pipeline.
            scaling_factor: Read by the pipeline; latents come out standardised.
            invert_scale_latents: Read by the pipeline.
        """
        super().__init__()
        if motion_channels > latent_channels:
            raise MotionRAGError(f"motion_channels={motion_channels} is above latent_channels={latent_channels}")
        self.pictures = PictureCoder(picture_widths, latent_channels)
        self.layers = LayerSplitter(motion_widths)
        self.motions = MotionCoder(motion_widths, motion_channels)
        for name, channels in (("picture", latent_channels), ("motion", motion_channels)):
            self.register_buffer(f"{name}_mean", torch.zeros(channels, 1, 1))
            self.register_buffer(f"{name}_std", torch.ones(channels, 1, 1))

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Video [B,3,T,H,W] in [-1, 1] to the distribution of its standardised latents [B,C,T,H/8,W/8].

        Raises:
            MotionRAGError: If a side is not a multiple of 8.
        """
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise MotionRAGError(f"frames are {x.shape[-1]}x{x.shape[-2]}: both sides must be multiples of 8")
        B, T = x.shape[0], x.shape[2]
        mean, log_variance = self.pictures.encode(x[:, :, 0])
        means = [((mean - self.picture_mean) / self.picture_std)[:, None]]
        log_variances = [(log_variance - 2 * self.picture_std.log())[:, None]]
        if T > 1:
            first = repeat(x[:, :, 0], "b c h w -> (b t) c h w", t=T - 1)
            mean, log_variance = self.motions.encode(rearrange(x[:, :, 1:], "b c t h w -> (b t) c h w"), first)
            unused = (0, 0, 0, 0, 0, self.config.latent_channels - self.config.motion_channels)
            mean = F.pad((mean - self.motion_mean) / self.motion_std, unused)
            log_variance = F.pad(log_variance - 2 * self.motion_std.log(), unused, value=-30.0)
            means.append(mean.unflatten(0, (B, T - 1)))
            log_variances.append(log_variance.unflatten(0, (B, T - 1)))
        both = torch.cat([torch.cat(means, dim=1), torch.cat(log_variances, dim=1)], dim=2)
        posterior = DiagonalGaussianDistribution(rearrange(both, "b t c h w -> b c t h w"))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook  # type: ignore[untyped-decorator]
    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """Standardised latents [B,C,T,h,w] to video [B,3,T,8h,8w], about in [-1, 1]."""
        B, T = z.shape[0], z.shape[2]
        picture = self.pictures.decode(z[:, :, 0] * self.picture_std + self.picture_mean)
        frames = [picture[:, None]]
        if T > 1:
            motion = rearrange(z[:, : self.config.motion_channels, 1:], "b c t h w -> b t c h w")
            moved = self.motions.decode(motion * self.motion_std + self.motion_mean, self.layers(picture))
            frames.append(moved.frame.to(picture).unflatten(0, (B, T - 1)))
        video = rearrange(torch.cat(frames, dim=1), "b t c h w -> b c t h w")
        return DecoderOutput(sample=video) if return_dict else (video,)

    def forward(self, sample: Tensor) -> Any:
        """Video to video, through the means of its latents."""
        return self.decode(self.encode(sample).latent_dist.mode())
