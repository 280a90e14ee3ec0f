"""Training of the embedded motion encoder, with a motion resampler on top, before any base is there.

A VideoMAE learns where frames differ from the first one, on simulated and real clips, and its resampler learns to
say the object's path, turn and size in motion tokens: one token a frame, relative to the start, so that tokens tell
motion and neither place nor looks. Stage 1 starts from both; a resampler from scratch collapses there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.models.resampler import PerceiverResampler, ResamplerConfig
from motionrag.synth import SynthBatch, render
from motionrag.training.vae import real_clips

if TYPE_CHECKING:
    from transformers import VideoMAEModel

FRAMES = 16
CELL = 4
"""Side in pixels of the cells in which change is told."""


@dataclass(frozen=True, kw_only=True)
class MotionSettings:
    """The encoder's sizes, and what it is trained on."""

    size: int = 64
    """Side of the frames in pixels."""
    width: int = 192
    """Of the encoder."""
    layers: int = 5
    """Of the encoder."""
    heads: int = 6
    """Of the encoder."""
    patch: int = 16
    """Side of its patches in pixels; they last two frames."""
    resampler: ResamplerConfig = ResamplerConfig(
        input_dim=192, width=192, depth=2, heads=6, head_dim=32, queries=FRAMES, output_dim=192
    )
    """Sizes of the motion resampler; one query a frame."""
    seed: int = 2
    """Of the simulated corpus."""
    families: list[str] = field(default_factory=lambda: ["known", *["free"] * 20, *["wander"] * 4])
    """Motion families, in turn; the free ones cover motion far more widely than the named ones."""
    videos: str | None = None
    """A folder with real videos."""
    real: float = 0.125
    """Share of real clips, where there are videos."""
    init: str | None = None
    """A folder that an earlier training exported."""


