"""The verb generate: what it writes and says, and that bad input is one line and exit code 1."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import motionrag
from tests.e2e.conftest import PROMPT, UNKNOWN


def parts(home, base="cogvideox"):
    return [f"--{part}={home / base}-{part}" for part in ("base", "bundle", "db")]


@pytest.fixture
def new(run, home):
    """A clip of the test image in two steps."""

    def new(out, *arguments, prompt=PROMPT):
        fixed = ["--image", home / "image.png", "--prompt", prompt, "--steps", 2, *parts(home)]
        return run(*fixed, "--out", out, *arguments)

    return new


def test_clip_settings_and_comparison(new, run, tmp_path, home):
    """The files it names are there; the settings make the same clip again, frame for frame."""
    code, out, err = new(tmp_path / "clip.webp", "--compare", "--references", 5, "--seed", 7, "--scale", 0.8)
    assert code == 0
    names = ["clip.webp", "clip.json", "clip.base.webp", "clip.compare.png"]
    assert out.split() == [str(tmp_path / name) for name in names]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert "2 relevant references, 5 were asked for" in err
    settings = json.loads((tmp_path / "clip.json").read_text())
    assert (settings["prompt"], settings["seed"], settings["scale"], settings["asked"]) == (PROMPT, 7, 0.8, 5)
    assert (settings["image"], settings["sampling"]["steps"]) == (str(home / "image.png"), 2)
    assert [len(settings[name]) for name in ("references", "fingerprints")] == [2, 4]
    with Image.open(tmp_path / "clip.compare.png") as page:
        assert page.height > 4 * 120
        assert np.asarray(page).std() > 10
    code, out, _ = run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")
    assert (code, out.split()[0]) == (0, str(tmp_path / "again.webp"))
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()
    assert (tmp_path / "clip.base.webp").read_bytes() != (tmp_path / "clip.webp").read_bytes()


def test_the_same_command_in_another_process_gives_the_same_clip(new, home, tmp_path):
    assert new(tmp_path / "here.webp", *parts(home, "tiny"))[0] == 0
    command = [sys.executable, "-m", "motionrag", "generate", "--image", home / "image.png", "--prompt", PROMPT]
    command += ["--steps", 2, *parts(home, "tiny"), "--out", tmp_path / "there.webp"]
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True)
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["motionrag generate"] * 2  # and no noise
    assert (tmp_path / "here.webp").read_bytes() == (tmp_path / "there.webp").read_bytes()


def test_nothing_relevant_is_said_and_the_bare_base_made(new, tmp_path):
    code, _, err = new(tmp_path / "clip.webp", "--compare", prompt=UNKNOWN)
    assert code == 0
    assert "no relevant reference in" in err
    assert json.loads((tmp_path / "clip.json").read_text())["references"] == []
    assert (tmp_path / "clip.base.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()


def test_own_reference_videos(new, run, home, tmp_path):
    videos = [home / "corpus/videos/clip_004.mp4", home / "corpus/videos/clip_005.mp4"]
    options = [f"--reference-video={path}" for path in videos]
    assert new(tmp_path / "clip.webp", *options, "--compare")[0] == 0
    settings = json.loads((tmp_path / "clip.json").read_text())
    assert [reference["video"] for reference in settings["references"]] == [str(path) for path in videos]
    assert run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")[0] == 0
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()


def test_moved_parts_are_named_beside_the_settings(new, run, home, tmp_path):
    """Someone else's settings: what is at another place is named, and must be the same."""
    assert new(tmp_path / "clip.webp")[0] == 0
    settings = json.loads((tmp_path / "clip.json").read_text())
    settings |= {"image": "/gone/image.png", "base": "/gone/base", "bundle": "/gone/bundle", "database": "/gone/db"}
    (tmp_path / "clip.json").write_text(json.dumps(settings))
    image, other = home / "image.png", f"--bundle={home}/other-bundle"
    again = ["--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp", *parts(home)]
    assert run(*again, "--image", image)[0] == 0
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()
    assert "/gone/image.png: no such file" in run(*again)[2]
    assert "tokens are of the bundle" in run(*again, "--image", image, other)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image={tmp}/no.png"], "no.png: no such file"),
        (["--image={home}/corpus/captions.jsonl"], "captions.jsonl: is no picture"),
        (["--image={tmp}/cut.png"], "cut.png: cannot be read as a picture"),
        (["--image={tmp}/deep.png"], "deep.png: cannot be read as a picture"),
        (["--prompt= "], "the prompt is empty"),
        (["--prompt=\udcff open"], "no valid text"),
        (["--out={tmp}/no/clip.mp4"], "there is no folder {tmp}/no"),
        (["--out={tmp}/clip.avi"], "the suffix '.avi' names no format"),
        (["--out={tmp}/folder.mp4"], "is a folder"),
        (["--references=0"], "references=0 must be at least 1"),
        (["--references=64"], "at most 63"),
        (["--seed=-1"], "seed=-1"),
        (["--steps=0"], "steps=0 must be at least 1"),
        (["--guidance=nan"], "guidance=nan must be 0 or more"),
        (["--scale=nan"], "scale=nan"),
        (["--device=cuda:77"], "device 'cuda:77' cannot be used here"),
        (["--db={home}/plain-db"], "keeps no motion tokens"),
        (["--db={home}/no"], "no such database"),
        (["--bundle={home}/other-bundle"], "not of {home}/other-bundle"),
        (["--bundle={home}/no"], "no bundle at"),
        (["--base=svd"], "is made for the base cogvideox, not for svd"),
        (["--base={home}/svd-base"], "the base is StableVideoDiffusionPipeline"),
        (["--base={home}/no"], "no base model at"),
        (["--base={home}/videomae"], "no base model at"),
        (["--reference-video={tmp}/no.mp4"], "no.mp4: no such file"),
        (["--reference-video={home}/corpus/captions.jsonl"], "captions.jsonl: "),
        (["--references=3", "--reference-video={home}/corpus/videos/clip_001.mp4"], "leave --references out"),
    ],
)
def test_bad_input_is_one_line(new, home, tmp_path, arguments, message):
    (tmp_path / "folder.mp4").mkdir()
    whole = (home / "image.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.random.default_rng(0).integers(0, 9999, (40, 40), np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.png").write_bytes((tmp_path / "deep.png").read_bytes()[:900])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = new(tmp_path / "clip.mp4", *[text.format(home=home, tmp=tmp_path) for text in arguments])
    assert (code, out) == (1, "")
    assert message.format(home=home, tmp=tmp_path) in err
    assert err.count("\n") == 1
    assert err.startswith("motionrag generate: ")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --image and --prompt, or --settings"),
        (["--settings={tmp}/no.json"], "no.json: no such file"),
        (["--settings={home}/image.png"], "holds no settings of a clip"),
        (["--settings={tmp}/odd.json"], "odd.json: unknown key 'promt'; did you mean 'prompt'?"),
        (["--settings={tmp}/odd.json", "--seed=1"], "--seed is part of --settings"),
        (["--settings={tmp}/odd.json", "--reference-video=a"], "--reference-video is part of --settings"),
    ],
)
def test_bad_settings_are_one_line(run, home, tmp_path, arguments, message):
    (tmp_path / "odd.json").write_text('{"promt": "open"}')
    filled = [text.format(home=home, tmp=tmp_path) for text in arguments]
    code, _, err = run("--out", tmp_path / "clip.mp4", *filled)
    assert (code, err.count("\n")) == (1, 1)
    assert message in err


