"""Captions and prompts to the vectors that search compares: by motion first, by what is in the picture second."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from motionrag.encoders import EncoderInfo, TextEncoder
    from motionrag.encoders.motion_text import Explanation, MotionTextEncoder

OWN_SHARE = 0.35
"""Of the similarity, where a user's own text encoder takes part; the rest is the bundled encoder's."""
OPPOSED = 0.5
"""What captions lose of their similarity that move exactly the opposite way."""
LIFTED = 0.11
"""What captions of `motion_text.LONG` tokens or more gain: for the same fit, their cosines are as much lower."""
VERSION = 2
"""Of how captions become vectors, the encoders' weights apart: raise it with every change that alters a vector."""


@cache
def method_fingerprint() -> str:
    """SHA-256, 64 hex digits, of how captions become vectors, a user's own encoder apart."""
    from motionrag.encoders.motion_text import bundled_fingerprint

    return hashlib.sha256(f"{VERSION} {OWN_SHARE} {bundled_fingerprint()}".encode()).hexdigest()


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
        self, text: TextEncoder | None = None, *, motion: MotionTextEncoder | None = None, device: str = "cpu"
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
        return self._beside(captions, self.motion.encode(captions))

    def encode_prompts(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """N prompts of any length to f32 [N, W]; prompts are weighed otherwise than captions.

        Raises:
            MotionRAGError: If a prompt is empty or no valid text.
        """
        return self._beside(prompts, self.motion.encode_prompts(prompts))

    def _beside(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """With the vectors of the user's own encoder, if there is one."""
        if self.own is None:
            return vectors
        own = self.own.encode(texts)
        return np.hstack([OWN_SHARE**0.5 * own, (1 - OWN_SHARE) ** 0.5 * vectors]).astype(np.float32)

    def relevance(self, prompt: NDArray[np.float32], captions: NDArray[np.float32]) -> NDArray[np.float32]:
        """How well captions [N,W] fit a prompt [W], f32 [N]: cosine, length and opposition together."""
        lifted, opposed = self._corrections(prompt, captions)
        return np.asarray(captions @ prompt + lifted + opposed, dtype=np.float32)

    def _corrections(
        self, prompt: NDArray[np.float32], captions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What captions [N,W] gain because they are long, and lose because they move the opposite way, both [N]."""
        bundled = slice(0 if self.own is None else self.own.info.dimension, None)
        asked, vectors = prompt[bundled], captions[:, bundled]
        asked, places = asked[: self.motion.axes], vectors[:, : self.motion.axes]
        lengths = np.maximum(np.linalg.norm(places, axis=1) * np.linalg.norm(asked), 1e-6)
        return LIFTED * self.motion.shares(vectors), OPPOSED * np.minimum(places @ asked / lengths, 0)

    def explain(self, captions: Sequence[str], prompt: str) -> list[Explanation]:
        """What each sentence of each caption, and each axis of motion, adds to its similarity to a prompt.

        Where a user's own encoder takes part, what that adds is not in it.

        Raises:
            MotionRAGError: If a text is empty or no valid text.
        """
        query, asked = self.motion.encode_prompts([prompt])[0], self.encode_prompts([prompt])[0]
        lifted, opposed = self._corrections(asked, self.encode(captions))
        share = 1.0 if self.own is None else 1 - OWN_SHARE
        explained = [self.motion.explain(caption, query).times(share) for caption in captions]
        return [
            replace(one, lifted=float(gained), opposed=float(lost))
            for one, gained, lost in zip(explained, lifted, opposed, strict=True)
        ]


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
