"""The caption encoder: MiniLM twice, fine-tuned to compare captions by the motion they describe.

A text of any length becomes one vector of two networks. The first is tuned hard, for motion: it takes an
attention-weighted mean of a text's tokens, so that a sentence of scenery weighs little and the one with the motion
much; from that mean come a direction and a place on named axes of motion, on which opposites differ in sign. The
second is tuned gently, for all that a caption says: the mean of its tokens. How they were trained:
`recipes/captions`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.encoders.motion_network import GAIN, MotionText, load_network, tokenizer
from motionrag.encoders.protocols import EncoderInfo
from motionrag.encoders.sentences import sentences
from motionrag.encoders.text import MINILM, checked, minilm_folder
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 254
"""Tokens encoded together, beside the two that mark start and end; longer texts are split."""
BATCH = 32
"""Windows per forward pass."""
PLACE, WHOLE = 0.7, 0.8
"""Weights in the dot product of the place on the axes and of the second direction, beside 1 for the first."""
LONG, FADED = 64, 0.7
"""With the share r = min(1, n / LONG)^2, a caption of n tokens has r of its second direction and 1 - FADED r of its
place: a short caption says its motion in all of its words, a long one says much else that a prompt may name."""


@dataclass(frozen=True)
class Part:
    """A sentence of a caption, and what it adds to the caption's similarity to a prompt."""

    text: str
    """The sentence."""
    share: float
    """Its share of the caption's attention, in [0, 1]; those of a caption add up to 1."""
    score: float
    """What it adds to the similarity; those of a caption add up to it. A negative one lowers it."""


@dataclass(frozen=True)
class Explanation:
    """Why a caption is like a prompt, or is not."""

    sentences: list[Part]
    """The caption's, in its order; what they add is the similarity."""
    axes: dict[str, float]
    """What named axes of motion add, a part of what the sentences do, largest first; opposites add less than 0."""
    lifted: float = 0.0
    """What is added beside because the caption is long."""
    opposed: float = 0.0
    """Likewise, at most 0, because it moves the opposite way."""

    def times(self, factor: float) -> Explanation:
        """The explanation of a similarity that is so many times as large."""
        return Explanation(
            [replace(part, score=factor * part.score) for part in self.sentences],
            {name: factor * value for name, value in self.axes.items()},
            factor * self.lifted,
            factor * self.opposed,
        )


_PROMPT = (PLACE**0.5, 1.0, WHOLE**0.5)


def _scales(tokens: int) -> tuple[float, float, float]:
    """Of a caption's place and directions."""
    long = min(1.0, tokens / LONG) ** 2
    return _PROMPT[0] * (1 - FADED * long), 1.0, _PROMPT[2] * long