class MotionModel(nn.Module):
    """Encoder, resampler, and the heads that are thrown away after training."""

    def __init__(self, settings: MotionSettings) -> None:
        super().__init__()
        from transformers import VideoMAEConfig, VideoMAEModel

        self.encoder: VideoMAEModel = VideoMAEModel(
            VideoMAEConfig(
                image_size=settings.size,
                patch_size=settings.patch,
                num_frames=FRAMES,
                tubelet_size=2,
                hidden_size=settings.width,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=4 * settings.width,
                use_mean_pooling=False,
            )
        )
        self.resampler = PerceiverResampler(settings.resampler)
        cells = 2 * (settings.patch // CELL) ** 2
        self.dense = nn.Linear(settings.width, 2 * cells + 8)
        self.path = nn.Linear(settings.resampler.output_dim, 5)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Video f32 [B,T,3,H,W] in [-1, 1] to tokens [B,Q,D], paths [B,Q,5] and what each feature says [B,L,72]."""
        features = self.encoder(video).last_hidden_state
        tokens = self.resampler(features)
        return tokens, self.path(tokens), self.dense(features)


class MotionTask:
    """Trains the motion encoder and the motion resampler; see `Task`."""

    Settings = MotionSettings
    adamw_only = ("dense", "path", "patch_embeddings")

    def __init__(self, settings: MotionSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        self.model = MotionModel(settings)
        if settings.init:
            checkpoint.load_strict(self.model, *_saved(Path(settings.init)))
        self.model.to(device)
        self.device = torch.device(device)
        self.real = real_clips(settings.videos, settings.size, FRAMES) if settings.videos else None

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Clips u8 [B,T,3,H,W] and, of the simulated ones among them (the first), the truth."""
        wanted = int(size * self.settings.real) if self.real is not None else 0
        numbers = torch.randint(0, 100_000_000, (size - wanted,), generator=generator)
        made = render(self.settings.seed, numbers.tolist(), self.settings.families, size=self.settings.size)
        video = made.video
        if self.real is not None:
            rows = torch.randint(0, len(self.real), (wanted,), generator=generator)
            real = self.real[rows]
            if torch.rand((), generator=generator) < 0.5:
                real = real.flip(-1)
            video = torch.cat([video, real])
        return {"video": video, **truth(made, self.settings.size)}

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """Error of the paths that tokens say, and of change, cover and places that features say."""
        video = batch["video"].float() / 127.5 - 1
        _, path, said = self.model(video)
        simulated, clear = len(batch["path"]), batch["clear"]
        told = F.smooth_l1_loss(path[:simulated].float(), batch["path"], beta=0.1, reduction="none")
        told = _clear_mean(told, clear)
        count = (said.shape[-1] - 8) // 2
        change, cover, place = said.float().split([count, count, 8], dim=-1)
        patch = self.settings.patch
        changed = F.smooth_l1_loss(change, in_tokens(difference(video), patch), beta=0.1)
        covered = F.binary_cross_entropy_with_logits(cover[:simulated], in_tokens(batch["cover"], patch))
        placed = F.smooth_l1_loss(place[:simulated], places(batch, patch), beta=0.1, reduction="none")
        placed = _clear_mean(placed, clear)
        loss = 4 * told + changed + covered + 2 * placed
        metrics = {"path": told, "change": changed, "cover": covered, "place": placed}
        return loss, {name: value.detach() for name, value in metrics.items()}

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """Errors on clips of known, unseen and free motion that no training sees, and how much tokens differ."""
        found = {name: self.errors(name) for name in ("known", "unseen", "free")}
        return {f"{name}_{key}": value for name, errors in found.items() for key, value in errors.items()}

    @torch.no_grad()
    def errors(self, name: str, count: int = 264) -> dict[str, float]:
        """Mean error of paths in units of the object's displacement, of turns in radians; spread of tokens.

        The spread is the share of the tokens' variance that lies between clips; near 0 they have collapsed.
        """
        made = render(7_777, range(200_000_000, 200_000_000 + count), [name], size=self.settings.size)
        true = truth(made, self.settings.size)
        moving = torch.tensor([scene.family.moves for scene in made.scenes]) & (true["clear"] > 0)
        outputs = [self.model(part.float().to(self.device) / 127.5 - 1) for part in made.video.split(64)]
        path = torch.cat([output[1] for output in outputs]).float().cpu()
        tokens = torch.cat([output[0] for output in outputs]).float().cpu()
        distance = (path - true["path"])[..., :2].norm(dim=-1).mean(dim=1)
        reach = true["path"][..., :2].norm(dim=-1).amax(dim=1).clamp(min=0.05)
        turned = torch.atan2(path[..., 2], path[..., 3]) - torch.atan2(true["path"][..., 2], true["path"][..., 3])
        wrapped = torch.atan2(turned.sin(), turned.cos()).abs().mean(dim=1)
        return {
            "path_error": float((distance / reach)[moving].mean()),
            "pixels": float(distance[moving].mean() * 32),
            "turn_error": float(wrapped[true["clear"] > 0].mean()),
            "spread": float(tokens.var(dim=0).mean() / tokens.flatten(0, 1).var(dim=0).mean()),
        }

    def export(self, folder: Path) -> None:
        """Write the encoder as a transformers folder, and the resampler with its heads beside it."""
        self.model.encoder.save_pretrained(folder)
        processor = {
            "image_processor_type": "VideoMAEImageProcessor",
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
        for part in ("training", "resampler"):
            (folder / part).mkdir()
        checkpoint.save(folder / "training", self.model.state_dict(), {})
        checkpoint.save(folder / "resampler", self.model.resampler.state_dict(), asdict(self.settings.resampler))


def _saved(folder: Path) -> tuple[dict[str, Tensor], str]:
    part = folder / "training"
    return checkpoint.load(part / checkpoint.WEIGHTS_NAME, part / checkpoint.CONFIG_NAME)[0], str(part)


def truth(made: SynthBatch, size: int) -> dict[str, Tensor]:
    """What tokens shall say of each frame: [B,T,5] of dx, dy in half frames, sine and cosine of the turn, log size.

    Beside it `start` [B,2], in half frames from the middle, and `cover` [B,T,H/4,W/4], how much of each cell of 4
    pixels the object covers. `clear` [B] is 0 where two objects move and nothing says which of them is meant.
    """
    offset = (made.centers - made.centers[:, :1]) / (size / 2)
    turn = torch.stack([made.angles.sin(), made.angles.cos()], dim=-1) * 0.5
    path = torch.cat([offset, turn, made.scales.log()[..., None]], dim=-1)
    clear = [scene.other is None or scene.family.predictable for scene in made.scenes]
    return {
        "path": path,
        "clear": torch.tensor(clear, dtype=torch.float32),
        "start": (made.centers[:, 0] + 0.5) / (size / 2) - 1,
        "cover": F.avg_pool2d(made.mask, CELL),
    }


def difference(video: Tensor) -> Tensor:
    """How far each cell of 4 pixels is from the first frame's: [B,T,3,H,W] to [B,T,H/4,W/4]."""
    return F.avg_pool2d((video - video[:, :1]).abs().mean(dim=2), CELL)


def in_tokens(cells: Tensor, patch: int) -> Tensor:
    """Cells [B,T,H/4,W/4] to those of each token [B,L,2*(patch/4)**2], in the encoder's order."""
    side = patch // CELL
    return rearrange(cells, "b (t p) (h q) (w r) -> b (t h w) (p q r)", p=2, q=side, r=side)


def places(batch: dict[str, Tensor], patch: int) -> Tensor:
    """What each token shall say of its two frames [B,L,8]: the object's way from its patch and from the start."""
    moved = rearrange(batch["path"][..., :2], "b (t p) c -> b t 1 1 (p c)", p=2)
    side = batch["cover"].shape[-1] * CELL // patch
    line = (torch.arange(side, device=moved.device) + 0.5) / side * 2 - 1
    patches = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1).repeat(1, 1, 2)
    away = moved + batch["start"][:, None, None, None].repeat(1, 1, 1, 1, 2) - patches
    return torch.cat([away, moved.expand_as(away)], dim=-1).flatten(1, 3)


def _clear_mean(error: Tensor, clear: Tensor) -> Tensor:
    """Mean of errors [B,...] over the clips that are clear [B]."""
    return (error.flatten(1).mean(dim=1) * clear).sum() / clear.sum().clamp(min=1)
