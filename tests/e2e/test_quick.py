"""`motionrag evaluate known unseen fusion references --quick` on the embedded default: `make quick`, part of CI.

Bounds are such as eight clips hold to and a broken system does not.
"""

import json
import math

import pytest

from motionrag.cli import main
from motionrag.cli.evaluate import QUICK, QUICK_ADDED
from motionrag.evaluation.suite import load_suite

pytestmark = pytest.mark.slow
SUITES = ("known", "unseen", "fusion", "references")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("quick")
    assert main(["evaluate", *SUITES, "--quick", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def suites(out):
    return json.loads((out / "report.json").read_text())["suites"]


@pytest.fixture(scope="module")
def value(suites):
    return lambda suite, system, metric: suites[suite]["systems"][system]["figures"][metric]["value"]


def test_every_suite_has_its_figures(suites):
    assert tuple(suites) == SUITES
    for name, found in suites.items():
        suite = load_suite(name)
        assert found["clips"] == QUICK
        assert list(found["systems"]) == ["true", *suite.systems]
        for system, own in found["systems"].items():
            measured = {metric for metric in suite.metrics if system != "true" or metric != "tiny-fvd"}
            assert set(own["figures"]) == measured, (name, system)
            assert set(own["changes"]) == (measured if system not in ("true", suite.baseline) else set())
            for metric, figure in own["figures"].items():
                assert figure["low"] <= figure["value"] <= figure["high"], (name, system, metric)
                assert 0 < figure["n"] <= QUICK
                assert all(map(math.isfinite, (figure["low"], figure["high"])))


def test_true_clips_are_what_they_are(value):
    for suite in SUITES:
        assert value(suite, "true", "path-error") < 0.05
        assert value(suite, "true", "family-accuracy") >= 0.75
        assert value(suite, "true", "tiny-action") == pytest.approx(100)
        assert value(suite, "true", "likeness") == pytest.approx(1)


def test_clips_begin_with_the_image_and_keep_the_object(suites, value):
    for suite in ("known", "unseen"):
        for system in set(suites[suite]["systems"]) - {"true"}:
            assert value(suite, system, "first-frame") > 28
            assert value(suite, system, "likeness") > 0.85
            assert value(suite, system, "flicker") < 2
            moved = value(suite, system, "dynamic-degree") / value(suite, "true", "dynamic-degree")
            assert 0.25 < moved < 2.5


def test_motion_is_followed(value):
    """The true clip's own best, that of references of unseen motions next; without them, nothing of the kind."""
    assert value("known", "oracle", "path-error") < 0.8 * value("known", "bare", "path-error")
    for system in ("oracle", "ours"):
        assert value("unseen", system, "path-error") < 0.8 * value("unseen", "bare", "path-error")
        assert value("unseen", system, "tiny-action") > value("unseen", "bare", "tiny-action") + 20
        assert value("unseen", system, "tiny-fvd") < value("unseen", "bare", "tiny-fvd")
    assert value("unseen", "ours", "family-accuracy") >= value("unseen", "unextended", "family-accuracy") + 0.2
    assert value("unseen", "ours", "path-error") < value("unseen", "random references", "path-error")


def test_suites_share_their_clips(value):
    for metric in ("path-error", "tiny-action", "likeness"):
        ours = value("unseen", "ours", metric)
        assert value("fusion", "ours", metric) == value("references", "K = 9", metric) == ours
        assert value("fusion", "top1", metric) != ours != value("references", "K = 1", metric)


def test_the_report_is_whole(out):
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert "://" not in page  # nothing is fetched
    for name in SUITES:
        assert f'<h2 id="{name}">' in page
        assert f"### {name}\n" in text
        assert (out / name / "samples.parquet").is_file()
    assert [one.name for one in (out / "databases").glob("clips-*")] == [f"clips-unseen-{QUICK_ADDED}-20001"]
    assert page.count("<table>") == 2 * len(SUITES)
    for which in ("best", "median", "worst"):
        assert page.count(f"The {which} clip of") == len(SUITES)
