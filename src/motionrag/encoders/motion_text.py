"""The caption encoder: MiniLM, fine-tuned to compare captions by the motion they describe.

A text of any length becomes one vector: an attention-weighted mean of its tokens, so that a sentence of scenery
weighs little and the sentence with the motion much. How it was trained: `recipes/captions`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from motionrag.encoders.protocols import EncoderInfo
from motionrag.encoders.sentences import sentences
from motionrag.encoders.text import MINILM, checked, minilm_folder
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from numpy.typing import NDArray

WINDOW = 254
"""Tokens encoded together, beside the two that mark start and end; longer texts are split."""
GAIN = 16.0
"""Scale of the attention logits, so that they are learned as quickly as the layers are."""
BATCH = 32
"""Windows per forward pass."""
_SIZE = ".size"
"""Ends the names of the sizes of steps among packed weights."""


@dataclass(frozen=True)
class Part:
    """A sentence of a caption, and what it adds to the caption's similarity to a prompt."""

    text: str
    """The sentence."""
    share: float
    """Its share of the caption's attention, in [0, 1]; those of a caption add up to 1."""
    score: float
    """What it adds to the cosine; those of a caption add up to the cosine. A negative one lowers it."""


class MotionText(nn.Module):
    """The network: token vectors of MiniLM [N,L,D], and the attention that each gets.

    Args:
        folder: MiniLM's configuration and weights.
        axes: How many axes of motion it places texts on.
    """

    def __init__(self, folder: Path, axes: int) -> None:
        super().__init__()
        from safetensors.torch import load_file

        from motionrag.encoders.source import quiet

        with quiet():
            from transformers import BertConfig, BertModel
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = BertConfig(**{**settings, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
        self.bert = BertModel(config, add_pooling_layer=False)
        state = {k: v.float() for k, v in load_file(folder / "model.safetensors").items() if "pooler" not in k}
        state.pop("embeddings.position_ids", None)
        self.bert.load_state_dict(state)
        self.weigh = nn.Linear(config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.weigh.weight)
        self.place = nn.Linear(config.hidden_size, axes, bias=False)
        nn.init.zeros_(self.place.weight)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [N,L], to vectors [N,L,D] and attention logits [N,L]."""
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = (GAIN * self.weigh(hidden)[..., 0]).masked_fill(mask == 0, -torch.inf)
        return hidden, logits


class MotionTextEncoder:
    """Captions and prompts to vectors that compare by motion first, by things second; also a `TextEncoder`.

    Args:
        network: With its weights, in evaluation mode.
        tokenizer: Of `tokenizer()`.
        fingerprint: Of the network, if it is known; 64 hex digits.
    """

    def __init__(self, network: MotionText, tokenizer: Any, fingerprint: str | None = None) -> None:
        from motionrag.encoders import identity

        self._network, self._tokenizer = network, tokenizer
        self._begin, self._end = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
        self._stops = {tokenizer.token_to_id(mark) for mark in ".!?"}
        settings = {"tokenizer": tokenizer.to_str(), "window": WINDOW, "gain": GAIN}
        self.info = EncoderInfo(
            kind="text",
            model=MINILM,
            dimension=network.bert.config.hidden_size,
            fingerprint=fingerprint or identity.fingerprint(network, settings),
        )

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""
        if torch.device(device) != self._network.weigh.weight.device:
            self._network = copy.deepcopy(self._network).to(device)  # that of other encoders stays where it is

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """N texts of any length to f32 [N, D], each of length 1: the dot product is the cosine.

        Raises:
            MotionRAGError: If a text is empty or no valid text, or one string is given in place of several.
        """
        windows = [(i, window) for i, text in enumerate(checked(texts)) for window in self._windows(self._ids(text))]
        windows.sort(key=lambda item: len(item[1]))  # windows of like length are padded little
        sums = torch.zeros(len(texts), self.info.dimension)
        peaks = torch.full((len(texts),), -torch.inf)
        for start in range(0, len(windows), BATCH):
            part = windows[start : start + BATCH]
            found = self._run([window for _, window in part])
            for (i, _), (vectors, logits) in zip(part, found, strict=True):  # a softmax over all windows of a text
                peak = torch.maximum(peaks[i], logits.max())
                sums[i] = sums[i] * (peaks[i] - peak).exp() + (logits - peak).exp() @ vectors
                peaks[i] = peak
        return np.asarray(nn.functional.normalize(sums, dim=-1).numpy(), dtype=np.float32)

    def explain(self, text: str, query: NDArray[np.float32]) -> list[Part]:
        """What each sentence of a text adds to its cosine with a query's vector f32 [D], in the text's order.

        Raises:
            MotionRAGError: If the text is empty or no valid text.
        """
        (text,) = checked([text])
        spans, encoded = sentences(text), self._tokenizer.encode(text, add_special_tokens=False)
        wanted = torch.from_numpy(np.asarray(query, dtype=np.float32))
        logits, gains, total = list[Tensor](), list[Tensor](), 0.0
        whole = torch.zeros(self.info.dimension)
        windows = self._windows(encoded.ids)
        found = [one for k in range(0, len(windows), BATCH) for one in self._run(windows[k : k + BATCH])]
        scale = torch.logsumexp(torch.cat([one for _, one in found]), 0)
        for vectors, one in found:
            weights = (one - scale).exp()
            whole += weights @ vectors
            logits.append(weights[1:-1])
            gains.append(weights[1:-1] * (vectors[1:-1] @ wanted))
        total = float(whole @ wanted / whole.norm())
        ends = np.array([end for _, end in spans])
        owners = np.searchsorted(ends, [start for start, _ in encoded.offsets], side="right")
        share = np.bincount(owners, torch.cat(logits).numpy(), minlength=len(spans))
        share = share / share.sum() if share.sum() > 0 else np.full(len(spans), 1 / len(spans))
        score = np.bincount(owners, torch.cat(gains).numpy(), minlength=len(spans)) / float(whole.norm())
        score += (total - score.sum()) * share  # of the marks of start and end, which sum up their window
        return [Part(text[a:b], float(s), float(g)) for (a, b), s, g in zip(spans, share, score, strict=True)]

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

    @torch.inference_mode()
    def _run(self, windows: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor]]:
        """Of each window its vectors f32 [L,D] and attention logits f32 [L], on the CPU."""
        length = max(map(len, windows))
        ids = torch.zeros(len(windows), length, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : len(window)] = torch.tensor(window)
            mask[row, : len(window)] = 1
        device = self._network.weigh.weight.device
        hidden, logits = (part.float().cpu() for part in self._network(ids.to(device), mask.to(device)))
        return [(hidden[row, : len(window)], logits[row, : len(window)]) for row, window in enumerate(windows)]


def pack(network: MotionText) -> dict[str, Tensor]:
    """What a tuned network has otherwise than MiniLM, a byte a weight.

    Matrices become int8 steps from MiniLM's, with the size of a step for each row; vectors are kept as they are.
    """
    before = MotionText(minilm_folder(), network.place.out_features).state_dict()
    found = dict[str, Tensor]()
    for name, tensor in network.state_dict().items():
        change = tensor.detach().cpu().float() - before[name]
        if not change.any():
            continue
        if change.dim() < 2:
            found[name] = tensor.detach().cpu().float()
            continue
        size = change.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        found[name] = (change / size).round().to(torch.int8)
        found[f"{name}{_SIZE}"] = size
    return found


def unpack(network: MotionText, packed: Mapping[str, Tensor]) -> None:
    """Put what `pack` made into a network that is MiniLM.

    Raises:
        MotionRAGError: If it is of another network.
    """
    state = network.state_dict()
    for name, tensor in packed.items():
        if name.endswith(_SIZE):
            continue
        if name not in state or state[name].shape != tensor.shape:
            raise MotionRAGError(
                f"these are no weights of the caption encoder: {name} is not in MiniLM at that size"
            )
        steps = packed.get(f"{name}{_SIZE}")
        state[name].copy_(tensor if steps is None else state[name] + steps * tensor.float())


def tokenizer() -> Any:
    """MiniLM's, of the library tokenizers; it cuts and pads nothing."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found
