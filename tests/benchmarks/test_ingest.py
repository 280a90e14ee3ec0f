"""The ingest benchmark on a few small clips: it runs, its figures make sense, and its checks can fail."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from motionrag.encoders import EncoderInfo
from motionrag.retrieval.schema import DatabaseSettings
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from tests.retrieval import corpus

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ingest.py"


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("ingest_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path):
    """Four clips of a second, and one of eight that is to be split."""
    corpus.make_corpus(tmp_path / "data" / "droid", count=4)
    long = tmp_path / "data" / "long"
    long.mkdir()
    corpus.write(long / "film.mp4", seed=9, count=96)
    corpus.write_captions(long, [{"video": "film.mp4", "caption": corpus.CAPTIONS[0]}])
    return tmp_path / "data"


@pytest.fixture
def figures(script, data, tmp_path, monkeypatch, capsys):
    """Runs the command on that data; gives the JSON it writes and the text it prints."""

    def run(*options):
        out = tmp_path / "figures.json"
        monkeypatch.setattr(sys, "argv", ["x", "--quick", "--data", str(data), "--out", str(out), *options])
        script.main()
        return json.loads(out.read_text()), capsys.readouterr().out

    return run


def check_decode(rows):
    assert [(row["set"], row["threads"], row["clips"]) for row in rows] == [
        (name, threads, clips)
        for name, clips in (("droid", 4), ("long", 1), ("long in 5 s", 2))
        for threads in ("1", "auto")
    ]
    for row in rows:
        assert row["ratio_in_process"] == pytest.approx(row["ours_s"] / row["in_process_s"])
        each = row["ratio_in_process_of_clips"]
        assert 0 < each["median"] <= each["largest"]
        assert row["clips_per_s"] > 0


def test_decoding_is_compared(script, figures):
    made, printed = figures("--only", "decode")
    assert made["about"]["cores"] > 0
    assert len(made["about"]["load_at_start"]) == 3
    check_decode(made["decode"])
    assert "ingest" not in made
    assert "| long in 5 s | auto | 2 |" in printed
    for row in made["decode"] if script.shutil.which("ffmpeg") else ():
        assert row["start_up_s"] > 0
        assert row["ratio_cli"] == pytest.approx(row["ours_s"] / row["cli_s"])
        net = row["ratio_cli_less_start_up"]
        assert net is None or net > row["ratio_cli"]


def test_without_ffmpeg_its_figures_are_left_out(script, figures, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name: None)
    made, _ = figures("--only", "decode")
    check_decode(made["decode"])
    assert "left out" in made["about"]["ffmpeg of PATH"]
    assert all(row[name] is None for row in made["decode"] for name in ("cli_s", "ratio_cli", "start_up_s"))


def test_the_bar_is_about_every_ratio(script):
    def held(ours, cli, in_process):
        seconds = {"ours": [[ours]], "cli": [[cli]], "in_process": [[in_process]]}
        return script.decode_row("a", "1", seconds, [[0.1]])["bar_held"]

    assert held(1.2, 1.3, 1.0)
    assert not held(1.4, 9.0, 1.0)
    assert not held(1.4, 1.1, 9.0)


def test_a_database_with_a_wrong_count_is_no_figure(script, data, tmp_path):
    info = EncoderInfo(kind="text", model="minilm", dimension=8, fingerprint="0" * 64)
    MotionDatabase.create(tmp_path / "db", DatabaseSettings(text=info, caption_method="0" * 64, text_width=8))
    jobs, none = read_jobs(data / "droid"), {"added": 0, "set_aside": 4}
    script.check_count(tmp_path / "db", [none], jobs)
    with pytest.raises(SystemExit, match="4 clips should be in the database, 0 are"):
        script.check_count(tmp_path / "db", [{**none, "set_aside": 0}], jobs)


def test_missing_data_is_said(script, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit, match="nothing: no folders of captioned clips"):
        script.main()


@pytest.mark.slow
def test_ingest_is_measured(figures):
    made, printed = figures("--only", "ingest")
    assert [(row["encoders"], row["processes"], row["added"]) for row in made["ingest"]] == [
        ("captions", 1, 4),
        ("captions", 2, 4),
        ("tiny", 1, 2),
    ]
    for row in made["ingest"]:
        assert 0 < row["ingest_s"] < row["command_s"]
        assert row["again_elapsed_s"] < row["again_command_s"]
        assert min(row["decode_s"], row["encode_s"], row["write_s"], row["clips_per_s"]) > 0
        assert row["main_mb"] > row["worker_mb"] > 10
    assert "| tiny | 1 | 1 | 2 |" in printed
