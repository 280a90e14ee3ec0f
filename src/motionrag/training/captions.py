"""Training of the caption encoder: MiniLM learns which texts tell of the same motion, whatever else they tell.

Contrastive, on written text (`training/texts.py`), at three distances at once: the prompt and the caption of one
clip are nearest, then texts of one motion, then those of one kind of movement; opposites are pushed apart hardest.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.encoders.motion_network import MotionText, pack, tokenizer, unpack
from motionrag.encoders.motion_text import WINDOW, MotionTextEncoder
from motionrag.encoders.text import minilm_folder
from motionrag.errors import MotionRAGError
from motionrag.training.texts import (
    Batches,
    BatchSettings,
    Group,
    held_out,
    opposites,
    read_axes,
    read_texts,
    text_key,
)

BUCKETS = (14, 24, 80)
"""Tokens up to which texts of a batch are run together; padding is work."""


@dataclass(frozen=True, kw_only=True)
class CaptionSettings:
    """What the caption encoder is trained on, and for what."""

    texts: str
    """Folder of training text."""
    init: str | None = None
    """Folder that an earlier training of it wrote; None begins with MiniLM."""
    frozen: int = 0
    """Layers from the bottom that stay as they are; the word vectors always do."""
    attention: bool = True
    """Whether it learns which tokens to attend to; else all tokens of a text count alike."""
    rank: int | None = None
    """Rank to which changes of matrices are cut when they are written; None writes them in full, a byte a weight."""
    batch: BatchSettings = field(default_factory=BatchSettings)
    """What a batch is made of, in place of the loop's number of clips."""
    temperature: float = 0.05
    """Of the contrastive losses."""
    kind: float = 0.5
    """Weight of the loss over kinds of movement."""
    motion: float = 0.25
    """Weight of the loss over motions."""
    clip: float = 0.25
    """Weight of the loss over clips."""
    axes: float = 3.0
    """Weight of the squared distance to a text's values on the axes of motion."""
    opposite: float = 1.0
    """Added to the logits of opposites, so that they weigh more among the negatives."""

    def __post_init__(self) -> None:
        if not 0 <= self.frozen < 6:
            raise MotionRAGError(f"frozen={self.frozen} must leave some of MiniLM's six layers to be trained")
        if self.rank is not None and self.rank < 1:
            raise MotionRAGError(f"rank={self.rank} must be at least 1")
        if not self.temperature > 0:
            raise MotionRAGError(f"temperature={self.temperature} must be more than 0")


