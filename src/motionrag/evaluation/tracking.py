"""The main object of simulated clips, followed where nothing but the pixels says where it is.

A pixel counts as far as it is a mixture of the clean background behind it and one of the object's colours in the
first frame, so that a second object, shadows and smears do not count. No network, and nothing is trained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

COLORS = 12
"""Colours that the object is described by."""
TOLERANCE = 0.1
"""Deviation of a colour in [0, 1] at which a pixel counts as the object to exp(-1/2)."""
COLOR_OFF = 0.3
"""Deviation at which two colours are no longer alike, likewise."""
SEEN = 0.15
"""Share of its area in the first frame below which the object is lost."""
RADII, ANGLES = 8, 48
"""Rings around the object's centre, and places on each, where its looks are compared."""
CLIPS = 32
"""Clips looked at together."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where the object is in each frame."""

    centers: Tensor
    """Its centroid, x and y in pixels, pixel centres counted from 0, f32 [B,T,2]; last seen there if it is lost."""
    found: Tensor
    """Whether it was seen, bool [B,T]."""
    area: Tensor
    """Pixels it covers, f32 [B,T]; 0 where it is lost."""
    similarity: Tensor
    """How much it looks as in the first frame, whatever its turn and size, f32 [B,T] in [0, 1]; 0 where lost."""


def track(video: Tensor, background: Tensor, first_mask: Tensor) -> Track:
    """Follow the main object.

    Args:
        video: u8 [B,T,3,H,W].
        background: The frames without objects, u8 [B,3,H,W].
        first_mask: How much of each pixel the object covers in the first frame, f32 [B,H,W] in [0, 1].
    """
    parts = [
        _track(v.float() / 255, b.float() / 255, m)
        for v, b, m in zip(video.split(CLIPS), background.split(CLIPS), first_mask.split(CLIPS), strict=True)
    ]
    centers, found, area, similarity = (torch.cat(values) for values in zip(*parts, strict=True))
    return Track(centers=centers, found=found, area=area, similarity=similarity)


def centroids(mask: Tensor) -> Tensor:
    """Centroids [...,2] of masks [...,H,W], x and y in pixels: the truth that `track` is to find."""
    ys = torch.arange(mask.shape[-2], device=mask.device, dtype=mask.dtype)
    xs = torch.arange(mask.shape[-1], device=mask.device, dtype=mask.dtype)
    area = mask.sum(dim=(-2, -1)).clamp(min=1e-6)
    return torch.stack([(mask.sum(dim=-2) * xs).sum(-1) / area, (mask.sum(dim=-1) * ys).sum(-1) / area], dim=-1)


def path_error(centers: Tensor, true: Tensor) -> Tensor:
    """Mean distance to the true path, in units of the object's true displacement: [B,T,2] twice to [B].

    mean_t |c_t - p_t| / max_t |p_t - p_0|; says something of motions that change the object's place only.
    """
    reach = (true - true[:, :1]).norm(dim=-1).amax(dim=1)
    return (centers - true).norm(dim=-1).mean(dim=1) / reach.clamp(min=1e-6)


