"""The simulated corpus: clip i of a seed, always the same, with its captions and the true path of its object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.synth import kin
from motionrag.synth.motions import Draw, Family, Motion, families
from motionrag.synth.raster import grounds, place, sprites
from motionrag.synth.scenes import Ground, Look, draw_ground, draw_look

if TYPE_CHECKING:
    from torch import Tensor

FRAME = 64
"""Motions and sizes are drawn for frames of this side, and scaled to others."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything about one clip but its pixels."""

    index: int
    """Its number."""
    family: Family
    """Its kind of motion."""
    motion: Motion
    """Its motion."""
    look: Look
    """The main object."""
    other: Look | None
    """The second object, if there is one."""
    ground: Ground
    """The background."""
    start: tuple[float, float]
    """Where the main object's centre is in the first frame, x and y in pixels of a 64 pixel frame."""
    captions: list[str]
    """The same in three wordings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthBatch:
    """Rendered clips with the truth about them."""

    video: Tensor
    """u8 [B,T,3,H,W]."""
    background: Tensor
    """The frames without objects, u8 [B,3,H,W]."""
    mask: Tensor
    """How much of each pixel the main object covers, f32 [B,T,H,W] in [0, 1]."""
    centers: Tensor
    """Centre of the main object, x and y in pixels, pixel centres counted from 0, f32 [B,T,2]."""
    angles: Tensor
    """Its turn since the first frame in radians, clockwise, f32 [B,T]."""
    scales: Tensor
    """Its size relative to the first frame, f32 [B,T]."""
    radii: Tensor
    """Its radius in the first frame in pixels, f32 [B]."""
    scenes: list[Scene]
    """What was rendered."""

    @property
    def captions(self) -> list[list[str]]:
        """Three for each clip."""
        return [scene.captions for scene in self.scenes]

    @property
    def family(self) -> list[str]:
        """Name of each clip's motion family."""
        return [scene.family.name for scene in self.scenes]

    def of(self, numbers: Sequence[int]) -> SynthBatch:
        """Some of the clips, by their place in the batch."""
        own = list(numbers)
        parts = {one.name: getattr(self, one.name)[own] for one in fields(self) if one.name != "scenes"}
        return SynthBatch(scenes=[self.scenes[number] for number in own], **parts)


class Truth(TypedDict):
    """The true motion of clips, as in `SynthBatch`."""

    centers: Tensor
    angles: Tensor
    scales: Tensor
    radii: Tensor


def chosen(names: Sequence[str] | None) -> list[Family]:
    """Families by name; "known", "unseen" and None (all) stand for several.

    Raises:
        MotionRAGError: If there is no such family, or none is named.
    """
    table = families()
    groups = {"known": [f for f in table.values() if f.known], "unseen": [f for f in table.values() if not f.known]}
    table[kin.FAMILY.name] = kin.FAMILY  # in no group
    found: list[Family] = []
    for name in names if names is not None else list(groups):
        if name not in table and name not in groups:
            raise MotionRAGError(f"no motion family named {name!r}{did_you_mean(name, [*table, *groups])}")
        found += groups.get(name) or [table[name]]
    if not found:
        raise MotionRAGError("no motion family is named")
    return found


def scene(seed: int, index: int, of: Sequence[Family], frames: int = 16) -> Scene:
    """Draw clip `index` of a seed, of one of the families in turn; how it looks depends on seed and index alone."""
    rng = np.random.default_rng([seed, index])
    kind = of[index % len(of)]
    look = draw_look(rng)
    ground = draw_ground(rng, look)
    while True:
        draw = Draw(rng, frames, look.radius, seed=seed, number=index)
        motion = kind.program(draw)
        motion.choices = draw.choices
        start = _start(rng, motion, look.radius)
        if start is not None:
            break
    other = draw_look(rng, unlike=look.color) if motion.other is not None else None
    return Scene(
        index=index,
        family=kind,
        motion=motion,
        look=look,
        other=other,
        ground=ground,
        start=start,
        captions=_captions(rng, draw, kind, look, ground, motion),
    )


def _start(rng: np.random.Generator, motion: Motion, radius: float) -> tuple[float, float] | None:
    """A start from which the object stays in the frame; None if there is none."""
    if motion.start is not None:
        return motion.start
    reach = radius * float(motion.scale.max() if motion.scale is not None else 1.0)
    low, high = reach - motion.offset.min(axis=0), FRAME - 1 - reach - motion.offset.max(axis=0)
    if (low > high).any():
        return None
    x, y = rng.uniform(low, high)
    return float(x), float(y)


