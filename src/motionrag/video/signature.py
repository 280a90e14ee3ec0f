"""Near-duplicate detection: a small vector of how a clip looks and moves, and hash bands to look it up by.

The vector has two parts. Appearance: the 8x8 block means of the clip's mean picture, in grey, centred. Motion:
how such block means change over 8 time bins, as cosine-transform coefficients without the constant one. Each
part has unit length before they are joined, so that clips of one fixed camera, alike in appearance, differ in
motion. Bands are signs of random projections, which agree the more often the smaller the angle (Charikar, 2002).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from motionrag.errors import MotionRAGError

BLOCKS = 8
"""Block means along each side."""
TIME_BINS = 8
"""Time bins of the motion part."""
BANDS = 8
"""Hash bands of a signature."""
BAND_BITS = 16
"""Sign bits of a band."""
DUPLICATE_COSINE = 0.965
"""Cosine from which two clips count as near-duplicates."""
PLAIN = 1.0
"""Contrast (root mean square) in grey levels below which a picture counts the less, the plainer it is."""
STILL = 4.0
"""Motion (root mean square) in grey levels below which it counts the less: a static clip's is noise."""

_APPEARANCE = 1.5  # weight of that part in the bands: it survives re-encoding best, so more copies share a band
_NOTHING = 1e-2  # length of a vector below which only rounding is in it
_SIDE = 64  # pictures are first shrunk to this, quickly
_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def signature(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[int]]:
    """Vector and hash bands of a clip, from the 16 frames that `read_clip` picks.

    Args:
        frames: RGB u8 [T, 3, H, W].

    Returns:
        f32 [512] of unit length (all zero for a clip of one plain colour), and 8 bands: the number of the band
        times 65536, plus 16 sign bits. Two clips are near-duplicates if their cosine is at least
        `DUPLICATE_COSINE`; nearly all such pairs have a band in common.

    Raises:
        MotionRAGError: If the frames have another shape or type.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise MotionRAGError(f"frames must be u8 [T, 3, H, W], got {frames.dtype} {list(frames.shape)}")
    bins = _averaged(_block_means(frames), TIME_BINS, axis=0)
    appearance = bins.mean(0)
    motion = np.tensordot(_cosines(TIME_BINS), bins, 1) / TIME_BINS**0.5
    parts = [_unit(appearance - appearance.mean(), PLAIN), _unit(motion, STILL)]
    vector = np.concatenate([part.ravel() for part in parts])
    norm = float(np.linalg.norm(vector))
    vector = (vector / norm if norm > _NOTHING else np.zeros_like(vector)).astype(np.float32)
    return vector, bands(vector)


def bands(vector: NDArray[np.float32]) -> list[int]:
    """The hash bands of a signature's vector, f32 [512]."""
    signs = (_directions(len(vector)) @ vector > 0).reshape(BANDS, BAND_BITS)
    words = signs @ (1 << np.arange(BAND_BITS))
    return [(band << BAND_BITS) + int(word) for band, word in enumerate(words)]


def _block_means(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey [T, 8, 8], range [0, 255]."""
    images = (Image.fromarray(np.ascontiguousarray(np.moveaxis(frame, 0, -1))) for frame in frames)
    small = np.stack([np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)) for image in images])
    grey = small.astype(np.float32) @ _GREY
    block = _SIDE // BLOCKS
    return grey.reshape(-1, BLOCKS, block, BLOCKS, block).mean((2, 4))


def _averaged(values: NDArray[np.float32], bins: int, axis: int) -> NDArray[np.float32]:
    """Means of `bins` equal stretches of an axis; elements on a border count in part to either side."""
    return np.moveaxis(np.tensordot(_stretches(values.shape[axis], bins), values, (1, axis)), 0, axis)


@lru_cache(maxsize=64)
def _stretches(length: int, bins: int) -> NDArray[np.float32]:
    """[bins, length]: the share of each element in each stretch."""
    edges = np.linspace(0, length, bins + 1)
    left, right = np.arange(length), np.arange(1, length + 1)
    overlap = np.minimum(edges[1:, None], right) - np.maximum(edges[:-1, None], left)
    return (np.maximum(overlap, 0) * bins / length).astype(np.float32)


@lru_cache(maxsize=4)
def _cosines(bins: int) -> NDArray[np.float32]:
    """Orthonormal cosine transform (DCT-II) without its constant row: [bins - 1, bins]."""
    at, order = np.arange(bins) + 0.5, np.arange(1, bins)[:, None]
    return (np.sqrt(2 / bins) * np.cos(np.pi / bins * at * order)).astype(np.float32)


def _unit(part: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """A part at unit length, but shorter if its values' root mean square over the blocks is below `floor`."""
    return part / max(float(np.linalg.norm(part)), floor * BLOCKS)


@lru_cache(maxsize=1)
def _directions(dim: int) -> NDArray[np.float32]:
    """Fixed random directions [128, dim], from SHAKE-256 so that no library's generator can change them."""
    draws = hashlib.shake_256(b"motionrag signature bands 1").digest(BANDS * BAND_BITS * dim * 4 * 2)
    uniform = (np.frombuffer(draws, "<u4").astype(np.float64) + 0.5) / 2**32
    radius, angle = uniform.reshape(2, BANDS * BAND_BITS, dim)
    directions = np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)  # Box-Muller
    directions[:, : BLOCKS * BLOCKS] *= _APPEARANCE
    return directions.astype(np.float32)
