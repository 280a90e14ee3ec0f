"""Feature networks: they compute what transformers does, load from everywhere, and are named truly."""

import numpy as np
import pytest
import torch
import transformers

from motionrag.errors import MotionRAGError
from motionrag.evaluation.families import FamilyClassifier, prepared
from motionrag.evaluation.features import KINDS, PUBLISHED, load_features
from motionrag.synth import render
from tests.encoders.conftest import COMMIT, hub, randomised, save_dinov2, save_videomae, save_vjepa2  # noqa: F401

MEAN, STD = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
TINY_KINDS = ["action", "dino", "fvd", "fid", "text-video"]


@pytest.fixture(scope="module")
def clips():
    return render(50, range(3))


class Flags(torch.nn.Module):
    """Takes what the published I3D file takes."""

    def forward(self, x, rescale: bool = False, resize: bool = False, return_features: bool = False):
        x = x.mean(dim=[3, 4])
        return x.flatten(1) if rescale and resize and return_features else x


class Channels(torch.nn.Module):
    """A frame's mean colour."""

    def forward(self, x):
        return x.mean(dim=[2, 3])


def save_script(path, module):
    torch.jit.script(module).save(str(path))
    return path


def save_clip(folder):
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2, "b</w>": 3, "a": 4, "b": 5}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=12).save_pretrained(folder)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**size, "vocab_size": 6, "max_position_embeddings": 12, "bos_token_id": 0, "eos_token_id": 1}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**size, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    randomised(transformers.CLIPModel(config)).save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**sizes).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("features")
    classifier = transformers.VideoMAEForVideoClassification
    return {
        "action": save_videomae(root / "mae", classifier, num_labels=7),
        "backbone": save_videomae(root / "backbone"),
        "dino": save_dinov2(root / "dino"),
        "clip": save_clip(root / "clip"),
        "other": save_vjepa2(root / "other"),
        "i3d": save_script(root / "i3d_torchscript.pt", Flags()),
        "inception": save_script(root / "inception.pt", Channels()),
    }


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_bundled_networks_never_bear_a_published_name(clips, kind):
    features = load_features(kind, "tiny")
    assert features.name == f"tiny-{kind}"
    assert features.name not in KINDS
    assert features.settings["source"] == "tiny"
    assert features.settings["independent"] == (kind not in ("dino", "fid"))
    out = features(clips.video, clips.family if features.reads else None)
    assert out.dtype == torch.float32
    assert out.shape == {"dino": (3, 16, 192), "fid": (3, 16, 192), "text-video": (3,)}.get(kind, (3, 576))
    assert torch.isfinite(out).all()


def test_a_network_of_ones_own_does_not_either(folders):
    for kind, source in (
        ("action", "action"),
        ("dino", "dino"),
        ("clip", "clip"),
        ("fvd", "i3d"),
        ("fid", "inception"),
    ):
        features = load_features(kind, str(folders[source]))
        assert features.name == f"{kind}({folders[source].name})"
        assert features.settings["independent"] is None
        assert str(folders[source].parent) not in str(features.settings)


def test_only_the_published_network_does(folders, hub, tmp_path):  # noqa: F811
    hub(PUBLISHED["action"], folders["action"])
    features = load_features("action")
    assert features.name == "action"
    assert features.settings["revision"] == COMMIT
    assert features.settings["independent"] is False  # it conditions generation too
    hub("someone/else", folders["action"])
    assert load_features("action", "someone/else").name == "action(else)"


def test_fvd_is_read_from_the_hub_too(folders, hub, tmp_path, monkeypatch):  # noqa: F811
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "i3d_torchscript.pt").write_bytes(folders["i3d"].read_bytes())
    hub(PUBLISHED["fvd"], tmp_path / "repo")
    features = load_features("fvd")
    assert (features.name, features.settings["independent"]) == ("fvd", True)


def test_the_judges_features_are_what_its_last_layer_reads(clips):
    judge = FamilyClassifier.from_pretrained()
    with torch.no_grad():
        expected = judge(prepared(clips.video))
        scores = judge.time[-1](load_features("action", "tiny")(clips.video))
        likely = load_features("text-video", "tiny")(clips.video, clips.family)
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    index = [judge.config.families.index(name) for name in clips.family]
    torch.testing.assert_close(likely, expected.softmax(dim=1)[torch.arange(3), index])
    with pytest.raises(MotionRAGError, match="does not know the motion family 'loiter'"):
        load_features("text-video", "tiny")(clips.video, ["loiter"] * 3)


