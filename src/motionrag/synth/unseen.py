"""Motion families that no training sees: they exist to be added to a database."""

from __future__ import annotations

import numpy as np

from motionrag.synth.known import words
from motionrag.synth.motions import CORNERS, Draw, Motion, along, corners, family, stack, toward


@family("spiral", known=False)
def spiral(d: Draw) -> Motion:
    """Outward from where it is, in one and a half turns."""
    name, sign = d.turn()
    reach = {"tight": 11.0, "wide": 18.0}[size := d.pick("size", ["tight", "wide"])]
    phase = -np.pi / 2 + sign * 3 * np.pi * d.u
    radius = d.about(reach) * d.u
    said = words(
        d.say("spirals outward", "winds outward in a spiral", "follows a spiral"), f"{name} in a {size} coil"
    )
    return Motion(offset=stack(radius * np.cos(phase), radius * np.sin(phase), d.u), words=said)


@family("eight", known=False)
def eight(d: Draw) -> Motion:
    """Once along a lying or standing figure eight, from its crossing point on."""
    way = d.pick("direction", ["lying", "standing"])
    reach = {"small": 12.0, "big": 18.0}[size := d.pick("size", ["small", "big"])]
    phase, reach = 2 * np.pi * d.u, d.about(reach)
    long, short = reach * np.sin(phase), 0.55 * reach * np.sin(2 * phase)
    said = words(d.say("traces", "draws", "loops along"), f"a {size} {way} figure eight")
    path = stack(long, short, d.u) if way == "lying" else stack(short, -long, d.u)
    return Motion(offset=path, words=said)


@family("stairs", known=False)
def stairs(d: Draw) -> Motion:
    """Up or down three steps of a staircase."""
    name = d.pick("direction", list(CORNERS))
    sign = np.sign(CORNERS[name])
    step = d.about(10)
    points = np.array([(step * ((i + 1) // 2) * sign[0], step * (i // 2) * sign[1]) for i in range(7)])
    verb = d.say("climbs", "steps up", "mounts") if sign[1] < 0 else d.say("descends", "steps down", "goes down")
    side = "left" if sign[0] < 0 else "right"
    return Motion(offset=corners(d.u, points), words=words(verb, d.say("a staircase", "three stairs"), toward(side)))


@family("boomerang", known=False)
def boomerang(d: Draw) -> Motion:
    """Flies out in a wide bow and comes back, turning about itself."""
    name, unit = d.side()
    turn, sign = d.turn()
    phase = 2 * np.pi * d.u
    reach = d.about(30) * (1 - np.cos(phase)) / 2
    said = words(
        d.say("flies like a boomerang", "sweeps out and returns like a boomerang", "boomerangs"), toward(name), turn
    )
    return Motion(
        offset=along(unit, reach, -sign * d.about(9) * np.sin(phase)), angle=sign * 2 * np.pi * d.u, words=said
    )


@family("ricochet", known=False)
def ricochet(d: Draw) -> Motion:
    """Shoots off at an angle and rebounds from the edges of the picture."""
    name = d.pick("direction", list(CORNERS))
    unit = np.sign(CORNERS[name])
    low, high = d.radius + 1, 62 - d.radius
    start = np.array([d.between(low + 4, high - 4), d.between(low + 4, high - 4)])
    travelled = start + unit * d.about(46) * d.u[:, None]
    folded = low + np.abs((travelled - low + (high - low)) % (2 * (high - low)) - (high - low))
    said = words(d.say("ricochets", "rebounds off the walls", "caroms off the edges"), f"setting out {name}")
    return Motion(offset=folded - start, start=(float(start[0]), float(start[1])), words=said)


@family("tumble", known=False)
def tumble(d: Draw) -> Motion:
    """Falls in a bow while it turns over and over."""
    name, sign = d.across()
    said = words(d.say("tumbles down", "topples over and over downward", "somersaults downward"), toward(name))
    path = stack(sign * d.about(18) * d.u, d.about(32) * d.u**2, d.u)
    return Motion(offset=path, angle=sign * d.about(2.5 * np.pi) * d.u, words=said)


@family("square", known=False)
def square(d: Draw) -> Motion:
    """Once around a square, first across, then down."""
    name, sign = d.turn()
    side = {"small": 15.0, "big": 24.0}[size := d.pick("size", ["small", "big"])]
    path = d.about(side) * np.array([(0, 0), (sign, 0), (sign, 1), (0, 1), (0, 0)], dtype=float)
    said = words(d.say("patrols", "marches around", "goes along the sides of"), f"a {size} square {name}")
    return Motion(offset=corners(d.u, path), words=said)


@family("loop", known=False)
def loop(d: Draw) -> Motion:
    """Forward through one full loop, like an aerobatic plane."""
    name, sign = d.across()
    size = {"low": 7.0, "tall": 11.0}[height := d.pick("height", ["low", "tall"])]
    phase = 2 * np.pi * d.u
    radius = d.about(size)
    said = words(
        d.say("flies a looping", "loops the loop", "performs a somersault loop"), f"{height} {toward(name)}"
    )
    path = stack(sign * (d.about(24) * d.u + radius * np.sin(phase)), -radius * (1 - np.cos(phase)), d.u)
    return Motion(offset=path, words=said)
