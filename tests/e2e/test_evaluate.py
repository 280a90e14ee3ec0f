"""`motionrag evaluate` as people run it: the published protocol on videos, at tiny size; two runs compared."""

import csv
import json
from dataclasses import replace

import pytest
import transformers

from motionrag.cli import main
from motionrag.evaluation.samples import by_system, read_samples, write_samples
from motionrag.evaluation.suite import load_suite
from tests.encoders.conftest import save_dinov2, save_videomae
from tests.evaluation.test_features import Channels, Flags, save_clip, save_script
from tests.retrieval.corpus import make_corpus, read_captions

CLIPS = 4
NETWORKS = {
    "action": "action",
    "dino": "dino",
    "clip": "clip",
    "fvd": "i3d.pt",
    "fid": "inception.pt",
    "text-video": "clip",
}
"""Kind of features -> file or folder."""


@pytest.fixture(scope="module")
def openvid(tmp_path_factory):
    """Videos, a database of them all, and networks of the published classes: what a user of the suite has, tiny."""
    root = tmp_path_factory.mktemp("openvid")
    make_corpus(root / "videos")
    rows = read_captions(root / "videos")[:: 12 // CLIPS]
    with (root / "openvid-1k.csv").open("w", newline="") as stream:  # OpenVid-1M's own columns
        table = csv.DictWriter(stream, ["video", "caption", "fps", "seconds"], extrasaction="ignore")
        table.writeheader()
        table.writerows({"video": f"videos/{row['video']}", "caption": row["caption"]} for row in rows)
    assert (
        main(["ingest", str(root / "videos"), "--db", str(root / "db"), "--bundle", "tiny", "--workers", "1"]) == 0
    )
    save_videomae(root / "action", transformers.VideoMAEForVideoClassification, num_labels=7)
    save_dinov2(root / "dino")
    save_clip(root / "clip")
    save_script(root / "i3d.pt", Flags())
    save_script(root / "inception.pt", Channels())
    return root


def arguments(openvid, out, *more):
    features = [f"--features={kind}={openvid / name}" for kind, name in NETWORKS.items()]
    own = [f"--set=targets.videos.source={openvid / 'openvid-1k.csv'}", f"--db={openvid / 'db'}"]
    return ["evaluate", "openvid-1k", f"--out={out}", "--clips=4", "--set=sampling.steps=2", *own, *features, *more]


@pytest.fixture(scope="module")
def ran(openvid):
    """The folder of a run."""
    assert main(arguments(openvid, openvid / "run")) == 0
    return openvid / "run"


@pytest.fixture(scope="module")
def another(openvid):
    """Of one with the motion half as strong."""
    assert main(arguments(openvid, openvid / "half", "--set=systems.ours.scale=0.5")) == 0
    return openvid / "half"


def test_the_published_protocol_runs_on_ones_own_videos(ran):
    """Every metric of the suite by its real loading path, under a name that says it's not the published network."""
    suite = json.loads((ran / "report.json").read_text())["suites"]["openvid-1k"]
    names = load_suite("openvid-1k").metrics
    expected = [f"{name}({NETWORKS[name]})" if name in NETWORKS else name for name in names]
    assert set(NETWORKS) < set(names)
    assert [suite["clips"], list(suite["metrics"])] == [CLIPS, expected]
    figures = {system: own["figures"] for system, own in suite["systems"].items()}
    assert list(figures) == ["true", "bare", "ours"]
    always = {*expected} - {"flicker"}  # which says nothing of clips that move everywhere
    assert {*figures["bare"]} - {"flicker"} == {*figures["ours"]} - {"flicker"} == always
    assert {*figures["true"]} - {"flicker"} == always - {"fvd(i3d.pt)", "fid(inception.pt)"}
    assert {own[name]["n"] for own in figures.values() for name in own if name != "flicker"} == {CLIPS}
    assert figures["true"]["action(action)"]["value"] == pytest.approx(100, abs=1e-3)
    assert figures["true"]["motion-kl"]["value"] == 0 < figures["ours"]["motion-kl"]["value"]
    assert figures["bare"]["first-frame"]["value"] > 15
    assert set(suite["systems"]["ours"]["changes"]) >= {"action(action)", "fvd(i3d.pt)", "text-video(clip)"}


def test_a_clip_is_never_its_own_reference(ran, openvid):
    rows = by_system(read_samples(ran / "openvid-1k")[0])
    videos = [row["video"] for row in csv.DictReader((openvid / "openvid-1k.csv").open())]
    assert sum(bool(row.videos) for row in rows["ours"]) >= 2  # the corpus has nothing else like the others
    for row, own in zip(rows["ours"], videos, strict=True):
        assert not any(own in one for one in row.videos)


def test_the_report_is_whole(ran):
    page, text = (ran / "report.html").read_text(), (ran / "report.md").read_text()
    assert page.count("data:image/webp") == 3 * 3 + page.count("<figcaption>reference ")
    assert page.count("<figcaption>reference 1") >= 1
    assert "://" not in page  # nothing is fetched
    assert "motionrag evaluate openvid-1k" in page
    assert "Differences to “bare”, paired by clip" in text
    assert page.count("<table>") == 2


def test_what_was_made_is_not_made_again(ran, openvid, capsys):
    made = {path: path.stat().st_mtime_ns for path in (ran / "clips").rglob("*.npz")}
    before = read_samples(ran / "openvid-1k")[0]
    assert main(arguments(openvid, ran)) == 0
    assert {path: path.stat().st_mtime_ns for path in (ran / "clips").rglob("*.npz")} == made
    assert read_samples(ran / "openvid-1k")[0] == before
    assert "12 not made anew" in capsys.readouterr().err


def test_two_runs_are_compared(ran, another, tmp_path, capsys):
    assert main(["evaluate", "--compare", str(ran), str(another), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "comparison.json").read_text())["suites"]["openvid-1k"]
    assert list(found["systems"]) == ["bare (run)", "bare (half)", "ours (run)", "ours (half)"]
    assert found["systems"]["bare (run)"]["figures"] == found["systems"]["bare (half)"]["figures"]
    assert found["systems"]["bare (half)"]["changes"]["motion-kl"]["difference"]["value"] == 0
    report = json.loads((ran / "report.json").read_text())["suites"]["openvid-1k"]["systems"]["ours"]["figures"]
    kept = found["systems"]["ours (run)"]["figures"]
    assert {name: one["value"] for name, one in kept.items()} == pytest.approx(
        {name: one["value"] for name, one in report.items()}
    )
    change = found["systems"]["ours (half)"]["changes"]["motion-kl"]["difference"]["value"]
    theirs = found["systems"]["ours (half)"]["figures"]["motion-kl"]["value"]
    assert change == pytest.approx(theirs - kept["motion-kl"]["value"]) != 0
    assert "| ours (half) |" in printed
    assert (tmp_path / "comparison.html").read_text().count("<table>") == 2


def refused(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_runs_of_other_clips_are_not(ran, tmp_path, capsys):
    """As if the second run had had another image, prompt or seed for all of its clips, or for one clip no system."""
    rows, about = read_samples(ran / "openvid-1k")
    others = [replace(row, asked="0" * 64) for row in rows]
    for name, changed in (("others", others), ("fewer", [row for row in rows if row.number != 3])):
        (tmp_path / name / "openvid-1k").mkdir(parents=True)
        write_samples(tmp_path / name / "openvid-1k", changed, about)
        error = refused(capsys, "--compare", ran, tmp_path / name)
        assert f"openvid-1k of run and that of {name} were not asked for the same clips" in error


def test_what_cannot_be_compared_is_said(ran, another, tmp_path, capsys):
    assert "holds no suite that was run" in refused(capsys, "--compare", ran, tmp_path)
    assert "holds no suite 'known'" in refused(capsys, "known", "--compare", ran, another)
    assert "are one run: name two" in refused(capsys, "--compare", ran, ran / ".." / ran.name)
    for option in ("--quick", "--bundle=tiny"):
        told = refused(capsys, option, "--compare", ran, tmp_path)
        assert f"give {option.split('=')[0]} to the runs themselves" in told


def test_one_database_cannot_stand_for_several(capsys, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "about: Two.\ntargets: {synth: {group: known, count: 2, seed: 1}}\nbaseline: a\nmetrics: [first-frame]\n"
        "databases: {one: {path: x}, two: {path: y}}\nsystems: {a: {database: one}, b: {database: two}}\n"
    )
    assert "--set databases.one.path" in refused(capsys, tmp_path / "own.yaml", "--db=z", f"--out={tmp_path}")


def test_what_the_base_cannot_make_is_refused(openvid, tmp_path, capsys):
    told = refused(capsys, *arguments(openvid, tmp_path, "--set=sampling.step=2")[1:])
    assert "sampling: unknown key 'step'; did you mean 'steps'?" in told
    told = refused(capsys, *arguments(openvid, tmp_path, "--set=sampling.steps=two")[1:])
    assert 'field "steps" - should be "int"' in told
    told = refused(capsys, *arguments(openvid, tmp_path, "--set=sampling.guidance_rescale=0.5")[1:])
    assert "the base tiny takes no guidance rescale" in told
