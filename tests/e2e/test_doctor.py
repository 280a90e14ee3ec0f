"""The verb doctor: what it says of devices and of the cache, with no look at the network."""

import json
import socket
from dataclasses import replace
from importlib.metadata import version

import pytest
from huggingface_hub import constants

from motionrag import testing
from motionrag.cli import main
from motionrag.pipeline import machine
from motionrag.pipeline.machine import Device
from motionrag.registry import base_spec

SVD = "stabilityai/stable-video-diffusion-img2vid"


@pytest.fixture
def doctor(capsys, monkeypatch, tmp_path):
    """Run it with a cache of its own."""

    def refuse(*arguments):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)

    def doctor(*arguments):
        assert main(["doctor", *arguments]) == 0
        return capsys.readouterr().out

    return doctor


@pytest.fixture
def cached(tmp_path):
    """A tiny pipeline where the hub's cache has SVD."""
    store = tmp_path / "hub" / f"models--{SVD.replace('/', '--')}"
    (store / "refs").mkdir(parents=True)
    (store / "refs/main").write_text("c" * 40)
    testing.tiny_svd().save_pretrained(store / "snapshots" / ("c" * 40))
    return store / "snapshots" / ("c" * 40)


def models(text):
    return {model["name"]: model for model in json.loads(text)["models"]}


def test_nothing_is_cached(doctor):
    """Every missing model comes with the commands that fetch it, its licence, and what it wants of memory."""
    told = json.loads(doctor("--json"))
    assert {"python", "torch", "diffusers", "transformers", "motionrag"} <= set(told["versions"])
    assert told["devices"][-1]["name"] == "cpu"
    assert told["devices"][-1]["memory"] > told["devices"][-1]["free"] > 0
    found = models(json.dumps(told))
    assert {"tiny", "cogvideox", "svd", "motion encoder", "appearance encoder"} <= set(found)
    for name, model in found.items():
        assert model["license"]
        if name != "tiny":
            assert (model["state"], model["bytes"]) == ("missing", 0)
            assert all(command.startswith("hf download ") for command in model["get"])
            assert model["repository"] in " ".join(model["get"])
    wanted = found["cogvideox"]["estimates"]
    assert wanted["full"] > wanted["offload"] > wanted["low"] > 4e9
    assert set(found["svd"]["runs"]) == {device["name"] for device in told["devices"]}
    text = doctor()
    for line in (f"get it: hf download {SVD} model_index.json", "licence cc-by-nc-4.0", "Devices", "estimated"):
        assert line in text


def test_a_cached_model_is_ready_until_a_file_is_missing(doctor, cached):
    found = models(doctor("--json"))["svd"]
    assert (found["state"], found["lacks"], found["get"]) == ("ready", [], [])
    assert found["bytes"] == sum(path.stat().st_size for path in cached.rglob("*") if path.is_file())
    (weights,) = (cached / "unet").glob("*.safetensors")
    weights.unlink()
    (cached / "vae/config.json").unlink()
    found = models(doctor("--json"))["svd"]
    assert (found["state"], found["lacks"]) == ("incomplete", ["unet/weights", "vae/config.json"])
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (cached / "unet/model.safetensors.index.json").write_text(json.dumps(index))
    (cached / "unet/one.safetensors").write_text("")
    assert "svd: incomplete" in doctor()
    assert models(doctor("--json"))["svd"]["lacks"] == ["unet/two.safetensors", "vae/config.json"]


def test_weights_that_are_no_pipeline(doctor, tmp_path, monkeypatch):
    """Their files are named by the spec, from one repository or more; each has its own command."""
    spec = replace(
        base_spec("svd"), files={"some/base": ("model.ckpt",), "some/words": ("vocab.json", "merges.txt")}
    )
    monkeypatch.setattr(machine, "base_spec", lambda name: spec)
    store = tmp_path / "hub" / "models--some--words"
    (store / "refs").mkdir(parents=True)
    (store / "refs/main").write_text("c" * 40)
    (store / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (store / "snapshots" / ("c" * 40) / "vocab.json").write_text("{}")
    found = models(doctor("--json"))["svd"]
    assert (found["state"], found["bytes"]) == ("incomplete", 2)
    assert found["lacks"] == ["some/base/model.ckpt", "some/words/merges.txt"]
    assert found["get"] == [
        "hf download some/base model.ckpt",
        "hf download some/words vocab.json merges.txt",
    ]


def test_what_extras_bring(doctor, monkeypatch):
    """What is installed with its version, what is not with the command."""
    lines = ['pillow>=11; extra == "one"', 'no-such-package>=1; extra == "two"', "numpy>=1.26"]
    monkeypatch.setattr(machine, "requires", lambda name: lines)
    assert json.loads(doctor("--json"))["extras"] == {
        "one": {"pillow": version("pillow")},
        "two": {"no-such-package": None},
    }
    assert "  no-such-package is not installed: pip install motionrag[two]" in doctor()


def test_what_devices_can_run():
    """The least saving mode that fits; what is offloaded must fit into RAM; MPS has no float8."""

    def on(gpu, ram, name="cuda:0"):
        devices = [Device(name=name, title="", memory=int(gpu * 1e9), free=0)]
        devices.append(Device(name="cpu", title="", memory=int(ram * 1e9), free=0))
        return machine.runs(base_spec("cogvideox"), devices)

    assert on(80, 64)["cuda:0"] == "--device cuda:0 --memory full"
    assert on(24, 64)["cuda:0"] == "--device cuda:0 --memory offload"
    assert on(8, 64)["cuda:0"] == "--device cuda:0 --memory low"
    assert on(24, 16)["cuda:0"].startswith("no: it wants about")
    assert on(2, 64)["cuda:0"] == "no: it wants about 5 GB there and 21 GB of RAM"
    assert on(8, 64, name="mps")["mps"].startswith("no: it wants about 19 GB")
    assert on(8, 64)["cpu"].startswith("--device cpu --dtype float32")
    assert on(8, 40)["cpu"].startswith("--device cpu --dtype bfloat16")
    assert on(8, 16)["cpu"] == "no: it wants about 33 GB of RAM"
