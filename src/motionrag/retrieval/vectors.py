"""Captions and prompts to the vectors that search compares: what moves how first, the whole sentence second."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from motionrag.retrieval import language
from motionrag.retrieval.language import Action
from motionrag.retrieval.lexicon import DIRECTION_AXES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from motionrag.encoders import TextEncoder

CODE_SHARE = 0.65  # of the squared length: the lexicon's axes; the rest is the text encoder's
CAPTION_WEIGHT = 0.5  # of the whole sentence beside the action text, before both are normalised
CODE_WIDTH = 8 * -(-(len(language.lexicon().axes) + len(DIRECTION_AXES)) // 8)


@cache
def method_fingerprint() -> str:
    """SHA-256, 64 hex digits, over the code and data that turn a caption into a vector, the encoder apart."""
    digest = hashlib.sha256()
    for name in ("language.py", "lexicon.py", "motion_lexicon.yaml", "tagging.py", "vectors.py"):
        digest.update(files("motionrag.retrieval").joinpath(name).read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


class CaptionEncoder:
    """A text encoder that hears what moves: its vectors compare by motion first.

    A vector is [sqrt(s) c ; sqrt(1 - s) t], where c is the motion code (unit length, on the lexicon's axes,
    opposites with opposite signs) and t the direction of E(action text) + 0.5 E(caption), E being the text
    encoder. A caption with no known motion has c = 0 and is all t.
    """

    def __init__(self, text: TextEncoder) -> None:
        self.text = text
        self.width = text.info.dimension + CODE_WIDTH
        """W, the width of its vectors."""

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """N captions to f32 [N, W], each of length 1: the dot product is the score of a search.

        Raises:
            MotionRAGError: If a caption is empty.
        """
        found = [language.actions(caption) for caption in captions]
        texts = [
            ", ".join(action.text for action in actions) or caption
            for actions, caption in zip(found, captions, strict=True)
        ]
        encoded = self.text.encode([*captions, *texts])
        sentences = _unit(encoded[len(captions) :] + CAPTION_WEIGHT * encoded[: len(captions)])
        codes = np.stack([motion_code(actions) for actions in found]) if found else np.zeros((0, CODE_WIDTH))
        return _unit(np.hstack([np.sqrt(CODE_SHARE) * codes, np.sqrt(1 - CODE_SHARE) * sentences]))


def motion_code(actions: Sequence[Action]) -> NDArray[np.float32]:
    """Actions to one vector of length 1 on the lexicon's axes, f32 [CODE_WIDTH]; zero if none is known."""
    code = np.zeros(CODE_WIDTH, dtype=np.float32)
    index = _axis_index()
    for action in actions:
        for axis, value in action.axes.items():
            code[index[axis]] += action.weight * value
    return _unit(code)


@cache
def _axis_index() -> dict[str, int]:
    return {axis: i for i, axis in enumerate((*language.lexicon().axes, *DIRECTION_AXES))}


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors [..., W] at length 1; zero stays zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1), dtype=np.float32)