class CaptionsTask:
    """Trains the caption encoder; see `Task`."""

    Settings = CaptionSettings

    def __init__(self, settings: CaptionSettings, device: torch.device | str = "cpu") -> None:
        groups, scenery = read_texts(Path(settings.texts))
        training, self.held = held_out(groups)
        if not self.held:
            raise MotionRAGError(f"{settings.texts}: holds no motion with long captions that could be held out")
        self.settings, self.batches = settings, Batches(training, scenery, settings.batch)
        self.axes, self.values = read_axes(Path(settings.texts)) if settings.axes else ([], {})
        self.network = MotionText(minilm_folder(), self.axes)
        if settings.init is not None:
            folder = Path(settings.init)
            tuned, made = checkpoint.load(folder / checkpoint.WEIGHTS_NAME, folder / checkpoint.CONFIG_NAME)
            if (axes := made.get("axes")) and self.axes and axes != self.axes:
                raise MotionRAGError(f"{folder}: places texts on other axes than {settings.texts} has")
            unpack(self.network, tuned)
        self.network.to(device).requires_grad_(False)
        layers = self.network.bert.encoder.layer[settings.frozen :]
        heads: dict[str, nn.Module] = {"place": self.network.place} if self.axes else {}
        if settings.attention:
            heads["weigh"] = self.network.weigh
        else:
            nn.init.zeros_(self.network.weigh.weight)
        self.model = nn.ModuleDict({"layers": layers, **heads}).requires_grad_(True)
        self.tokenizer = tokenizer()

    def batch(self, size: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Token ids [N,L], 0 after the end; numbers [N] of clips, motions, kinds, opposites; values on axes [N,A].

        `placed` [N] says which texts have such values.
        """
        samples = self.batches(generator)
        ids = [encoded.ids for encoded in self.tokenizer.encode_batch([one.text for one in samples])]
        ids = [one[: WINDOW + 1] + one[-1:] if len(one) > WINDOW + 2 else one for one in ids]
        motions = _numbers([one.group.motion for one in samples])
        known = dict(zip((one.group.motion for one in samples), motions.tolist(), strict=True))
        values = [self.values.get(text_key(one.short)) for one in samples]
        others = [self.batches.opposites.get(id(one.group)) for one in samples]
        return {
            "ids": nn.utils.rnn.pad_sequence([torch.tensor(one) for one in ids], batch_first=True),
            "axes": torch.tensor([[(one or {}).get(axis, 0.0) for axis in self.axes] for one in values]),
            "placed": torch.tensor([one is not None for one in values]),
            "clip": _numbers([one.clip for one in samples]),
            "motion": motions,
            "kind": _numbers([one.group.kind for one in samples]),
            "opposite": torch.tensor([known.get(other.motion, -1) if other else -1 for other in others]),
        }

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> tuple[Tensor, dict[str, Any]]:
        """The four losses, weighed."""
        settings, means = self.settings, self._means(batch["ids"])
        vectors = F.normalize(means, dim=-1)
        away = (self.network.place(means) - batch["axes"]).square().sum(1)  # of no axes: 0
        alike = {name: batch[name][:, None] == batch[name] for name in ("clip", "motion", "kind")}
        against = (batch["opposite"][:, None] == batch["motion"]) & (batch["opposite"][:, None] >= 0)
        against = against | against.T
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        logits = (vectors @ vectors.T / settings.temperature + settings.opposite * against).masked_fill(itself, -1e4)
        kind = (alike["kind"] | alike["motion"]) & ~against & ~itself
        motion, clip = alike["motion"] & ~itself, alike["clip"] & ~itself
        losses = {
            "kind": _contrast(logits, kind),
            "motion": _contrast(logits - (kind & ~motion).float(), motion),  # others of the kind count less
            "clip": _contrast(logits, clip),
            "axes": away[batch["placed"]].sum() / batch["placed"].sum().clamp(min=1),
        }
        total = sum(getattr(settings, name) * value for name, value in losses.items())
        return torch.as_tensor(total), {name: value.detach() for name, value in losses.items()}

    def _means(self, ids: Tensor) -> Tensor:
        """Texts' attention-weighted means [N,D], from token ids [N,L]; texts of like length go together."""
        lengths = (ids != 0).sum(1)
        order = lengths.argsort()
        edges = [int((lengths <= edge).sum()) for edge in BUCKETS]
        parts = [part for part in order.tensor_split(edges) if len(part)]
        found = []
        for part in parts:
            window = ids[part, : int(lengths[part].max())]
            hidden, logits = self.network(window, (window != 0).long())
            found.append((logits.softmax(1)[..., None] * hidden).sum(1).float())
        return torch.cat(found)[torch.cat(parts).argsort()]

    @torch.no_grad()
    def sample(self, folder: Path, step: int) -> dict[str, float]:
        """How well held-out texts find each other, as `retrieved` says."""
        figures = retrieved(MotionTextEncoder(self.network, tokenizer()), self.held)
        (folder / f"step-{step:06d}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        return figures

    def export(self, folder: Path) -> None:
        """Write what differs from MiniLM."""
        settings = {"recipe": "captions", "axes": self.axes}
        checkpoint.save(folder, pack(self.network, self.settings.rank), settings)


def _contrast(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy [] between the softmax of each row and an even share for what is wanted; empty rows left out."""
    count = wanted.sum(1)
    rows = count > 0
    share = wanted[rows].float() / count[rows, None]
    return -(share * logits[rows].log_softmax(1)).sum(1).sum() / rows.sum().clamp(min=1)


def _numbers(names: list[Any]) -> Tensor:
    known: dict[Any, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])


def retrieved(encoder: MotionTextEncoder, groups: list[Group]) -> dict[str, float]:
    """How well texts of motions find long captions among those of all of them.

    Returns:
        Shares in [0, 1]: of prompts that find their own clip's caption first; of captions that short texts find, as
        many as their motion has, which are of that motion, and which are of its opposite.
    """
    captions = [(number, text) for number, group in enumerate(groups) for _, text in group.pairs]
    prompts = [(number, text) for number, group in enumerate(groups) for text, _ in group.pairs]
    shorts = [(number, text) for number, group in enumerate(groups) for text in group.shorts]
    numbers = {id(group): number for number, group in enumerate(groups)}
    others = opposites(groups)
    turned = {numbers[id(group)]: others.get(id(group)) for group in groups}
    owner = torch.tensor([number for number, _ in captions])
    vectors = torch.from_numpy(encoder.encode([text for _, text in captions]))
    own = torch.from_numpy(encoder.encode_prompts([text for _, text in prompts])) @ vectors.T
    first = (own.argmax(1) == torch.arange(len(prompts))).float().mean()
    scores = torch.from_numpy(encoder.encode_prompts([text for _, text in shorts])) @ vectors.T
    same, against = [], []
    for row, (number, _) in zip(scores, shorts, strict=True):
        best = owner[row.topk(len(groups[number].pairs)).indices]
        same.append(float((best == number).float().mean()))
        if (other := turned[number]) is not None:
            against.append(float((best == numbers[id(other)]).float().mean()))
    figures = {"own caption first": float(first), "motion found": sum(same) / len(same)}
    return {**figures, "opposite found": sum(against) / max(1, len(against))}