class MotionTextEncoder:
    """Captions and prompts to vectors that compare by motion first, by things second; also a `TextEncoder`.

    A vector is [sqrt(PLACE) p ; m ; sqrt(WHOLE) t] at length 1, with the first network's place p on the axes and its
    direction m (length 1), and the second's direction t (length 1), p and t of captions scaled as LONG says; zeros
    after it make its width a multiple of 8.

    Args:
        motion: The first network with its weights, in evaluation mode.
        tokenizer: Of `tokenizer()`.
        whole: The second network; without it vectors are the first's alone.
        fingerprint: Of the networks, if it is known; 64 hex digits.
    """

    def __init__(
        self, motion: MotionText, tokenizer: Any, whole: MotionText | None = None, fingerprint: str | None = None
    ) -> None:
        from motionrag.encoders import identity

        self._networks = [motion] if whole is None else [motion, whole]
        self._shared: list[MotionText] | None = None  # those on the CPU, while it is elsewhere
        self._place, self._tokenizer = motion.place.weight.detach().cpu(), tokenizer
        self._begin, self._end = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._stops = {tokenizer.token_to_id(mark) for mark in ".!?"}
        settings = {
            "tokenizer": tokenizer.to_str(),
            "window": WINDOW,
            "gain": GAIN,
            "weights": [PLACE, WHOLE, LONG, FADED],
        }
        self.axes = len(motion.axes)
        """How many of a vector's first numbers are a place on axes."""
        width = self.axes + len(self._networks) * motion.bert.config.hidden_size
        self.info = EncoderInfo(
            kind="text",
            model=MINILM,
            dimension=8 * -(-width // 8),
            fingerprint=fingerprint or identity.fingerprint(nn.ModuleList(self._networks), settings),
        )

    def to(self, device: torch.device | str) -> None:
        """Move it to another device; other encoders that share its networks stay where they are."""
        here, there = self._device, torch.device(device)
        if here.type == there.type and there.index in (None, here.index):
            return
        if self._shared is not None and there.type == "cpu":
            self._networks, self._shared = self._shared, None
            return
        shared = self._networks if here.type == "cpu" else self._shared
        self._networks = [copy.deepcopy(one).to(there) for one in self._networks]
        self._shared = shared

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N captions of any length to f32 [N, D], each of length 1: the dot product with a prompt's is the cosine.

        Raises:
            MotionRAGError: If a text is empty or no valid text, or one string is given in place of several.
        """
        lengths, means, _ = self.parts(texts)
        return self.joined(means, lengths)

    def encode_prompts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N prompts of any length to f32 [N, D], each of length 1.

        Raises:
            MotionRAGError: As `encode`.
        """
        return self.joined(self.parts(texts)[1])

    def parts(self, texts: Sequence[str]) -> tuple[list[int], Tensor, Tensor]:
        """What N texts become before their vectors: tokens, and a mean and its weight of each of K networks.

        The mean of several texts as one is theirs, weighted by the softmax of their weights.

        Returns:
            Numbers of tokens; means f32 [K,N,D]; logarithms of the attention they sum up, f32 [K,N].

        Raises:
            MotionRAGError: As `encode`.
        """
        ids = [self._ids(text) for text in checked(texts)]
        windows = [(i, window) for i, tokens in enumerate(ids) for window in self._windows(tokens)]
        windows.sort(key=lambda item: len(item[1]))  # windows of like length are padded little
        width = self._networks[0].bert.config.hidden_size
        means = torch.zeros(len(self._networks), len(ids), width)
        sums = torch.full((len(self._networks), len(ids)), -torch.inf)
        for start in range(0, len(windows), BATCH):
            part = windows[start : start + BATCH]
            for k, network in enumerate(self._networks):
                found = self._run(network, [window for _, window in part])
                for (i, _), (vectors, logits) in zip(part, found, strict=True):  # a softmax over all of its windows
                    total = torch.logaddexp(sums[k, i], logits.logsumexp(0))
                    means[k, i] = means[k, i] * (sums[k, i] - total).exp() + (logits - total).exp() @ vectors
                    sums[k, i] = total
        return [len(tokens) for tokens in ids], means, sums

    def joined(self, means: Tensor, lengths: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Means [K,N,D], and captions' numbers of tokens (None: of prompts), to vectors f32 [N, D] of length 1."""
        scales = [_PROMPT] * means.shape[1] if lengths is None else [_scales(length) for length in lengths]
        vectors = nn.functional.normalize(self._joined(means, torch.tensor(scales)), dim=-1)
        return np.asarray(vectors.numpy(), dtype=np.float32)

    @torch.inference_mode()
    def _joined(self, means: Tensor, scales: Tensor) -> Tensor:
        """The networks' means [K,N,D], and scales of their parts [N,3], to f32 [N, `info.dimension`]."""
        parts = [means[0] @ self._place.T, *nn.functional.normalize(means, dim=-1)]
        joined = torch.cat([scales.view(-1, 3)[:, k, None] * part for k, part in enumerate(parts)], dim=-1)
        return nn.functional.pad(joined, (0, self.info.dimension - joined.shape[-1]))

    def shares(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The share r of LONG that captions' vectors [N,D] show, in [0, 1], f32 [N]; 1 for long captions."""
        width = self._place.shape[1]
        first, second = (vectors[:, start : start + width] for start in (self.axes, self.axes + width))
        ratio = np.linalg.norm(second, axis=1) / np.maximum(np.linalg.norm(first, axis=1), 1e-6)
        return np.asarray(ratio / WHOLE**0.5, dtype=np.float32)

    def explain(self, text: str, query: NDArray[np.float32]) -> Explanation:
        """What each sentence of a caption, and each axis of motion, adds to its cosine with a prompt f32 [D].

        Raises:
            MotionRAGError: If the text is empty or no valid text.
        """
        (text,) = checked([text])
        spans, encoded = sentences(text), self._tokenizer.encode(text, add_special_tokens=False)
        ends = np.array([end for _, end in spans])
        owners = np.searchsorted(ends, [start for start, _ in encoded.offsets], side="right")
        windows = self._windows(encoded.ids)
        weights, tokens = list[Tensor](), list[Tensor]()
        for network in self._networks:
            found = [
                one for k in range(0, len(windows), BATCH) for one in self._run(network, windows[k : k + BATCH])
            ]
            scale = torch.logsumexp(torch.cat([logits for _, logits in found]), 0)
            weights.append(torch.cat([(logits - scale).exp() for _, logits in found]))
            tokens.append(torch.cat([vectors for vectors, _ in found]))
        means = torch.stack([shares @ vectors for shares, vectors in zip(weights, tokens, strict=True)])
        scales = torch.tensor(_scales(len(encoded.ids)))
        joined = self._joined(means[:, None], scales[None])[0]
        inner = torch.cat([torch.tensor([False, *[True] * (len(window) - 2), False]) for window in windows])
        share = np.bincount(owners, weights[0][inner].numpy(), minlength=len(spans))
        share = share / share.sum() if share.sum() > 0 else np.full(len(spans), 1 / len(spans))
        wanted = torch.from_numpy(np.asarray(query, dtype=np.float32))
        towards = self._toward(means, wanted, scales)
        added = torch.stack([w * (v @ toward) for w, v, toward in zip(weights, tokens, towards, strict=True)]).sum(0)
        score = np.bincount(owners, added[inner].numpy(), minlength=len(spans)) / float(joined.norm())
        total = float(joined @ wanted / joined.norm())
        score += (total - score.sum()) * share  # of the marks of start and end, which sum up their window
        named = [Part(text[a:b], float(s), float(g)) for (a, b), s, g in zip(spans, share, score, strict=True)]
        values = (joined * wanted / joined.norm()).tolist()
        axes = sorted(zip(self._networks[0].axes, values, strict=False), key=lambda item: -abs(item[1]))
        return Explanation(named, dict(axes))

    @torch.inference_mode()
    def _toward(self, means: Tensor, query: Tensor, scales: Tensor) -> list[Tensor]:
        """Of each network the vector [D] whose dot product with its mean [K,D] is what it adds, before length 1."""
        axes, width = self._place.shape
        place, *directions = query[: axes + len(means) * width].split([axes, *[width] * len(means)])
        found = [scale * one / mean.norm() for scale, one, mean in zip(scales[1:], directions, means, strict=False)]
        return [found[0] + scales[0] * place @ self._place, *found[1:]]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _windows(self, ids: list[int]) -> list[list[int]]:
        """Token ids in windows, each split behind the last full stop that fits, if there is one; at least one."""
        found, start = [], 0
        while True:
            stop = min(start + WINDOW, len(ids))
            if stop < len(ids):
                stop = next((k + 1 for k in range(stop - 1, start, -1) if ids[k] in self._stops), stop)
            found.append([self._begin, *ids[start:stop], self._end])
            start = stop
            if start >= len(ids):
                return found

    @property
    def _device(self) -> torch.device:
        return self._networks[0].weigh.weight.device

    @torch.inference_mode()
    def _run(self, network: nn.Module, windows: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
        """Of each window its vectors f32 [L,D] and attention logits f32 [L], on the CPU."""
        length = max(map(len, windows))
        ids = torch.zeros(len(windows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        hidden, logits = (part.float().cpu() for part in network(ids.to(self._device), mask.to(self._device)))
        return [(hidden[row, : len(window)], logits[row, : len(window)]) for row, window in enumerate(windows)]


@cache
def bundled_fingerprint() -> str:
    """SHA-256, 64 hex digits, of the bundled caption encoder: files and settings, not sums that machines round."""
    from motionrag.registry import embedded

    digest = hashlib.sha256(json.dumps([WINDOW, GAIN, PLACE, WHOLE, LONG, FADED]).encode())
    minilm = minilm_folder()
    files = [minilm / name for name in ("config.json", "tokenizer.json", "model.safetensors")]
    files += [embedded("captions") / part / checkpoint.WEIGHTS_NAME for part in ("motion", "whole")]
    for file in files:
        try:
            digest.update(file.read_bytes())
        except OSError as error:
            raise MotionRAGError(f"{file}: is missing or cannot be read; install motionrag again") from error
    return digest.hexdigest()


@cache
def _bundled() -> tuple[MotionText, Any, MotionText]:
    from motionrag.registry import embedded

    motion, whole = (load_network(embedded("captions") / part) for part in ("motion", "whole"))
    return motion, tokenizer(), whole


def load_motion_text(device: str = "cpu") -> MotionTextEncoder:
    """The bundled caption encoder; on the CPU all share its networks.

    Raises:
        MotionRAGError: If MiniLM's package or the tuned weights are missing or damaged, or there is no such device.
    """
    from motionrag.encoders.source import checked_device

    encoder = MotionTextEncoder(*_bundled(), fingerprint=bundled_fingerprint())
    encoder.to(checked_device(device))
    return encoder