def _captions(
    rng: np.random.Generator, draw: Draw, kind: Family, look: Look, ground: Ground, motion: Motion
) -> list[str]:
    """Three wordings: the motion said anew, the object more or less closely, with the background or without."""
    said = [motion.words]
    for _ in range(2):
        again = Draw(rng, len(draw.u), look.radius, draw.choices, seed=draw.seed, number=draw.number)
        said.append(kind.program(again).words)
    closely = [look.words, f"{look.color} {look.shape}", look.words]
    behind = [f" {ground.words}", "", ""]
    return [
        f"{'an' if thing[0] in 'aeiou' else 'a'} {thing} {moves}{where}"
        for thing, moves, where in zip(closely, said, behind, strict=True)
    ]


def scenes(seed: int, indices: Sequence[int], names: Sequence[str] | None = None, frames: int = 16) -> list[Scene]:
    """Draw clips of a seed; see `chosen` for the names of families."""
    of = chosen(names)
    return [scene(seed, int(index), of, frames) for index in indices]


def render(
    seed: int,
    indices: Sequence[int],
    names: Sequence[str] | None = None,
    *,
    size: int = 64,
    frames: int = 16,
    device: torch.device | str = "cpu",
) -> SynthBatch:
    """Render clips of a seed.

    Args:
        seed: Of the corpus.
        indices: Numbers of the clips; what a clip is does not depend on those beside it.
        names: Motion families that clips take in turn; see `chosen`.
        size: Side of the frames in pixels.
        frames: Frames a clip, at least 2; the motion spans them all.
        device: Where pixels are computed.

    Raises:
        MotionRAGError: If there is no such family.
    """
    return draw(scenes(seed, indices, names, frames), size=size, device=device)


def draw(drawn: Sequence[Scene], *, size: int = 64, device: torch.device | str = "cpu") -> SynthBatch:
    """Render scenes that were drawn before, all of as many frames."""
    true = truth(drawn, size=size, device=device)
    back = grounds([s.ground for s in drawn], size, device)
    video = back[:, None].expand(*true["angles"].shape, 3, size, size).clone()
    pairs = [i for i, s in enumerate(drawn) if s.other is not None]
    if pairs:
        rgb, alpha = _others([drawn[i] for i in pairs], true["radii"][pairs], size, device)
        video[pairs] = video[pairs] * (1 - alpha) + rgb
    stands = _tensor([s.look.angle for s in drawn], device)[:, None]
    sprite = sprites([s.look for s in drawn], device)
    radii = true["radii"][:, None] * true["scales"]
    rgb, alpha = place(sprite, true["centers"], true["angles"] + stands, radii, size)
    video = video * (1 - alpha) + rgb
    return SynthBatch(video=_u8(video), background=_u8(back), mask=alpha[:, :, 0], scenes=list(drawn), **true)


def truth(drawn: Sequence[Scene], *, size: int = 64, device: torch.device | str = "cpu") -> Truth:
    """Where the main objects of scenes are, for frames of this side."""
    zoom, frames = size / FRAME, len(drawn[0].motion.offset)
    start = _tensor([s.start for s in drawn], device)[:, None]
    return Truth(
        centers=(start + _tensor([s.motion.offset for s in drawn], device) + 0.5) * zoom - 0.5,
        angles=_tensor([_or(s.motion.angle, 0.0, frames) for s in drawn], device),
        scales=_tensor([_or(s.motion.scale, 1.0, frames) for s in drawn], device),
        radii=_tensor([s.look.radius for s in drawn], device) * zoom,
    )


def _others(drawn: Sequence[Scene], radii: Tensor, size: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The second objects of scenes that have one, as `place` gives them.

    They are as large as the main ones [B], so that a caption fixes where two touch.
    """
    zoom, frames = size / FRAME, len(drawn[0].motion.offset)
    looks = [s.other for s in drawn if s.other is not None]
    start = _tensor([s.start for s in drawn], device)[:, None]
    centers = (start + _tensor([s.motion.other for s in drawn], device) + 0.5) * zoom - 0.5
    turns = [_or(s.motion.other_angle, 0.0, frames) for s in drawn]
    angles = _tensor([turn + look.angle for turn, look in zip(turns, looks, strict=True)], device)
    return place(sprites(looks, device), centers, angles, radii[:, None].expand(-1, frames), size)


def _or(values: Any, otherwise: float, frames: int) -> Any:
    return np.full(frames, otherwise) if values is None else values


def _tensor(values: Any, device: torch.device | str) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(device)


def _u8(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)
