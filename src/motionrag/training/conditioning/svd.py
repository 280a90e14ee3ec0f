"""How Stable Video Diffusion's UNet is called: with the image's embedding, its noised latents and their noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from motionrag.training.cache import Maker
from motionrag.training.conditioning.protocol import Batch, precision
from motionrag.training.fingerprints import digest, module_fingerprint
from motionrag.training.objectives import Noised
from motionrag.training.pictures import picture, pixels, to_u8, video
from motionrag.training.sources import Clips
from motionrag.types import Sampling


class SVD:
    """The first frame's CLIP embedding, its latents beside every noised frame, and how noisy it was."""

    arrays: tuple[str, ...] = ("latents", "image", "image_noise", "prompt")
    dropped: tuple[str, ...] = ("prompt",)
    motion_bucket = 127.0

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._fps = 6.0

    def shapes(self, sampling: Sampling) -> dict[str, tuple[int, ...]]:
        """Of one row of a batch."""
        config, cell = self.pipe.unet.config, self.pipe.vae_scale_factor
        picture = (config.out_channels, sampling.height // cell, sampling.width // cell)
        return {
            "latents": (sampling.frames, *picture),
            "image": picture,
            "image_noise": (1,),
            "prompt": (1, config.cross_attention_dim),
        }

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """Latents [T,C,h,w]; the noised image's, not scaled [C,h,w]; its noise [1]; its CLIP embedding [1,1,D]."""
        vae, clip = module_fingerprint(self.pipe.vae), module_fingerprint(self.pipe.image_encoder)
        size = f"{sampling.frames}x{sampling.height}x{sampling.width}"
        noised = digest(vae, f"first of {size}, log noise N(-3, 0.5)")
        width = self.pipe.image_encoder.config.projection_dim
        return [
            Maker(
                name="latents",
                fingerprint=digest(vae, size),
                make=lambda clips: self.pipe.vae.config.scaling_factor * self._encode(video(clips, sampling)),
            ),
            Maker(name="image", fingerprint=noised, make=lambda clips: self._images(clips, sampling)),
            Maker(
                name="image_noise",
                fingerprint=noised,
                make=lambda clips: torch.stack([self._noise(row)[0] for row in clips.rows]).view(-1, 1),
            ),
            Maker(
                name="prompt",
                fingerprint=digest(clip, f"of {size}"),
                make=lambda clips: self._embeddings(clips, sampling),
                constant=lambda: torch.zeros(1, 1, width),
            ),
        ]

    def _noise(self, row: Mapping[str, Any]) -> tuple[Tensor, torch.Generator]:
        """Strength of a clip's image noise, log N(-3, 0.5), fixed by what the clip is."""
        seed = int(digest(str(row["video"]), str(row.get("span", "")))[:12], 16)
        generator = torch.Generator().manual_seed(seed)
        return torch.exp(torch.randn((), generator=generator) * 0.5 - 3.0), generator

    def _images(self, clips: Clips, sampling: Sampling) -> Tensor:
        noisy = []
        for row, frames in zip(clips.rows, video(clips, sampling)[:, :1], strict=True):
            strength, generator = self._noise(row)
            image = frames.float() / 127.5 - 1
            noisy.append(image + strength * torch.randn(image.shape, generator=generator))
        return torch.cat([self._encode(image[None]) for image in noisy])[:, 0]

    @torch.inference_mode()
    def _encode(self, frames: Tensor) -> Tensor:
        """Frames u8, or f32 in about [-1, 1], [B,T,3,H,W] to latents [B,T,C,h,w], not scaled."""
        vae = self.pipe.vae
        made = [vae.encode(part).latent_dist.mode().float() for part in pixels(frames.flatten(0, 1), vae).split(8)]
        return torch.cat(made).unflatten(0, frames.shape[:2])

    @torch.inference_mode()
    def _embeddings(self, clips: Clips, sampling: Sampling) -> Tensor:
        images = [picture(frames[0]) for frames in video(clips, sampling)]
        made = [self.pipe._encode_image([image], self.pipe.device, 1, False).float() for image in images]
        return torch.cat(made)[:, None]

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents as they are."""
        return batch["latents"].float()

    def predict(self, denoiser: nn.Module, noised: Noised, batch: Batch) -> Tensor:
        """Image latents on the channels of every frame, zero where the prompt is dropped; added time ids."""
        x = noised.sample.to(precision(denoiser))
        prompt = batch["prompt"].to(x)
        kept = (prompt != 0).any(dim=2).view(-1, 1, 1, 1).to(x)
        image = (kept * batch["image"].to(x))[:, None].expand(-1, x.shape[1], -1, -1, -1)
        noise = batch["image_noise"].to(x)
        ids = torch.cat(
            [torch.full_like(noise, self._fps), torch.full_like(noise, self.motion_bucket), noise], dim=1
        )
        return denoiser(
            torch.cat([x, image], dim=2),
            noised.timestep,
            encoder_hidden_states=prompt,
            added_time_ids=ids,
            return_dict=False,
        )[0]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Through the pipeline's own VAE."""
        latents = latents.to(self.pipe.vae.device, self.pipe.vae.dtype)
        frames = self.pipe.decode_latents(latents, latents.shape[1], decode_chunk_size=8)
        return to_u8(rearrange(frames, "b c t h w -> b t c h w"))

    def arguments(self, images: Sequence[Image.Image], batch: Batch, dropped: Tensor) -> dict[str, Any]:
        """The images alone."""
        return {"image": list(images), "fps": int(self._fps) + 1}
