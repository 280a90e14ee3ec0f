"""Which family of motions a clip is of: a small network of its own, made to judge generated clips.

It shares nothing with the encoders that generation is conditioned on. It sees how frames differ from the first one
and from the one before, at 32x32.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.config import parse
from motionrag.registry import embedded
from motionrag.video import pick

FRAMES = 16
SIDE = 32
"""Of the frames as the network sees them."""


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What it tells apart, and its sizes."""

    families: list[str]
    """Names, in the order of the scores."""
    widths: tuple[int, int, int] = (32, 64, 64)
    """Channels at 16x16, 8x8 and 4x4."""
    frame_width: int = 96
    """Of what it keeps of each frame."""
    time_width: int = 144
    """Channels of the convolutions over time."""


class FamilyClassifier(nn.Module):
    """Convolutions within each frame, then over time."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        channels = (6, *config.widths)
        steps = [_step(nn.Conv2d, channels[i], channels[i + 1], 3, stride=2) for i in range(3)]
        flat = config.widths[-1] * (SIDE // 8) ** 2
        self.frame = nn.Sequential(*steps, nn.Flatten(), nn.Linear(flat, config.frame_width))
        width = config.time_width
        self.time = nn.Sequential(
            _step(nn.Conv1d, config.frame_width, width, 5),
            _step(nn.Conv1d, width, width, 5, stride=2),
            _step(nn.Conv1d, width, width, 5, stride=2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(width * (FRAMES // 4), len(config.families)),
        )

    def forward(self, video: Tensor) -> Tensor:
        """Video f32 [B,16,3,32,32] in [0, 1] to scores [B,F]."""
        from_first = video - video[:, :1]
        from_last = torch.cat([from_first[:, :1], video[:, 1:] - video[:, :-1]], dim=1)
        both = torch.cat([from_first, from_last], dim=2) * 4
        frames = self.frame(rearrange(both, "b t c h w -> (b t) c h w"))
        scores: Tensor = self.time(rearrange(frames, "(b t) d -> b d t", b=len(video)))
        return scores

    @torch.no_grad()
    def classify(self, video: Tensor) -> list[str]:
        """The family of each clip, RGB u8 [B,T,3,H,W] of any size and length."""
        scores = torch.cat([self(prepared(part)) for part in video.split(64)])
        return [self.config.families[i] for i in scores.argmax(dim=1).tolist()]

    def save_pretrained(self, folder: Path) -> None:
        """Write weights in half precision, and the config, into an empty folder."""
        checkpoint.save(
            folder, {name: value.half() for name, value in self.state_dict().items()}, asdict(self.config)
        )

    @classmethod
    def from_pretrained(cls, folder: Path | None = None) -> FamilyClassifier:
        """Read one; without a folder, the one that comes with the package.

        Raises:
            MotionRAGError: If there is none.
        """
        folder = folder or embedded("families")
        state, config = checkpoint.load(folder / checkpoint.WEIGHTS_NAME, folder / checkpoint.CONFIG_NAME)
        config["widths"] = tuple(config["widths"])
        model = cls(parse(ClassifierConfig, config, str(folder)))
        checkpoint.load_strict(model, {name: value.float() for name, value in state.items()}, str(folder))
        return model.eval()


def prepared(video: Tensor) -> Tensor:
    """RGB u8 [B,T,3,H,W] to what the network takes, f32 [B,16,3,32,32] in [0, 1]."""
    frames = video[:, pick(video.shape[1], FRAMES)].float() / 255
    return F.interpolate(frames.flatten(0, 1), size=(SIDE, SIDE), mode="area").unflatten(0, (len(video), FRAMES))


def _step(convolution: Any, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    layer = convolution(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
    return nn.Sequential(layer, nn.GroupNorm(8, outputs), nn.SiLU())
