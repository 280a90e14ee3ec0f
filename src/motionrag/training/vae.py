"""Training of the embedded base's VAE: first frames, and other frames as motion of the first one's layers.

The simulator says what moves, what is behind it and where each of its pixels came from; real clips have no such
truth and are reconstructed only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from motionrag.bases.warp_vae import Layers, Moved, WarpVAE, coordinates
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
    families: list[str] = field(default_factory=lambda: ["known", *["free"] * 10])
    """Motion families, in turn."""
    others: int = 2
    """Frames of each clip that are coded beside its first; 0 trains the coder of pictures alone."""
    freeze_pictures: bool = False
    """Whether the coder of pictures stays as it is in `init`."""
    real: float = 0.15
    """Share of real clips, where there are videos."""
    object_weight: float = 4.0
    """Weight of an object's pixels against the background's 1, before normalisation to mean 1."""
    kl: float = 1e-4
    """Weight of the divergence of first frames' latents from the normal distribution, per latent number."""
    motion_kl: float = 1e-3
    """The same of motion latents: more of it makes them say less, and their decoder bear more noise."""
    truth: float = 1.0
    """Weight of what the simulator knows of layers and flow."""
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
    """Trains a `WarpVAE`; see `Task`."""

    Settings = VAESettings

    def __init__(self, settings: VAESettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.model: WarpVAE = (WarpVAE.from_pretrained(settings.init) if settings.init else WarpVAE()).to(device)
        self.model.pictures.requires_grad_(not settings.freeze_pictures)
        if not settings.others:
            self.model.layers.requires_grad_(False)
            self.model.motions.requires_grad_(False)
        self.real = real_clips(settings.videos, settings.size, 8) if settings.videos else None
        held_out = range(1_000_000, 1_000_012)
        self.held_out = draw(
            [thinned(scene, [0, 7, 15]) for scene in scenes(settings.seed, held_out)], size=settings.size
        )

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """First and other frames of clips u8 [B,1+T,3,H,W]; the truth about the simulated ones, which come first."""
        others = self.settings.others
        wanted = int(size * self.settings.real) if self.real is not None else 0
        numbers = torch.randint(0, 100_000_000, (size - wanted,), generator=generator)
        drawn = scenes(self.settings.seed, numbers.tolist(), self.settings.families)
        pick = torch.rand(len(drawn), 15, generator=generator).argsort(dim=1)[:, :others] + 1
        made = draw(
            [thinned(scene, [0, *frames]) for scene, frames in zip(drawn, pick.tolist(), strict=True)],
            size=self.settings.size,
        )
        video = made.video
        if self.real is not None:
            rows = torch.randint(0, len(self.real), (wanted,), generator=generator)
            frames = torch.rand(wanted, self.real.shape[1], generator=generator).argsort(dim=1)[:, : others + 1]
            video = torch.cat([video, self.real[rows[:, None], frames]])
        return {"video": video, **truth(made)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Reconstruction from noisy latents, their divergence from the normal distribution, layers and flow."""
        video = batch["video"].float() / 127.5 - 1
        made, layers, moved, divergence = self.rebuilt(video, generator)
        weight = 1 + (self.settings.object_weight - 1) * attention(batch, len(video)).flatten(0, 1)[:, None]
        rebuilt = reconstruction_loss(made.flatten(0, 1), video.flatten(0, 1), weight / weight.mean())
        loss = rebuilt + self.settings.kl * divergence["picture"]
        known = {}
        if moved is not None:
            known = truth_loss(batch, layers, moved)
            told = known["flow"] + 0.1 * known["cover"] + 0.5 * known["present"] + 0.5 * known["behind"]
            loss = loss + self.settings.motion_kl * divergence["motion"] + self.settings.truth * told
        simulated = slice(0, len(batch["cover"]))
        with torch.no_grad():
            wrong = (made[simulated] - video[simulated]).square().mean(dim=(2, 3, 4)) / 4
            found = {"psnr_first": -10 * torch.log10(wrong[:, 0].mean())}
            if moved is not None:
                found["psnr"] = -10 * torch.log10(wrong[:, 1:].mean())
        found |= {f"{name}_divergence": value for name, value in divergence.items()} | known
        return loss, {name: value.detach() for name, value in found.items()}

    def rebuilt(
        self, video: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Layers, Moved | None, dict[str, Tensor]]:
        """Clips [B,1+T,3,H,W] through their latents, noisy ones if there is a generator."""
        model, T = self.model, video.shape[1] - 1
        first = video[:, 0]
        latents, picture_divergence = sampled(*model.pictures.encode(first), generator)
        picture = model.pictures.decode(latents).float()
        layers = model.layers(picture)
        if not T:
            return picture[:, None], layers, None, {"picture": picture_divergence}
        repeated = first[:, None].expand(-1, T, -1, -1, -1).flatten(0, 1)
        latents, motion_divergence = sampled(*model.motions.encode(video[:, 1:].flatten(0, 1), repeated), generator)
        moved = model.motions.decode(latents.unflatten(0, (-1, T)), layers)
        made = torch.cat([picture[:, None], moved.frame.unflatten(0, (-1, T))], dim=1)
        return made, layers, moved, {"picture": picture_divergence, "motion": motion_divergence}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out clips, their reconstructions and what they are made of; signal-to-noise ratios in dB."""
        from PIL import Image

        video = self.held_out.video
        if self.real is not None:
            video = torch.cat([video, self.real[:: len(self.real) // 6][:6, [0, 3, 7]]])
        video = video.float() / 127.5 - 1
        made, layers, _, _ = self.rebuilt(video.to(self.model.device))
        made, behind = made.clamp(-1, 1).cpu(), layers.behind.clamp(-1, 1).cpu()
        cover = (2 * layers.cover.sigmoid() - 1).expand(-1, 3, -1, -1).cpu()
        rows = [part for frame in range(3) for part in (video[:, frame], made[:, frame])] + [cover, behind]
        pixels = torch.cat([torch.cat(list((row + 1) * 127.5), dim=2) for row in rows], dim=1)
        image = pixels.round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(image).resize((image.shape[1] * 2, image.shape[0] * 2)).save(folder / f"step-{step:06d}.png")
        wrong = (made - video).square().mean(dim=(2, 3, 4)) / 4
        parts = {"simulated": wrong[: len(self.held_out.video)], "real": wrong[len(self.held_out.video) :]}
        return {
            f"held_out_psnr_{what}_{name}": float(-10 * torch.log10(value.mean()))
            for what, values in parts.items()
            if len(values)
            for name, value in (("first", values[:, 0]), ("others", values[:, 1:]))
        }

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        """Write the VAE, with the mean and spread of its latents measured, so that it makes standardised ones."""
        model = self.model
        batches = [self.batch(192, torch.Generator().manual_seed(i))["video"] for i in range(4)]
        video = torch.cat(batches).to(model.device).float() / 127.5 - 1
        pictures = torch.cat([model.pictures.encode(part)[0].float() for part in video[:, 0].split(64)])
        latents_of = {"picture": pictures}
        if self.settings.others:
            repeated = video[:, :1].expand_as(video[:, 1:]).flatten(0, 1)
            pairs = zip(video[:, 1:].flatten(0, 1).split(64), repeated.split(64), strict=True)
            latents_of["motion"] = torch.cat([model.motions.encode(*pair)[0].float() for pair in pairs])
        for name, latents in latents_of.items():
            spread = latents.std(dim=(0, 2, 3))
            getattr(model, f"{name}_mean").copy_(latents.mean(dim=(0, 2, 3))[:, None, None])
            # Channels that say nearly nothing are not blown up to say something.
            getattr(model, f"{name}_std").copy_(spread.clamp_min(0.2 * spread.max())[:, None, None])
        model.save_pretrained(folder)


def sampled(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Latents from their distribution (its mean without a generator), and its divergence from the normal one."""
    mean, log_variance = mean.float(), log_variance.float().clamp(-12, 6)
    divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean()
    if generator is None:
        return mean, divergence
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise, divergence


def truth(made: SynthBatch) -> dict[str, Tensor]:
    """What the simulator knows of clips, in the names of `Layers` and `Moved`.

    `cover` [B,1+T,H,W], `behind` u8 [B,3,H,W], `flow` f32 [B,T,2,H,W] in half pictures, as if the object were
    everywhere; `clear` [B] is 0 where a second object moves, of which only pixels are known.
    """
    size = made.video.shape[-1]
    centers = (made.centers + 0.5) / (size / 2) - 1
    away = coordinates(size, size, centers.device) - centers[:, 1:, None, None]
    cosine, sine = made.angles[:, 1:].cos(), made.angles[:, 1:].sin()
    back = torch.stack([torch.stack([cosine, sine], dim=-1), torch.stack([-sine, cosine], dim=-1)], dim=-2)
    source = torch.einsum("b t i j, b t h w j -> b t h w i", back / made.scales[:, 1:, None, None], away)
    flow = away + centers[:, 1:, None, None] - source - centers[:, :1, None, None]
    return {
        "cover": made.mask,
        "behind": made.background,
        "flow": rearrange(flow, "b t h w c -> b t c h w"),
        "clear": torch.tensor([float(scene.other is None) for scene in made.scenes]),
    }


def attention(batch: dict[str, Tensor], clips: int) -> Tensor:
    """Which pixels matter more [B,1+T,H,W]: objects, and where they were in the first frame; 0.3 in real clips."""
    cover = batch["cover"]
    near = F.max_pool2d(torch.maximum(cover, cover[:, :1]), 3, 1, 1)
    return torch.cat([near, near.new_full((clips - len(near), *near.shape[1:]), 0.3)])


def truth_loss(batch: dict[str, Tensor], layers: Layers, moved: Moved) -> dict[str, Tensor]:
    """Errors of layers and flow where the simulator knows them."""
    count, clear, cover = len(batch["cover"]), batch["clear"], batch["cover"]
    T = cover.shape[1] - 1
    near = F.max_pool2d(cover[:, 1:], 7, 1, 3) * clear[:, None, None, None]
    off = (moved.flow.unflatten(0, (-1, T))[:count] - batch["flow"]).abs().sum(dim=2)
    covered = F.binary_cross_entropy_with_logits(layers.cover[:count, 0], cover[:, 0], reduction="none")
    here = (F.max_pool2d(cover[:, 1:], 9, 1, 4) > 0.01).float()
    present = F.binary_cross_entropy_with_logits(
        moved.present.unflatten(0, (-1, T))[:count, :, 0], here, reduction="none"
    )
    behind = batch["behind"].float() / 127.5 - 1
    hidden = 1 + 3 * cover[:, :1]
    return {
        "flow": (off * near).sum() / near.sum().clamp(min=1),
        "cover": (covered.mean(dim=(1, 2)) * clear).sum() / clear.sum().clamp(min=1),
        "present": (present.mean(dim=(1, 2, 3)) * clear).sum() / clear.sum().clamp(min=1),
        "behind": ((layers.behind[:count] - behind).abs() * hidden / hidden.mean()).mean(),
    }


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
