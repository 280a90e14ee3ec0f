"""A small world for the tests of stages: real encoders and bases at tiny size, and caches of simulated clips."""

import torch
import transformers

from motionrag.bases import tiny
from motionrag.config import parse
from motionrag.encoders.text import minilm_folder
from motionrag.testing import tiny_cogvideox, tiny_dynamicrafter, tiny_svd
from motionrag.training.adapter import AdapterSettings, AdapterTask
from motionrag.training.base import TransformerSettings, new_transformer
from motionrag.training.context import ContextSettings, ContextTask
from motionrag.training.joint import JointSettings, JointTask
from tests.encoders.conftest import save_dinov2, save_videomae

BUNDLE = {
    "motion_resampler": {
        "input_dim": 32,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "head_dim": 16,
        "queries": 4,
        "output_dim": 32,
    },
    "appearance_resampler": {
        "input_dim": 32,
        "width": 32,
        "depth": 1,
        "heads": 2,
        "head_dim": 16,
        "queries": 4,
        "output_dim": 32,
    },
    "context": {"width": 32, "queries": 4, "layers": 1, "heads": 2, "feed_forward": 64, "max_positions": 16},
    "value_std": 0.1,
}
"""Settings of a bundle for the encoders of `save_encoders`, for up to 3 references."""


def save_encoders(folder):
    """Motion and appearance encoder; their folders."""
    torch.manual_seed(0)
    return {
        "motion_encoder": str(save_videomae(folder / "motion")),
        "appearance_encoder": str(save_dinov2(folder / "appearance")),
    }


def save_vae(folder):
    """A small untrained VAE of the tiny base."""
    torch.manual_seed(0)
    vae = tiny.WarpVAE(picture_widths=(16, 16, 16), motion_widths=(16, 16, 16), latent_channels=4, motion_channels=4)
    vae.save_pretrained(folder)
    return str(folder)


def save_tiny(folder):
    """A small untrained tiny base as `tiny.load` takes it."""
    save_vae(folder / "vae")
    sizes = TransformerSettings(layers=1, heads=2, head_dim=16, time_dim=16, size=32, frames=4)
    new_transformer(sizes, 4, seed=0).save_pretrained(folder / "transformer")
    return str(folder)


def save_cogvideox(folder):
    """The hub's classes, with a T5 of two layers; clips of 16x16 with 5 frames."""
    pipe = tiny_cogvideox()
    torch.manual_seed(0)
    sizes = {"d_model": 12, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 30522}
    pipe.register_modules(
        text_encoder=transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(minilm_folder()),
    )
    pipe.save_pretrained(folder)
    return str(folder)


def save_svd(folder):
    """The hub's classes; clips of 16x16."""
    tiny_svd().save_pretrained(folder)
    return str(folder)


def save_dynamicrafter(folder):
    """Our classes, with a CLIP of one layer; clips of 16x16 with 4 frames."""
    pipe = tiny_dynamicrafter()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.CLIPTextConfig(**sizes, vocab_size=30522, max_position_embeddings=6)
    pipe.register_modules(
        text_encoder=transformers.CLIPTextModel(config).eval(),
        tokenizer=transformers.AutoTokenizer.from_pretrained(minilm_folder()),
    )
    pipe.save_pretrained(folder)
    return str(folder)


def clips(count, families=("known",), **more):
    """A source of simulated clips, as a recipe has it."""
    return [{"synth": {"count": count, "families": list(families), **more}}]


BASES = {
    "tiny": (save_tiny, {"width": 32, "height": 32, "frames": 4}),
    "cogvideox": (save_cogvideox, {"width": 16, "height": 16, "frames": 5}),
    "svd": (save_svd, {"width": 16, "height": 16, "frames": 3}),
    "dynamicrafter": (save_dynamicrafter, {"width": 16, "height": 16, "frames": 4}),
}
"""Of each base: what saves it, and the size of its clips."""

SAMPLES = {"count": 2, "steps": 2}


class World:
    """A base on disk, and a cache of 20 clips with all features."""

    def __init__(self, name, root, encoders):
        save, size = BASES[name]
        self.name, self.root = name, root
        self.folder = save(root / "base")
        self.data = {"cache": str(root / "cache"), "sources": clips(20), "held_out": 4, **encoders, **size}
        self.base = {"name": name, "folder": self.folder}

    def adapter(self, **more):
        document = {"data": self.data, "base": self.base, "bundle": BUNDLE, "samples": SAMPLES, **more}
        return AdapterTask(parse(AdapterSettings, document, "test"))

    def context(self, **more):
        document = {"data": self.data, "bundle": self.bundle(), "references": {"most": 3}, **more}
        return ContextTask(parse(ContextSettings, document, "test"))

    def joint(self, **more):
        document = {
            "data": self.data,
            "base": self.base,
            "bundle": self.bundle(),
            "references": {"most": 3},
            "samples": SAMPLES,
            **more,
        }
        return JointTask(parse(JointSettings, document, "test"))

    def bundle(self):
        """An exported bundle of stage 1."""
        folder = self.root / "bundle"
        if not folder.exists():
            self.adapter().export(folder)
        return str(folder)
