"""How DynamiCrafter's UNet is called: with the first frame's latents, tokens of prompt and image, and the rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor, nn

from motionrag.training.cache import Maker
from motionrag.training.conditioning.protocol import Batch, precision, prompts_maker
from motionrag.training.fingerprints import digest, module_fingerprint
from motionrag.training.objectives import Noised
from motionrag.training.pictures import pixels, to_u8, video
from motionrag.types import Sampling

FRAMES_AT_ONCE = 8
CLIP_LENGTH = 77  # tokens of a prompt, where there is no text encoder to ask


class DynamiCrafter:
    """Where the prompt is dropped, image tokens are a grey image's, as in guidance; the image's latents stay."""

    arrays: tuple[str, ...] = ("latents", "image_tokens", "prompt")
    dropped: tuple[str, ...] = ("image_tokens", "prompt")

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        config = pipe.unet.config
        self.rate = None if config.rate_is_stride else int(config.default_rate)
        """Frames a second that the network is told: the model's own, as in a generation; None for a stride."""
        self.length = CLIP_LENGTH if pipe.text_encoder is None else pipe.text_encoder.config.max_position_embeddings
        """Tokens of a prompt."""

    def shapes(self, sampling: Sampling) -> dict[str, tuple[int, ...]]:
        """Of one row of a batch."""
        config, cell = self.pipe.unet.config, self.pipe.vae_scale_factor
        tokens = self.pipe.image_projection.config
        return {
            "latents": (sampling.frames, config.out_channels, sampling.height // cell, sampling.width // cell),
            "image_tokens": (tokens.queries * tokens.frames, tokens.output_dim),
            "prompt": (self.length, tokens.output_dim),
        }

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """Latents [T,C,h,w], the first frame's being the image's; image tokens [T*Q,D]; prompts [P,L,D]."""
        vae = module_fingerprint(self.pipe.vae)
        image = [module_fingerprint(getattr(self.pipe, part)) for part in ("image_encoder", "image_projection")]
        size = f"{sampling.frames}x{sampling.height}x{sampling.width}"
        made = [
            Maker(
                name="latents",
                fingerprint=digest(vae, size),
                make=lambda clips: self._encode(video(clips, sampling)),
            ),
            Maker(
                name="image_tokens",
                fingerprint=digest(*image, f"first of {size}"),
                make=lambda clips: self._tokens(video(clips, sampling)[:, 0]),
                constant=lambda: self._grey(sampling),
            ),
        ]
        if self.pipe.text_encoder is not None:
            made.append(prompts_maker(self.pipe.text_encoder, self.length, captions, self.pipe.encode_prompt))
        return made

    @torch.inference_mode()
    def _encode(self, frames: Tensor) -> Tensor:
        """Frames u8 [B,T,3,H,W] to latents [B,T,C,h,w], the most likely ones, scaled as the pipeline scales them."""
        vae = self.pipe.vae
        parts = pixels(frames.flatten(0, 1), vae).split(FRAMES_AT_ONCE)
        latents = torch.cat([vae.encode(part).latent_dist.mode().float() for part in parts])
        return vae.config.scaling_factor * latents.unflatten(0, frames.shape[:2])

    @torch.inference_mode()
    def _tokens(self, images: Tensor) -> Tensor:
        """Images u8 [B,3,H,W] to tokens [B,T*Q,D]."""
        parts = (images.to(self.pipe.device).float() / 127.5 - 1).split(FRAMES_AT_ONCE)
        return torch.cat([self.pipe.encode_image(part).float() for part in parts])

    @torch.inference_mode()
    def _grey(self, sampling: Sampling) -> Tensor:
        """Tokens [1,T*Q,D] of an image without content: what guidance sets against the image's."""
        image = torch.zeros(1, 3, sampling.height, sampling.width, device=self.pipe.device)
        tokens: Tensor = self.pipe.encode_image(image).float()
        return tokens

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents as they are."""
        return batch["latents"].float()

    def predict(self, denoiser: nn.Module, noised: Noised, batch: Batch) -> Tensor:
        """Image latents on the channels of every frame; frames are the third axis of what the network is given."""
        x = rearrange(noised.sample.to(precision(denoiser)), "b t c h w -> b c t h w")
        image = repeat(batch["latents"][:, 0].to(x), "b c h w -> b c t h w", t=x.shape[2])
        answer = denoiser(
            torch.cat([x, image], dim=1),
            noised.timestep,
            encoder_hidden_states=batch["prompt"].to(x),
            image_embeds=batch["image_tokens"].to(x),
            rate=None if self.rate is None else torch.full((len(x),), self.rate, device=x.device),
            return_dict=False,
        )[0]
        return rearrange(answer, "b c t h w -> b t c h w")

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Through the pipeline's own VAE."""
        latents = latents.to(self.pipe.vae.device, self.pipe.vae.dtype)
        frames = self.pipe.decode_latents(rearrange(latents, "b t c h w -> b c t h w"))
        return to_u8(rearrange(frames, "b c t h w -> b t c h w"))

    def arguments(self, images: Sequence[Image.Image], batch: Batch, dropped: Tensor) -> dict[str, Any]:
        """Cached embeddings, the empty prompt's for guidance; the pipeline makes the image's tokens anew."""
        prompt = batch["prompt"].to(self.pipe.unet.device, self.pipe.unet.dtype)
        negative = dropped.to(prompt).expand_as(prompt)
        return {"image": list(images), "prompt_embeds": prompt, "negative_prompt_embeds": negative}
