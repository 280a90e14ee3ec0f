"""Everything that generation takes, tiny, of the real classes, on disk: bases, encoders, bundles, databases."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from diffusers import CogVideoXTransformer3DModel
from PIL import Image

import motionrag
from motionrag import testing
from motionrag.bases import tiny
from motionrag.bases.dynamicrafter.convert import convert
from motionrag.bases.loading import load_base
from motionrag.cli import main
from motionrag.encoders.text import minilm_folder
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import ResamplerConfig
from tests.bases.test_dynamicrafter import FRAMES, WORDS, released
from tests.encoders.conftest import randomised, save_dinov2, save_videomae
from tests.retrieval.corpus import make_corpus

PROMPT = "open the box"
"""The corpus has two clips that fit it, an opened drawer and an opened lid."""
UNKNOWN = "a volcano erupts over the sea"


BASES = ("cogvideox", "svd", "dynamicrafter", "tiny")


def save_base(folder, base):
    """A tiny pipeline; that of CogVideoX with MiniLM's tokenizer and a BERT as narrow as it wants."""
    if base == "tiny":
        return save_parts(folder)
    if base == "dynamicrafter":
        return save_dynamicrafter(folder)
    if base == "svd":
        pipe = testing.tiny_svd()
    else:
        pipe = testing.tiny_cogvideox()
        sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
        pipe.register_modules(
            tokenizer=transformers.AutoTokenizer.from_pretrained(minilm_folder()),
            text_encoder=randomised(transformers.BertModel(transformers.BertConfig(**sizes))),
        )
    pipe.save_pretrained(folder)
    return pipe


def save_dynamicrafter(folder):
    """Converted from a tiny checkpoint in the released layout."""
    tokenizer, checkpoint = folder.with_name("clip"), folder.with_name("dynamicrafter.ckpt")
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    torch.save({"state_dict": released()[0]}, checkpoint)
    convert(checkpoint, folder, tokenizer=str(tokenizer), frames=FRAMES)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "sample_size": [8, 8]}))
    return load_base(str(folder))


def save_parts(folder):
    """Transformer and VAE of a base like the embedded one, as training writes them."""
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=8,
        time_embed_dim=16,
        text_embed_dim=384,
        num_layers=2,
        sample_width=2,
        sample_height=2,
        sample_frames=4,
        patch_size=2,
        temporal_compression_ratio=1,
        max_text_seq_length=24,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    )
    transformer.save_pretrained(folder / "transformer")
    (vae := tiny.WarpVAE()).save_pretrained(folder / "vae")
    return tiny.assemble(transformer.eval(), vae.eval())


def save_bundle(folder, pipe, base, seed=0):
    adapter = motionrag.new_adapter(pipe, base, motion_dim=16)
    sizes = {"width": 16, "depth": 1, "heads": 2, "head_dim": 8, "queries": 4, "output_dim": 16}
    config = BundleConfig(
        adapter=adapter.config,
        motion_resampler=ResamplerConfig(input_dim=32, **sizes),
        appearance_resampler=ResamplerConfig(input_dim=32, **sizes),
        context=ContextConfig(width=16, layers=1, heads=2, feed_forward=32, queries=4, kept=0.5),
    )
    testing.random_weights(bundle := MotionBundle(config), seed=seed)
    bundle.save_pretrained(folder)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The folder they all lie in; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    save_videomae(home / "videomae")
    save_dinov2(home / "dinov2")
    make_corpus(home / "corpus")
    encoders = ["--motion", str(home / "videomae"), "--appearance", str(home / "dinov2"), "--workers", "1"]
    for base in BASES:
        pipe = save_base(home / f"{base}-base", base)
        save_bundle(home / f"{base}-bundle", pipe, base)
        options = [*encoders, "--bundle", str(home / f"{base}-bundle")]
        assert main(["ingest", str(home / "corpus"), "--db", str(home / f"{base}-db"), *options]) == 0
    save_bundle(home / "other-bundle", motionrag.testing.tiny_cogvideox(), "cogvideox", seed=1)
    assert main(["ingest", str(home / "corpus"), "--db", str(home / "plain-db")]) == 0
    gradient = np.asarray(Image.radial_gradient("L").resize((50, 40)))
    Image.fromarray(np.stack([gradient, gradient[::-1], 255 - gradient], axis=-1)).save(home / "image.png")
    return home


@pytest.fixture(scope="session", params=BASES)
def any_rag(request, home):
    """Of each base."""
    return load(home, request.param)


@pytest.fixture(scope="session")
def rag(home):
    """Of CogVideoX, whose clips follow the prompt too."""
    return load(home, "cogvideox")


def load(home, base):
    parts = {"base": f"{base}-base", "bundle": f"{base}-bundle", "db": f"{base}-db"}
    return motionrag.MotionRAG.from_pretrained(**{part: str(home / name) for part, name in parts.items()})


@pytest.fixture
def grown(home, tmp_path):
    """A copy of CogVideoX's database."""
    return Path(shutil.copytree(home / "cogvideox-db", tmp_path / "grown"))


@pytest.fixture
def run(capsys):
    """Run `motionrag generate`; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        code = main(["generate", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run
