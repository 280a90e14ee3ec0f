"""The benchmark script at its smallest size: it runs, and refuses to time what is not the same adapter."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "adapter_overhead.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("adapter_overhead", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("size", ["cogvideox-tiny", "svd-tiny", "dynamicrafter-tiny"])
def test_the_ways_agree_and_are_timed(script, size):
    times, own = script.measure_time(size, "cpu", torch.float32, rounds=2)
    assert {way: len(values) for way, values in times.items()} == dict.fromkeys(script.WAYS, 2)
    for way in script.WAYS:
        for step, spent in zip(times[way], own[way], strict=True):
            assert (0 < spent < step) if way != "bare" else spent == 0


def test_an_adapter_that_does_nothing_is_noticed(script, monkeypatch):
    monkeypatch.setattr(script.nn.init, "normal_", lambda tensor, std: torch.nn.init.zeros_(tensor))
    with pytest.raises(SystemExit, match="did nothing"):
        script.measure_time("cogvideox-tiny", "cpu", torch.float32, rounds=1)


def test_the_command(script, tmp_path, monkeypatch, capsys):
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["x", "--sizes", "cogvideox-tiny", "--rounds", "2", "--out", str(out)])
    script.main()
    row = json.loads(out.read_text())["rows"][0]
    assert row["bare_mb"] > 0
    assert f"| cogvideox-tiny | {row['bare_ms']:,.0f} ms |" in capsys.readouterr().out
