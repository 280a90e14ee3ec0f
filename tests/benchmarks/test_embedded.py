"""The lines of the embedded default: reached, missed, or not measured; never passed for want of a figure."""

import runpy
from pathlib import Path

script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "embedded.py"))


def systems(**figures):
    names = ("family-accuracy", "path-error", "likeness")
    return {
        "systems": {
            system: {"figures": {name: {"value": value} for name, value in zip(names, values, strict=False)}}
            for system, values in figures.items()
        }
    }


def reached(accuracy=0.7, path=0.25, likeness=1.0, added=0.05):
    ours = (accuracy, path, likeness)
    suites = {
        "known": systems(true=(1, 0.01), bare=(0.5, 0.4), ours=(0.7, 0.3, likeness)),
        "unseen": systems(true=(1, 0.01), bare=(0.1, 0.5), ours=ours, unextended=(0.0, 0.5)),
        "fusion": systems(ours=ours, top1=(0.5, 0.28), mean=(0.5, 0.27)),
    }
    return script["bars"](suites, added)


def failed(**changes):
    return [bar.name for bar in reached(**changes) if not bar.passed]


def test_bars_are_those_of_the_issue():
    assert failed() == []
    assert failed(accuracy=0.55) == ["unseen: accuracy"]
    assert failed(path=0.29) == ["unseen: path-error, to that of top1", "unseen: path-error, to that of mean"]
    assert failed(path=0.31)[0] == "unseen: path error over the bare base's"
    assert failed(added=0.09) == ["time added to the bare base"]
    assert failed(likeness=0.94) == ["known: likeness of the object", "unseen: likeness of the object"]


def test_what_was_not_measured_does_not_count_as_passed():
    assert {bar.passed for bar in script["bars"]({}, None)} == {None}
