"""DynamiCrafter's pipeline: one image and one prompt to a clip (Xing et al., ECCV 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from einops import rearrange, repeat
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModel

from motionrag.bases.dynamicrafter.resampler import ImageProjection
from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler, guide
from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet
from motionrag.errors import MotionRAGError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the pixels in [0, 1] that the image encoder was trained on."""

Generators = torch.Generator | list[torch.Generator] | None
StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]


@dataclass
class DynamiCrafterOutput(BaseOutput):
    """Clips of one run."""

    frames: Any
    """B lists of T PIL images, or [B,T,H,W,3] ("np") or [B,T,3,H,W] ("pt") in [0, 1]; latents as they are."""


class DynamiCrafterPipeline(DiffusionPipeline):
    """Image-to-video by the released DynamiCrafter models.

    Args:
        tokenizer: CLIP's; it fills up with token 0, as OpenCLIP does.
        text_encoder: OpenCLIP's text tower without its last block, so that its answer is the penultimate layer's.
        image_encoder: OpenCLIP's image tower, of which all tokens are taken, before the last norm.
        image_projection: Makes tokens for every frame of them.
        vae: Stable Diffusion's.
        unet: The denoiser.
        scheduler: The sampler.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->image_projection->unet->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        image_encoder: CLIPVisionModel,
        image_projection: ImageProjection,
        vae: AutoencoderKL,
        unet: DynamiCrafterUNet,
        scheduler: DynamiCrafterScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            image_encoder=image_encoder,
            image_projection=image_projection,
            vae=vae,
            unet=unet,
            scheduler=scheduler,
        )
        self.vae_scale_factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.video_processor = VideoProcessor(vae_scale_factor=self.vae_scale_factor)
        self._guidance_scale = 1.0

    @property
    def guidance_scale(self) -> float:
        """Of the run; 1 and less is without."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the denoiser's rows are [unconditional; conditional]."""
        return self._guidance_scale > 1

    @torch.no_grad()
    def __call__(
        self,
        image: Image.Image | Sequence[Image.Image] | Tensor,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str = "",
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int = 30,
        guidance_scale: float = 2.0,
        guidance_rescale: float = 0.7,
        timestep_spacing: str | None = None,
        eta: float = 1.0,
        rate: int | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        decode_chunk_size: int = 4,
        callback_on_step_end: StepCallback | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Make clips.

        Args:
            image: First frames: one image, B of them, or a tensor [B,3,H,W] in [0, 1].
            prompt: What happens in them, B texts or one for all; None if `prompt_embeds` are given.
            negative_prompt: What guidance turns away from, besides a grey image.
            height: In pixels, a multiple of 8 times the reduction of the UNet; None is the model's own.
            width: Likewise.
            num_frames: T; the model makes no other number than its own.
            num_inference_steps: Denoising steps.
            guidance_scale: Strength of classifier-free guidance; 1 and less is without.
            guidance_rescale: How far guidance is brought back to the prediction's spread, in [0, 1].
            timestep_spacing: "trailing" or "leading"; None is the scheduler's own.
            eta: How much of the noise is drawn anew in each step; 0 draws none.
            rate: Rate the model is told: frames a second (of the 256 model: a stride); None is its own.
            num_videos_per_prompt: Clips of each image and prompt.
            generator: Of all noise; one, or one for each clip.
            latents: The noise to begin with, [B,C,T,H/8,W/8].
            prompt_embeds: In place of prompts, [B,L,D].
            negative_prompt_embeds: In place of the negative prompt, [B,L,D].
            output_type: "pil", "np", "pt" or "latent".
            decode_chunk_size: Frames decoded at a time.
            callback_on_step_end: Called with pipeline, step, timestep and {"latents": ...}; returns that, or what
                replaces it.
            return_dict: Whether the answer is an object with `frames`; else a tuple.

        Raises:
            MotionRAGError: If numbers of images, prompts and generators, or the size, do not fit.
        """
        own_height, own_width = (edge * self.vae_scale_factor for edge in self.unet.config.sample_size)
        height, width = height or own_height, width or own_width
        self._check_size(height, width, num_frames)
        self._guidance_scale = guidance_scale
        pixels = self.video_processor.preprocess(image, height=height, width=width).to(self._execution_device)
        B = len(pixels) * num_videos_per_prompt
        if isinstance(generator, list) and len(generator) != B:
            raise MotionRAGError(f"{len(generator)} generators for {B} clips: give one for each, or one for all")

        text = [self._text(prompt, prompt_embeds, len(pixels))]
        tokens = [self.encode_image(pixels)]
        if self.do_classifier_free_guidance:
            text.insert(0, self._text(negative_prompt, negative_prompt_embeds, len(pixels)))
            tokens.insert(0, self.encode_image(torch.zeros_like(pixels)))
        given = {
            "encoder_hidden_states": self._rows(text, num_videos_per_prompt),
            "image_embeds": self._rows(tokens, num_videos_per_prompt),
            "rate": None if rate is None else torch.full((len(text) * B,), rate, device=pixels.device),
        }
        shown = self.encode_latents(pixels.repeat_interleave(num_videos_per_prompt, dim=0), generator)
        shown = repeat(shown.to(self.unet.dtype), "b c h w -> b c t h w", t=self.unet.config.num_frames)
        if latents is None:
            latents = randn_tensor(shown.shape, generator=generator, device=shown.device, dtype=shown.dtype)
        x = latents.to(shown)

        self.scheduler.set_timesteps(num_inference_steps, device=x.device, timestep_spacing=timestep_spacing)
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            prediction = self._predict(torch.cat([x, shown], dim=1), t, given, guidance_rescale)
            x = self.scheduler.step(prediction, t, x, eta=eta, generator=generator).prev_sample
            if callback_on_step_end is not None:
                x = callback_on_step_end(self, i, t, {"latents": x}).pop("latents", x)

        made = x if output_type == "latent" else self._frames(x, decode_chunk_size, output_type)
        self.maybe_free_model_hooks()
        return DynamiCrafterOutput(frames=made) if return_dict else (made,)

    def _predict(self, x: Tensor, t: Tensor, given: dict[str, Any], rescale: float) -> Tensor:
        """The denoiser's answer [B,C,T,H/8,W/8]; with guidance in one call of [unconditional; conditional] rows."""
        if not self.do_classifier_free_guidance:
            return self.unet(x, t, **given).sample
        unconditional, conditional = self.unet(torch.cat([x, x]), t, **given).sample.chunk(2)
        return guide(unconditional, conditional, self._guidance_scale, rescale)

    def _rows(self, groups: Sequence[Tensor], copies: int) -> Tensor:
        """Conditions [B,L,D] of each group, one after the other, each row as often as clips are made of it."""
        return torch.cat([x.repeat_interleave(copies, dim=0) for x in groups]).to(self.unet.dtype)

    @torch.no_grad()
    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """Texts to embeddings [B,L,D]: all positions, those after the end too, as the model was trained."""
        length = self.text_encoder.config.max_position_embeddings
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return self.text_encoder(ids.to(self._execution_device)).last_hidden_state

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Images [B,3,H,W] in [-1, 1], squeezed to a square whatever their shape, to tokens [B,(T Q),D]."""
        edge = self.image_encoder.config.image_size
        x = (_resize_with_antialiasing(pixels.float(), (edge, edge)) + 1) / 2
        mean, std = (x.new_tensor(values).view(3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        features = self.image_encoder(((x - mean) / std).to(self.image_encoder.dtype)).last_hidden_state
        return self.image_projection(features.to(self.image_projection.dtype))

    @torch.no_grad()
    def encode_latents(self, pixels: Tensor, generator: Generators = None) -> Tensor:
        """Images [B,3,H,W] in [-1, 1] to latents [B,C,H/8,W/8], drawn from what the VAE says of them."""
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist
        return posterior.sample(generator) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode_latents(self, latents: Tensor, decode_chunk_size: int = 4) -> Tensor:
        """Latents [B,C,T,H/8,W/8] to frames f32 [B,3,T,H,W] in about [-1, 1], each for itself."""
        x = rearrange(latents, "b c t h w -> (b t) c h w").to(self.vae.dtype) / self.vae.config.scaling_factor
        frames = torch.cat([self.vae.decode(part).sample for part in x.split(decode_chunk_size)])
        return rearrange(frames.float(), "(b t) c h w -> b c t h w", b=len(latents))

    def _frames(self, latents: Tensor, decode_chunk_size: int, output_type: str) -> Any:
        video = self.decode_latents(latents, decode_chunk_size)
        return self.video_processor.postprocess_video(video=video, output_type=output_type)

    def _text(self, prompts: str | Sequence[str] | None, embeds: Tensor | None, B: int) -> Tensor:
        """Embeddings [B,L,D] of prompts, unless they are given."""
        if (prompts is None) and (embeds is None):
            raise MotionRAGError("give a prompt, or prompt_embeds")
        if embeds is None:
            texts = [prompts] * B if isinstance(prompts, str) else list(prompts or [])
            if len(texts) != B:
                raise MotionRAGError(f"{len(texts)} prompts for {B} images: give one for each, or one for all")
            return self.encode_prompt(texts)
        if len(embeds) != B:
            raise MotionRAGError(f"embeddings of {len(embeds)} prompts for {B} images: give one for each")
        return embeds

    def _check_size(self, height: int, width: int, frames: int | None) -> None:
        config = self.unet.config
        multiple = self.vae_scale_factor * 2 ** (len(config.channel_mult) - 1)
        if height % multiple or width % multiple:
            raise MotionRAGError(f"height={height} and width={width} must be multiples of {multiple}")
        if frames not in (None, config.num_frames):
            raise MotionRAGError(f"num_frames={frames}: this model makes clips of {config.num_frames} frames only")
