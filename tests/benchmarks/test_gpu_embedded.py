"""The larger recipe: each part takes what the one before it leaves, and all of its settings exist."""

import runpy
import sys
from pathlib import Path

from motionrag.training.recipe import load_recipe

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu" / "embedded.py"


def test_every_setting_is_one_of_its_recipe(tmp_path):
    script = runpy.run_path(str(SCRIPT))
    made = script["recipes"](tmp_path, tmp_path / "videos", 100, 128)
    assert set(made) == set(script["SHARES"]) == set(script["STEPS_A_SECOND"])
    assert abs(sum(script["SHARES"].values()) - 1) < 1e-9
    settings = {name: load_recipe(name, overrides)[1] for name, overrides in made.items()}
    before: set[str] = set()
    for name, overrides in made.items():
        for override in overrides:
            if override.endswith("/final"):  # of a part that is trained by then
                assert Path(override.split("=")[1]).parent.name in before
        before.add(name)
    assert settings["base"].new.size == settings["vae"].size == 128
    assert settings["vae"].freeze_pictures


def test_parts_are_trained_in_order_and_a_failure_ends_it(tmp_path, monkeypatch):
    called = []

    def fake(command):
        called.append(command)
        return int(command[1] == "motion")

    script = runpy.run_path(str(SCRIPT))
    script["main"].__globals__["motionrag"] = fake
    (tmp_path / "pictures" / "final").mkdir(parents=True)  # done before
    monkeypatch.setattr(sys, "argv", ["embedded.py", "--out", str(tmp_path), "--steps", "3", "--device", "cpu"])
    assert script["main"]() == 1
    assert [command[1] for command in called] == ["vae", "motion"]
    assert "train.steps=3" in called[0]
