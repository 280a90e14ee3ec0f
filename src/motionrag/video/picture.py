"""Decoded frames to upright RGB with square pixels: the only place where pixel formats are converted."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray


class Painter:
    """Converts the frames of one video; all come out at the size of the first."""

    def __init__(self, aspect: Fraction = Fraction(1)) -> None:
        self._aspect = aspect
        self._reformatter = VideoReformatter()  # reuses its tables from frame to frame
        self._size: tuple[int, int] | None = None
        self._turn = (False, False, False)
        self._alpha = False

    def __call__(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """RGB u8 [H, W, 3], upright; transparency lies over white. Valid until the frame is freed."""
        if self._size is None:
            self._size = square_size(frame.width, frame.height, self._aspect)
            self._turn = orientation(frame)
            self._alpha = any(component.is_alpha for component in frame.format.components)
        width, height = self._size
        pixel = 4 if self._alpha else 3
        plain = self._reformatter.reformat(
            frame, width=width, height=height, format="rgba" if self._alpha else "rgb24", threads=1
        )
        plane = plain.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, : width * pixel]
        image = rows.reshape(height, width, pixel)
        return upright(over_white(image) if self._alpha else image, self._turn)


def square_size(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Width and height in square pixels, where `aspect` is width over height of one pixel."""
    return max(1, round(width * aspect)), height


def orientation(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to bring a frame upright: (swap rows and columns, then mirror rows, mirror columns).

    From its display matrix, x' = a x + c y and y' = b x + d y, rounded to quarter turns.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    matrix = b"" if data is None else bytes(cast(SideData, data))
    if len(matrix) < 20:
        return False, False, False
    a, b, _, c, d = memoryview(matrix[:20]).cast("i")
    swapped = abs(a) + abs(d) < abs(b) + abs(c)
    return (True, b < 0, c < 0) if swapped else (False, d < 0, a < 0)


def quarter_turns(turn: tuple[bool, bool, bool]) -> int:
    """Counter-clockwise quarter turns in what `orientation` found, mirroring aside: 0 to 3."""
    return {(False, False): 0, (False, True): 2, (True, True): 1, (True, False): 3}[turn[0], turn[1]]


def upright(image: NDArray[np.uint8], turn: tuple[bool, bool, bool]) -> NDArray[np.uint8]:
    """Apply what `orientation` found to [H, W, C], as a view."""
    swapped, mirror_rows, mirror_columns = turn
    if swapped:
        image = image.swapaxes(0, 1)
    return image[:: -1 if mirror_rows else 1, :: -1 if mirror_columns else 1]


def over_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA u8 [H, W, 4] laid over white: RGB u8 [H, W, 3]."""
    alpha = image[..., 3:].astype(np.uint16)
    mixed = (image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return mixed.astype(np.uint8)
