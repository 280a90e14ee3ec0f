"""Finding, refusing and quietly loading: folders, hub ids offline, damaged and foreign models."""

import json
import logging

import pytest
import torch
import transformers
from huggingface_hub.utils.tqdm import are_progress_bars_disabled
from safetensors.torch import load_file, save_file

from motionrag import MotionRAGError, encoders
from motionrag.encoders import load_appearance_encoder, load_motion_encoder, load_text_encoder
from tests.encoders.conftest import COMMIT, copy, edit


def test_hub_id_offline_resolves_its_commit(hub, models):
    for load, name in [
        (load_motion_encoder, "videomae"),
        (load_appearance_encoder, "dinov2"),
        (load_text_encoder, "text"),
    ]:
        model = hub(f"acme/tiny-{name}", models[name])
        info = load(model).info
        local = load(str(models[name])).info
        assert (info.model, info.revision) == (model, COMMIT)
        assert (local.model, local.revision) == (str(models[name]), None)
        assert info.fingerprint == local.fingerprint
        assert load(model, revision=COMMIT).info == load(model, revision="main").info == info


@pytest.mark.parametrize("load", [load_motion_encoder, load_appearance_encoder, load_text_encoder])
def test_what_is_not_there(hub, load, tmp_path):
    with pytest.raises(MotionRAGError, match=r"no encoder at 'acme/none'.*hf download acme/none"):
        load("acme/none")
    with pytest.raises(MotionRAGError, match="no encoder at 'acme/none' at revision 'v2'"):
        load("acme/none", revision="v2")
    with pytest.raises(MotionRAGError, match="nowhere: no such folder"):
        load(str(tmp_path / "nowhere"))
    with pytest.raises(MotionRAGError, match="no encoder at 'mini lm'"):
        load("mini lm")


def test_a_hub_model_without_its_weights(hub, models, tmp_path):
    folder = copy(models["videomae"], tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MotionRAGError, match="acme/bare: its weights cannot be loaded"):
        load_motion_encoder(hub("acme/bare", folder))


def test_a_folder_has_no_revision(models):
    with pytest.raises(MotionRAGError, match="local folder, which has no revision 'main'"):
        load_motion_encoder(str(models["videomae"]), revision="main")


def test_relative_folders_become_absolute(models, monkeypatch):
    monkeypatch.chdir(models["videomae"].parent)
    assert load_motion_encoder("videomae").info.model == str(models["videomae"])


def test_the_other_kind_is_refused(models):
    with pytest.raises(
        MotionRAGError, match="is a dinov2 model, which encodes appearance; known motion encoders are vid"
    ):
        load_motion_encoder(str(models["dinov2"]))
    with pytest.raises(MotionRAGError, match="is a videomae model, which encodes motion"):
        load_appearance_encoder(str(models["videomae"]))
    with pytest.raises(MotionRAGError, match="is no sentence-transformers model"):
        load_text_encoder(str(models["videomae"]))
    with pytest.raises(
        MotionRAGError, match="no motion encoder for models of type 'bert'; known are videomae, vjepa2"
    ):
        load_motion_encoder(str(models["text"]))


def test_an_unknown_type_names_the_nearest(models, tmp_path):
    folder = copy(models["videomae"], tmp_path / "m")
    edit(folder / "config.json", model_type="videomea")
    with pytest.raises(MotionRAGError, match="'videomea'; did you mean 'videomae'"):
        load_motion_encoder(str(folder))


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_damaged_configuration(models, tmp_path, content):
    folder = copy(models["videomae"], tmp_path / "m")
    (folder / "config.json").unlink()
    if content:
        (folder / "config.json").write_text(content)
    with pytest.raises(MotionRAGError, match=r"has no config.json|not valid JSON|holds no settings"):
        load_motion_encoder(str(folder))


@pytest.mark.parametrize("name", ["videomae", "vjepa2", "dinov2", "text"])
def test_damaged_weights(models, tmp_path, name):
    load = {"dinov2": load_appearance_encoder, "text": load_text_encoder}.get(name, load_motion_encoder)
    folder = copy(models[name], tmp_path / "m")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not weights"):
        weights.write_bytes(content)
        with pytest.raises(MotionRAGError, match=r"cannot be loaded \(.*again") as caught:
            load(str(folder))
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["videomae", "vjepa2", "dinov2", "text"])
def test_missing_and_misshapen_weights(models, tmp_path, name):
    load = {"dinov2": load_appearance_encoder, "text": load_text_encoder}.get(name, load_motion_encoder)
    folder = copy(models[name], tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    gone = next(key for key in state if key.endswith("weight") and "predictor" not in key and "layer" in key)
    save_file(
        {key: value for key, value in state.items() if key != gone}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(MotionRAGError, match=r"weights lack .*layer.*\.weight"):
        load(str(folder))
    save_file({**state, gone: torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(MotionRAGError, match="cannot be loaded"):
        load(str(folder))


def test_weights_that_no_output_needs_may_be_missing(models, tmp_path):
    for load, name, spare in [
        (load_text_encoder, "text", "pooler."),
        (load_motion_encoder, "vjepa2", "predictor."),
        (load_appearance_encoder, "dinov2", "embeddings.mask_token"),
    ]:
        folder = copy(models[name], tmp_path / name)
        state = load_file(folder / "model.safetensors")
        kept = {key: value for key, value in state.items() if not key.startswith(spare)}
        assert len(kept) < len(state)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})
        assert load(str(folder)).info.fingerprint == load(str(models[name])).info.fingerprint


def test_files_that_do_not_belong_together(models, tmp_path):
    for name, file in [("videomae", "preprocessor_config.json"), ("vjepa2", "video_preprocessor_config.json")]:
        folder = copy(models[name], tmp_path / name)
        edit(folder / file, crop_size={"height": 24, "width": 24})
        with pytest.raises(
            MotionRAGError, match=f"{name}: the processor crops frames to 24x24, the network takes 32x32"
        ):
            load_motion_encoder(str(folder))
    folder = copy(models["dinov2"], tmp_path / "dinov2")
    edit(folder / "preprocessor_config.json", crop_size={"height": 10, "width": 42})
    with pytest.raises(MotionRAGError, match="10x42, less than a patch of 14"):
        load_appearance_encoder(str(folder))


@pytest.mark.parametrize("load", [load_motion_encoder, load_text_encoder])
def test_bad_settings(models, load):
    folder = str(models["text" if load is load_text_encoder else "videomae"])
    with pytest.raises(MotionRAGError, match="device 'cuda:99' cannot be used here"):
        load(folder, device="cuda:99")
    with pytest.raises(MotionRAGError, match="device 'gpu' cannot be used here"):
        load(folder, device="gpu")
    with pytest.raises(MotionRAGError, match="batch_size=0 must be at least 1"):
        load(folder, batch_size=0)


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(models, capfd):
    logger = logging.getLogger("transformers")
    before = (logger.level, transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    load_motion_encoder(str(models["videomae"]))
    load_appearance_encoder(str(models["dinov2"]))
    load_text_encoder(str(models["text"]))
    with pytest.raises(MotionRAGError):
        load_motion_encoder("acme/none")
    assert capfd.readouterr() == ("", "")
    after = (logger.level, transformers.utils.logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    assert before == after


def test_every_public_name_is_there():
    for name in encoders.__all__:
        assert getattr(encoders, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = encoders.nothing


def test_model_code_is_never_run(models, tmp_path):
    folder = copy(models["text"], tmp_path / "m")
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(MotionRAGError, match="cannot be loaded"):
        load_text_encoder(str(folder))
