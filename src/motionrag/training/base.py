"""The task "base": a whole image-to-video denoiser, trained from cached latents."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionrag.errors import MotionRAGError
from motionrag.training.cache import Report
from motionrag.training.conditioning import open_base
from motionrag.training.data import DataSettings
from motionrag.training.denoise import Denoising, SampleSettings, grid
from motionrag.training.objectives import ObjectiveSettings


@dataclass(frozen=True, kw_only=True)
class TransformerSettings:
    """Size of a new tiny transformer; what is not said here follows from the VAE and the text encoder."""

    layers: int = 8
    """Blocks."""
    heads: int = 6
    """Attention heads; the width is heads x head_dim."""
    head_dim: int = 64
    """Width of a head; 16 at least, a multiple of 8."""
    time_dim: int = 256
    """Width of the noise level's embedding."""
    size: int = 64
    """Side of its clips in pixels."""
    frames: int = 16
    """Frames of its clips."""


@dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """What is trained, on what, and how."""

    data: DataSettings
    """The clips."""
    base: str = "tiny"
    """Which base, a key of `motionrag.registry.BASES`."""
    init: str | None = None
    """Folder of a base to start from; None makes a new tiny transformer."""
    vae: str | None = None
    """Folder of the VAE for a new transformer."""
    new: TransformerSettings = field(default_factory=TransformerSettings)
    """Size of the new transformer."""
    seed: int = 0
    """Of its first weights."""
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    """Of the loss."""
    drop_prompt: float = 0.1
    """How often the prompt is replaced by what guidance puts in its place."""
    compile: bool = False
    """Whether to compile the network: some minutes to begin with, then faster."""
    gradient_checkpointing: bool = False
    """Whether to compute blocks twice to save memory."""
    samples: SampleSettings = field(default_factory=SampleSettings)
    """What is drawn now and then."""

    def __post_init__(self) -> None:
        if (self.init is None) == (self.vae is None):
            raise MotionRAGError("name init (a base to start from), or vae for a new transformer; not both")
        if self.init is None and self.base != "tiny":
            raise MotionRAGError(f"only the tiny base is made anew; name the folder of a {self.base} with init")


class BaseTask:
    """Trains the denoiser of a base; see `Task`."""

    Settings = BaseSettings

    def __init__(
        self, settings: BaseSettings, device: torch.device | str = "cpu", report: Report | None = None
    ) -> None:
        """Open the base and the cache.

        Args:
            settings: The recipe.
            device: Where it is trained.
            report: Told how far the making of the cache is.
        """
        self.settings = settings
        pipe = _pipeline(settings, device)
        self.base = Denoising(pipe, settings.base, settings.data, settings.objective, device=device, report=report)
        self.model = self.base.denoiser.requires_grad_(True)
        if settings.gradient_checkpointing:
            self.model.enable_gradient_checkpointing()  # type: ignore[operator]
        self._forward: Any = torch.compile(self.model) if settings.compile else self.model

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Cached arrays of random clips, some prompts dropped."""
        return self.base.batch(self.base.draw(size, generator), self.settings.drop_prompt, generator)

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The base's own objective."""
        return self.base.loss(self._forward, batch, generator), {}

    def sample(self, folder: Path, step: int) -> None:
        """Held-out clips: what the pipeline makes of their first frames and captions, above the truth."""
        rows = self.base.shown(self.settings.samples)
        if not len(rows):
            return
        truth = self.base.truth(rows)
        made = self.base.generate(rows, truth[:, 0], self.settings.samples)
        grid(folder / f"step-{step:06d}.png", self.base.captions(rows), [("made", made), ("truth", truth)])

    def export(self, folder: Path) -> None:
        """Write a folder that loads as this base."""
        if self.base.spec.repository:  # else the embedded one, of which the package has the rest
            self.base.pipe.save_pretrained(folder)
            return
        for part in (self.base.spec.denoiser, "vae"):
            getattr(self.base.pipe, part).save_pretrained(folder / part)


def _pipeline(settings: BaseSettings, device: torch.device | str) -> Any:
    if settings.init is not None:
        return open_base(settings.base, settings.init, device=device, dtype=torch.float32)
    from motionrag.bases.tiny import assemble, load_vae

    assert settings.vae is not None
    vae = load_vae(Path(settings.vae))
    pipe = assemble(new_transformer(settings.new, vae.config.latent_channels, settings.seed), vae)
    return pipe.to(device)


def new_transformer(settings: TransformerSettings, channels: int, seed: int) -> nn.Module:
    """A CogVideoX transformer of the tiny base, untrained."""
    from diffusers import CogVideoXTransformer3DModel

    from motionrag.bases.tiny import PROMPT_LENGTH

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network: nn.Module = CogVideoXTransformer3DModel(
            num_attention_heads=settings.heads,
            attention_head_dim=settings.head_dim,
            in_channels=2 * channels,
            out_channels=channels,
            time_embed_dim=settings.time_dim,
            text_embed_dim=384,
            num_layers=settings.layers,
            sample_width=settings.size // 8,
            sample_height=settings.size // 8,
            sample_frames=settings.frames,
            patch_size=2,
            temporal_compression_ratio=1,
            max_text_seq_length=PROMPT_LENGTH,
            use_rotary_positional_embeddings=True,
            # Absolute places too: with relative ones alone, an adapted layer cannot tell which frame it is in.
            use_learned_positional_embeddings=True,
        )
    return network
