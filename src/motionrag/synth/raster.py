"""Draws clips in batches: backgrounds, sprites from signed distances, and the sprites along their paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motionrag.synth.scenes import GROUNDS, SHAPES, TEXTURES

if TYPE_CHECKING:
    from motionrag.synth.scenes import Ground, Look

SPRITE = 48
"""Side of a sprite in pixels."""
REACH = 1.2
"""Half a sprite's side, in radii of its object."""


def _grid(side: int, reach: float, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Coordinates of pixel centres in [-reach, reach], x and y [side,side]."""
    line = ((torch.arange(side, device=device) + 0.5) / side * 2 - 1) * reach
    return line[None, :].expand(side, side), line[:, None].expand(side, side)


def _polygon(x: Tensor, y: Tensor, sides: int, radius: float = 1.0) -> Tensor:
    """Signed distance to a regular polygon of circumradius `radius` with a corner on top."""
    sector = 2 * math.pi / sides
    phase = torch.atan2(x, -y)
    phase = (phase + math.pi / sides) % sector - math.pi / sides
    return torch.hypot(x, y) * torch.cos(phase.abs() - math.pi / sides) - radius * math.cos(math.pi / sides)


def _star(x: Tensor, y: Tensor) -> Tensor:
    phase = torch.atan2(x, -y)
    blade = 0.74 + 0.30 * torch.cos(5 * phase) + 0.05 * torch.cos(10 * phase)
    return 0.8 * (torch.hypot(x, y) - blade)


def _heart(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs() / 0.95, -(y + 0.08) / 0.95 + 0.15
    value = (x**2 + y**2 - 0.62) ** 3 - 1.9 * x**2 * y**3
    return value.sign() * value.abs().pow(1 / 3) * 0.55


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ball": lambda x, y: torch.hypot(x, y) - 0.92,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.78,
    "triangle": lambda x, y: _polygon(x, y + -0.12, 3, 1.15),
    "star": _star,
    "cross": lambda x, y: torch.minimum(
        torch.maximum(x.abs() - 0.32, y.abs() - 0.95), torch.maximum(x.abs() - 0.95, y.abs() - 0.32)
    ),
    "ring": lambda x, y: (torch.hypot(x, y) - 0.68).abs() - 0.27,
    "hexagon": lambda x, y: _polygon(x, y, 6),
    "heart": _heart,
    "pill": lambda x, y: torch.hypot(x, (y.abs() - 0.48).clamp(min=0)) - 0.5,
    "diamond": lambda x, y: (x.abs() / 0.68 + y.abs() / 1.0 - 1) * 0.56,
}
"""Shape -> signed distance in radii; x right, y down."""

PATTERNS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda x, y: ((0.22 - torch.hypot(x - 0.1, y + 0.42)) * 12).clamp(0, 1),
    "striped": lambda x, y: (torch.sin(7.5 * y) * 3 + 0.5).clamp(0, 1),
    "two-tone": lambda x, y: (x * 12 + 0.5).clamp(0, 1),
    "spotted": lambda x, y: ((torch.cos(6.5 * x + 0.6) * torch.cos(6.5 * y) - 0.25) * 6).clamp(0, 1),
    "checkered": lambda x, y: (torch.sin(5.2 * x) * torch.sin(5.2 * y) * 8 + 0.5).clamp(0, 1),
    "shaded": lambda x, y: (0.5 - 0.55 * y).clamp(0, 1),
}
"""Texture -> share of the second colour in [0, 1]; none looks the same after less than half a turn on a ball."""


def sprites(looks: Sequence[Look], device: torch.device | str = "cpu") -> Tensor:
    """Objects by themselves, f32 [B,4,S,S]: RGB multiplied by alpha, and alpha, in [0, 1]."""
    x, y = _grid(SPRITE, REACH, device)
    distance = torch.stack([DISTANCES[name](x, y) for name in SHAPES])
    share = torch.stack([PATTERNS[name](x, y) for name in TEXTURES])
    d = distance[[SHAPES.index(look.shape) for look in looks]]
    weight = share[[TEXTURES.index(look.texture) for look in looks]][:, None]
    main = torch.from_numpy(np.stack([look.main for look in looks])).to(device)[:, :, None, None]
    second = torch.from_numpy(np.stack([look.second for look in looks])).to(device)[:, :, None, None]
    softness = SPRITE / (2 * REACH) * 0.5
    alpha = (0.5 - d * softness).clamp(0, 1)[:, None]
    rim = 1 - 0.45 * ((d + 0.16) * 9).clamp(0, 1)[:, None]
    return torch.cat([(main + weight * (second - main)) * rim * alpha, alpha], dim=1)


def grounds(backgrounds: Sequence[Ground], size: int, device: torch.device | str = "cpu") -> Tensor:
    """Backgrounds f32 [B,3,H,W] in [0, 1]."""
    x, y = _grid(size, 1.0, device)
    numbers = torch.from_numpy(np.stack([ground.numbers for ground in backgrounds])).to(device)
    n = numbers[:, :, None, None]
    turned = torch.cos(6.283 * n[:, 0]) * x + torch.sin(6.283 * n[:, 0]) * y
    waves = torch.zeros_like(turned)
    for pitch, heading, phase in (n[:, 1 + 3 * i : 4 + 3 * i].unbind(1) for i in range(5)):
        heading = 6.283 * heading
        waves += torch.sin((1.5 + 4 * pitch) * (torch.cos(heading) * x + torch.sin(heading) * y) + 6.283 * phase)
    cells = 3 + 3 * n[:, 17]
    checks = torch.sin(cells * (x + n[:, 18])) * torch.sin(cells * (y + n[:, 19]))
    grain = torch.stack([_grain(row, size) for row in numbers[:, 20:22].cpu()]).to(device)
    share = torch.stack(
        [
            0.12 * turned + 0.1,
            0.5 + 0.5 * turned,
            (0.5 + 0.35 * waves / 1.5).clamp(0, 1),
            (checks * 10 + 0.5).clamp(0, 1),
            ((y - 0.5 * n[:, 22] + 0.1) * 20 + 0.5).clamp(0, 1) * (0.75 + 0.25 * y),
            (torch.sin((5 + 5 * n[:, 23]) * turned) * 6 + 0.5).clamp(0, 1),
            grain,
        ],
        dim=1,
    )
    assert share.shape[1] == len(GROUNDS)
    kinds = torch.tensor([GROUNDS.index(ground.kind) for ground in backgrounds], device=device)
    chosen = share[torch.arange(len(kinds), device=device), kinds][:, None]
    first = torch.from_numpy(np.stack([ground.first for ground in backgrounds])).to(device)[:, :, None, None]
    second = torch.from_numpy(np.stack([ground.second for ground in backgrounds])).to(device)[:, :, None, None]
    return (first + chosen * (second - first)).clamp(0, 1)


def _grain(numbers: Tensor, size: int) -> Tensor:
    """Noise of two grain sizes [H,W] in about [0, 1]."""
    generator = torch.Generator().manual_seed(int(numbers[0] * 2**31))
    fine = torch.rand(1, 1, 32, 32, generator=generator)
    coarse = torch.rand(1, 1, 8, 8, generator=generator)
    both = [F.interpolate(part, size=size, mode="bilinear", align_corners=False)[0, 0] for part in (fine, coarse)]
    return 0.6 * both[0] + 0.4 * both[1]


def place(sprite: Tensor, centers: Tensor, angles: Tensor, radii: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sprites along their paths.

    Args:
        sprite: [B,4,S,S], from `sprites`.
        centers: x and y in pixels, of pixel centres counted from 0 [B,T,2].
        angles: In radians, clockwise [B,T].
        radii: In pixels [B,T].
        size: Side of the frames in pixels.

    Returns:
        RGB multiplied by alpha [B,T,3,H,W], lit from the upper left, and alpha [B,T,1,H,W].
    """
    B, T = angles.shape
    line = torch.arange(size, device=sprite.device, dtype=torch.float32)
    dx = (line[None, None, None, :] - centers[..., 0, None, None]) / radii[..., None, None]
    dy = (line[None, None, :, None] - centers[..., 1, None, None]) / radii[..., None, None]
    cosine, sine = angles.cos()[..., None, None], angles.sin()[..., None, None]
    grid = torch.stack([cosine * dx + sine * dy, cosine * dy - sine * dx], dim=-1) / REACH
    moved = F.grid_sample(sprite, grid.reshape(B, T * size, size, 2), align_corners=False)
    moved = moved.reshape(B, 4, T, size, size).transpose(1, 2)
    light = (1.04 - 0.2 * (dx + dy)).clamp(0.6, 1.35)[:, :, None]
    rgb = torch.minimum(moved[:, :, :3] * light, moved[:, :, 3:])
    return rgb, moved[:, :, 3:]
