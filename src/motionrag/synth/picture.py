"""A picture of motion families: one row of frames for each, small enough to stand in a document."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motionrag.synth.corpus import Scene, draw
from motionrag.video import pick
from motionrag.video.files import replacing_file

FRAMES = 8  # in a row
SIDE = 48  # of a frame, pixels
GAP, LABEL = 2, 72
COLUMNS = 2


def contact_sheet(drawn: Sequence[Scene], path: Path) -> None:
    """Write the first scene of each family as a row of up to 8 frames, in a PNG of 128 colours.

    Raises:
        VideoError: If it cannot be written.
    """
    firsts = list({scene.family.name: scene for scene in reversed(drawn)}.values())[::-1]
    video = draw(firsts, size=SIDE).video.numpy()
    shown = pick(video.shape[1], min(video.shape[1], FRAMES))
    columns = min(COLUMNS, len(firsts))
    rows = -(-len(firsts) // columns)
    width, height = LABEL + len(shown) * (SIDE + GAP), SIDE + GAP
    page = Image.new("RGB", (columns * width + GAP, rows * height + GAP), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for number, scene in enumerate(firsts):
        left, top = number // rows * width + GAP, number % rows * height + GAP
        pen.text((left + 4, top + SIDE / 2), scene.family.name, fill="black", font=font, anchor="lm")
        for slot, frame in enumerate(shown):
            image = Image.fromarray(np.ascontiguousarray(np.moveaxis(video[number, frame], 0, -1)))
            page.paste(image, (left + LABEL + slot * (SIDE + GAP), top))
    with replacing_file(path) as temporary:
        page.quantize(128, dither=Image.Dither.NONE).save(temporary, format="PNG", optimize=True)
