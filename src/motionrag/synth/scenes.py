"""What a simulated clip looks like: shape, colours, texture and size of its objects, and its background.

Drawn independently of the motion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPES = ("ball", "square", "triangle", "star", "cross", "ring", "hexagon", "heart", "pill", "diamond")
TEXTURES = ("plain", "striped", "two-tone", "spotted", "checkered", "shaded")
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.15, 0.15),
    "orange": (0.96, 0.52, 0.10),
    "yellow": (0.95, 0.84, 0.18),
    "green": (0.17, 0.66, 0.25),
    "teal": (0.10, 0.64, 0.64),
    "blue": (0.15, 0.33, 0.86),
    "purple": (0.55, 0.22, 0.78),
    "pink": (0.95, 0.45, 0.70),
    "brown": (0.50, 0.30, 0.15),
    "white": (0.94, 0.94, 0.94),
    "black": (0.10, 0.10, 0.12),
}
SIZES = {"small": 7.0, "": 9.0, "large": 11.0}
"""Radius in pixels of a 64 pixel frame."""
GROUNDS = ("wall", "gradient", "clouds", "checkerboard", "horizon", "stripes", "grain")
GROUND_WORDS = {
    "wall": "in front of a {} wall",
    "gradient": "over a {} gradient",
    "clouds": "in front of {} clouds",
    "checkerboard": "on a {} checkerboard",
    "horizon": "in a {} landscape",
    "stripes": "over {} stripes",
    "grain": "on {} sand",
}


@dataclass(frozen=True, kw_only=True)
class Look:
    """One object's appearance."""

    shape: str
    """One of `SHAPES`."""
    texture: str
    """One of `TEXTURES`; each shows how the object is turned."""
    color: str
    """One of `COLORS`."""
    main: NDArray[np.float32]
    """RGB in [0, 1]."""
    second: NDArray[np.float32]
    """RGB of the texture's other colour."""
    size: str
    """One of `SIZES`."""
    radius: float
    """In pixels of a 64 pixel frame."""
    angle: float
    """How it stands in the first frame, in radians."""

    @property
    def words(self) -> str:
        """Such as "small red striped star"."""
        texture = "" if self.texture in ("plain", "shaded") else self.texture
        return " ".join(part for part in (self.size, self.color, texture, self.shape) if part)


@dataclass(frozen=True, kw_only=True)
class Ground:
    """One background."""

    kind: str
    """One of `GROUNDS`."""
    color: str
    """One of `COLORS`."""
    first: NDArray[np.float32]
    """RGB in [0, 1]."""
    second: NDArray[np.float32]
    """RGB in [0, 1]."""
    numbers: NDArray[np.float32]
    """24 uniform numbers in [0, 1) that the drawing takes its details from."""

    @property
    def words(self) -> str:
        """Such as "over a blue gradient"."""
        return GROUND_WORDS[self.kind].format(self.color)


def _near(rng: np.random.Generator, color: NDArray[np.float32], spread: float) -> NDArray[np.float32]:
    return np.clip(color + rng.normal(size=3) * spread, 0, 1).astype(np.float32)


def draw_look(rng: np.random.Generator, unlike: str | None = None) -> Look:
    """Draw an object's appearance, of another colour than `unlike`."""
    color = str(rng.choice([name for name in COLORS if name != unlike]))
    other = str(rng.choice([name for name in COLORS if name != color]))
    main = _near(rng, np.array(COLORS[color], dtype=np.float32), 0.04)
    size = str(rng.choice(list(SIZES)))
    return Look(
        shape=str(rng.choice(SHAPES)),
        texture=str(rng.choice(TEXTURES)),
        color=color,
        main=main,
        second=(0.55 * np.array(COLORS[other]) + 0.45 * main).astype(np.float32),
        size=size,
        radius=SIZES[size] * float(rng.uniform(0.94, 1.06)),
        angle=float(rng.uniform(0, 2 * np.pi)),
    )


def draw_ground(rng: np.random.Generator, look: Look) -> Ground:
    """Draw a background that the object stands out from."""
    while True:
        color = str(rng.choice(list(COLORS)))
        mute = float(rng.uniform(0.25, 0.6))
        first = (1 - mute) * np.array(COLORS[color]) + mute * float(rng.uniform(0.3, 0.9))
        if color != look.color and np.abs(first - look.main).max() > 0.25:
            break
    kind = str(rng.choice(GROUNDS))
    reach = 0.10 if kind in ("checkerboard", "stripes", "grain") else 0.22
    second = np.clip(
        first + rng.choice([-1, 1]) * rng.uniform(0.4, 1) * reach + rng.normal(size=3) * 0.04, 0.03, 0.97
    )
    return Ground(
        kind=kind,
        color=color,
        first=np.clip(first, 0, 1).astype(np.float32),
        second=second.astype(np.float32),
        numbers=rng.random(24).astype(np.float32),
    )
