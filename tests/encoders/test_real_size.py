"""The published sizes, with random weights: VideoMAE-base makes [1568, 768], DINOv2-large [257, 1024]."""

import numpy as np
import pytest
import torch
import transformers

from motionrag.encoders import load_appearance_encoder, load_motion_encoder

DINOV2_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
    "patch_size": 14,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("load", "network", "config", "features"),
    [
        (load_motion_encoder, "VideoMAEModel", transformers.VideoMAEConfig(use_mean_pooling=True), (1568, 768)),
        (load_appearance_encoder, "Dinov2Model", transformers.Dinov2Config(**DINOV2_LARGE), (257, 1024)),
    ],
)
def test_published_sizes(tmp_path, load, network, config, features):
    getattr(transformers, network)(config).save_pretrained(tmp_path)
    encoder = load(str(tmp_path))
    assert (encoder.info.length, encoder.info.dimension) == features
    clip = np.random.default_rng(0).integers(0, 256, (40, 3, 240, 320), dtype=np.uint8)
    encoded = encoder.encode(encoder.preparation(clip)[None])
    assert encoded.shape == (1, *features)
    assert torch.isfinite(encoded).all()
