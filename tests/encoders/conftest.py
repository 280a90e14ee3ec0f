"""Tiny models of the real classes on disk, with their processors; and a hub cache as huggingface_hub lays it out."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers

from motionrag.encoders.text import minilm_folder

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIDEOMAE = {
    "image_size": 32,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "use_mean_pooling": True,
}
VJEPA2 = {
    "patch_size": 8,
    "crop_size": 32,
    "frames_per_clip": 4,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pred_hidden_size": 24,
    "pred_num_hidden_layers": 1,
    "pred_num_attention_heads": 2,
    "num_pooler_layers": 1,
}
DINOV2 = {"image_size": 42, "patch_size": 14, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def randomised(network):
    """Every parameter away from its initial value, biases and norms too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return network.eval()


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def copy(folder, to):
    return Path(shutil.copytree(folder, to))


def save_videomae(folder, cls=transformers.VideoMAEModel, **changes):
    network = randomised(cls(transformers.VideoMAEConfig(**{**VIDEOMAE, **changes})))
    network.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.VideoMAEImageProcessor(**size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def save_vjepa2(folder, cls=transformers.VJEPA2Model, **changes):
    randomised(cls(transformers.VJEPA2Config(**{**VJEPA2, **changes}))).save_pretrained(folder)
    published = {  # as in facebook/vjepa2-vitl-fpc64-256, but for the crop
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": MEAN,
        "image_std": STD,
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": 99},  # of no effect
        "video_processor_type": "VJEPA2VideoProcessor",
    }
    (folder / "video_preprocessor_config.json").write_text(json.dumps(published))
    return folder


def save_dinov2(folder, cls=transformers.Dinov2Model, config=transformers.Dinov2Config):
    randomised(cls(config(**DINOV2))).save_pretrained(folder)
    size = {"size": {"shortest_edge": 48}, "crop_size": {"height": 42, "width": 42}}
    transformers.BitImageProcessor(**size, image_mean=MEAN, image_std=STD).save_pretrained(folder)
    return folder


def save_text(folder):
    """MiniLM's tokenizer, pooling and normalising around a tiny BERT."""
    copy_of = shutil.ignore_patterns("*.safetensors", "data_config.json", "README.md")
    shutil.copytree(minilm_folder(), folder, ignore=copy_of, dirs_exist_ok=True)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    randomised(transformers.BertModel(transformers.BertConfig(**sizes))).save_pretrained(folder)
    edit(folder / "1_Pooling/config.json", word_embedding_dimension=16)
    return folder


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    save = {"videomae": save_videomae, "vjepa2": save_vjepa2, "dinov2": save_dinov2, "text": save_text}
    return {name: function(root / name) for name, function in save.items()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts a folder into a fake cache as a hub id's main branch, at commit `COMMIT`."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(name, folder):
        place = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text(COMMIT)
        copy(folder, place / "snapshots" / COMMIT)
        return name

    return put
