"""Batches of the verb generate: each line on its own, done ones left alone, bad ones told and passed over."""

import json

import pytest

from motionrag.cli import main
from tests.e2e.conftest import PROMPT, UNKNOWN


@pytest.fixture
def batch(capsys, home, tmp_path):
    """Write lines and make their clips; returns (exit code, names of the clips made, standard error)."""

    def batch(lines, *arguments, base="svd"):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "jobs.jsonl").write_text(text)
        parts = [f"--{part}={home / base}-{part}" for part in ("base", "bundle", "db")]
        fixed = ["--jobs", tmp_path / "jobs.jsonl", "--out", tmp_path / "clips", "--steps=1", *parts]
        code = main(["generate", *map(str, fixed), *arguments])
        out, err = capsys.readouterr()
        made = [line.removeprefix(f"{tmp_path / 'clips'}/") for line in out.splitlines()]
        return code, made, err.replace(f"motionrag generate: {tmp_path}/jobs.jsonl", "jobs")

    return batch


@pytest.fixture
def image(home, tmp_path):
    """Beside the file of jobs."""
    (tmp_path / "image.png").write_bytes((home / "image.png").read_bytes())
    return "image.png"


def settings(tmp_path, name):
    return json.loads((tmp_path / "clips" / name).read_text())


def test_bad_lines_are_told_and_the_rest_is_made_once(batch, image, home, tmp_path):
    video = str(home / "corpus/videos/clip_004.mp4")
    lines = [
        {"image": image, "prompt": PROMPT},
        {"image": image, "promt": PROMPT},
        "",
        {"image": image, "prompt": PROMPT, "out": "a/b.webp", "seed": [4, 5], "scale": 0.5, "references": 1},
        {"image": "gone.png", "prompt": PROMPT},
        {"image": image, "prompt": PROMPT, "frames": 2, "size": "24x16", "fps": 5, "guidance": 2, "steps": 2},
        {"image": image, "prompt": PROMPT, "reference_videos": [video]},
        {"image": image, "prompt": PROMPT, "negative_prompt": "blur"},
        "{",
        {"image": image, "prompt": UNKNOWN, "out": "0001.gif"},
    ]
    code, made, err = batch(lines)
    assert code == 1
    assert made == ["0001.mp4", "a/b.seed4.webp", "a/b.seed5.webp", "0006.mp4", "0007.mp4"]
    told = err.splitlines()
    for line in (
        "jobs:2: this line: unknown key 'promt'; did you mean 'prompt'?",
        "jobs:9: not valid JSON",
        "jobs:10: out 0001.gif is also that of line 1",
        f"jobs:5: {tmp_path}/gone.png: no such file",
        "jobs:8: the base svd takes no negative prompt",
        "motionrag generate: 5 clips made, 0 were there already, 5 failed",
        "jobs: 5 lines failed (2, 5, 8, 9, 10); mend them and run this again",
    ):
        assert any(one.startswith(line) for one in told), line
    assert len(told) == 7
    assert settings(tmp_path, "0006.json")["sampling"] == {
        **{"width": 24, "height": 16, "frames": 2, "fps": 5.0, "guidance": 2.0, "steps": 2},
        **{"negative_prompt": "", "guidance_rescale": None, "timestep_spacing": None, "scheduler": None},
    }
    kept = settings(tmp_path, "a/b.seed5.json")
    assert [kept[name] for name in ("seed", "scale", "asked")] == [5, 0.5, 1]
    assert [one["video"] for one in settings(tmp_path, "0007.json")["references"]] == [video]

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "clips").rglob("*") if path.is_file()}
    lines[1], lines[8], lines[9] = "", "", ""
    lines[4], lines[7] = {"image": image, "prompt": UNKNOWN}, ""
    lines[0]["seed"] = 9  # asks for another clip now
    (tmp_path / "clips/a/b.seed4.json").unlink()  # as if it had been killed between the two files
    code, made, err = batch(lines)
    assert (code, made) == (0, ["0001.mp4", "a/b.seed4.webp", "0005.mp4"])
    assert "3 clips made, 3 were there already, 0 failed" in err
    after = {path for path, time in before.items() if path.is_file() and path.stat().st_mtime_ns == time}
    assert {path.name for path in after} == {
        *("b.seed5.webp", "b.seed5.json", "0006.mp4", "0006.json", "0007.mp4", "0007.json")
    }


