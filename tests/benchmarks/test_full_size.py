"""The measurement of full-size bases, at tiny size on the CPU: all of it but the sizes and the GPU's clock."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "gpu"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("full_size")
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in ("full_size", "stand_ins"):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("base", ["cogvideox", "svd", "dynamicrafter"])
def test_every_part_is_timed(script, base):
    row = script.measure(base, "tiny", "cpu", torch.bfloat16, rounds=1, steps=2)
    assert row["scaled_to_published_steps"]
    assert row["steps_run"] == 2
    assert set(row["before"]) == {"retrieval", "appearance", "context"}
    assert all(seconds > 0 for seconds in row["before"].values())
    for way in script.WAYS:
        spent = row["ways"][way]
        parts = ("denoise", "vae_encode", "vae_decode", "other")
        assert all(spent[name] > 0 for name in parts)
        assert sum(spent[name] for name in parts) == pytest.approx(spent["total"])
    assert row["check"]["finite"]
    assert row["check"]["cached_to_uncached"] < 0.05
    assert row["peak_gb"] == dict.fromkeys(script.WAYS)


def test_seconds_are_scaled_to_the_published_steps(script):
    vae = {"vae_encode": 1.0, "vae_decode": 2.0}
    ran = [{"total": 10.0 + i, "denoise": 6.0 + i, "first_step": 3.0, **vae} for i in (0, 1, 2)]
    found = script.summary(ran, 5, 25)
    assert found["denoise"] == 3.0 + 4.0 / 4 * 24  # the first step computes keys and values, the others repeat
    assert found["total"] == found["denoise"] + 4.0
    assert found["other"] == 1.0
    assert script.summary(ran, 25, 25)["denoise"] == 7.0


def test_keys_and_values_are_computed_again_at_each_step_only_where_asked(script, tmp_path, monkeypatch):
    from motionrag.models.adapter import AdapterSite

    parts = script.make("svd", "tiny", "cpu", torch.float32, tmp_path / "database")
    _, arguments = script.published(parts, "svd")
    arguments["num_inference_steps"] = 3
    _, motion, null = script.our_parts(parts, arguments["image"][0], script.Watch("cpu"))
    prepare, calls = AdapterSite.prepare, []
    monkeypatch.setattr(AdapterSite, "prepare", lambda *given: calls.append(0) or prepare(*given))
    sites, counts = len(parts.bundle.config.adapter.sites), {}
    for way in script.WAYS:
        calls.clear()
        script.run(parts, "svd", way, arguments, motion, null, "cpu")
        counts[way] = len(calls)
    assert counts == {"bare": 0, "cached": sites, "uncached": 3 * sites}
    assert not parts.pipe.unet._forward_pre_hooks
    assert "decode" not in vars(parts.pipe.vae)


def test_what_is_not_one_computation_is_not_compared(script):
    same, other = torch.zeros(1, 2), torch.ones(1, 2)
    with pytest.raises(SystemExit, match="the adapter did nothing"):
        script.check({"bare": same, "cached": same, "uncached": same})
    with pytest.raises(SystemExit, match="not the same adapter"):
        script.check({"bare": same, "cached": other, "uncached": same})


def test_the_command(script, tmp_path, monkeypatch, capsys):
    out = tmp_path / "results" / "cogvideox.json"
    command = [
        "x",
        "--base",
        "cogvideox",
        "--size",
        "tiny",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--rounds",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    script.main()
    row = json.loads(out.read_text())
    assert (row["steps_run"], row["sampling"]["steps"], row["scaled_to_published_steps"]) == (25, 25, False)
    assert (row["about"]["dtype"], row["rounds"]) == ("float32", 2)
    assert row["check"]["cached_to_uncached"] < 1e-4
    assert (
        capsys.readouterr().out.splitlines()[2].startswith(f"| cogvideox | {row['ways']['bare']['total']:.2f} s |")
    )
