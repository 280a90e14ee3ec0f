"""Clips of kin: ten in a row are of one free motion that no other ten have, as clips of an unseen family are.

Stage 2 learns from them to follow what references have in common, whatever it is. Seven of the ten differ as clips
of one caption do, the last three also as those of captions that name another direction or amount.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from motionrag.synth.known import free
from motionrag.synth.motions import JITTER, Draw, Family, Motion

if TYPE_CHECKING:
    from motionrag.synth.motions import Array

KIN = 10
"""Clips of one motion."""
ALIKE = 7
"""Of these, clips that differ by no more than captions leave open; they come first."""
FINE = 65
"""Frames that the motion is drawn with before each clip takes its own."""
ROOM = 62.0
"""Pixels of a 64 pixel frame that a path and the object on it may take."""


def _kin(d: Draw) -> Motion:
    whole = free(Draw(np.random.default_rng([d.seed, d.number // KIN, KIN]), FINE, d.radius))
    amount, angle, sign = d.about(1.0), d.between(-JITTER, JITTER), 1.0
    if d.number % KIN >= ALIKE:
        change = int(d.rng.integers(4))
        amount *= float(d.rng.choice([0.5, 1.8])) if change == 0 else 1.0
        angle += (0.0, np.pi, np.pi / 2, -np.pi / 2)[change]
        sign = float(d.rng.choice([-1.0, 1.0]))
    u = d.u ** d.about(1.0)
    scale = None if whole.scale is None else _at(u, whole.scale) ** d.about(1.0)
    path = np.stack([_at(u, axis) for axis in whole.offset.T], axis=-1) * amount * np.array([sign, 1.0])
    cos, sin = np.cos(angle), np.sin(angle)
    path = path @ np.array([[cos, sin], [-sin, cos]])
    reach = d.radius * (1.0 if scale is None else float(scale.max()))
    path *= min(1.0, (ROOM - 2 * reach) / max(float(np.ptp(path, axis=0).max()), 1e-6))
    return Motion(
        offset=path,
        words=d.say("moves in a way of its own", "goes its own way"),
        angle=None if whole.angle is None else sign * d.about(1.0) * _at(u, whole.angle),
        scale=scale,
    )


def _at(u: Array, values: Array) -> Array:
    """Values [FINE] of times from 0 to 1, at other times."""
    found: Array = np.interp(u, np.linspace(0, 1, len(values)), values)
    return found


FAMILY = Family(name="kin", known=True, program=_kin, predictable=False)
"""By its name alone: it is none of the "known" families."""
