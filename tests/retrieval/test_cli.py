"""The verbs ingest, search and db: what they print, and that bad input is one line and exit code 1."""

import json

import numpy as np
import pytest
from PIL import Image

from motionrag.cli import main
from motionrag.cli.search import _reasons
from motionrag.encoders.motion_text import Explanation, Part
from motionrag.types import Reference
from tests.retrieval.corpus import CAPTIONS, make_corpus, read_captions, write_captions

REFERENCE = {"rank", "score", "video", "start_s", "end_s", "caption", "id", "metadata"}


@pytest.fixture
def run(capsys):
    """Run the command line; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def made(tmp_path_factory, models):
    """A folder of clips and two databases of it: captions only, and with everything."""
    folder = tmp_path_factory.mktemp("cli")
    corpus = make_corpus(folder / "corpus")
    write_captions(corpus, [*read_captions(corpus), {"video": "videos/gone.mp4", "caption": "Not there"}])
    assert main(["ingest", str(corpus), "--db", str(folder / "plain")]) == 0
    options = ["--motion", str(models / "videomae"), "--appearance", str(models / "dinov2")]
    options += ["--bundle", str(models / "bundle"), "--features", "--workers", "1"]
    assert main(["ingest", str(corpus), "--db", str(folder / "full"), *options]) == 0
    return folder


def test_ingest_reports_and_a_second_run_adds_nothing(run, made):
    code, out, _ = run("ingest", made / "corpus", "--db", made / "plain", "--json")
    report = json.loads(out)
    assert code == 0
    assert (report["clips"], report["added"], report["unchanged"], report["set_aside"]) == (12, 0, 12, 1)
    code, out, _ = run("ingest", made / "corpus", "--db", made / "plain")
    assert "12 clips" in out
    assert "motionrag db list --set-aside" in out


def test_info(run, made):
    code, out, _ = run("db", "info", "--db", made / "full", "--json")
    facts = json.loads(out)
    assert (code, facts["clips"], facts["set_aside"], facts["features"]) == (0, 12, 1, True)
    assert facts["tokens"]["motion_tokens"]["queries"] == 4
    code, out, _ = run("db", "info", "--db", made / "plain")
    assert "clips                           12" in out
    assert "encoders: motion                none" in out


def test_list_and_show(run, made):
    code, out, _ = run("db", "list", "--db", made / "plain", "--where", "lab = 'lab1'")
    assert code == 0
    assert out.count("\n") == 4
    code, out, err = run("db", "list", "--db", made / "plain", "--limit", 3)
    assert (out.count("\n"), "--limit 0" in err) == (3, True)
    rows = json.loads(run("db", "list", "--db", made / "plain", "--json")[1])
    assert {row["caption"] for row in rows} == set(CAPTIONS)
    code, out, _ = run("db", "list", "--db", made / "plain", "--set-aside")
    assert out.strip().endswith("videos/gone.mp4: no such file")
    for name in ("clip_003.mp4", "videos/clip_003.mp4", made / "corpus/videos/clip_003.mp4"):
        shown = json.loads(run("db", "show", name, "--db", made / "full", "--json")[1])
        assert [row["take"] for row in shown] == [3]
    by_id = json.loads(run("db", "show", shown[0]["id"][:12], "--db", made / "full", "--json")[1])
    assert by_id == shown
    assert "motion_tokens [4, 16]" in run("db", "show", "clip_003.mp4", "--db", made / "full")[1]


def test_verify_and_compact(run, made):
    code, out, _ = run("db", "verify", "--db", made / "full")
    assert (code, "12 clips, no problems" in out) == (0, True)
    assert json.loads(run("db", "verify", "--db", made / "full", "--json")[1]) == {"clips": 12, "problems": []}
    assert run("db", "compact", "--db", made / "full")[0] == 0


def test_export_ingest_and_remove(run, made, tmp_path):
    code, out, _ = run("db", "export", tmp_path / "all.parquet", "--db", made / "full")
    assert (code, "12 clips" in out) == (0, True)
    code, out, _ = run("ingest", tmp_path / "all.parquet", "--db", tmp_path / "db", "--json")
    assert (code, json.loads(out)["added"]) == (0, 12)
    code, out, _ = run("db", "remove", "clip_003.mp4", "clip_004.mp4", "--db", tmp_path / "db")
    assert (code, "2 clips removed, 10 left" in out) == (0, True)
    code, out, _ = run("db", "remove", "--where", "lab = 'lab0'", "--db", tmp_path / "db")
    assert "3 clips removed, 7 left" in out
    assert run("db", "verify", "--db", tmp_path / "db")[0] == 0
    code, out, _ = run("ingest", made / "full", "--db", tmp_path / "again", "--motion", made, "--json")
    assert code == 1


def test_retry_and_forget(run, tmp_path):
    corpus = make_corpus(tmp_path / "corpus", 2)
    (corpus / "videos/clip_001.mp4").rename(tmp_path / "away.mp4")
    run("ingest", corpus, "--db", tmp_path / "db")
    assert json.loads(run("db", "retry", "--db", tmp_path / "db", "--json")[1])["set_aside"] == 1
    (tmp_path / "away.mp4").rename(corpus / "videos/clip_001.mp4")
    assert json.loads(run("db", "retry", "--db", tmp_path / "db", "--json")[1])["added"] == 1
    assert "nothing is set aside" in run("db", "retry", "--db", tmp_path / "db")[1]
    write_captions(corpus, [*read_captions(corpus), {"video": "videos/x.mp4", "caption": "x"}])
    run("ingest", corpus, "--db", tmp_path / "db")
    assert "1 taken off the list" in run("db", "retry", "--forget", "--db", tmp_path / "db")[1]
    assert run("db", "list", "--set-aside", "--db", tmp_path / "db")[1] == ""


def test_search_as_table_and_json(run, made):
    code, out, _ = run("search", "open the box", "--db", made / "plain", "-k", 2)
    assert code == 0
    assert "Open the lid of the red box" in out
    assert "clip_000.mp4" in out
    code, out, _ = run("search", "open the box", "--db", made / "plain", "-k", 2, "--json")
    found = json.loads(out)
    assert [set(item) for item in found] == [REFERENCE, REFERENCE]
    assert {item["caption"] for item in found} == {"Open the lid of the red box", "Open the drawer of the desk"}
    assert found[0]["score"] >= found[1]["score"]
    assert found[0]["metadata"]["collection"] == "corpus"


def test_explained(run, made):
    """As a table, as JSON and of many queries; contributions add up to the score."""
    command = ["search", "--db", made / "plain", "--explain", "-k", 1]
    code, out, _ = run(*command, "open the box")
    assert code == 0
    assert "why" in out.splitlines()[0]
    assert "shared words" in out
    assert "motion: open_close +0." in out
    (found,) = json.loads(run(*command, "open the box", "--json")[1])
    assert set(found) == {*REFERENCE, "why"}
    why = found["why"]
    total = sum(part["score"] for part in why["sentences"]) + why["words"] + why["long"] + why["opposed"]
    assert total == pytest.approx(found["score"], abs=2e-3)
    assert why["words"] > 0
    assert why["axes"]["open_close"] > 0.1
    (against,) = json.loads(
        run(*command, "open the box", "--json", "--floor", -1, "--where", "caption LIKE 'Close the lid%'")[1]
    )
    assert against["why"]["axes"]["open_close"] < -0.1
    assert against["why"]["opposed"] < -0.1 < why["opposed"] == 0
    assert "-0." in run(*command, "open the box", "--floor", -1, "--where", "caption LIKE 'Close the lid%'")[1]
    queries = made / "explained.jsonl"
    queries.write_text('{"prompt": "open the box"}\n')
    assert json.loads(run(*command, "--queries", queries)[1])["references"] == [found]


def test_reasons_name_the_best_and_the_worst_sentence():
    parts = [
        Part("It rains. ", 0.1, -0.05),
        Part("She leaps. ", 0.6, 0.6),
        Part("Sun.", 0.2, 0.01),
        Part("Tea.", 0.1, 0.02),
    ]

    def reasons(parts, axes, words=0.0):
        return _reasons(
            Reference(record=None, score=0.5, rank=0, words=words), Explanation(parts, axes)
        ).splitlines()

    assert reasons(parts, {}) == ["+0.60 She leaps.", "-0.05 It rains.", "+0.03 the other 2 sentences"]
    assert reasons(parts[1:3], {"jump": 0.001}) == ["+0.60 She leaps.", "+0.01 the other sentence"]
    shown = reasons(parts[1:2], {"open_close": -0.3, "jump": 0.2}, words=0.1)
    assert shown == ["+0.60 She leaps.", "+0.10 shared words", "motion: open_close -0.30, jump +0.20"]


def test_search_finds_nothing_for_the_unknown(run, made):
    code, out, _ = run("search", "a volcano erupts over the sea", "--db", made / "plain")
    assert (code, out.strip()) == (0, "no relevant reference")
    assert json.loads(run("search", "a volcano erupts", "--db", made / "plain", "--json")[1]) == []


def test_many_queries_in_one_process(run, made, tmp_path):
    file = tmp_path / "queries.jsonl"
    file.write_text('{"prompt": "open the box", "name": "a"}\n\n{"prompt": "a volcano erupts over the sea"}\n')
    code, out, _ = run("search", "--queries", file, "--db", made / "plain", "-k", 2)
    first, second = (json.loads(line) for line in out.splitlines())
    assert (code, first["name"], len(first["references"]), second["references"]) == (0, "a", 2, [])


def test_sheet_image_clip_and_filters(run, made, tmp_path):
    sheet = tmp_path / "sheet.png"
    assert run("search", "open the box", "--db", made / "plain", "-k", 2, "--sheet", sheet)[0] == 0
    with Image.open(sheet) as picture:
        assert picture.width > 400
        assert np.asarray(picture).std() > 20
    image = tmp_path / "image.png"
    Image.radial_gradient("L").convert("RGB").save(image)
    found = json.loads(run("search", "open the box", "--image", image, "--db", made / "full", "--json", "-k", 2)[1])
    assert len(found) == 2
    clip = made / "corpus/videos/clip_005.mp4"
    found = json.loads(run("search", "--clip", clip, "--db", made / "full", "--json", "--where", "take < 8")[1])
    assert len(found) == 7
    assert "clip_005.mp4" not in {item["video"].rsplit("/", 1)[-1] for item in found}
    found = json.loads(
        run("search", "open the box", "--exclude", found[0]["id"], "--db", made / "full", "--json")[1]
    )
    assert found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ingest", "{made}/nothing", "--db", "{new}"], "no such file or folder"),
        (
            ["ingest", "{made}/corpus", "--db", "{new}", "--clip-seconds", "0"],
            "--clip-seconds 0 must be more than 0",
        ),
        (
            ["ingest", "{made}/corpus", "--db", "{made}/plain", "--motion", "{models}/videomae"],
            "other settings (motion",
        ),
        (
            ["ingest", "{made}/corpus", "--db", "{new}", "--bundle", "{models}/bundle"],
            "name --motion and --appearance",
        ),
        (["ingest", "{made}/corpus", "--db", "{new}", "--motion", "acme/nothing"], "acme/nothing"),
        (["ingest", "{made}/corpus", "--db", "{new}", "--caption-column", "x"], "has no column 'x'"),
        (["ingest", "{made}/plain", "--db", "{made}/plain"], "is the source itself"),
        (["search", "open", "--db", "{new}"], "no such database; make one with"),
        (["search", "--db", "{made}/plain"], "give one of PROMPT, --clip and --queries"),
        (["search", "open", "--db", "{made}/plain", "--where", "labb = 1"], "did you mean 'lab'"),
        (["search", "open", "--db", "{made}/full", "--image", "{made}/x.png"], "x.png: no such file"),
        (["search", "open", "--db", "{made}/full", "--image", "{made}/corpus/captions.jsonl"], "no picture"),
        (
            ["search", "--clip", "{made}/corpus/videos/clip_001.mp4", "--db", "{made}/plain"],
            "keeps no motion vectors",
        ),
        (["search", "--clip", "{made}/corpus/captions.jsonl", "--db", "{made}/full"], "captions.jsonl: "),
        (
            ["search", "--queries", "{made}/corpus/captions.jsonl", "--db", "{made}/plain"],
            'line 1: wants an object with a "prompt"',
        ),
        (["search", " ", "--db", "{made}/plain"], "the prompt is empty"),
        (["search", "open", "-k", "0", "--db", "{made}/plain"], "k=0 must be at least 1"),
        (["search", "open", "--db", "{made}/plain", "--sheet", "{made}/no/x.png"], "x.png"),
        (["db", "info", "--db", "{new}"], "no such database"),
        (["db", "show", "zzzzzzzz", "--db", "{made}/plain"], "no clip of"),
        (["db", "remove", "zzzzzzzz", "--db", "{made}/plain"], "nothing was removed"),
        (["db", "remove", "--db", "{made}/plain"], "name either clips or --where"),
        (["db", "export", "{made}/x.zip", "--db", "{made}/plain"], "suffix .parquet"),
    ],
)
def test_bad_input_is_one_line(run, made, models, tmp_path, arguments, message):
    filled = [text.format(made=made, models=models, new=tmp_path / "new") for text in arguments]
    code, _, err = run(*filled)
    assert code == 1
    assert message in err
    assert err.count("\n") == 1
    assert err.startswith(f"motionrag {arguments[0]}: ")
    assert not (tmp_path / "new" / "clips.lance").exists()
