"""Training of the embedded appearance encoder: a Dinov2 that says where the object is and what it looks like.

Single frames, simulated and real: what covers each patch and in which colours, and from the class token the
object's place, size, shape, colour and texture, and the background.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.synth import SynthBatch, draw, scenes
from motionrag.synth.scenes import COLORS, GROUNDS, SHAPES, TEXTURES
from motionrag.training.vae import real_clips, thinned

if TYPE_CHECKING:
    from transformers import Dinov2Model

WORDS = {"shape": list(SHAPES), "color": list(COLORS), "texture": list(TEXTURES), "ground": list(GROUNDS)}
"""What the class token shall tell."""


@dataclass(frozen=True, kw_only=True)
class AppearanceSettings:
    """The encoder's sizes, and what it is trained on."""

    size: int = 64
    """Side of the frames in pixels."""
    width: int = 192
    """Of the encoder."""
    layers: int = 4
    """Of the encoder."""
    heads: int = 6
    """Of the encoder."""
    patch: int = 8
    """Side of its patches in pixels."""
    seed: int = 3
    """Of the simulated corpus."""
    videos: str | None = None
    """A folder with real videos."""
    real: float = 0.125
    """Share of real frames, where there are videos."""
    init: str | None = None
    """A folder that an earlier training exported."""


class AppearanceModel(nn.Module):
    """Encoder, and the heads that are thrown away after training."""

    def __init__(self, settings: AppearanceSettings) -> None:
        super().__init__()
        from transformers import Dinov2Config, Dinov2Model

        self.encoder: Dinov2Model = Dinov2Model(
            Dinov2Config(
                image_size=settings.size,
                patch_size=settings.patch,
                hidden_size=settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
            )
        )
        self.cells = nn.Linear(settings.width, 4 * 4)
        self.place = nn.Linear(settings.width, 3)
        self.words = nn.ModuleDict({name: nn.Linear(settings.width, len(of)) for name, of in WORDS.items()})

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Frames f32 [B,3,H,W] in [-1, 1] to cells [B,L,16], place and size [B,3], and scores of words."""
        features = self.encoder(frames).last_hidden_state
        token = features[:, 0]
        return (
            self.cells(features[:, 1:]),
            self.place(token),
            {name: head(token) for name, head in self.words.items()},
        )


class AppearanceTask:
    """Trains the appearance encoder; see `Task`."""

    Settings = AppearanceSettings
    adamw_only = ("cells", "place", "words", "patch_embeddings")

    def __init__(self, settings: AppearanceSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.model = AppearanceModel(settings)
        if settings.init:
            part = Path(settings.init) / "training"
            state, _ = checkpoint.load(part / checkpoint.WEIGHTS_NAME, part / checkpoint.CONFIG_NAME)
            checkpoint.load_strict(self.model, state, str(part))
        self.model.to(device)
        self.real = real_clips(settings.videos, settings.size, 4).flatten(0, 1) if settings.videos else None

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Frames u8 [B,3,H,W], the simulated ones first, and the truth about those."""
        wanted = int(size * self.settings.real) if self.real is not None else 0
        numbers = torch.randint(0, 100_000_000, (size - wanted,), generator=generator)
        pick = torch.randint(0, 16, (size - wanted, 1), generator=generator).tolist()
        drawn = scenes(self.settings.seed, numbers.tolist(), ["known"])
        made = draw([thinned(scene, one) for scene, one in zip(drawn, pick, strict=True)], size=self.settings.size)
        frames = made.video[:, 0]
        if self.real is not None:
            frames = torch.cat([frames, self.real[torch.randint(0, len(self.real), (wanted,), generator=generator)]])
        return {"frames": frames, **truth(made, self.settings.size)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Errors of colours and cover by cell, of place and size, and of words."""
        frames = batch["frames"].float() / 127.5 - 1
        simulated = len(batch["place"])
        cells, place, words = self.model(frames)
        told = rearrange(cells.float(), "b (h w) (c p q) -> b c (h p) (w q)", h=frames.shape[-2] // 8, c=4, p=2)
        colors = F.mse_loss(told[:, :3], F.avg_pool2d(frames, self.settings.patch // 2))
        cover = F.binary_cross_entropy_with_logits(told[:simulated, 3], batch["cover"])
        where = F.smooth_l1_loss(place[:simulated].float(), batch["place"], beta=0.05)
        named = sum(F.cross_entropy(scores[:simulated].float(), batch[name]) for name, scores in words.items())
        right = {
            name: (scores[:simulated].argmax(1) == batch[name]).float().mean().detach()
            for name, scores in words.items()
        }
        pixels = (place[:simulated, :2].float() - batch["place"][:, :2]).norm(dim=-1).mean().detach() * 32
        loss = colors + 2 * cover + 4 * where + 0.25 * named
        return loss, {"cover": cover.detach(), "pixels": pixels, **right}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Errors on frames that no training sees."""
        held = self.batch(256, torch.Generator().manual_seed(99))
        device = next(self.model.parameters()).device
        loss, metrics = self.loss({name: value.to(device) for name, value in held.items()}, torch.Generator())
        return {
            "held_out_loss": float(loss),
            **{f"held_out_{name}": float(value) for name, value in metrics.items()},
        }

    def export(self, folder: Path) -> None:
        """Write the encoder as a transformers folder, with its heads beside it."""
        self.model.encoder.save_pretrained(folder)
        processor = {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": self.settings.size},
            "crop_size": {"height": self.settings.size, "width": self.settings.size},
            "resample": 2,
            "do_resize": True,
            "do_center_crop": True,
            "do_rescale": True,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        }
        (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        (folder / "training").mkdir()
        checkpoint.save(folder / "training", self.model.state_dict(), {})


def truth(made: SynthBatch, size: int) -> dict[str, Tensor]:
    """Cover of 4 pixel cells [B,H/4,W/4], place and log size [B,3], and words as class numbers [B]."""
    place = torch.cat(
        [made.centers[:, 0] / (size / 2) - 1, (made.radii * made.scales[:, 0] * 64 / size / 8).log()[:, None]], 1
    )
    names = [
        {"shape": s.look.shape, "color": s.look.color, "texture": s.look.texture, "ground": s.ground.kind}
        for s in made.scenes
    ]
    words = {key: torch.tensor([of.index(name[key]) for name in names]) for key, of in WORDS.items()}
    return {"cover": F.avg_pool2d(made.mask[:, :1], size // 16)[:, 0], "place": place, **words}
