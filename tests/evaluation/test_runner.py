"""The runner: nothing is made or measured twice, systems of other clips are refused, figures are what they say."""

import json

import numpy as np
import pytest
import torch

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.evaluation import figures as figure_module
from motionrag.evaluation import runner
from motionrag.evaluation.figures import better, figures
from motionrag.evaluation.metrics import load_metrics
from motionrag.evaluation.report import Measured, markdown, write_report
from motionrag.evaluation.runner import digest, run_suite
from motionrag.evaluation.samples import NAME, by_system, read_samples, statistics_of
from motionrag.evaluation.statistics import (
    change_of_scores,
    change_of_set,
    figure_of_scores,
    figure_of_set,
    flip_test,
)
from motionrag.evaluation.suite import Suite, Targets, VideoClips, load_suite, packaged_suites
from motionrag.evaluation.targets import asked
from motionrag.types import Sampling
from motionrag.video import write_video

SAMPLING = Sampling(height=64, width=64, frames=16, fps=8.0, steps=1, guidance=1.0)
METRICS = ["path-error", "first-frame", "tiny-fvd"]


def suite(**changes):
    document = {
        "about": "Arithmetic on true clips.",
        "targets": {"synth": {"group": "unseen", "count": 16, "seed": 5}},
        "systems": {"still": {}, "late": {"scale": 2.0}},
        "baseline": "still",
        "metrics": METRICS,
    }
    return parse(Suite, document | changes, "test")


class Arithmetic:
    """Systems that need no model: the first frame held, and the truth two frames late."""

    def __init__(self, suite):
        self.asked = asked(suite.targets, SAMPLING)
        self.calls = []

    def seed(self, number):
        return number

    def references(self, system, numbers):
        return [[] for _ in numbers]

    def motion(self, system, numbers, references):
        return [system] * len(numbers)

    def key(self, system, number, motion, asked_for):
        return f"{asked_for[:32]}{system.scale:032.3f}"

    def frames(self, system, numbers, motion):
        self.calls.append(list(numbers))
        true = self.asked.true(numbers)
        still = np.repeat(true[:, :1], 16, axis=1)
        return still if system.scale == 1.0 else np.concatenate([still[:, :2], true[:, :-2]], axis=1)


@pytest.fixture(scope="module")
def metrics():
    return load_metrics(METRICS)


def run(out, metrics, of=None, **options):
    of = of or suite()
    maker = Arithmetic(of)
    return run_suite("test", of, maker, metrics, out, about={"versions": {}, "fingerprints": {}}, **options), maker


def test_figures_are_those_of_the_clips(tmp_path, metrics):
    samples, maker = run(tmp_path, metrics)
    assert [sum(map(len, maker.calls)), len(samples)] == [32, 48]
    found = figures(by_system(samples), metrics, "still")
    path, psnr, fvd = (metric.name for metric in metrics)
    assert found["true"].figures[path].value < 0.1 < 0.2 < found["still"].figures[path].value
    assert found["late"].figures[path].value < 0.6 * found["still"].figures[path].value
    assert found["late"].changes[path].relative.high < -0.2
    assert better(metrics[0], found["late"].changes[path]) is True
    assert found["still"].figures[psnr].value == pytest.approx(58.9, abs=0.1)
    assert better(metrics[1], found["late"].changes[psnr]) is None  # the same
    assert fvd not in found["true"].figures
    assert found["late"].figures[fvd].value < found["still"].figures[fvd].value
    assert found["still"].changes == found["true"].changes == {}


def test_what_is_there_is_not_made_or_measured_again(tmp_path, metrics, monkeypatch):
    def stop(progress):
        if progress.fresh >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, metrics, report=stop, batch=4)
    again, maker = run(tmp_path, metrics, batch=4)
    assert sum(map(len, maker.calls)) == 32 - 8
    for metric in metrics:
        monkeypatch.setattr(metric, "_measure", None)
    third, maker = run(tmp_path, metrics)
    assert maker.calls == []
    assert third == again
    assert read_samples(tmp_path / "test")[0] == again


def test_a_stopped_run_does_not_lose_what_an_earlier_one_measured(tmp_path, metrics, monkeypatch):
    monkeypatch.setattr(runner, "WRITE_S", 0.0)
    first, _ = run(tmp_path, metrics)
    more = [*metrics, *load_metrics(["flicker"])]

    def stop(progress):
        if progress.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, more, report=stop)
    kept = read_samples(tmp_path / "test")[0]
    assert [len(sample.statistics) for sample in kept] == [4] * 8 + [3] * 40
    assert [sample.key for sample in kept] == [sample.key for sample in first]


def test_another_setting_of_a_metric_is_measured_anew(tmp_path, metrics):
    run(tmp_path, metrics)
    changed = load_metrics(METRICS)
    changed[0].settings["tracker"] = "another"
    samples, maker = run(tmp_path, changed)
    assert maker.calls == []
    assert digest(changed[0]) != digest(metrics[0])
    assert len(statistics_of(samples, digest(changed[0]))) == 48


def test_systems_of_other_clips_are_refused(tmp_path, metrics):
    samples, _ = run(tmp_path, metrics)
    with pytest.raises(MotionRAGError, match="not asked for the same clips"):
        by_system([sample for sample in samples if (sample.system, sample.number) != ("late", 3)])
    samples[-1].asked = "0" * 64
    with pytest.raises(MotionRAGError, match=r"still and late|true and late"):
        by_system(samples)


def test_a_damaged_table_is_one_clear_error(tmp_path, metrics):
    run(tmp_path, metrics)
    (tmp_path / "test" / NAME).write_bytes(b"nothing")
    with pytest.raises(MotionRAGError, match="is no table of samples"):
        run(tmp_path, metrics)
    with pytest.raises(MotionRAGError, match="no such file"):
        read_samples(tmp_path / "other")


