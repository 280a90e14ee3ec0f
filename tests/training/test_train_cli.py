"""`motionrag train`: recipes, overrides, and the command that begins a training and goes on with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from motionrag.cli import main
from motionrag.errors import MotionRAGError
from motionrag.training.recipe import TASKS, find_recipe, load_recipe, packaged_recipes
from tests.training.toy import ToySettings, ToyTask

RECIPE = """
task: toy
width: 8
train:
  steps: 3
  batch: 4
  lr: 1e-2
  log_every: 1
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "toy", "tests.training.toy:ToyTask")
    path = tmp_path / "toy.yaml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_becomes_a_task_its_settings_and_those_of_the_loop(recipe):
    cls, task_settings, settings = load_recipe(recipe)
    assert cls is ToyTask
    assert task_settings == ToySettings(width=8)
    assert (settings.steps, settings.lr) == (3, 0.01)  # 1e-2 is text to plain YAML 1.1


def test_overrides_on_the_command_line(recipe):
    overrides = ["train.steps=5", "dropout=.5", "train.lr=2E-3", "train.optimizer=muon"]
    _, task_settings, settings = load_recipe(recipe, overrides)
    assert task_settings == ToySettings(width=8, dropout=0.5)
    assert (settings.steps, settings.lr, settings.optimizer) == (5, 0.002, "muon")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=5", r"toy\.yaml: train: unknown key 'stepz'; did you mean 'steps'\?"),
        ("widht=5", r"toy\.yaml: unknown key 'widht'; did you mean 'width'\?"),
        ("task=toi", r"no task named 'toi'; did you mean 'toy'\?"),
        ("train.steps=many", r'toy\.yaml: train: wrong value type for field "steps"'),
        ("train.optimizer=sgd", r'toy\.yaml: train: wrong value type for field "optimizer"'),
        ("train.steps", r"--set train\.steps: wants section\.key=value"),
        ("width.deep=1", r"--set width\.deep=1: width is a value, not a section"),
        ("width=[1", r"--set width=\[1: the value is not valid YAML"),
        ("train=3", "the section train is missing"),
        ("train.steps=0", r"train\.steps is 0, at least 1 is wanted"),
    ],
)
def test_mistakes_in_recipes_are_named(recipe, override, message):
    with pytest.raises(MotionRAGError, match=message):
        load_recipe(recipe, [override])


def test_mistakes_in_names_of_recipes(tmp_path):
    with pytest.raises(MotionRAGError, match=r"nowhere\.yaml: no such recipe"):
        load_recipe(tmp_path / "nowhere.yaml")
    known = next(iter(packaged_recipes()))
    with pytest.raises(MotionRAGError, match=f"no recipe named '{known}x'; did you mean '{known}'"):
        find_recipe(f"{known}x")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(MotionRAGError, match="holds no mapping of keys to settings"):
        load_recipe(tmp_path / "list.yaml")
    (tmp_path / "bad.yaml").write_text("task: [\n")
    with pytest.raises(MotionRAGError, match="cannot be read as YAML") as caught:
        load_recipe(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


OTHERS = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("name", [*sorted(packaged_recipes()), *OTHERS], ids=str)
def test_every_recipe_is_valid(name):
    cls, _, settings = load_recipe(name)
    assert settings.steps > 0
    assert all(callable(getattr(cls, method)) for method in ("batch", "loss", "sample", "export"))


def test_the_same_command_begins_and_goes_on(recipe, tmp_path, capsys):
    command = ["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(command) == 0
    told = capsys.readouterr()
    assert "prepared 7/7 clips" in told.err
    assert "step 3/3, loss" in told.err
    assert "clips/s, 0:00:00 left" in told.err
    assert str(tmp_path / "run" / "final") in told.out
    before = load_file(tmp_path / "run" / "final" / "inner" / "weights.safetensors")
    assert before["leave.weight"].shape == (1, 8)
    assert main([*command, "--set", "train.steps=4"]) == 0
    after = load_file(tmp_path / "run" / "final" / "inner" / "weights.safetensors")
    assert not torch.equal(before["leave.weight"], after["leave.weight"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    capsys.readouterr()
    assert main([*command, "--set", "train.steps=5", "--set", "width=9"]) == 1
    error = capsys.readouterr().err
    assert error.strip().endswith("width was 8 in this run and is 9 now; put it back, or train into another folder")
    assert error.count("\n") == 1  # refused before the task prepares anything


def test_a_device_that_is_not_there(recipe, tmp_path, capsys):
    assert main(["train", str(recipe), "--out", str(tmp_path / "run"), "--device", "cuda:99"]) == 1
    assert "device 'cuda:99' cannot be used here" in capsys.readouterr().err