def _track(video: Tensor, background: Tensor, first_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `Track` holds; colours in [0, 1]."""
    weight = object_weight(video, background, first_mask)
    H, W = weight.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.arange(H, device=video.device), torch.arange(W, device=video.device), indexing="ij"
    )
    grid = torch.stack([xs, ys], dim=-1).to(video.dtype)
    where, size = centroids(first_mask), torch.ones(len(video), device=video.device)
    reach = (grid - where[:, None, None]).norm(dim=-1).mul(first_mask > 0.5).amax(dim=(-2, -1))
    first_area = weight[:, 0].mul(first_mask > 0).sum(dim=(-2, -1)).clamp(min=1.0)
    steps: list[tuple[Tensor, ...]] = []
    for now in weight.unbind(1):
        near = _seek(now, where, reach * size, grid)
        center, area = _settle(now, near, 1.15 * reach * size + 2, grid)
        seen = area > SEEN * first_area
        where = torch.where(seen[:, None], center, where)
        size = torch.where(seen, (area / first_area).sqrt().clamp(0.4, 2.0), size)
        steps.append((where, seen, area * seen, size))
    centers, found, areas, sizes = (torch.stack(values, dim=1) for values in zip(*steps, strict=True))
    solid = ((weight - 0.1) / 0.2).clamp(0, 1)  # with soft shares, the noise of a VAE would look like melting
    looks = _rings(torch.cat([video, solid[:, :, None]], dim=2), centers, reach[:, None] * sizes)
    return centers, found, areas, _likeness(looks) * found


def object_weight(video: Tensor, background: Tensor, first_mask: Tensor) -> Tensor:
    """How much of each pixel the object covers, as far as colours say: [B,T,H,W] in [0, 1]; colours in [0, 1]."""
    first = video[:, 0]
    changed = (first - background).abs().amax(dim=1) > 0.12
    outside = F.max_pool2d(first_mask[:, None], 5, 1, 2)[:, 0] == 0
    own = _colors(first, (first_mask > 0.9).float())
    share, fit = _mixture(video, background, own)
    other = changed & outside
    two = other.sum(dim=(-2, -1)) > 20
    if two.any():
        _, rival = _mixture(video[two], background[two], _colors(first[two], other[two].float()))
        share[two] *= (fit[two] > 0.8 * rival).float()
    return share * fit


def _colors(frame: Tensor, mask: Tensor) -> Tensor:
    """The `COLORS` that describe the masked pixels best [B,M,3], by k-means: frame [B,3,H,W], mask [B,H,W]."""
    pixels, weight = frame.flatten(2).transpose(1, 2), mask.flatten(1)
    nearest = torch.full_like(weight, 1e3)
    picks: list[Tensor] = []
    for _ in range(COLORS):  # start with colours far from each other
        pick = pixels.gather(1, (nearest * weight).argmax(dim=1)[:, None, None].expand(-1, 1, 3))
        picks.append(pick)
        nearest = torch.minimum(nearest, (pixels - pick).square().sum(-1))
    centers = torch.cat(picks, dim=1)
    for _ in range(8):
        chosen = F.one_hot(torch.cdist(pixels, centers).argmin(dim=-1), COLORS).float() * weight[..., None]
        count = chosen.sum(dim=1)[..., None]
        centers = torch.where(count > 0, chosen.transpose(1, 2) @ pixels / count.clamp(min=1), centers)
    return centers


def _mixture(video: Tensor, background: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel as a mixture of the background and the colour that fits best: its share, and how well [B,T,H,W]."""
    difference = (video - background[:, None]).permute(0, 1, 3, 4, 2)
    size = difference.abs().amax(dim=-1)
    share, fit = torch.zeros_like(size), torch.zeros_like(size)
    changed = size > 0.05
    clip, _, y, x = changed.nonzero(as_tuple=True)
    off = difference[changed]
    toward = colors[clip] - background[clip, :, y, x][:, None]
    along, reach = (toward @ off[..., None])[..., 0], toward.square().sum(-1)
    alpha = (along / (reach + TOLERANCE**2 / 2)).clamp(0, 1)
    rest = off.square().sum(-1, keepdim=True) - 2 * alpha * along + alpha.square() * reach
    likely = torch.exp(-rest / (2 * TOLERANCE**2))
    best = (alpha * likely).argmax(dim=1, keepdim=True)
    share[changed], fit[changed] = alpha.gather(1, best)[:, 0], likely.gather(1, best)[:, 0]
    return share * ((size - 0.05) / 0.08).clamp(0, 1), fit


def _seek(weight: Tensor, where: Tensor, reach: Tensor, grid: Tensor) -> Tensor:
    """The pixel around which most of the weight [B,H,W] lies, the nearer to where it was the better [B,2]."""
    mass = F.avg_pool2d(weight[:, None], 9, 1, 4)[:, 0]
    away = (grid - where[:, None, None]).norm(dim=-1)
    score = mass / (1 + (away / (reach[:, None, None] + 8)).square())
    index = score.flatten(1).argmax(dim=1)
    return grid.flatten(0, 1)[index]


def _settle(weight: Tensor, center: Tensor, reach: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Centroid [B,2] and sum [B] of the weight [B,H,W] within reach of itself."""
    area = torch.zeros_like(reach)
    for _ in range(6):
        away = (grid - center[:, None, None]).norm(dim=-1)
        inside = weight * (reach[:, None, None] + 0.5 - away).clamp(0, 1)
        area = inside.sum(dim=(-2, -1))
        moved = inside.flatten(1) @ grid.flatten(0, 1) / area.clamp(min=1e-6)[:, None]
        center = torch.where(area[:, None] > 1e-3, moved, center)
    return center, area


def _rings(video: Tensor, center: Tensor, reach: Tensor) -> Tensor:
    """Samples on rings around the centres [B,T,2], out to 1.2 reaches [B,T]: [B,T,C,H,W] to [B,T,C,R,A]."""
    B, T, _, H, W = video.shape
    angle = torch.arange(ANGLES, device=video.device) * (2 * math.pi / ANGLES)
    radius = (torch.arange(RADII, device=video.device) + 0.5) / RADII * 1.2
    around = radius[:, None, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    places = center[:, :, None, None] + reach[..., None, None, None] * around
    places = (places + 0.5) / places.new_tensor([W, H]) * 2 - 1
    sampled = F.grid_sample(video.flatten(0, 1), places.flatten(0, 1), padding_mode="border", align_corners=False)
    return sampled.unflatten(0, (B, T))


def _likeness(looks: Tensor) -> Tensor:
    """Overlap of each frame's object with the first's at the best of all turns: [B,T,4,R,A] to [B,T] in [0, 1].

    The overlap of two soft shapes is the sum of their minima over that of their maxima; where colours differ, the
    minimum counts less.
    """
    ring = torch.arange(RADII, device=looks.device) + 0.5  # outer samples stand for more pixels
    first, best = looks[:, :1], torch.zeros_like(looks[:, :, 0, 0, 0])
    for turn in range(ANGLES):
        other = looks.roll(turn, dims=-1)
        off = (other[:, :, :3] - first[:, :, :3]).square().sum(2)
        common = torch.minimum(other[:, :, 3], first[:, :, 3]) * torch.exp(-off / (2 * COLOR_OFF**2))
        either = torch.maximum(other[:, :, 3], first[:, :, 3])
        overlap = (common.sum(-1) @ ring) / (either.sum(-1) @ ring).clamp(min=1e-6)
        best = torch.maximum(best, overlap)
    return best