def test_a_full_disk_is_one_line(new, tmp_path):
    (tmp_path / "clip.mp4").write_text("the old clip")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # stands in for it
    try:
        code, _, err = new(tmp_path / "clip.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, err.count("\n")) == (1, 1)
    assert "clip.mp4: cannot be written" in err
    assert (tmp_path / "clip.mp4").read_text() == "the old clip"
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.slow
def test_the_embedded_default(home, tmp_path):
    """In an installation of its own: a database made there is still good where the package is moved to."""

    def motionrag_in(site, *arguments):
        command = [sys.executable, "-m", "motionrag", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)

    made, moved = tmp_path / "made", tmp_path / "moved"
    shutil.copytree(Path(motionrag.__file__).parent, made / "motionrag", ignore=shutil.ignore_patterns("assets"))
    clip = ["generate", "--image", home / "image.png", "--prompt", PROMPT, "--steps=1", "--out", tmp_path / "a.gif"]
    done = motionrag_in(made, *clip)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "lacks its embedded bundle" in done.stderr
    assets = made / "motionrag" / "assets"
    for part, folder in {
        "base": "tiny-base",
        "bundle": "tiny-bundle",
        "motion": "videomae",
        "appearance": "dinov2",
    }.items():
        shutil.copytree(home / folder, assets / part)
    done = motionrag_in(made, "ingest", home / "corpus", "--db", assets / "database", "--bundle=tiny", "--workers=1")
    assert done.returncode == 0, done.stderr
    made.rename(moved)
    done = motionrag_in(moved, *clip)
    assert done.returncode == 0, done.stderr
    settings = json.loads((tmp_path / "a.json").read_text())
    assert [settings[part] for part in ("base", "bundle", "database")] == ["tiny"] * 3
    assert len(settings["references"]) == 2
    more = moved / "motionrag" / "assets" / "database"
    done = motionrag_in(moved, "ingest", home / "corpus", "--db", more, "--workers=1")
    assert (done.returncode, "12 clips" in done.stdout) == (0, True), done.stderr
    done = motionrag_in(moved, "search", "--image", home / "image.png", PROMPT, "--db", more, "--json")
    assert done.returncode == 0, done.stderr
