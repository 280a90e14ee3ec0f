"""`motionrag synth`: a corpus on disk is whole, true, the same in one run or several, and harms nothing else."""

import json

import numpy as np
import pytest
from PIL import Image

from motionrag.cli import main
from motionrag.retrieval.sources import read_jobs
from motionrag.synth import render
from motionrag.synth.write import CorpusSettings, write_corpus
from motionrag.video import read_clip

COMMAND = [
    "synth",
    "--clips",
    "5",
    "--seed",
    "7",
    "--families",
    "slide,spin,unseen",
    "--size",
    "32",
    "--frames",
    "5",
]
NAMES = ["slide", "spin", "unseen"]


def settings(**more):
    return CorpusSettings(**{"clips": 5, "seed": 7, "families": NAMES, "size": 32, "frames": 5, **more})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same(folder, other):
    """Byte for byte, but for videos: H.264's encoder is not quite so strict, what they show is nearly the same."""
    one, two = contents(folder), contents(other)
    assert list(one.keys() ^ two.keys()) == []
    for name in one:
        if name.endswith(".mp4"):
            shown = [read_clip(place / name, frames=5).frames.astype(float) for place in (folder, other)]
            assert np.abs(shown[0] - shown[1]).mean() < 2, name
        else:
            assert one[name] == two[name], name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A corpus by the command; not to be changed."""
    folder = tmp_path_factory.mktemp("home") / "corpus"
    assert main([*COMMAND, "--out", str(folder)]) == 0
    return folder


def test_it_says_where_things_are(tmp_path, capsys):
    folder = tmp_path / "new" / "corpus"
    assert main([*COMMAND, "--out", str(folder), "--clips", "2"]) == 0
    told = capsys.readouterr().out
    assert f"{folder}: 2 clips (2 written, 0 there already)" in told
    for name in ("captions.jsonl", "truth.npz", "families.png"):
        assert str(folder / name) in told
        assert (folder / name).stat().st_size


def test_files_tables_and_truth_agree(made):
    """Rows stand in the clips' order, and what lies there is what `render` says it is."""
    rows = [json.loads(line) for line in (made / "captions.jsonl").read_text().splitlines()]
    truth = np.load(made / "truth.npz")
    batch = render(7, range(5), NAMES, size=32, frames=5)
    assert [row["index"] for row in rows] == truth["index"].tolist() == [0, 1, 2, 3, 4]
    for name in ("centers", "angles", "scales", "radii"):
        assert np.array_equal(truth[name], getattr(batch, name).numpy())
    for i, row in enumerate(rows):
        assert row["captions"] == batch.captions[i]
        assert row["caption"] == batch.captions[i][0]
        assert row["family"] == batch.family[i]
        assert row["choices"] == batch.scenes[i].motion.choices
        clip = read_clip(made / row["video"], frames=5)
        error = (clip.frames.astype(float) - batch.video[i].numpy()) ** 2
        assert clip.frames.shape == (5, 3, 32, 32)
        assert 10 * np.log10(255**2 / error.mean()) > 27, "the encoding must not eat the picture"
    assert Image.open(made / "families.png").width > 300


def test_ingest_keeps_what_is_known_of_each(made):
    """Family and choices become columns to filter by, and to measure retrieval with."""
    jobs = read_jobs(made)
    assert [job.fault for job in jobs] == [None] * 5
    assert [job.metadata["family"] for job in jobs] == ["slide", "spin", "spiral", "eight", "stairs"]
    assert set(json.loads(jobs[1].metadata["choices"])) == {"turn", "count"}
    assert jobs[0].caption == render(7, [0], NAMES, size=32, frames=5).captions[0][0]
    assert {job.metadata["collection"] for job in jobs} == {"corpus"}


def test_a_second_run_writes_nothing(made, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    assert main([*COMMAND, "--out", str(made)]) == 0
    assert "(0 written, 5 there already)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_an_interrupted_run_goes_on(made, tmp_path, monkeypatch):
    """Until all is there, there is no table that an ingest would take for the whole."""

    def stop(progress):
        assert (progress.done, progress.total, progress.fresh) == (2, 5, 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("motionrag.synth.write.PIXELS", 2 * 5 * 32**2)
    folder = tmp_path / "corpus"
    with pytest.raises(KeyboardInterrupt):
        write_corpus(folder, settings(), stop)
    assert len(list((folder / "clips").iterdir())) == 2
    assert not (folder / "captions.jsonl").exists()
    assert write_corpus(folder, settings()) == 3
    assert_same(folder, made)


def test_it_grows_to_the_same(made, tmp_path):
    folder = tmp_path / "corpus"
    assert write_corpus(folder, settings(clips=2)) == 2
    assert write_corpus(folder, settings()) == 3
    assert_same(folder, made)


def test_a_lost_file_comes_back(made, tmp_path):
    write_corpus(folder := tmp_path / "corpus", settings())
    for name in ("clips/000003.mp4", "truth.npz", "families.png"):
        (folder / name).unlink()
    assert write_corpus(folder, settings()) == 1
    assert_same(folder, made)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clips", "0"], "clips 0 must be at least 1"),
        (["--seed", "-1"], "seed -1 must be at least 0"),
        (["--size", "33"], "size 33 must be even"),
        (["--size", "8"], "size 8 must be at least 16"),
        (["--frames", "1"], "frames 1 must be at least 2"),
        (["--fps", "0"], "fps 0 must be more than 0 and at most 50"),
        (["--fps", "nan"], "fps nan must be more than 0"),
        (["--format", "avi"], "format 'avi' must be one of mp4"),
        (["--families", "slid"], "no motion family named 'slid'; did you mean 'slide'"),
        (["--families", ","], "no motion family is named"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, capsys, options, message):
    assert main([*COMMAND, "--out", str(tmp_path / "corpus"), *options]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "corpus").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seed", "8"], "holds a corpus with seed 7, not 8; choose another folder"),
        (["--families", "slide"], "holds a corpus with families slide,spin,unseen, not slide"),
        (["--fps", "12"], "holds a corpus with fps 8.0, not 12.0"),
        (["--clips", "4"], "holds a corpus of 5 clips; ask for as many or more"),
    ],
)
def test_another_corpus_is_not_overwritten(made, capsys, options, message):
    before = contents(made)
    assert main([*COMMAND, "--out", str(made), *options]) == 1
    assert message in capsys.readouterr().err
    assert contents(made) == before


def test_other_files_are_left_alone(tmp_path, capsys):
    (tmp_path / "captions.jsonl").write_text("mine")
    assert main([*COMMAND, "--out", str(tmp_path)]) == 1
    assert "is not empty and holds no simulated corpus" in capsys.readouterr().err
    assert main([*COMMAND, "--out", str(tmp_path / "captions.jsonl")]) == 1
    assert "is a file, a folder is wanted" in capsys.readouterr().err
    assert contents(tmp_path) == {"captions.jsonl": b"mine"}
    for text in ("{", "[]", '{"clips": 5, "sed": 1}', '{"clips": 0}'):
        (tmp_path / "corpus.json").write_text(text)
        assert main([*COMMAND, "--out", str(tmp_path)]) == 1
        told = capsys.readouterr().err
        assert "corpus.json" in told
        assert told.count("\n") == 1
