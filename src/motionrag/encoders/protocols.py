"""What every encoder offers, and the facts by which a database knows which one made its vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from motionrag.video import Preparation

Kind = Literal["text", "motion", "appearance"]


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """Which encoder it is; plain values, so `dataclasses.asdict` and `config.parse` carry it through JSON."""

    kind: Kind
    """What it encodes."""
    model: str
    """Hub id, absolute folder, or "minilm": what the `load_*_encoder` function takes."""
    revision: str | None = None
    """Commit hash on the hub; None for a folder."""
    dimension: int
    """D, the width of its vectors or tokens."""
    length: int | None = None
    """L, the number of tokens a clip is encoded into; None for text."""
    fingerprint: str
    """SHA-256, 64 hex digits, over all that decides the output: equal fingerprints, same vectors."""


class TextEncoder(Protocol):
    """Sentences to vectors."""

    @property
    def info(self) -> EncoderInfo:
        """Which encoder it is."""

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N sentences to f32 [N, D], each of length 1: the dot product is the cosine.

        Raises:
            MotionRAGError: If a sentence is empty.
        """


class VideoEncoder(Protocol):
    """Prepared frames to tokens, and tokens to one vector for similarity search."""

    @property
    def info(self) -> EncoderInfo:
        """Which encoder it is."""

    @property
    def preparation(self) -> Preparation:
        """Which frames of a clip it takes and how they are resized and cropped; runs in decode workers."""

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""

    def encode(self, batch: Tensor | NDArray[np.uint8]) -> Tensor:
        """Prepared frames u8 [B,S,3,h,w], range [0, 255], to features f32 [B,L,D] on the encoder's device.

        Raises:
            MotionRAGError: If the frames are not what `preparation` makes.
        """

    def no_motion(self) -> Tensor:
        """Features f32 [1,L,D] of a video without motion."""

    def pool(self, features: Tensor) -> Tensor:
        """Features [B,L,D] to vectors f32 [B,D] of length 1.

        Raises:
            MotionRAGError: If the features are not what `encode` makes.
        """
