"""How each base's denoiser is called in training: exactly as its pipeline calls it, from cached arrays.

One class a base: what of a clip is kept (latents, image, prompt), how the network is given it together with noised
latents, how the unmodified pipeline makes samples of it. A new base is one more class and a line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from motionrag.bases.loading import load_base
from motionrag.errors import MotionRAGError
from motionrag.training.cache import Maker
from motionrag.training.fingerprints import digest, module_fingerprint
from motionrag.training.objectives import Noised
from motionrag.training.pictures import picture, pixels, to_u8, video
from motionrag.training.sources import Clips
from motionrag.types import BaseSpec, Sampling

Batch = Mapping[str, Tensor]
"""Of B clips: `latents`, `prompt` and the base's other arrays, f16 as they are cached."""


class Conditioning(Protocol):
    """What a base's denoiser is given beside noised latents."""

    arrays: tuple[str, ...]
    """Names of the cached arrays of a clip that it takes."""

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """What makes these arrays, for clips of a size and so many captions each, as far as the pipeline has it."""

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents f32 [B,T,C,H,W] as the network sees them."""

    def predict(self, denoiser: nn.Module, noised: Noised, batch: Batch) -> Tensor:
        """The network's answer [B,T,C,H,W]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Cached latents [B,T,C,H,W] to frames u8 [B,T,3,H,W]."""

    def arguments(self, images: Sequence[Image.Image], batch: Batch, dropped: Tensor) -> dict[str, Any]:
        """What the pipeline is given for some clips: their first frames and cached prompts, no text."""


class CogVideoX:
    """Prompt embeddings, and the first frame's latents beside the noised ones, zeros after them."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        config = pipe.transformer.config
        self.patch_t = config.patch_size_t or 1
        self.framewise = getattr(pipe.vae.config, "temporal_compression_ratio", None) == 1
        """Whether a frame's latents depend on no other, so that the image's are the clip's first."""
        self.arrays: tuple[str, ...] = ("latents", "prompt") if self.framewise else ("latents", "image", "prompt")
        self._rotary: dict[tuple[int, ...], Any] = {}

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """Latents [T,C,h,w], prompts [P,L,D] and, unless it is the first of the latents, the image's [C,h,w]."""
        vae = module_fingerprint(self.pipe.vae)
        length = self.pipe.transformer.config.max_text_seq_length
        size = f"{sampling.frames}x{sampling.height}x{sampling.width}"
        made = [
            Maker(
                name="latents",
                fingerprint=digest(vae, size),
                make=lambda clips: self._encode(video(clips, sampling)),
            )
        ]
        if self.pipe.text_encoder is not None:
            text = module_fingerprint(self.pipe.text_encoder)
            maker = Maker(
                name="prompt",
                fingerprint=digest(text, f"{captions} captions of {length} tokens"),
                make=lambda clips: self._prompts(clips, captions),
                constant=lambda: self._text([""]),
            )
            made.append(maker)
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

    def _prompts(self, clips: Clips, captions: int) -> Tensor:
        """[N,P,L,D]; each different caption is encoded once."""
        wanted = [row["captions"][i % len(row["captions"])] for row in clips.rows for i in range(captions)]
        places = {caption: place for place, caption in enumerate(dict.fromkeys(wanted))}
        embedded = self._text(list(places))
        return embedded[[places[caption] for caption in wanted]].unflatten(0, (-1, captions))

    @torch.inference_mode()
    def _text(self, prompts: list[str]) -> Tensor:
        length = self.pipe.transformer.config.max_text_seq_length
        with torch.autocast(self.pipe.text_encoder.device.type, torch.bfloat16, enabled=self.framewise):
            return torch.cat(
                [
                    self.pipe.encode_prompt(
                        prompts[start : start + 128], do_classifier_free_guidance=False, max_sequence_length=length
                    )[0].float()
                    for start in range(0, len(prompts), 128)
                ]
            )

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


class SVD:
    """The first frame's CLIP embedding, its latents beside every noised frame, and how noisy it was."""

    arrays: tuple[str, ...] = ("latents", "image", "image_noise", "prompt")
    motion_bucket = 127.0

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._fps = 6.0

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


KINDS: dict[str, Callable[[Any], Conditioning]] = {
    "CogVideoXTransformer3DModel": CogVideoX,
    "UNetSpatioTemporalConditionModel": SVD,
}
"""Class of the denoiser, as in `BaseSpec.denoiser_class` -> how it is called."""


def conditioning_of(pipe: Any, spec: BaseSpec) -> Conditioning:
    """How a pipeline's denoiser is called.

    Raises:
        MotionRAGError: If it is of another class than the spec says, or of one that cannot be trained yet.
    """
    found = type(getattr(pipe, spec.denoiser, None)).__name__
    if found != spec.denoiser_class:
        raise MotionRAGError(f"the base {spec.name} has a {spec.denoiser_class}, this pipeline a {found}")
    if found not in KINDS:
        raise MotionRAGError(f"training knows no {found}; known are {', '.join(KINDS)}")
    return KINDS[found](pipe)


def open_base(name: str, folder: str | None, *, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The pipeline of a base.

    Args:
        name: A key of `motionrag.registry.BASES`.
        folder: Where it is; None for the embedded one or the published one.
        device: Where it runs.
        dtype: What it computes in.

    Raises:
        MotionRAGError: If it is not there.
    """
    return load_base(folder or name, like=name, device=str(device), dtype=dtype)


def precision(module: nn.Module) -> torch.dtype:
    """Of a module's weights."""
    return next(module.parameters()).dtype
