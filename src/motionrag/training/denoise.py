"""What every training of a denoiser shares: batches from the cache, dropped prompts, the base's loss, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from motionrag.registry import base_spec
from motionrag.training.cache import Cache, Report
from motionrag.training.conditioning import conditioning_of
from motionrag.training.data import DataSettings, open_cache, split
from motionrag.training.objectives import ObjectiveSettings, denoising_loss, objective_of
from motionrag.training.pictures import picture
from motionrag.types import Sampling


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """The clips that are made now and then to look at."""

    count: int = 6
    """Held-out clips, at most; 0 makes none."""
    steps: int | None = 12
    """Denoising steps; None takes the base's own."""
    guidance: float | None = 2.0
    """Strength of guidance; 1 is without; None takes the base's own."""
    seed: int = 0
    """Of their noise."""


class Denoising:
    """A base's pipeline and a cache, and what can be done with both."""

    def __init__(
        self,
        pipe: Any,
        base: str,
        data: DataSettings,
        objective: ObjectiveSettings,
        *,
        device: torch.device | str,
        report: Report | None = None,
    ) -> None:
        """Open or make the cache.

        Args:
            pipe: The base's pipeline, on the device.
            base: Its short name.
            data: The clips.
            objective: How the loss is taken.
            device: Where the training runs.
            report: Told how far the making of the cache is.
        """
        self.pipe, self.spec, self.device = pipe, base_spec(base), torch.device(device)
        self.conditioning = conditioning_of(pipe, self.spec)
        self.sampling: Sampling = data.sized(self.spec.sampling(pipe))
        self.cache = open_cache(data, self.conditioning, self.sampling, device=device, report=report)
        self.rows, self.held_out = split(len(self.cache), data.held_out)
        self.objective = objective_of(pipe.scheduler, objective)
        self.motion_weight = objective.motion_weight
        self.dropped = {name: self.cache.constant(name) for name in self.conditioning.dropped}
        """What takes the place of these arrays where the prompt is dropped."""

    @property
    def denoiser(self) -> nn.Module:
        """The pipeline's network."""
        network: nn.Module = getattr(self.pipe, self.spec.denoiser)
        return network

    def draw(self, size: int, generator: torch.Generator) -> Tensor:
        """Numbers of random clips to train on, int64 [B]."""
        return self.rows[torch.randint(len(self.rows), (size,), generator=generator)]

    def batch(
        self, rows: Tensor, drop_prompt: float, generator: torch.Generator, cache: Cache | None = None
    ) -> dict[str, Tensor]:
        """The base's arrays of some clips, one of each clip's prompts, some of them dropped.

        Args:
            rows: Numbers of the clips [B].
            drop_prompt: How often the prompt is dropped, in [0, 1].
            generator: Decides.
            cache: Another cache than the own one.
        """
        batch = {
            name: (self.cache if cache is None else cache).take(name, rows) for name in self.conditioning.arrays
        }
        prompts = batch["prompt"]
        chosen = torch.randint(prompts.shape[1], (len(rows),), generator=generator)
        batch["prompt"] = prompts[torch.arange(len(rows)), chosen]
        drop = torch.rand(len(rows), generator=generator) < drop_prompt
        for name, nothing in self.dropped.items():
            batch[name] = torch.where(drop[:, None, None], nothing, batch[name])
        return batch

    def loss(self, denoiser: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The base's own objective on a batch."""
        x0 = self.conditioning.latents(batch)
        noised = self.objective(x0, generator)
        prediction = self.conditioning.predict(denoiser, noised, batch)
        return denoising_loss(prediction, noised, x0, self.motion_weight)

    # -- samples

    def shown(self, settings: SampleSettings) -> Tensor:
        """Numbers of the held-out clips that are sampled."""
        count = min(settings.count, len(self.held_out))
        return (
            self.held_out[torch.linspace(0, len(self.held_out) - 1, count).round().long()]
            if count
            else self.rows[:0]
        )

    def truth(self, rows: Tensor) -> Tensor:
        """The clips themselves, as the VAE gives them back, u8 [B,T,3,H,W]."""
        return torch.cat([self.conditioning.decode(self.cache.take("latents", row[None])) for row in rows])

    def generate(self, rows: Tensor, first: Tensor, settings: SampleSettings) -> Tensor:
        """Clips u8 [B,T,3,H,W] by the unmodified pipeline, from first frames u8 [B,3,H,W] and cached prompts."""
        batch = self.batch(rows, 0.0, torch.Generator().manual_seed(settings.seed))
        changes: dict[str, Any] = {"steps": settings.steps, "guidance": settings.guidance}
        sampling = replace(self.sampling, **{name: value for name, value in changes.items() if value is not None})
        images = [picture(frame) for frame in first]
        arguments = self.spec.arguments(self.pipe, images, [""] * len(rows), sampling)
        arguments |= {
            name: None for name in ("prompt", "negative_prompt") if name in arguments
        }  # cached ones instead
        generator = torch.Generator().manual_seed(settings.seed)
        arguments |= self.conditioning.arguments(images, batch, self.dropped["prompt"])
        frames = self.pipe(**arguments, generator=generator, output_type="np").frames
        made = torch.from_numpy(np.asarray(frames)).permute(0, 1, 4, 2, 3)
        return (made.clamp(0, 1) * 255).round().to(torch.uint8)

    def captions(self, rows: Tensor) -> list[str]:
        """The first caption of each clip."""
        return [self.cache.rows[row]["captions"][0] for row in rows.tolist()]


def grid(path: Path, captions: Sequence[str], versions: Sequence[tuple[str, Tensor]], frames: int = 8) -> None:
    """A picture of clips: for each caption one row of frames a version.

    Args:
        path: Where it is written, as PNG.
        captions: One for each clip.
        versions: Names, and clips u8 [B,T,3,H,W].
        frames: Frames shown of each clip.
    """
    from motionrag.video import Strip, sheet

    strips = [
        Strip(frames=_numpy(clips[i]), caption=caption if not place else "", details=name)
        for i, caption in enumerate(captions)
        for place, (name, clips) in enumerate(versions)
    ]
    sheet(strips, path)


def _numpy(clip: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(clip.numpy())
