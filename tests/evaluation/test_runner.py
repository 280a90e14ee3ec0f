"""The runner: nothing is made or measured twice, systems of other clips are refused, figures are what they say."""

import json
import math
import re

import numpy as np
import pytest
import torch

from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.evaluation import runner
from motionrag.evaluation.comparison import compare
from motionrag.evaluation.examples import picked, shown_system
from motionrag.evaluation.features import Features
from motionrag.evaluation.figures import better, figures, verdict
from motionrag.evaluation.metrics import DynamicDegree, FrameSimilarity, load_metrics
from motionrag.evaluation.plots import changes
from motionrag.evaluation.report import Measured, write_report
from motionrag.evaluation.runner import digest, run_suite
from motionrag.evaluation.samples import NAME, by_system, read_samples, statistics_of
from motionrag.evaluation.statistics import (
    Figure,
    change_of_scores,
    change_of_set,
    figure_of_scores,
    figure_of_set,
    flip_test,
)
from motionrag.evaluation.suite import Suite, Targets, VideoClips, load_suite, packaged_suites
from motionrag.evaluation.tables import change_cell, markdown
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
    assert found["late"].changes[path].difference.high < 0
    assert found["late"].changes[path].relative < -0.4
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
    assert "://" not in page  # nothing is fetched
    assert page.count("data:image/webp") == 3 * 3  # best, median and worst, of three systems each
    assert page.count("<svg") == 3
    assert "make it" in page
    assert markdown(measured) in text
    assert "| late |" in text
    assert "Differences to “still”, paired by clip" in text
    assert "Differences to “still”, paired by clip" in page
    cell = change_cell(metrics[0], measured.figures["late"])
    assert f"{cell.value} ({cell.interval}) better" in text
    assert (cell.verdict, cell.more[:1], cell.more[-9:]) == ("better", "-", "p < 0.001")
    found = json.loads(document)["suites"]["test"]
    assert found["clips"] == 16
    assert found["systems"]["late"]["figures"]["path-error"]["n"] == 16


def test_a_metric_that_says_nothing_of_a_pair_leaves_its_difference_out(tmp_path, metrics):
    """Flicker of clips that move everywhere, say: the rest is reported all the same."""
    rows = by_system(run(tmp_path, metrics)[0])
    for system, parity in (("still", 0), ("late", 1)):
        for row in rows[system]:
            if row.number % 2 == parity:
                row.statistics[digest(metrics[0])] = [math.nan]
    found = figures(rows, metrics, "still")
    path, psnr, _ = (metric.name for metric in metrics)
    assert path in found["still"].figures
    assert path in found["late"].figures
    assert path not in found["late"].changes
    assert psnr in found["late"].changes


def test_long_names_leave_a_plot_its_room():
    span = Figure(value=-1.0, low=-2.0, high=1.0, n=9)
    for name in ("ours", "ours (a/folder/of/some/depth/and/a/long/name/runs/evaluate)"):
        drawn = changes({name: (span, None)}, "title")
        width = int(re.search(r'viewBox="0 0 (\d+)', drawn)[1])
        low, high = map(float, re.search(r'class="span same" x1="([\d.]+)" x2="([\d.]+)"', drawn).groups())
        label = float(re.findall(r'<text x="([\d.]+)" [^>]*text-anchor="end"', drawn)[-1])
        assert 7 * len(name) < label < low < high < width
        assert high - low > 100


def test_examples_are_best_median_and_worst(metrics, tmp_path):
    samples, _ = run(tmp_path, metrics)
    rows = by_system(samples)["late"]
    scores = statistics_of(rows, digest(metrics[0]))[:, 0]
    found = picked(rows, metrics[0])
    assert scores[found["best"]] == np.nanmin(scores)
    assert scores[found["worst"]] == np.nanmax(scores)


def test_the_clips_shown_are_the_products(metrics):
    shown = {name: shown_system(load_suite(name)) for name in packaged_suites()}
    assert shown == {
        "database-size": "eighth",
        "fusion": "ours",
        "fusion-known": "ours",
        "known": "ours",
        "openvid-1k": "ours",
        "references": "K = 9",
        "retrieval": "ours",
        "scale": "scale 1",
        "unseen": "ours",
    }


def test_what_is_true_is_measured_once_for_all_systems(tmp_path):
    """A batch: the true clips once, and each system's."""
    seen = []

    def network(video):
        seen.append(len(video))
        return video.float().mean(dim=(3, 4))

    one = Features(name="own", kind="dino", settings={}, reads=None, network=network, batch_size=8)
    rows, _ = run(tmp_path, [FrameSimilarity(one)], batch=8)
    assert len(seen) == 2 * (1 + 2)
    assert len(rows) == 48


def test_a_metric_more_measures_no_other_again(tmp_path, metrics, monkeypatch):
    run(tmp_path, metrics)
    for metric in metrics:
        monkeypatch.setattr(metric, "_measure", None)
    samples, _ = run(tmp_path, [*metrics, *load_metrics(["first-frame-ssim"])])
    assert {len(sample.statistics) for sample in samples} == {4}


def test_where_a_metric_has_no_better_a_difference_is_a_difference(metrics):
    more = change_of_scores(np.full(9, 2.0), np.full(9, 1.0))
    assert [verdict(one, more) for one in (metrics[0], metrics[1], DynamicDegree())] == [
        "worse",
        "better",
        "differs",
    ]
    same = change_of_scores(np.arange(9.0), np.arange(9.0))
    assert {verdict(one, same) for one in (*metrics, DynamicDegree())} == {""}