def test_the_report_needs_nothing_else(tmp_path, metrics):
    of = suite()
    samples, maker = run(tmp_path, metrics, of)
    rows = by_system(samples)
    measured = Measured(
        name="test",
        suite=of,
        rows=rows,
        metrics=metrics,
        figures=figures(rows, metrics, "still"),
        asked=maker.asked,
    )
    paths = write_report(
        tmp_path, [measured], {"versions": {"torch": "2"}, "fingerprints": {"base": "ab" * 32}}, command="make it"
    )
    page, text, document = (path.read_text(encoding="utf-8") for path in paths)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("data:image/webp") == 3 * 3  # best, median and worst, of three systems each
    assert page.count("<svg") == 3
    assert "make it" in page
    assert markdown(measured) in text
    assert "| late |" in text
    found = json.loads(document)["suites"]["test"]
    assert found["clips"] == 16
    assert found["systems"]["late"]["figures"]["path-error"]["n"] == 16


def test_examples_are_best_median_and_worst(metrics, tmp_path):
    samples, _ = run(tmp_path, metrics)
    rows = by_system(samples)["late"]
    scores = statistics_of(rows, digest(metrics[0]))[:, 0]
    found = figure_module.examples(rows, metrics[0])
    assert scores[found["best"]] == np.nanmin(scores)
    assert scores[found["worst"]] == np.nanmax(scores)


# -- statistics


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        figure = figure_of_scores(rng.exponential(size=150))
        held += figure.low <= 1 <= figure.high
    assert 88 <= held <= 100


def test_a_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(1).normal(size=400)
    figure = figure_of_set(400, lambda kept: float(values[kept].mean()))
    assert figure.value == pytest.approx(values.mean())
    assert figure.high - figure.value == pytest.approx(1.96 * values.std() / 20, rel=0.4)


def test_changes_are_paired():
    """Two systems that differ by a hair on every clip: clear, though the clips differ much more."""
    rng = np.random.default_rng(2)
    baseline = rng.uniform(1, 10, size=200)
    scores = 1.02 * baseline
    change = change_of_scores(scores, baseline)
    assert change.relative.clear
    assert change.relative.value == pytest.approx(0.02)
    assert change.p < 0.01
    same = change_of_scores(baseline + rng.normal(0, 0.1, 200), baseline)
    assert not same.relative.clear
    of_set = change_of_set(200, lambda kept: scores[kept].mean(), lambda kept: baseline[kept].mean())
    assert of_set.relative.value == pytest.approx(0.02)
    assert of_set.relative.clear


def test_clips_without_a_score_do_not_count():
    scores, baseline = np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, np.nan])
    assert figure_of_scores(scores).n == 2
    assert change_of_scores(scores, baseline).relative.n == 1
    with pytest.raises(MotionRAGError, match="no clip has a score"):
        figure_of_scores(np.array([np.nan]))


def test_signs_are_flipped_to_see_what_chance_does():
    assert flip_test(np.zeros(5)) == 1.0
    assert flip_test(np.ones(20)) < 0.001
    rng = np.random.default_rng(3)
    p = [flip_test(rng.normal(size=30)) for _ in range(100)]
    assert 0.3 < np.mean(p) < 0.7


# -- suites


@pytest.mark.parametrize("name", packaged_suites())
def test_packaged_suites_are_sound(name):
    found = load_suite(name)
    assert found.systems
    assert {"action", "tiny-action"} & set(found.metrics)
    smaller = found.smaller(3).targets
    assert (smaller.synth or smaller.videos).count == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "stil"}, "did you mean 'still'"),
        ({"systems": {"still": {"motion": "nothing"}}}, "motion='nothing' must be one of"),
        ({"systems": {"still": {"fusion": "meen"}}}, "did you mean 'mean'"),
        ({"systems": {"still": {"database": "other"}}}, "no database named 'other'"),
        ({"systems": {"still": {}, "true": {}}}, "no system can be named 'true'"),
        ({"targets": {}}, "give synth or videos"),
        ({"databases": {"database": {"share": 0.0}}}, "share=0.0"),
        ({"targets": {"synth": {"group": "all", "count": 1, "seed": 0}}}, "must be known or unseen"),
    ],
)
def test_wrong_suites_are_refused(changes, message):
    with pytest.raises(MotionRAGError, match=message):
        suite(**changes)


def test_suites_are_found_by_name_or_file(tmp_path):
    with pytest.raises(MotionRAGError, match="did you mean 'known'"):
        load_suite("knwon")
    with pytest.raises(MotionRAGError, match=r"no such file|cannot be read"):
        load_suite(str(tmp_path / "no.yaml"))
    assert load_suite("known", ["targets.synth.count=7", "steps=3"]).targets.synth.count == 7


def test_real_clips_are_asked_for_in_the_bases_size(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(4):
        write_video(tmp_path / f"{i}.mp4", rng.integers(0, 256, (12, 3, 48, 96), dtype=np.uint8), 8.0)
        lines.append(json.dumps({"video": f"{i}.mp4", "caption": f"clip {i}"}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    sampling = Sampling(height=32, width=32, frames=5, fps=8.0, steps=1, guidance=1.0)
    found = asked(Targets(videos=VideoClips(source=str(tmp_path), count=2)), sampling)
    assert found.prompts == ["clip 0", "clip 2"]
    assert found.true([1]).shape == (1, 5, 3, 32, 32)
    assert [torch.is_tensor(found.targets([0], found.true([0])).first), len(found.digest(0, 3))] == [True, 64]
    assert found.digest(0, 3) != found.digest(0, 4) != found.digest(1, 4)
