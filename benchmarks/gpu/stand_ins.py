"""All parts of a generation with random weights, at published sizes or tiny: base, bundle, encoders, database."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

import motionrag
from motionrag import testing
from motionrag.bases.full_size import PIPELINES, full_size
from motionrag.encoders.dinov2 import Dinov2Encoder
from motionrag.encoders.processor import to_preparation
from motionrag.encoders.protocols import EncoderInfo
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import ResamplerConfig
from motionrag.retrieval.schema import SIGNATURE_WIDTH, ClipRow, DatabaseSettings, TokenInfo
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder, method_fingerprint
from motionrag.types import ClipRecord

BASES = tuple(PIPELINES)
TINY = {"cogvideox": testing.tiny_cogvideox, "svd": testing.tiny_svd, "dynamicrafter": testing.tiny_dynamicrafter}
THINGS = ["drawer", "box", "door", "lid", "jar", "bottle", "window", "cabinet", "suitcase", "book", "laptop", "oven"]
DOERS = ["a hand", "a robot arm", "a woman", "a man", "a child"]
VERBS = ["opens", "closes", "pushes", "lifts", "turns"]
PROMPT = "a hand opens the drawer of a desk"
MADE_BY = "0" * 64


@dataclass
class Parts:
    """What a generation takes."""

    pipe: Any
    bundle: MotionBundle
    appearance: Dinov2Encoder
    retriever: Retriever

    def to(self, device: str) -> None:
        """Move what is ours, the base apart, so that the base alone can be measured."""
        self.bundle.to(device)
        self.appearance.to(device)
        self.retriever.caption.to(device)


def make(base: str, size: str, device: str, dtype: torch.dtype, folder: Path) -> Parts:
    """All parts, on the device.

    Args:
        base: One of `BASES`.
        size: "full" or "tiny".
        device: Where they run.
        dtype: What the base computes in; ours are in float32.
        folder: Where the database is made.
    """
    torch.manual_seed(0)
    pipe = full_size(base, device=device, dtype=dtype) if size == "full" else TINY[base]().to(device, dtype)
    bundle = make_bundle(pipe, base, size, device)
    appearance = make_appearance(size, device)
    retriever = make_database(folder, bundle, appearance, device)
    return Parts(pipe, bundle, appearance, retriever)


def make_bundle(pipe: Any, base: str, size: str, device: str) -> MotionBundle:
    """A bundle whose adapter does something."""
    tiny = {"width": 32, "depth": 1, "heads": 2, "head_dim": 16, "queries": 4, "output_dim": 32}
    sizes: dict[str, Any] = {}
    if size == "tiny":
        sizes["motion_resampler"] = ResamplerConfig(input_dim=32, **tiny)
        sizes["appearance_resampler"] = ResamplerConfig(input_dim=32, **tiny)
        sizes["context"] = ContextConfig(width=32, queries=4, layers=1, heads=2, feed_forward=64)
    width = sizes["context"].width if sizes else ContextConfig().width
    with torch.device("meta"):
        config = BundleConfig(adapter=motionrag.new_adapter(pipe, base, width).config, **sizes)
    with torch.device(device):
        bundle = MotionBundle(config)
    for name in config.adapter.sites:
        nn.init.normal_(bundle.adapter.site(name).to_v.weight, std=0.02)
    return bundle.requires_grad_(False).eval()


def make_appearance(size: str, device: str) -> Dinov2Encoder:
    """DINOv2-large, or a small one."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518}
    if size == "tiny":
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 56}
    config = transformers.Dinov2Config(patch_size=14, **sizes)
    with torch.device(device):
        network = transformers.Dinov2Model(config)
    preparation = to_preparation(Dinov2Encoder.published(config), frames=1, which="first", where="DINOv2")
    length = Dinov2Encoder.length(config, preparation.crop)
    return Dinov2Encoder(network.requires_grad_(False).eval(), preparation, _info("appearance", config, length), 8)


def _info(kind: str, config: Any, length: int) -> EncoderInfo:
    return EncoderInfo(kind=kind, model="random", dimension=config.hidden_size, length=length, fingerprint=MADE_BY)


def make_database(folder: Path, bundle: MotionBundle, appearance: Dinov2Encoder, device: str) -> Retriever:
    """A database of 300 captions, some of which `PROMPT` finds, with random tokens."""
    caption = CaptionEncoder(device=device)
    context = bundle.config.context

    def tokens(kind: str) -> TokenInfo:
        return TokenInfo(bundle="random", fingerprint=kind, queries=context.queries, width=context.width)

    settings = DatabaseSettings(
        text=caption.info,
        caption_method=method_fingerprint(),
        text_width=caption.width,
        motion=EncoderInfo(kind="motion", model="random", dimension=768, length=1568, fingerprint=MADE_BY),
        appearance=appearance.info,
        motion_tokens=tokens("motion"),
        appearance_tokens=tokens("appearance"),
    )
    database = MotionDatabase.create(folder, settings)
    captions = [f"{doer} {verb} the {thing}" for doer in DOERS for verb in VERBS for thing in THINGS]
    vectors, random = caption.encode(captions), np.random.default_rng(0)
    shapes = {"signature": (SIGNATURE_WIDTH,), **settings.arrays()}
    rows = []
    for i, text in enumerate(captions):
        arrays = {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
        record = ClipRecord(
            id=f"{i:032x}",
            video=f"/clips/{i}.mp4",
            start_s=0.0,
            end_s=2.0,
            caption=text,
            content_hash=f"{i:064x}",
        )
        rows.append(
            ClipRow(
                record=record,
                span="whole",
                split="",
                file_size=1,
                file_mtime_ns=1,
                bands=[i],
                arrays={**arrays, "text_vector": vectors[i]},
            )
        )
    database.add(rows)
    return Retriever(database, caption, appearance=appearance)
