"""How CogVideoX's transformer is called: with the first frame's latents beside the noised ones, and the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from motionrag.training.cache import Maker
from motionrag.training.conditioning.protocol import Batch, precision, prompts_maker
from motionrag.training.fingerprints import digest, module_fingerprint
from motionrag.training.objectives import Noised
from motionrag.training.pictures import pixels, to_u8, video
from motionrag.training.sources import Clips
from motionrag.types import Sampling


class CogVideoX:
    """Prompt embeddings, and the first frame's latents beside the noised ones, zeros after them."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        config = pipe.transformer.config
        self.patch_t = config.patch_size_t or 1
        self.framewise = getattr(pipe.vae.config, "temporal_compression_ratio", None) == 1
        """Whether a frame's latents depend on no other, so that the image's are the clip's first."""
        self.arrays: tuple[str, ...] = ("latents", "prompt") if self.framewise else ("latents", "image", "prompt")
        self.dropped: tuple[str, ...] = ("prompt",)
        self._rotary: dict[tuple[int, ...], Any] = {}

    def shapes(self, sampling: Sampling) -> dict[str, tuple[int, ...]]:
        """Of one row of a batch."""
        config, cell = self.pipe.transformer.config, self.pipe.vae_scale_factor_spatial
        pace = 1 if self.framewise else self.pipe.vae_scale_factor_temporal
        picture = (config.out_channels, sampling.height // cell, sampling.width // cell)
        return {
            "latents": ((sampling.frames - 1) // pace + 1, *picture),
            "image": picture,
            "prompt": (config.max_text_seq_length, config.text_embed_dim),
        }

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """Latents [T,C,h,w], prompts [P,L,D] and, unless it is the first of the latents, the image's [C,h,w]."""
        vae = module_fingerprint(self.pipe.vae)
        size = f"{sampling.frames}x{sampling.height}x{sampling.width}"
        made = [
            Maker(
                name="latents",
                fingerprint=digest(vae, size),
                make=lambda clips: self._encode(video(clips, sampling)),
            )
        ]
        if self.pipe.text_encoder is not None:
            length = self.pipe.transformer.config.max_text_seq_length
            made.append(prompts_maker(self.pipe.text_encoder, length, captions, self._text))
        if not self.framewise:
            make: Callable[[Clips], Tensor] = lambda clips: self._encode(video(clips, sampling)[:, :1])[:, 0]  # noqa: E731
            made.append(Maker(name="image", fingerprint=digest(vae, f"first of {size}"), make=make))
        return made

    @torch.inference_mode()
    def _encode(self, frames: Tensor) -> Tensor:
        """Frames u8 [B,T,3,H,W] to latents [B,T,C,h,w], scaled as the pipeline scales them."""
        vae, scale = self.pipe.vae, self.pipe.vae_scaling_factor_image
        clips = max(1, 256 // frames.shape[1]) if self.framewise else 1
        with torch.autocast(vae.device.type, torch.bfloat16, enabled=self.framewise):  # twice as fast on a CPU
            parts = [
                vae.encode(rearrange(pixels(part, vae), "b t c h w -> b c t h w")).latent_dist.mode().float()
                for part in frames.split(clips)
            ]
        return scale * rearrange(torch.cat(parts), "b c t h w -> b t c h w")

    @torch.inference_mode()
    def _text(self, prompts: list[str]) -> Tensor:
        """Prompts to embeddings [N,L,D]."""
        length = self.pipe.transformer.config.max_text_seq_length
        with torch.autocast(self.pipe.text_encoder.device.type, torch.bfloat16, enabled=self.framewise):
            embedded: Tensor = self.pipe.encode_prompt(
                prompts, do_classifier_free_guidance=False, max_sequence_length=length
            )[0]
        return embedded

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents; as in the pipeline, made a multiple of the temporal patch by frames in front."""
        x0 = batch["latents"].float()
        lacking = -x0.shape[1] % self.patch_t
        return torch.cat([x0[:, :1].expand(-1, lacking, -1, -1, -1), x0], dim=1)

    def predict(self, denoiser: nn.Module, noised: Noised, batch: Batch) -> Tensor:
        """Image latents on the channels, rotary positions, `ofs` where the network has it."""
        x = noised.sample.to(precision(denoiser))
        image = torch.zeros_like(x)
        image[:, 0] = batch["latents"][:, 0] if self.framewise else batch["image"]
        return denoiser(
            hidden_states=torch.cat([x, image], dim=2),
            encoder_hidden_states=batch["prompt"].to(x),
            timestep=noised.timestep,
            ofs=x.new_full((1,), 2.0) if self.pipe.transformer.config.ofs_embed_dim is not None else None,
            image_rotary_emb=self._positions(x),
            return_dict=False,
        )[0]

    def _positions(self, x: Tensor) -> Any:
        if not self.pipe.transformer.config.use_rotary_positional_embeddings:
            return None
        key = tuple(x.shape[i] for i in (1, 3, 4))
        if key not in self._rotary:
            factor = self.pipe.vae_scale_factor_spatial
            with torch.inference_mode(False):
                self._rotary[key] = self.pipe._prepare_rotary_positional_embeddings(
                    key[1] * factor, key[2] * factor, key[0], x.device
                )
        return self._rotary[key]

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Through the pipeline's own VAE."""
        latents = latents.to(self.pipe.vae.device, self.pipe.vae.dtype)
        return to_u8(rearrange(self.pipe.decode_latents(latents), "b c t h w -> b t c h w"))

    def arguments(self, images: Sequence[Image.Image], batch: Batch, dropped: Tensor) -> dict[str, Any]:
        """Cached embeddings, the empty prompt's for guidance."""
        prompt = batch["prompt"].to(self.pipe.transformer.device, self.pipe.transformer.dtype)
        negative = dropped.to(prompt).expand_as(prompt)
        return {"image": list(images), "prompt_embeds": prompt, "negative_prompt_embeds": negative}