def test_a_clip_of_a_batch_is_the_clip_alone(batch, image, home, tmp_path):
    """Options count for every line that does not say otherwise; settings repeat the clip."""
    lines = [{"image": image, "prompt": PROMPT, "out": "a.webp"}, {"image": image, "prompt": PROMPT, "seed": 1}]
    code, made, _ = batch(lines, "--seed=7", "--memory=low", "--size=16x32", base="cogvideox")
    assert (code, made) == (0, ["a.webp", "0002.mp4"])
    kept = settings(tmp_path, "a.json")
    assert (kept["seed"], kept["memory"], kept["sampling"]["height"]) == (7, "low", 32)
    assert settings(tmp_path, "0002.json")["seed"] == 1
    again = ["generate", "--settings", str(tmp_path / "clips/a.json"), "--out", str(tmp_path / "again.webp")]
    assert main(again) == 0
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clips/a.webp").read_bytes()


def test_changed_reference_videos_are_noticed(batch, image, home, tmp_path):
    videos = sorted((home / "corpus/videos").glob("*.mp4"))
    (tmp_path / "own.mp4").write_bytes(videos[0].read_bytes())
    lines = [{"image": image, "prompt": PROMPT, "reference_videos": ["own.mp4"]}]
    assert batch(lines)[:2] == (0, ["0001.mp4"])
    assert batch(lines)[:2] == (0, [])
    (tmp_path / "own.mp4").write_bytes(videos[1].read_bytes())
    assert batch(lines)[:2] == (0, ["0001.mp4"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "open"}, 'missing value for field "image"'),
        ({"image": "image.png", "prompt": " "}, "the prompt is empty"),
        ({"image": "image.png", "prompt": "open", "seed": "1"}, 'any type of "seed"'),
        ({"image": "image.png", "prompt": "open", "seed": []}, "seeds [] must be at least one"),
        ({"image": "image.png", "prompt": "open", "seed": True}, "seed is true"),
        ({"image": "image.png", "prompt": "open", "size": "big"}, "size 'big': write it as WIDTHxHEIGHT"),
        ({"image": "image.png", "prompt": "open", "out": "/a.mp4"}, "must be a path inside the folder"),
        ({"image": "image.png", "prompt": "open", "out": "../a.mp4"}, "must be a path inside the folder"),
        ({"image": "image.png", "prompt": "open", "out": "a.avi"}, "names no format"),
        ({"image": "a", "prompt": "open", "references": 2, "reference_videos": ["b"]}, "leave references out"),
        (["image.png"], "is no object with image and prompt"),
    ],
)
def test_a_bad_line_says_what_is_wrong(batch, tmp_path, line, message):
    """With nothing else to make, no model is loaded: the base named is nowhere."""
    code, made, err = batch([line], base="nowhere")
    assert (code, made) == (1, [])
    assert message in err.splitlines()[0]
    assert err.startswith("jobs:1: ")


def test_files_that_are_no_lists(batch, tmp_path):
    assert "asks for no clip" in batch([])[2]
    (tmp_path / "clips").write_text("")
    assert "with --jobs, --out is the folder of all clips" in batch([{"image": "a", "prompt": "b"}])[2]
    code = main(["generate", "--jobs", str(tmp_path / "no.jsonl"), "--out", str(tmp_path / "out")])
    assert (code, (tmp_path / "out").exists()) == (1, False)
