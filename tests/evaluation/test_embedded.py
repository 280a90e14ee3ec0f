"""The embedded default's figures and bars: true clips pass, stills fail, and the command goes on where it was."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from motionrag.evaluation.embedded import Scores, bars, held_out, interval, judge, mean, ratio, summary
from motionrag.evaluation.families import ClassifierConfig, FamilyClassifier
from motionrag.synth import families
from tests.e2e.conftest import save_bundle, save_parts
from tests.encoders.conftest import save_dinov2, save_videomae

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "embedded.py"


@pytest.fixture(scope="module")
def clips():
    return held_out("unseen", 16, 40)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return FamilyClassifier(ClassifierConfig(families=list(families()))).eval()


def test_held_out_clips_are_of_all_predictable_families_of_a_group(clips):
    unseen = [name for name, family in families().items() if not family.known]
    assert clips.clips.family == unseen * (16 // len(unseen))
    assert (clips.images == clips.clips.video[:, 0].numpy()).all()
    assert all(prompt in said for prompt, said in zip(clips.prompts, clips.clips.captions, strict=True))


def test_true_clips_are_judged_right_and_stills_wrong(clips, classifier):
    true = judge(clips.clips.video, clips, classifier)
    assert true.path.max() < 0.1
    assert true.similarity == pytest.approx(1.0)
    assert (true.lost == 0).all()
    still = judge(clips.clips.video[:, :1].expand_as(clips.clips.video), clips, classifier)
    assert still.path.min() > 0.2
    figures = summary({"true": true, "bare": still, "ours": true}, clips.clips.family)
    assert figures["ours"]["path_error_to_bare"]["value"] < 0.2
    assert figures["ours"]["families"]["spiral"]["path_error"] == pytest.approx(true.path[::8].mean(), abs=1e-4)


def test_families_without_a_path_count_for_accuracy_alone(classifier):
    clips = held_out("known", 24, 41)
    score = judge(clips.clips.video, clips, classifier)
    standing = [not families()[name].moves for name in clips.clips.family]
    assert np.isnan(score.path).tolist() == standing
    figures = summary({"ours": score}, clips.clips.family)["ours"]
    assert figures["path_error"]["clips"] == 24 - sum(standing)
    assert figures["families"]["spin"]["path_error"] is None


def test_intervals_hold_the_value_and_pair_the_clips():
    values = np.random.default_rng(1).normal(5, 1, 200)
    low, high = interval(mean, values)
    assert low < values.mean() < high
    assert 0.2 < high - low < 0.4  # 2 * 1.96 / sqrt(200)
    assert interval(ratio, values / 2, values) == [0.5, 0.5]


def scores(right, path, similarity=1.0):
    count = 40
    rows = np.zeros(count)
    rows[: round(right * count)] = 1
    return Scores(right=rows, path=np.full(count, path), similarity=np.full(count, similarity), lost=np.zeros(count))


def reached(unseen_ours, similarity=1.0, added=0.05):
    names = ["slide"] * 40
    known = {"true": scores(1, 0.01), "bare": scores(0.5, 0.4), "ours": scores(0.7, 0.3, similarity)}
    unseen = {
        "true": scores(1, 0.01),
        "bare": scores(0.1, 0.5),
        "ours": unseen_ours,
        "top1": scores(0.5, 0.28),
        "mean": scores(0.5, 0.27),
    }
    return bars({"known": summary(known, names), "unseen": summary(unseen, names)}, added)


def test_bars_are_those_of_the_issue():
    assert all(bar.passed for bar in reached(scores(0.7, 0.25)))
    assert [bar.name for bar in reached(scores(0.55, 0.25)) if not bar.passed] == ["unseen: accuracy"]
    worse = [bar.name for bar in reached(scores(0.7, 0.29)) if not bar.passed]
    assert worse == ["unseen: path error, to that of top1", "unseen: path error, to that of mean"]
    assert [bar.name for bar in reached(scores(0.7, 0.25), added=0.09) if not bar.passed] == [
        "time added to the bare base"
    ]
    assert [bar.passed for bar in reached(scores(0.7, 0.25), similarity=0.94)].count(False) == 1
    unknown = bars({"known": summary({"ours": scores(1, 0)}, ["slide"] * 40)}, None)
    assert {bar.passed for bar in unknown} == {None, True}  # what was not measured does not count as passed


@pytest.fixture
def command(tmp_path, monkeypatch, classifier):
    """The script's `main` with the smallest parts; its output file."""
    pipe = save_parts(tmp_path / "base")
    save_bundle(tmp_path / "bundle", pipe, "tiny")
    save_videomae(tmp_path / "videomae")
    save_dinov2(tmp_path / "dinov2")
    (tmp_path / "judge").mkdir()
    classifier.save_pretrained(tmp_path / "judge")
    spec = importlib.util.spec_from_file_location("embedded", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "embedded", script)
    spec.loader.exec_module(script)
    parts = {"base": "base", "bundle": "bundle", "motion": "videomae", "appearance": "dinov2", "classifier": "judge"}
    options = [part for option, name in parts.items() for part in (f"--{option}", str(tmp_path / name))]
    options += ["--out", str(tmp_path / "figures.json"), "--work", str(tmp_path / "work")]
    options += ["--clips", "8", "--each", "1", "--batch", "4", "--timed", "1"]
    monkeypatch.setattr(sys, "argv", ["embedded.py", *options])
    return script, tmp_path / "figures.json"


@pytest.mark.slow
def test_the_command_measures_every_system_and_goes_on_from_what_is_kept(command, monkeypatch, capsys):
    script, out = command
    script.main()
    first, told = json.loads(out.read_text()), capsys.readouterr().out
    systems = {"true", "bare", "ours", "top1", "mean", "oracle"}
    assert set(first["figures"]["known"]) == systems
    assert set(first["figures"]["unseen"]) == systems | {"unextended"}
    assert "unseen: accuracy of the bare base" in told
    for group in ("known", "unseen"):
        assert out.with_name(f"figures-{group}.png").is_file()
    assert str(out.parent) not in out.read_text()  # no path of this machine
    kept = sorted(out.parent.glob("work/clips-*/unseen-ours/*.npz"))
    assert len(kept) == 2
    again = np.load(kept[1])["frames"]
    kept[1].unlink()
    calls = []
    generate = script.MotionRAG.generate
    monkeypatch.setattr(
        script.MotionRAG, "generate", lambda self, *args, **more: calls.append(1) or generate(self, *args, **more)
    )
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--timed", "0"])
    script.main()
    assert 1 <= len(calls) <= 2  # clips with and without references are made apart
    assert (np.load(kept[1])["frames"] == again).all()
    assert json.loads(out.read_text())["figures"] == first["figures"]