# -- two runs


def test_two_runs_are_compared_by_what_was_kept_of_them(tmp_path, metrics):
    """Figures are those of each run, Frechet distances too, with no network loaded; the second changed one."""
    run(tmp_path / "a", metrics)
    slower = suite(systems={"still": {}, "late": {"scale": 1.0}, "new": {"scale": 2.0}})
    run(tmp_path / "b", [*metrics, *load_metrics(["first-frame-ssim"])], slower)
    (found,) = compare(tmp_path / "a", tmp_path / "b")
    assert list(found.figures) == ["still (a)", "still (b)", "late (a)", "late (b)"]
    assert found.left_out == ["new", "first-frame-ssim"]
    assert "new, first-frame-ssim" in found.about
    own = figures(by_system(read_samples(tmp_path / "a" / "test")[0]), metrics, "still")
    for system in ("still", "late"):
        for name, figure in found.figures[f"{system} (a)"].figures.items():
            assert figure == own[system].figures[name]
    assert [metric.name for metric in found.metrics] == [metric.name for metric in metrics]
    path, fvd = found.metrics[0], found.metrics[2]
    change = found.figures["late (b)"].changes
    assert verdict(path, change[path.name]) == verdict(fvd, change[fvd.name]) == "worse"
    assert change[path.name].difference.value == -own["late"].changes[path.name].difference.value
    assert {one.difference.value for one in found.figures["still (b)"].changes.values()} == {0}
    assert "| late (b) |" in markdown(found)


def test_runs_that_do_not_compare_are_refused(tmp_path, metrics, monkeypatch):
    targets = {"synth": {"group": "unseen", "count": 4, "seed": 5}}
    small = suite(targets=targets)
    run(tmp_path / "a", metrics[1:2], small)
    run(tmp_path / "fewer", metrics[1:2], suite(targets={"synth": {"group": "unseen", "count": 2, "seed": 5}}))
    run(tmp_path / "others", metrics[1:2], suite(targets={"synth": {"group": "unseen", "count": 4, "seed": 6}}))
    for other, why in (("fewer", "clip 2 is of one alone"), ("others", "clip 0 differs in image, prompt, seed")):
        with pytest.raises(MotionRAGError, match=f"test of a and that of {other} were not asked .*{why}"):
            compare(tmp_path / "a", tmp_path / other)
    run(tmp_path / "otherwise", load_metrics(["flicker"]), small)
    with pytest.raises(MotionRAGError, match="no metric of the same settings in common"):
        compare(tmp_path / "a", tmp_path / "otherwise")
    run(tmp_path / "apart", metrics[1:2], suite(systems={"other": {}}, baseline="other", targets=targets))
    with pytest.raises(MotionRAGError, match="no system in common"):
        compare(tmp_path / "a", tmp_path / "apart")

    def stop(progress):
        if progress.done > 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "WRITE_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", metrics[1:2], small, report=stop)
    with pytest.raises(MotionRAGError, match="was not run to its end"):
        compare(tmp_path / "a", tmp_path / "stopped")


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
    assert change.difference.clear
    assert change.difference.value == pytest.approx(0.02 * baseline.mean())
    assert change.relative == pytest.approx(0.02)
    assert change.p < 0.01
    same = change_of_scores(baseline + rng.normal(0, 0.1, 200), baseline)
    assert not same.difference.clear
    of_set = change_of_set(200, lambda kept: scores[kept].mean(), lambda kept: baseline[kept].mean())
    assert of_set.relative == pytest.approx(0.02)
    assert of_set.difference.clear


def test_against_a_baseline_of_nothing_there_is_a_difference_and_no_share():
    """A bare base that no clip of which is right: so many more are, and not so many percent."""
    right = np.array([1.0] * 15 + [0.0] * 5)
    change = change_of_scores(right, np.zeros(20))
    assert (change.difference.value, change.relative) == (0.75, None)
    assert change.difference.clear
    below = change_of_scores(np.full(20, -2.0), np.full(20, -1.0))
    assert (below.difference.value, below.relative) == (-1.0, -1.0)


def test_clips_without_a_score_do_not_count():
    scores, baseline = np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, np.nan])
    assert figure_of_scores(scores).n == 2
    assert change_of_scores(scores, baseline).difference.n == 1
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
    smaller = found.smaller(3, 5)
    assert (smaller.targets.synth or smaller.targets.videos).count == 3
    assert all(one.add is None or one.add.count == 5 for one in smaller.databases.values())
    assert found.smaller(3).databases == found.smaller(3, 2000).databases == found.databases


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
    assert load_suite("known", ["targets.synth.count=7"]).targets.synth.count == 7
    sampling = load_suite("known", ["sampling.steps=3", "sampling.fps=15"]).sampling
    assert repr(sampling) == "{'steps': 3, 'fps': 15.0}"  # clips are kept under what it says


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
    true = found.true([0, 1])
    assert torch.is_tensor(found.targets([0, 1], true).first)
    marks = [
        found.digest(0, 3, true[0]),
        found.digest(0, 4, true[0]),
        found.digest(0, 3, true[1]),
        found.digest(1, 3, true[1]),
    ]
    assert {len(mark) for mark in marks} == {64}
    assert len(set(marks)) == 4
