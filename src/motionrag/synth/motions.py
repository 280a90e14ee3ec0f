"""The simulated corpus's motion families: from a random generator to the path, turn and size of one object.

Each family is a program whose captioned choices (direction, amount, count ...) fix the motion to within 7%
either way, so that the path can be told from the words and from other clips of the family.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

JITTER = 0.07
"""Half the range of a captioned quantity, relative."""

SIDES: dict[str, tuple[float, float]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
HALF = 0.5**0.5
CORNERS: dict[str, tuple[float, float]] = {
    "up and to the left": (-HALF, -HALF),
    "up and to the right": (HALF, -HALF),
    "down and to the left": (-HALF, HALF),
    "down and to the right": (HALF, HALF),
}
TURNS = {"clockwise": 1.0, "counterclockwise": -1.0}


@dataclass(kw_only=True)
class Motion:
    """The motion of one clip; lengths in pixels of a 64 pixel frame, y down, all from the first frame on."""

    offset: Array
    """Where the main object is, relative to its start [T,2]."""
    words: str
    """The motion in words, such as "slides far to the left"."""
    start: tuple[float, float] | None = None
    """Where it must start; None for anywhere the path stays inside the frame."""
    angle: Array | None = None
    """Its turn in radians, clockwise [T]."""
    scale: Array | None = None
    """Its size relative to the first frame [T]."""
    other: Array | None = None
    """A second object, relative to the main object's start [T,2]."""
    other_angle: Array | None = None
    """The second object's turn [T]."""
    choices: dict[str, str] = field(default_factory=dict)
    """What the caption says of it: name -> value."""


class Draw:
    """Random choices of one clip, by name, and the clip's time.

    Args:
        rng: Where they come from.
        frames: T of the clip.
        radius: Of the main object, in pixels of a 64 pixel frame.
        choices: Captioned choices to make again, in place of new ones.
        seed: Of the corpus.
        number: Of the clip.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        frames: int,
        radius: float,
        choices: Mapping[str, str] | None = None,
        *,
        seed: int = 0,
        number: int = 0,
    ) -> None:
        self.rng, self.seed, self.number = rng, seed, number
        self.choices: dict[str, str] = dict(choices or {})
        """What the caption says of the motion: name -> value."""
        self._given = choices is not None
        self.u: Array = np.linspace(0.0, 1.0, frames)
        """Time from 0 to 1 [T]."""
        self.radius = radius
        """Of the main object, in pixels of a 64 pixel frame."""

    def pick(self, name: str, options: list[str]) -> str:
        """One of the options, kept as a captioned choice."""
        if not self._given:
            self.choices[name] = options[int(self.rng.integers(len(options)))]
        return self.choices[name]

    def about(self, value: float) -> float:
        """The value, up to `JITTER` more or less."""
        return value * float(self.rng.uniform(1 - JITTER, 1 + JITTER))

    def between(self, low: float, high: float) -> float:
        """Uniform."""
        return float(self.rng.uniform(low, high))

    def say(self, *wordings: str) -> str:
        """One of several wordings of the same."""
        return wordings[int(self.rng.integers(len(wordings)))]

    def side(self) -> tuple[str, Array]:
        """Left, right, up or down, and its unit vector."""
        name = self.pick("direction", list(SIDES))
        return name, np.array(SIDES[name])

    def across(self) -> tuple[str, float]:
        """Left or right, and its sign."""
        name = self.pick("direction", ["left", "right"])
        return name, SIDES[name][0]

    def turn(self) -> tuple[str, float]:
        """Clockwise or counterclockwise, and its sign."""
        name = self.pick("turn", list(TURNS))
        return name, TURNS[name]


def toward(name: str) -> str:
    """A direction as an adverbial."""
    return f"to the {name}" if name in ("left", "right") else name


def along(unit: Array, forward: Array, sideways: Array | float = 0.0) -> Array:
    """Path [T,2] from how far it goes along a unit vector, and to the right of it as it looks that way."""
    forward = np.asarray(forward, dtype=float)
    across = np.array([-unit[1], unit[0]])
    return forward[:, None] * unit + (np.zeros_like(forward) + sideways)[:, None] * across


def stack(x: Array | float, y: Array | float, like: Array) -> Array:
    """Path [T,2] from its coordinates."""
    return np.stack([np.zeros_like(like) + x, np.zeros_like(like) + y], axis=-1)


def ease(u: Array) -> Array:
    """Smooth from 0 to 1, at rest at both ends."""
    clipped: Array = np.clip(u, 0, 1)
    return clipped * clipped * (3 - 2 * clipped)


def corners(u: Array, points: Array) -> Array:
    """At constant speed along the line through the points [P,2], from the first at u=0 to the last at u=1."""
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    reached = np.clip(u, 0, 1) * length[-1]
    return np.stack([np.interp(reached, length, points[:, axis]) for axis in (0, 1)], axis=-1)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A named kind of motion."""

    name: str
    """Its name in metadata; captions use their own words."""
    known: bool
    """Whether trainings see it; the others exist to be added to a database."""
    program: Callable[[Draw], Motion]
    """Draws one motion."""
    moves: bool = True
    """Whether the object changes place."""
    predictable: bool = True
    """Whether caption and family fix the path."""


FAMILIES: dict[str, Family] = {}


def family(
    name: str, *, known: bool = True, moves: bool = True, predictable: bool = True
) -> Callable[[Callable[[Draw], Motion]], Callable[[Draw], Motion]]:
    """Enter a program into `FAMILIES`."""

    def enter(program: Callable[[Draw], Motion]) -> Callable[[Draw], Motion]:
        FAMILIES[name] = Family(name=name, known=known, program=program, moves=moves, predictable=predictable)
        return program

    return enter


def families() -> dict[str, Family]:
    """All families by name: first those that trainings see, then the unseen ones."""
    from motionrag.synth import known, unseen  # noqa: F401  # they enter themselves

    return dict(sorted(FAMILIES.items(), key=lambda item: not item[1].known))
