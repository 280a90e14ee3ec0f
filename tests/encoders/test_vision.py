"""Motion and appearance encoders: their preparation and features against transformers' own, done by hand."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from motionrag import MotionRAGError
from motionrag.config import parse
from motionrag.encoders import EncoderInfo, load_appearance_encoder, load_motion_encoder
from motionrag.encoders.processor import to_preparation
from motionrag.video.prepare import resized_size
from tests.encoders.conftest import (
    MEAN,
    STD,
    copy,
    edit,
    save_dinov2,
    save_videomae,
    save_vjepa2,
)

SIZES = [(32, 32), (33, 47), (240, 320), (121, 40), (20, 200), (17, 19), (31, 32), (64, 63), (9, 90), (300, 7)]


def alike(edge, crop):
    """Sizes of which transformers and torchvision cut out the same centre: they round half a pixel otherwise."""

    def same(spare):
        return spare <= 0 or spare // 2 == round(spare / 2)

    sizes = [(size, resized_size(*size, edge)) for size in SIZES]
    return [size for size, resized in sizes if all(same(extent - crop) for extent in resized)]


CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LOADERS = {
    "videomae": load_motion_encoder,
    "vjepa2": load_motion_encoder,
    "dinov2": load_appearance_encoder,
}


@pytest.fixture(params=list(LOADERS))
def name(request):
    return request.param


@pytest.fixture
def encoder(models, name):
    return LOADERS[name](str(models[name]))


def clip(frames, height, width, seed=0):
    """Smooth shapes under noise, u8 [T,3,H,W]."""
    generator = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 2) % 256
    noise = generator.integers(0, 60, (frames, 3, height, width))
    return np.clip(ramp + noise, 0, 255).astype(np.uint8)


def prepared(encoder, clips=2, size=(40, 56)):
    shots = [clip(6, *size, seed=seed) for seed in range(clips)]
    return torch.from_numpy(np.stack([encoder.preparation(shot) for shot in shots]))


def normalised(encoder, frames):
    """u8 [B,S,3,h,w] as the encoder feeds them."""
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in (encoder.preparation.mean, encoder.preparation.std)
    )
    return (torch.as_tensor(frames) / 255 - mean) / std


@pytest.mark.parametrize(
    ("name", "size"),
    [*(("videomae", size) for size in alike(32, 32)), *(("dinov2", size) for size in alike(48, 42))],
    ids=str,
)
def test_pixels_equal_the_transformers_processor(models, name, size):
    encoder = LOADERS[name](str(models[name]))
    shot = clip(encoder.preparation.frames, *size)
    processor = transformers.AutoImageProcessor.from_pretrained(models[name])
    images = list(shot) if name == "videomae" else shot[0]
    # the channel axis is said, since sizes such as 3x200 leave it open
    expected = processor(images, return_tensors="pt", input_data_format="channels_first").pixel_values
    pixels = normalised(encoder, encoder.preparation(shot))
    torch.testing.assert_close(pixels, expected.reshape(pixels.shape), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", alike(31, 42), ids=str)
def test_pixels_equal_where_the_crop_is_larger_than_the_picture(models, tmp_path, size):
    folder = copy(models["dinov2"], tmp_path / "m")
    edit(folder / "preprocessor_config.json", size={"shortest_edge": 31})
    encoder = load_appearance_encoder(str(folder))
    shot = clip(1, *size)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = processor(shot[0], return_tensors="pt", input_data_format="channels_first").pixel_values
    torch.testing.assert_close(normalised(encoder, encoder.preparation(shot)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_vjepa2_frames_equal_what_torchvision_computes_within_rounding(models, size):
    # tvF.resize(antialias=True) of u8 on the CPU is this interpolation
    preparation = load_motion_encoder(str(models["vjepa2"])).preparation
    shot = clip(preparation.frames, *size)
    edge = int(32 * 256 / 224)
    assert preparation.shortest_edge == edge == 36
    scaled = [edge, int(edge * size[1] / size[0])] if size[0] < size[1] else [int(edge * size[0] / size[1]), edge]
    resized = F.interpolate(torch.from_numpy(shot), scaled, mode="bilinear", antialias=True)
    top, left = (round((extent - 32) / 2) for extent in scaled)
    expected = resized[..., top : top + 32, left : left + 32].float()
    difference = (torch.from_numpy(preparation(shot)).float() - expected).abs()
    assert difference.max() <= 1
    assert difference.mean() < 0.3


def by_hand(name, folder, frames):
    if name == "videomae":
        return transformers.VideoMAEModel.from_pretrained(folder)(frames).last_hidden_state
    if name == "vjepa2":
        return transformers.VJEPA2Model.from_pretrained(folder)(frames, skip_predictor=True).last_hidden_state
    return transformers.Dinov2Model.from_pretrained(folder)(frames[:, 0]).last_hidden_state


def test_features_equal_the_transformers_model_by_hand(models, name, encoder):
    frames = prepared(encoder)
    features = encoder.encode(frames)
    with torch.no_grad():
        expected = by_hand(name, models[name], normalised(encoder, frames))
    torch.testing.assert_close(features, expected, **CLOSE)
    assert features.dtype == torch.float32
    assert features.shape[1:] == (encoder.info.length, encoder.info.dimension)


def test_arrays_and_tensors_batches_and_singles_give_the_same(models, name):
    encoder = LOADERS[name](str(models[name]), batch_size=2)
    frames = prepared(encoder, clips=5)
    array = frames.numpy()
    array.setflags(write=False)
    whole = encoder.encode(frames)
    torch.testing.assert_close(encoder.encode(array), whole)
    torch.testing.assert_close(torch.cat([encoder.encode(frame[None]) for frame in frames]), whole, **CLOSE)


def test_features_may_be_trained_on(encoder):
    features = encoder.encode(prepared(encoder))
    head = torch.nn.Linear(encoder.info.dimension, 1)
    head(features).sum().backward()
    assert head.weight.grad is not None
    assert not any(parameter.requires_grad for parameter in encoder._network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_close_and_has_its_own_fingerprint(models, name, encoder, dtype):
    half = LOADERS[name](str(models[name]), dtype=dtype)
    frames = prepared(encoder)
    features = half.encode(frames)
    assert features.dtype == torch.float32
    similarity = F.cosine_similarity(encoder.encode(frames), features, dim=-1)
    assert similarity.min() > 0.995
    assert half.info.fingerprint != encoder.info.fingerprint


def test_pooling_gives_unit_vectors(name, encoder):
    features = encoder.encode(prepared(encoder))
    vectors = encoder.pool(features)
    source = features[:, 0] if name == "dinov2" else features.mean(dim=1)
    torch.testing.assert_close(vectors, F.normalize(source, dim=-1))
    torch.testing.assert_close(encoder.pool(features.half()), vectors, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("shape", [(2, 32), (2, 3, 32), (2, 1, 1, 1)], ids=str)
def test_pooling_refuses_other_features(encoder, shape):
    with pytest.raises(MotionRAGError, match=r"features are .*makes \[B,"):
        encoder.pool(torch.zeros(shape))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, :, :, :-1],
        lambda x: x[0],
        lambda x: x.float(),
        lambda x: x[:0],
        lambda x: x.repeat(1, 2, 1, 1, 1),
    ],
    ids=["size", "no batch", "float", "empty", "frames"],
)
def test_wrong_frames_are_refused(encoder, change):
    with pytest.raises(MotionRAGError, match=r"wanted are uint8.*preparation"):
        encoder.encode(change(prepared(encoder)))


def test_info_survives_json(encoder):
    document = json.loads(json.dumps(dataclasses.asdict(encoder.info)))
    assert parse(EncoderInfo, document, where="test") == encoder.info


@pytest.mark.parametrize("pooling", [True, False], ids=["fine-tuned", "pretrained"])
def test_videomae_classification_checkpoint_is_its_backbone(tmp_path, pooling):
    cls = transformers.VideoMAEForVideoClassification
    encoder = load_motion_encoder(str(save_videomae(tmp_path / "m", cls, use_mean_pooling=pooling)))
    frames = prepared(encoder)
    whole = cls.from_pretrained(tmp_path / "m").eval()
    assert (whole.videomae.layernorm is None) == pooling
    with torch.no_grad():
        expected = whole.videomae(normalised(encoder, frames)).last_hidden_state
        logits = whole(normalised(encoder, frames)).logits
    features = encoder.encode(frames)
    torch.testing.assert_close(features, expected, **CLOSE)
    if pooling:  # its head reads the mean over tokens of just these features
        torch.testing.assert_close(whole.classifier(whole.fc_norm(features.mean(dim=1))), logits, **CLOSE)


def test_videomae_weights_in_the_published_naming(tmp_path, models):
    # checkpoints on the hub hold q_bias and v_bias, and the prefix of their head
    folder = copy(models["videomae"], tmp_path / "m")
    network = transformers.VideoMAEModel.from_pretrained(folder)
    state = {
        "videomae." + name.replace("query.bias", "q_bias").replace("value.bias", "v_bias"): tensor
        for name, tensor in network.state_dict().items()
    }
    assert any(name.endswith("q_bias") for name in state)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    encoder, expected = load_motion_encoder(str(folder)), load_motion_encoder(str(models["videomae"]))
    assert torch.equal(encoder.encode(prepared(encoder)), expected.encode(prepared(expected)))
    assert encoder.info.fingerprint == expected.info.fingerprint


def test_vjepa2_classification_checkpoint_is_its_backbone(tmp_path):
    cls = transformers.VJEPA2ForVideoClassification
    encoder = load_motion_encoder(str(save_vjepa2(tmp_path / "m", cls)))
    frames = prepared(encoder)
    with torch.no_grad():
        whole = cls.from_pretrained(tmp_path / "m").eval()
        expected = whole.vjepa2(normalised(encoder, frames), skip_predictor=True).last_hidden_state
    torch.testing.assert_close(encoder.encode(frames), expected, **CLOSE)


def test_registers(tmp_path):
    cls, config = transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig
    encoder = load_appearance_encoder(str(save_dinov2(tmp_path / "m", cls, config)))
    frames = prepared(encoder)
    assert encoder.info.length == 1 + 4 + 9
    with torch.no_grad():
        expected = cls.from_pretrained(tmp_path / "m").eval()(normalised(encoder, frames)[:, 0]).last_hidden_state
    torch.testing.assert_close(encoder.encode(frames), expected, **CLOSE)


def test_an_appearance_encoder_takes_one_frame_a_clip(models):
    preparation = load_appearance_encoder(str(models["dinov2"])).preparation
    shot = clip(5, 48, 48)
    assert (preparation.frames, preparation.which) == (1, "first")
    np.testing.assert_array_equal(preparation(shot), preparation(shot[:1]))


def test_published_preparation_where_there_is_no_processor_file(tmp_path, models):
    made = {}
    for name, load in LOADERS.items():
        folder = copy(models[name], tmp_path / name)
        for file in folder.glob("*processor_config.json"):
            file.unlink()
        made[name] = load(str(folder)).preparation
    shared = {"mean": tuple(MEAN), "std": tuple(STD)}
    expected = {
        "videomae": {"shortest_edge": 32, "crop": (32, 32), "resample": "bilinear", "frames": 4, **shared},
        "vjepa2": {"shortest_edge": 36, "crop": (32, 32), "resample": "bilinear", "frames": 4, **shared},
        "dinov2": {"shortest_edge": 256, "crop": (224, 224), "resample": "bicubic", "frames": 1, **shared},
    }
    for name, fields in expected.items():
        assert dataclasses.asdict(made[name]).items() >= fields.items()


def test_settings_that_a_processor_file_leaves_out(tmp_path, models):
    # as transformers completes them; "size": 32 is how old files put it
    folder = copy(models["videomae"], tmp_path / "m")
    kept = {"size": 32, "crop_size": 32, "image_processor_type": "VideoMAEImageProcessor", "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(kept))
    encoder = load_motion_encoder(str(folder))
    shot = clip(4, 40, 50)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    expected = processor(list(shot), return_tensors="pt").pixel_values[0]
    torch.testing.assert_close(normalised(encoder, encoder.preparation(shot)), expected, atol=1e-6, rtol=1e-6)


def test_nested_processor_file_comes_first(tmp_path, models):
    folder = copy(models["dinov2"], tmp_path / "m")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": {**settings, "resample": 2}}))
    assert load_appearance_encoder(str(folder)).preparation.resample == "bilinear"
    assert transformers.AutoImageProcessor.from_pretrained(folder).resample == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_center_crop": False}, "do_center_crop is false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor is"),
        ({"size": {"height": 32, "width": 32}}, "only a shortest_edge"),
        ({"resample": 1}, "resample is 1, supported"),
        ({"crop_size": "big"}, "crop_size is 'big'"),
        ({"image_mean": [0.5]}, "image_mean is"),
        ({"image_std": 0.5}, "image_std is"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_other_processors_are_refused(models, change, message):
    settings = json.loads((models["videomae"] / "preprocessor_config.json").read_text())
    with pytest.raises(MotionRAGError, match=f"^here: .*{message}"):
        to_preparation({**settings, **change}, frames=4, which="uniform", where="here")


def test_fingerprint_is_that_of_a_saved_copy(tmp_path, models, name, encoder):
    folder = copy(models[name], tmp_path / "m")
    (folder / "model.safetensors").unlink()
    cls = {"videomae": "VideoMAEModel", "vjepa2": "VJEPA2Model", "dinov2": "Dinov2Model"}[name]
    getattr(transformers, cls).from_pretrained(models[name]).save_pretrained(folder)
    edit(folder / "config.json", transformers_version="4.0.0", id2label={"0": "walks"}, a_new_field=None)
    assert LOADERS[name](str(folder)).info.fingerprint == encoder.info.fingerprint


def test_fingerprint_changes_with_whatever_changes_the_output(tmp_path, models, name, encoder):
    seen = {encoder.info.fingerprint}
    processor = next(models[name].glob("*processor_config.json")).name
    edits = [(processor, {"image_std": [0.5, 0.5, 0.5]}), ("config.json", {"hidden_act": "relu"})]
    for index, (file, change) in enumerate(edits):
        folder = copy(models[name], tmp_path / str(index))
        edit(folder / file, **change)
        seen.add(LOADERS[name](str(folder)).info.fingerprint)
    folder = copy(models[name], tmp_path / "weight")
    network = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(parameter for parameter in network.parameters() if parameter.ndim > 3).view(-1)[0] += 1e-3
    network.save_pretrained(folder)
    seen.add(LOADERS[name](str(folder)).info.fingerprint)
    assert len(seen) == 4
