"""Training of the embedded base's VAE: frames of the simulated corpus and of real videos, reconstructed."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motionrag.bases.tiny import FrameVAE
from motionrag.errors import MotionRAGError
from motionrag.synth import SynthBatch, draw, scenes

if TYPE_CHECKING:
    from motionrag.synth import Scene


@dataclass(frozen=True, kw_only=True)
class VAESettings:
    """What the VAE is trained on, and how its loss is weighted."""

    size: int = 64
    """Side of the frames in pixels."""
    seed: int = 1
    """Of the simulated corpus."""
    videos: str | None = None
    """A folder with videos, of which real frames are taken as well."""
    real: float = 0.15
    """Share of real frames, where there are videos."""
    object_weight: float = 4.0
    """Weight of an object's pixels against the background's 1, before normalisation to mean 1."""
    kl: float = 1e-4
    """Weight of the divergence of latents from the normal distribution, per latent number."""
    init: str | None = None
    """A folder with a VAE to start from."""


def thinned(scene: Scene, frames: list[int]) -> Scene:
    """The scene with some of its frames only."""
    motion = scene.motion
    parts: dict[str, Any] = {
        name: None if value is None else value[frames]
        for name in ("offset", "angle", "scale", "other", "other_angle")
        for value in [getattr(motion, name)]
    }
    return replace(scene, motion=replace(motion, **parts))


def real_clips(folder: str, size: int, frames: int) -> Tensor:
    """All videos below a folder, u8 [N,T,3,H,W]: `frames` evenly spaced from each, its middle cut out square.

    Raises:
        MotionRAGError: If none can be read.
    """
    from motionrag.video import Preparation, VideoError, read_clip

    prepare = Preparation(frames=frames, shortest_edge=size, crop=(size, size))
    found: list[Any] = []
    unreadable: list[str] = []
    for path in sorted(p for p in Path(folder).rglob("*") if p.suffix in {".mp4", ".mkv", ".webm", ".mov"}):
        try:
            found.append(prepare(read_clip(path, frames=frames).frames))
        except VideoError as error:
            unreadable.append(str(error))
    if not found:
        raise MotionRAGError(f"{folder}: holds no video that can be read")
    if unreadable:
        warnings.warn(f"{folder}: {len(unreadable)} videos cannot be read, the first: {unreadable[0]}", stacklevel=2)
    return torch.from_numpy(np.stack(found))


class VAETask:
    """Trains a `FrameVAE`; see `Task`."""

    Settings = VAESettings

    def __init__(self, settings: VAESettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.model: FrameVAE = (FrameVAE.from_pretrained(settings.init) if settings.init else FrameVAE()).to(device)
        self.real = real_clips(settings.videos, settings.size, 6).flatten(0, 1) if settings.videos else None
        self.held_out = self._clips(range(1_000_000, 1_000_016))

    def _clips(self, indices: Any) -> SynthBatch:
        return draw(scenes(self.settings.seed, indices), size=self.settings.size)

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Frames f32 [N,3,H,W] in [-1, 1] and how much of each pixel the object covers [N,1,H,W]."""
        wanted = int(size * self.settings.real) if self.real is not None else 0
        numbers = torch.randint(0, 1_000_000, ((size - wanted + 1) // 2,), generator=generator)
        drawn = scenes(self.settings.seed, numbers.tolist(), ["known"])
        pick = torch.randint(0, 16, (len(drawn), 2), generator=generator).tolist()
        made = draw(
            [thinned(scene, frames) for scene, frames in zip(drawn, pick, strict=True)], size=self.settings.size
        )
        frames = made.video.flatten(0, 1)[: size - wanted]
        mask = made.mask.flatten(0, 1)[: size - wanted, None]
        if self.real is not None:
            chosen = self.real[torch.randint(0, len(self.real), (wanted,), generator=generator)]
            frames = torch.cat([frames, chosen])
            mask = torch.cat([mask, torch.full((wanted, 1, *mask.shape[2:]), 0.3)])
        return {"frames": frames.float() / 127.5 - 1, "mask": mask}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Reconstruction of frames from noisy latents, and the latents' divergence from the normal distribution."""
        frames, mask = batch["frames"], batch["mask"]
        mean, log_variance = self.model.encode_frames(frames)
        log_variance = log_variance.float().clamp(-12, 6)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latents = mean.float() + (log_variance / 2).exp() * noise
        weight = 1 + (self.settings.object_weight - 1) * F.max_pool2d(mask, 3, 1, 1)
        made = self.model.decode_frames(latents).float()
        rebuilt = reconstruction_loss(made, frames, weight / weight.mean())
        divergence = 0.5 * (mean.float() ** 2 + log_variance.exp() - 1 - log_variance).mean()
        simulated = slice(0, len(frames) - int(len(frames) * self.settings.real) if self.real is not None else None)
        psnr = -10 * torch.log10(F.mse_loss(made[simulated].detach(), frames[simulated]) / 4)
        return rebuilt + self.settings.kl * divergence, {"psnr": psnr, "divergence": divergence.detach()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out frames above their reconstructions, and their signal-to-noise ratio in dB."""
        from PIL import Image

        frames = self.held_out.video[:, 7].float() / 127.5 - 1
        if self.real is not None:
            frames = torch.cat([frames[:10], self.real[:: len(self.real) // 6][:6].float() / 127.5 - 1])
        device = self.model.latent_mean.device
        made = self.model.decode_frames(self.model.encode_frames(frames.to(device))[0]).float().clamp(-1, 1).cpu()
        rows = [torch.cat(list((part + 1) * 127.5), dim=2) for part in (frames, made)]
        pixels = torch.cat(rows, dim=1).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2)).save(
            folder / f"step-{step:06d}.png"
        )
        return {"held_out_psnr": float(-10 * torch.log10(F.mse_loss(made, frames) / 4))}

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the VAE, with the mean and spread of its latents measured, so that it makes standardised ones."""
        frames = [self.batch(256, torch.Generator().manual_seed(i))["frames"] for i in range(4)]
        latents = torch.cat(
            [self.model.encode_frames(part.to(self.model.latent_mean.device))[0].float() for part in frames]
        )
        self.model.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        self.model.latent_std.copy_(latents.std(dim=(0, 2, 3)))
        self.model.save_pretrained(folder)


def reconstruction_loss(made: Tensor, true: Tensor, weight: Tensor) -> Tensor:
    """Weighted absolute error of pixels, and of differences between neighbours, which are what blur loses.

    Args:
        made: Frames [N,3,H,W].
        true: Frames [N,3,H,W].
        weight: Of each pixel [N,1,H,W], 1 on average.
    """
    pixels = ((made - true).abs() * weight).mean()
    bent = sum((made.diff(dim=dim) - true.diff(dim=dim)).abs().mean() for dim in (-1, -2))
    return pixels + 0.5 * bent + 0.5 * F.mse_loss(made, true)
