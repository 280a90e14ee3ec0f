"""Two captions a clip: one to find it by (OpenVid-1M's `motion_caption`), one to prompt with."""

import csv
import json
from dataclasses import replace

import pytest

from motionrag import MotionRAGError
from motionrag.cli import main
from motionrag.evaluation.suite import Targets, VideoClips
from motionrag.evaluation.targets import asked
from motionrag.retrieval.portable import export, jobs_of, open_shelf, take_over
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.training.data import DataSettings
from motionrag.training.sources import SourceSettings, open_sources
from motionrag.types import Sampling
from tests.retrieval.corpus import make_corpus, read_captions

SCENE = "A desk in a sunlit office, with a red box, a white cup and a towel on it; the mood is calm."


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table whose long captions are alike, with the motion in a column of its own; the last row has none there."""
    folder = make_corpus(tmp_path_factory.mktemp("two"))
    rows = read_captions(folder)
    for i, row in enumerate(rows):
        row["llm_caption"], row["motion_caption"] = f"{SCENE} Clip {i}.", row.pop("caption")
    rows[-1] |= {"motion_caption": " ", "llm_caption": "Someone stacks the boxes on the desk."}
    with (folder / "clips.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "clips.csv"


COLUMNS = {"caption_column": "llm_caption", "retrieval_caption_column": "motion_caption"}
OPTIONS = ["--caption-column", "llm_caption", "--retrieval-caption-column", "Motion_Caption"]


@pytest.fixture(scope="module")
def database(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("db") / "db"
    assert main(["ingest", str(table), "--db", str(folder), "--workers", "1", *OPTIONS]) == 0
    return MotionDatabase.open(folder)


def best(database, caption, prompt="open the drawer"):
    retriever = Retriever(database, caption)
    return retriever.search(retriever.query(prompt), 1, floor=-1)[0].record


def test_search_compares_the_one_and_gives_the_other(database, caption):
    record = best(database, caption)
    assert record.retrieval_caption == "Open the drawer of the desk"
    assert record.caption == f"{SCENE} Clip 0."
    assert "motion_caption" not in record.metadata
    assert "llm_caption" not in record.metadata


def test_words_count_of_the_caption_that_is_compared(database):
    assert database.sharing_words("sunlit office", 12) == {}
    for words, count in (("drawers", 2), ("someone stacking", 1)):
        assert len(database.sharing_words(words, 12)) == count


def test_a_row_without_is_compared_by_its_caption(database, caption):
    record = best(database, caption, "boxes are stacked")
    assert (record.retrieval_caption, record.caption) == (None, "Someone stacks the boxes on the desk.")


def test_it_is_shown_explained_and_exported(database, caption, capsys, tmp_path):
    assert main(["search", "open the drawer", "--db", database.uri, "--json", "--explain", "-k", "1"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["retrieval_caption"] == "Open the drawer of the desk"
    (part,) = found["why"]["sentences"]
    assert part["sentence"] == "Open the drawer of the desk"
    assert part["score"] + found["why"]["words"] + found["why"]["long"] == pytest.approx(found["score"], abs=2e-3)
    assert main(["db", "show", "clip_000.mp4", "--db", database.uri]) == 0
    assert "Open the drawer of the desk" in capsys.readouterr().out
    export(database, tmp_path / "all.parquet")
    shelf = open_shelf(str(tmp_path / "all.parquet"))
    taken = MotionDatabase.create(tmp_path / "db", shelf.settings)
    take_over(shelf, taken, caption)
    assert best(taken, caption) == best(database, caption)
    assert {job.compared for job in jobs_of(shelf)} == {job.compared for job in read_jobs_of(database)}


def read_jobs_of(database):
    return jobs_of(open_shelf(database.uri))


def test_a_corrected_one_is_encoded_again(table, caption, captions_only, tmp_path):
    folder = tmp_path / "copy.csv"
    folder.write_text(table.read_text().replace("videos/", f"{table.parent}/videos/"))
    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    from motionrag.retrieval.ingest import ingest

    ingest(read_jobs(folder, **COLUMNS), database, captions_only)
    folder.write_text(folder.read_text().replace("Fold the towel on the desk", "A frog leaps off the desk"))
    report = ingest(read_jobs(folder, **COLUMNS), database, captions_only)
    assert (report.updated, report.added) == (1, 0)
    assert best(database, caption, "a frog jumps").retrieval_caption == "A frog leaps off the desk"


def test_one_that_comes_later_is_added(table, caption, captions_only, tmp_path):
    """A database made without them takes them from the next ingest."""
    from motionrag.retrieval.ingest import ingest

    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    ingest(read_jobs(table, caption_column="llm_caption"), database, captions_only)
    report = ingest(read_jobs(table, **COLUMNS), database, captions_only)
    assert (report.added, report.updated) == (0, 11)  # the last row has none
    report = ingest(read_jobs(table, caption_column="llm_caption"), database, captions_only)
    assert (report.added, report.updated) == (0, 0)  # a source without them takes none away
    jobs = [replace(job, caption=f"{job.caption} Again.") for job in read_jobs(table, caption_column="llm_caption")]
    assert ingest(jobs, database, captions_only).updated == 12
    record = best(database, caption)
    assert record.caption.endswith("Again.")  # and its vector is still that of the other
    assert best(database, caption).retrieval_caption == "Open the drawer of the desk"


def test_evaluation_and_training_find_references_by_it(table):
    """The published table's columns, as they are."""
    videos = VideoClips(source=str(table), retrieval_caption_column="motion_caption")
    found = asked(Targets(videos=videos), Sampling(height=16, width=16, frames=4, fps=8, steps=1, guidance=1))
    assert found.prompts[0] == f"{SCENE} Clip 0."
    assert found.queries[0] == "Open the drawer of the desk"
    assert found.queries[-1] == found.prompts[-1]
    source = open_sources(
        [SourceSettings(videos=str(table))], frames=4, size=16, retrieval_caption_column="motion_caption"
    )
    (row, *_) = source.read(0, 1).rows
    assert (row["captions"], row["retrieval_caption"]) == ([f"{SCENE} Clip 0."], "Open the drawer of the desk")
    plain = open_sources([SourceSettings(videos=str(table))], frames=4, size=16)
    assert plain.fingerprint != source.fingerprint
    with pytest.raises(MotionRAGError, match="names a column of videos, and no source is such"):
        DataSettings(cache="cache", retrieval_caption_column="motion_caption")


def test_columns_that_are_not_there(table, database, capsys, tmp_path):
    assert main(["ingest", str(table), "--db", str(tmp_path / "db"), *OPTIONS[:3], "motion"]) == 1
    assert "has no column 'motion'; it has 'video'" in capsys.readouterr().err
    assert main(["ingest", database.uri, "--db", str(tmp_path / "db"), *OPTIONS[2:]]) == 1
    assert "is a database, which has its captions already" in capsys.readouterr().err
    (tmp_path / "sidecars").mkdir()
    assert main(["ingest", str(tmp_path / "sidecars"), "--db", str(tmp_path / "db"), *OPTIONS[2:]]) == 1
    assert "holds no table, so there is no column" in capsys.readouterr().err
    assert main(["evaluate", "unseen", "--retrieval-caption-column", "x", "--out", str(tmp_path / "out")]) == 1
    assert "unseen has simulated clips, no table of videos" in capsys.readouterr().err
    assert not (tmp_path / "db").exists()