def test_action_features_are_the_class_scores_of_transformers(clips, folders):
    network = transformers.VideoMAEForVideoClassification.from_pretrained(folders["action"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["action"])
    picks = np.linspace(0, 15, 4).round().astype(int)
    inputs = [processor(list(clip[picks].numpy()), return_tensors="pt").pixel_values for clip in clips.video]
    with torch.no_grad():
        expected = network(torch.cat(inputs)).logits
    found = load_features("action", str(folders["action"]), batch_size=2)(clips.video)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_dino_features_are_the_class_token_of_each_frame(clips, folders):
    network = transformers.Dinov2Model.from_pretrained(folders["dino"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["dino"])
    frames = processor(list(clips.video[0].numpy()), return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = network(frames).last_hidden_state[:, 0]
    found = load_features("dino", str(folders["dino"]))(clips.video)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_clip_features_and_alignment_are_those_of_transformers(clips, folders):
    network = transformers.CLIPModel.from_pretrained(folders["clip"]).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folders["clip"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clip"])
    prompts = ["a b", "b", "a a b b a a b b a a b b a a b b"]
    with torch.no_grad():
        pixels = [processor(list(clip.numpy()), return_tensors="pt").pixel_values for clip in clips.video]
        images = torch.stack([network.get_image_features(one).pooler_output for one in pixels])
        tokens = tokenizer(prompts, padding=True, truncation=True, return_tensors="pt")
        text = network.get_text_features(**tokens).pooler_output
    found = load_features("clip", str(folders["clip"]))(clips.video)
    torch.testing.assert_close(found, images, atol=1e-5, rtol=1e-5)
    alignment = load_features("text-video", str(folders["clip"]))
    assert alignment.reads == "prompts"
    expected = 100 * torch.cosine_similarity(images, text[:, None], dim=-1).mean(dim=1)
    torch.testing.assert_close(alignment(clips.video, prompts), expected, atol=1e-4, rtol=1e-4)


def test_torchscript_gets_pixels_in_255_and_the_flags_it_has(clips, folders):
    found = load_features("fvd", str(folders["i3d"]))(clips.video)
    expected = clips.video.float().mean(dim=(3, 4)).transpose(1, 2).flatten(1)
    torch.testing.assert_close(found, expected)
    frames = load_features("fid", str(folders["inception"]), batch_size=1)(clips.video)
    torch.testing.assert_close(frames, clips.video.float().mean(dim=(3, 4)))


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("fvdd", None, "no features of kind 'fvdd'; did you mean 'fvd'"),
        ("clip", "tiny", "no bundled network stands in for clip: name a hub id"),
        ("fid", None, "name a TorchScript file"),
        ("fvd", None, 'nor a hub id that is cached or can be reached.*stand-in, source "tiny"'),
        ("fvd", "nowhere/i3d.pt", "neither a TorchScript file"),
        ("action", None, "hf download MCG-NJU"),
        ("action", "./nowhere", "no such folder"),
    ],
)
def test_what_is_not_there_is_said_in_one_line_with_the_remedy(kind, source, message, hub):  # noqa: F811
    with pytest.raises(MotionRAGError, match=message) as caught:
        load_features(kind, source)
    assert "\n" not in str(caught.value)


def test_networks_of_another_type_are_refused(folders, tmp_path):
    with pytest.raises(MotionRAGError, match="type 'dinov2', wanted is 'videomae'"):
        load_features("action", str(folders["dino"]))
    with pytest.raises(MotionRAGError, match="its weights lack classifier"):
        load_features("action", str(folders["backbone"]))
    with pytest.raises(MotionRAGError, match="which encodes motion"):
        load_features("dino", str(folders["other"]))
    with pytest.raises(MotionRAGError, match="not a TorchScript file"):
        load_features("text-video", str(folders["i3d"]))
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(MotionRAGError, match="no TorchScript file"):
        load_features("fvd", str(tmp_path / "broken.pt"))
    with pytest.raises(MotionRAGError, match="holds 2 TorchScript files"):
        load_features("fvd", str(folders["i3d"].parent))
    with pytest.raises(MotionRAGError, match="gives \\[3, 3, 16\\] for 3 inputs"):
        load_features("fvd", str(save_script(tmp_path / "flat.pt", Flat())))(render(1, range(3)).video)


class Flat(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=[3, 4])


def test_clips_of_another_shape_are_refused(clips):
    features = load_features("action", "tiny")
    for wrong in (clips.video.float(), clips.video[0], clips.video[:0], clips.video[:, :, :1]):
        with pytest.raises(MotionRAGError, match="tiny-action takes uint8"):
            features(wrong)
    with pytest.raises(MotionRAGError, match="takes families, one for each of 3 clips"):
        load_features("text-video", "tiny")(clips.video)
    with pytest.raises(MotionRAGError, match="device"):
        load_features("action", "tiny", device="nonsense")
    with pytest.raises(MotionRAGError, match="batch_size=0"):
        load_features("action", "tiny", batch_size=0)
