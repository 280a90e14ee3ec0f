"""What a base's denoiser is given in training, and what the classes that know it share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from motionrag.training.cache import Maker
from motionrag.training.fingerprints import digest, module_fingerprint
from motionrag.training.objectives import Noised
from motionrag.training.sources import Clips
from motionrag.types import Sampling

Batch = Mapping[str, Tensor]
"""Of B clips: `latents`, `prompt` and the base's other arrays, f16 as they are cached."""

PROMPTS_AT_ONCE = 128


class Conditioning(Protocol):
    """What a base's denoiser is given beside noised latents."""

    arrays: tuple[str, ...]
    """Names of the cached arrays of a clip that it takes."""

    dropped: tuple[str, ...]
    """Those of them that are replaced where the prompt is dropped, by what guidance sets against them."""

    def shapes(self, sampling: Sampling) -> dict[str, tuple[int, ...]]:
        """Of one row of a batch of these arrays, for clips of a size."""

    def makers(self, sampling: Sampling, captions: int) -> list[Maker]:
        """What makes these arrays, for clips of a size and so many captions each, as far as the pipeline has it."""

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents f32 [B,T,C,H,W] as the network sees them."""

    def predict(self, denoiser: nn.Module, noised: Noised, batch: Batch) -> Tensor:
        """The network's answer [B,T,C,H,W]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Cached latents [B,T,C,H,W] to frames u8 [B,T,3,H,W]."""

    def arguments(self, images: Sequence[Image.Image], batch: Batch, dropped: Tensor) -> dict[str, Any]:
        """What the pipeline is given for some clips: their first frames and cached prompts, no text."""


def precision(module: nn.Module) -> torch.dtype:
    """Of a module's weights."""
    return next(module.parameters()).dtype


def prompts_maker(
    text_encoder: nn.Module, length: int, captions: int, encode: Callable[[list[str]], Tensor]
) -> Maker:
    """What makes the array `prompt` [P,L,D] of each clip, P its captions; each different one is encoded once.

    Args:
        text_encoder: What decides the values.
        length: L.
        captions: P; clips with fewer repeat theirs.
        encode: Some prompts to embeddings [N,L,D].
    """

    def make(clips: Clips) -> Tensor:
        wanted = [row["captions"][i % len(row["captions"])] for row in clips.rows for i in range(captions)]
        places = {caption: place for place, caption in enumerate(dict.fromkeys(wanted))}
        different = list(places)
        parts = [different[i : i + PROMPTS_AT_ONCE] for i in range(0, len(different), PROMPTS_AT_ONCE)]
        embedded = torch.cat([encode(part).float() for part in parts])
        return embedded[[places[caption] for caption in wanted]].unflatten(0, (-1, captions))

    return Maker(
        name="prompt",
        fingerprint=digest(module_fingerprint(text_encoder), f"{captions} captions of {length} tokens"),
        make=make,
        constant=lambda: encode([""]).float(),
    )
