"""Film strips for people to look at: one row of frames for each clip, with what there is to say about it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from motionrag.errors import MotionRAGError
from motionrag.video.files import replacing_file
from motionrag.video.read import pick

_FRAMES = 8  # in a row
_HEIGHT = 120  # of a frame, pixels
_WIDEST = 240  # of a frame; wider ones are made less high
_GAP, _MARGIN = 3, 12
_SIZE, _LINE = 18, 23  # of the letters, and from line to line
_CAPTION_LINES = 2
_LABEL = (_CAPTION_LINES + 1) * _LINE + 4
_PAPER, _INK, _FAINT = (255, 255, 255), (20, 20, 20), (100, 100, 100)
_NARROWEST = 640


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of a sheet."""

    frames: NDArray[np.uint8]
    """RGB u8 [T, 3, H, W]; at most 8 of them are shown, spread uniformly."""
    caption: str
    """What it shows: up to two lines, the rest is cut with an ellipsis."""
    details: str = ""
    """What else there is to say, such as rank and score: one line, in grey."""


def sheet(rows: Sequence[Strip], path: str | os.PathLike[str] | None = None) -> Image.Image:
    """Draw clips one below the other, all rows equally high, aspect ratios kept.

    Args:
        rows: The clips.
        path: Where to write it as PNG; None only returns it.

    Raises:
        MotionRAGError: If there are no rows, or frames have another shape or type.
        VideoError: If it cannot be written.
    """
    if not rows:
        raise MotionRAGError("a sheet needs at least one row")
    strips = [_strip(row.frames) for row in rows]
    width = max(_NARROWEST, *(strip.width for strip in strips)) + 2 * _MARGIN
    step = _LABEL + _HEIGHT + _MARGIN
    page = Image.new("RGB", (width, _MARGIN + step * len(rows)), _PAPER)
    draw = ImageDraw.Draw(page)
    for number, (row, strip) in enumerate(zip(rows, strips, strict=True)):
        top = _MARGIN + number * step
        _label(draw, (_MARGIN, top), row, width - 2 * _MARGIN)
        page.paste(strip, (_MARGIN, top + _LABEL))
    if path is not None:
        with replacing_file(Path(path)) as temporary:
            page.save(temporary, format="PNG")
    return page


def _strip(frames: NDArray[np.uint8]) -> Image.Image:
    """Up to 8 frames side by side, `_HEIGHT` high."""
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise MotionRAGError(f"frames must be u8 [T, 3, H, W], got {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[2:]
    scale = min(_HEIGHT / height, _WIDEST / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picks = pick(len(frames), min(len(frames), _FRAMES))
    strip = Image.new("RGB", ((size[0] + _GAP) * len(picks) - _GAP, _HEIGHT), _PAPER)
    for slot, i in enumerate(picks):
        image = Image.fromarray(np.ascontiguousarray(np.moveaxis(frames[i], 0, -1)))
        strip.paste(
            image.resize(size, Image.Resampling.LANCZOS), (slot * (size[0] + _GAP), (_HEIGHT - size[1]) // 2)
        )
    return strip


def _label(draw: ImageDraw.ImageDraw, at: tuple[int, int], row: Strip, width: int) -> None:
    """Caption, then details right under it, ending just above the pictures."""
    font = ImageFont.load_default(_SIZE)
    lines = [(line, _INK) for line in _wrapped(row.caption, font, width, _CAPTION_LINES)]
    lines += [(line, _FAINT) for line in _wrapped(row.details, font, width, 1)]
    top = at[1] + (_CAPTION_LINES + 1 - len(lines)) * _LINE
    for number, (line, colour) in enumerate(lines):
        draw.text((at[0], top + number * _LINE), line, fill=colour, font=font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int) -> list[str]:
    """Words in at most `most` lines of `width` pixels; what does not fit ends in an ellipsis."""
    lines: list[str] = []
    words = text.split()
    while words and len(lines) < most:
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    if lines and (words or font.getlength(lines[-1]) > width):
        lines[-1] = _shortened(lines[-1], font, width)
    return lines


def _shortened(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A line with an ellipsis that fits into `width` pixels."""
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line.rstrip()}..."
