"""Motion families that trainings see."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from motionrag.synth.motions import CORNERS, SIDES, Draw, Motion, along, ease, family, stack, toward

if TYPE_CHECKING:
    from motionrag.synth.motions import Array

CENTRE = 31.5
AMOUNTS = {"a little way": 12.0, "": 22.0, "far": 33.0}
PACES = {"": 1.0, "faster and faster": 2.0, "slower and slower": 0.5}


def words(*parts: str) -> str:
    """Parts joined, without the empty ones."""
    return " ".join(part for part in parts if part)


@family("slide")
def slide(d: Draw) -> Motion:
    """In a straight line, in one of eight directions."""
    name = d.pick("direction", [*SIDES, *CORNERS])
    unit = np.array((SIDES | CORNERS)[name])
    amount, pace = d.pick("amount", list(AMOUNTS)), d.pick("pace", list(PACES))
    progress = 1 - (1 - d.u) ** 2 if PACES[pace] < 1 else d.u ** PACES[pace]
    said = words(d.say("slides", "glides", "moves straight"), amount, toward(name), pace)
    return Motion(offset=along(unit, d.about(AMOUNTS[amount]) * progress), words=said)


@family("bounce")
def bounce(d: Draw) -> Motion:
    """Falls under gravity and bounces off the ground, twice, while it travels."""
    name, sign = d.across()
    height = {"low": 9.0, "high": 18.0}[level := d.pick("height", ["low", "high"])]
    phase = (2 * d.u + 0.5) % 1.0
    fall = d.about(height) * (1 - 4 * phase * (1 - phase))
    said = words(d.say("bounces", "bounces along like a ball", "keeps bouncing"), level, toward(name))
    return Motion(offset=stack(sign * d.about(22) * d.u, fall, d.u), words=said)


@family("swing")
def swing(d: Draw) -> Motion:
    """On an unseen rope from above, starting at its highest point."""
    name, sign = d.across()
    width = {"widely": 0.95, "gently": 0.5}[how := d.pick("width", ["widely", "gently"])]
    count = {"once": 1.0, "twice": 2.0}[times := d.pick("count", ["once", "twice"])]
    theta = sign * d.about(width) * np.cos(2 * np.pi * count * d.u)
    rope = d.about(20)
    x, y = rope * np.sin(theta), rope * np.cos(theta)
    said = words(d.say("swings", "swings like a pendulum", "dangles and swings"), how, times, "from the", name)
    return Motion(offset=stack(x - x[0], y - y[0], d.u), angle=theta[0] - theta, words=said)


@family("spin", moves=False)
def spin(d: Draw) -> Motion:
    """Turns on the spot."""
    name, sign = d.turn()
    count = {"half a turn": 0.5, "once": 1.0}[times := d.pick("count", ["half a turn", "once"])]
    said = words(d.say("spins", "rotates", "turns on the spot"), name, times)
    return Motion(offset=stack(0, 0, d.u), angle=sign * d.about(2 * np.pi * count) * d.u, words=said)


@family("orbit")
def orbit(d: Draw) -> Motion:
    """Once around a point that lies above, below or beside it."""
    name, sign = d.turn()
    radius = {"small": 8.0, "large": 14.0}[size := d.pick("size", ["small", "large"])]
    place = d.pick("place", list(SIDES))
    centre = d.about(radius) * np.array(SIDES[place])
    phase = np.arctan2(-centre[1], -centre[0]) + sign * 2 * np.pi * d.u
    path = centre + np.hypot(*centre) * np.stack([np.cos(phase), np.sin(phase)], axis=-1)
    beside = {"up": "above it", "down": "below it"}.get(place, f"on its {place}")
    said = words(d.say("orbits", "circles", "revolves"), name, f"in a {size} ring around a point {beside}")
    return Motion(offset=path, words=said)


@family("zigzag")
def zigzag(d: Draw) -> Motion:
    """In sharp turns from side to side."""
    name, unit = d.side()
    legs = {"two": 4.0, "three": 6.0}[times := d.pick("count", ["two", "three"])]
    phase = legs * d.u / 4
    triangle = 1 - 4 * np.abs((phase + 0.25) % 1.0 - 0.5)
    said = words(d.say("zigzags", "darts in zigzags", "goes in sharp zigzags"), toward(name), f"with {times} turns")
    return Motion(offset=along(unit, d.about(30) * d.u, -d.about(10) * triangle), words=said)


@family("hop")
def hop(d: Draw) -> Motion:
    """In small leaps along the ground."""
    name, sign = d.across()
    count = {"twice": 2, "three times": 3}[times := d.pick("count", ["twice", "three times"])]
    height = {"low": 7.0, "high": 14.0}[level := d.pick("height", ["low", "high"])]
    phase = (count * d.u) % 1.0
    rise = d.about(height) * 4 * phase * (1 - phase)
    said = words(d.say("hops", "hops like a rabbit", "skips"), level, times, toward(name))
    return Motion(offset=stack(sign * d.about(28) * d.u, -rise, d.u), words=said)


@family("wave")
def wave(d: Draw) -> Motion:
    """Along one soft wave."""
    name, unit = d.side()
    height = {"gentle": 5.0, "tall": 10.0}[size := d.pick("size", ["gentle", "tall"])]
    said = words(d.say("waves its way", "undulates", "meanders"), toward(name), f"in a {size} curve")
    return Motion(offset=along(unit, d.about(32) * d.u, -d.about(height) * np.sin(2 * np.pi * d.u)), words=said)


@family("grow", moves=False)
def grow(d: Draw) -> Motion:
    """Gets larger."""
    ratio = {"a little": 1.35, "a lot": 1.8}[amount := d.pick("amount", ["a little", "a lot"])]
    said = words(d.say("grows", "gets bigger", "swells"), amount)
    return Motion(offset=stack(0, 0, d.u), scale=1 + (d.about(ratio) - 1) * d.u, words=said)


@family("shrink", moves=False)
def shrink(d: Draw) -> Motion:
    """Gets smaller."""
    ratio = {"a little": 0.72, "a lot": 0.45}[amount := d.pick("amount", ["a little", "a lot"])]
    said = words(d.say("shrinks", "gets smaller", "dwindles"), amount)
    return Motion(offset=stack(0, 0, d.u), scale=1 + (d.about(ratio) - 1) * d.u, words=said)


@family("pulse", moves=False)
def pulse(d: Draw) -> Motion:
    """Swells and shrinks again, twice."""
    ratio = {"weakly": 0.25, "strongly": 0.5}[how := d.pick("amount", ["weakly", "strongly"])]
    said = words(d.say("pulses", "throbs", "beats like a heart"), how, "twice")
    return Motion(offset=stack(0, 0, d.u), scale=1 + d.about(ratio) * np.sin(2 * np.pi * d.u) ** 2, words=said)


@family("shake")
def shake(d: Draw) -> Motion:
    """Trembles about its place."""
    way = d.pick("direction", ["from side to side", "up and down"])
    unit = np.array([1.0, 0.0] if way == "from side to side" else [0.0, 1.0])
    reach = {"slightly": 2.5, "violently": 5.0}[how := d.pick("amount", ["slightly", "violently"])]
    said = words(d.say("shakes", "trembles", "vibrates"), how, way)
    return Motion(offset=along(unit, d.about(reach) * np.sin(8 * np.pi * d.u * 15 / 16)), words=said)


@family("rock", moves=False)
def rock(d: Draw) -> Motion:
    """Tilts one way and the other, on the spot."""
    name, sign = d.across()
    reach = {"slightly": 0.4, "strongly": 0.9}[how := d.pick("amount", ["slightly", "strongly"])]
    said = words(d.say("rocks", "tilts back and forth", "wobbles"), how, f"starting to the {name}")
    return Motion(
        offset=stack(0, 0, d.u), angle=sign * d.about(reach) * np.sin(4 * np.pi * d.u * 15 / 16), words=said
    )


@family("drop")
def drop(d: Draw) -> Motion:
    """Falls to the bottom of the picture, wherever it started, and lies there."""
    floor = 62 - d.radius
    start = (d.between(d.radius + 2, 61 - d.radius), d.between(d.radius + 2, floor - 18))
    fall = np.minimum(d.about(62.0) * d.u**2, floor - start[1])
    said = words(d.say("drops", "falls", "plummets"), d.say("to the ground", "to the bottom of the picture"))
    return Motion(offset=stack(0, fall, d.u), start=start, words=said)


@family("float")
def rise(d: Draw) -> Motion:
    """Rises to the top of the picture, swaying."""
    top = d.radius + 2
    start = (d.between(d.radius + 6, 57 - d.radius), d.between(top + 18, 61 - d.radius))
    climb = ease(d.u) * (start[1] - top)
    sway = d.about(4) * np.sin(2 * np.pi * d.u)
    said = words(d.say("floats", "drifts upward", "rises like a balloon"), "to the top of the picture")
    return Motion(offset=stack(sway, -climb, d.u), start=start, words=said)


@family("cross")
def cross(d: Draw) -> Motion:
    """Changes over to the mirrored place on the other side."""
    side = 1 if d.rng.random() < 0.5 else -1
    start = (CENTRE + side * d.between(9, 28 - d.radius), d.between(d.radius + 2, 61 - d.radius))
    said = words(d.say("crosses over", "moves across", "passes over"), "to the opposite side")
    return Motion(offset=stack(ease(d.u) * 2 * (CENTRE - start[0]), 0, d.u), start=start, words=said)


@family("home")
def home(d: Draw) -> Motion:
    """Comes to the middle of the picture."""
    low, high = d.radius + 2, 61 - d.radius
    start = (d.between(low, high), d.between(low, high))
    while np.hypot(start[0] - CENTRE, start[1] - CENTRE) < 13:
        start = (d.between(low, high), d.between(low, high))
    said = words(d.say("comes", "moves in", "heads"), d.say("to the middle", "to the center of the picture"))
    return Motion(offset=ease(d.u)[:, None] * (CENTRE - np.array(start)), start=start, words=said)


@family("flee")
def flee(d: Draw) -> Motion:
    """Runs straight away from the middle, to the edge."""
    phase, away = d.between(0, 2 * np.pi), d.between(4, 8)
    unit = np.array([np.cos(phase), np.sin(phase)])
    room = (30 - d.radius) / np.abs(unit).max()
    said = words(d.say("flees", "escapes", "runs away"), d.say("from the middle", "from the center to the edge"))
    return Motion(
        offset=along(unit, (room - away) * d.u**1.5),
        start=(CENTRE + away * unit[0], CENTRE + away * unit[1]),
        words=said,
    )


@family("roll")
def roll(d: Draw) -> Motion:
    """Along the ground like a wheel."""
    name, sign = d.across()
    reach = {"a little way": 17.0, "far": 33.0}[amount := d.pick("amount", ["a little way", "far"])]
    path = sign * d.about(reach) * d.u
    said = words(d.say("rolls", "rolls like a wheel", "trundles"), amount, toward(name))
    return Motion(offset=stack(path, 0, d.u), angle=path / d.radius, words=said)


@family("pace")
def pace(d: Draw) -> Motion:
    """Out and straight back."""
    name, unit = d.side()
    count = {"once": 1.0, "twice": 2.0}[times := d.pick("count", ["once", "twice"])]
    reach = d.about(24 if count == 1 else 15)
    said = words(d.say("paces", "goes back and forth", "shuttles"), times, f"starting {toward(name)}")
    return Motion(offset=along(unit, reach * (1 - np.cos(2 * np.pi * count * d.u)) / 2), words=said)


@family("collide")
def collide(d: Draw) -> Motion:
    """Hits a second object, stops, and sends that one on its way."""
    name, sign = d.across()
    gap, on = d.about(13), d.about(14)
    hit = np.clip(2 * d.u, 0, 1)
    sent = np.clip(2 * d.u - 1, 0, 1)
    other = stack(sign * (gap + 2.05 * d.radius + on * sent), 0, d.u)
    said = words(
        d.say("collides with", "crashes into", "bumps into"), "another one", d.say("on the", "to the"), name
    )
    return Motion(offset=stack(sign * gap * hit, 0, d.u), other=other, words=said)


@family("leap")
def leap(d: Draw) -> Motion:
    """One wide jump."""
    name, sign = d.across()
    height = {"flat": 12.0, "steep": 24.0}[size := d.pick("height", ["flat", "steep"])]
    said = words(d.say("leaps", "jumps", "vaults"), toward(name), f"in one {size} arc")
    return Motion(offset=stack(sign * d.about(30) * d.u, -d.about(height) * 4 * d.u * (1 - d.u), d.u), words=said)


@family("stutter")
def stutter(d: Draw) -> Motion:
    """In three jerks with rests between them."""
    name, unit = d.side()
    steps = 3 * d.u
    progress = (np.floor(steps) + ease(np.clip(2 * (steps % 1.0), 0, 1))) / 3
    progress[-1] = 1.0
    said = words(d.say("jerks", "stutters", "moves in three jerks"), toward(name), "with pauses")
    return Motion(offset=along(unit, d.about(30) * progress), words=said)


@family("curve")
def curve(d: Draw) -> Motion:
    """Sets out in one direction and bends off by a quarter turn."""
    name, unit = d.side()
    bend = d.pick("bend", ["left", "right"])
    sign = 1.0 if bend == "right" else -1.0
    phase, reach = d.u * np.pi / 2, d.about(26)
    said = words(d.say("veers", "swerves", "turns off"), f"heading {toward(name)} and bending to its {bend}")
    return Motion(offset=along(unit, reach * np.sin(phase), sign * reach * (1 - np.cos(phase))), words=said)


@family("wander", predictable=False)
def wander(d: Draw) -> Motion:
    """Along a smooth random path."""
    said = words(d.say("wanders", "roams", "strays"), d.say("about", "around freely"))
    return Motion(offset=fitted(smooth_path(d, d.between(0.5, 2.5)), d.between(14, 40)), words=said)


@family("free", predictable=False)
def free(d: Draw) -> Motion:
    """Any path, turn and size, and perhaps a second object that moves too: the widest range of motion."""
    angle = None if d.rng.random() < 0.4 else smooth_path(d, d.between(0.3, 2.0))[:, 0] * d.between(0, 1.5)
    scale = None if d.rng.random() < 0.5 else np.exp(np.clip(smooth_path(d, 1.0)[:, 0] * 0.3, -0.7, 0.6))
    motion = Motion(
        offset=any_path(d),
        angle=None if angle is None else angle - angle[0],
        scale=None if scale is None else scale / scale[0],
        words=d.say("moves freely", "does something unpredictable", "moves in its own way"),
    )
    if d.rng.random() < 0.35:
        place = np.array([d.between(-26, 26), d.between(-26, 26)])
        still = d.rng.random() < 0.4
        motion.other = place + (0.0 if still else 1.0) * any_path(d)
        if not still and d.rng.random() < 0.5:
            motion.other_angle = d.between(-6, 6) * d.u
    return motion


def smooth_path(d: Draw, frequency: float, u: Array | None = None) -> Array:
    """A random path [T,2] of low frequencies, about 1 in size, from (0, 0) on; `u`: another time than even."""
    terms = np.arange(1, 5)
    weights = d.rng.normal(size=(2, 2, 4)) / terms
    phase = 2 * np.pi * frequency * 0.5 * (d.u if u is None else u)[:, None] * terms
    path: Array = (np.sin(phase) @ weights[0].T + np.cos(phase) @ weights[1].T).astype(float)
    return path - path[0]


def fitted(path: Array, extent: float) -> Array:
    """The path at a size at which its longer side is `extent` pixels."""
    return path * extent / max(float(np.ptp(path, axis=0).max()), 1e-6)


def any_path(d: Draw) -> Array:
    """A smooth, an angular or an evenly bending random path, at an uneven pace, or none at all."""
    kind = d.rng.choice(4, p=[0.35, 0.3, 0.25, 0.1])
    extent = d.between(3, 40)
    if kind == 3:
        return stack(0, 0, d.u)
    warped = d.u ** np.exp(d.rng.normal() * 0.35)
    if kind == 0:
        path = smooth_path(d, d.between(0.5, 4.0), warped)
    elif kind == 1:
        count = int(d.rng.integers(2, 8))
        points = np.concatenate([np.zeros((1, 2)), np.cumsum(d.rng.normal(size=(count, 2)), axis=0)])
        path = corners_at(warped, points)
    else:
        heading = d.between(0, 2 * np.pi) + d.between(-14, 14) * warped + d.between(-6, 6) * warped**2
        speed = np.exp(smooth_path(d, 1.0)[:, 0] * 0.5)
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * speed[:, None]
        path = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)[:-1]])
    return fitted(path - path[0], extent)


def corners_at(u: Array, points: Array) -> Array:
    """Between corners at even or uneven speed: the corners are passed at equal times."""
    times = np.linspace(0, 1, len(points))
    return np.stack([np.interp(u, times, points[:, axis]) for axis in (0, 1)], axis=-1)
