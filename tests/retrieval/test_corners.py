"""What a sceptical reader found: places taken by copies, replaced videos, links, workers that do not start."""

import os
import shutil
import sys

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.retrieval import pool
from motionrag.retrieval.failures import retrial
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.verify import verify
from motionrag.retrieval.worker import Splitting
from motionrag.video import write_video
from tests.retrieval.corpus import frames, read_captions, write, write_captions


def found(database, caption, prompt="open the box", **options):
    retriever = Retriever(database, caption)
    return [reference.record for reference in retriever.search(retriever.query(prompt), **options)]


def test_a_recording_that_fills_all_places_hides_nothing(bring, captions_only, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_video(source / "long.mp4", np.concatenate([frames(100 + i, 12) for i in range(50)]), 12)
    lines = [{"video": "long.mp4", "caption": "Open the drawer", "start": i, "end": i + 1} for i in range(50)]
    for i in range(6):
        write(source / f"{i}.mp4", seed=i)
        lines.append({"video": f"{i}.mp4", "caption": "Open the lid of the red box"})
    write_captions(source, lines)
    database, _ = bring(source, captions_only)
    videos = [os.path.basename(record.video) for record in found(database, captions_only.caption, "open the drawer")]
    assert (videos.count("long.mp4"), len(videos)) == (3, 9)
    others = found(database, captions_only.caption, "open the drawer", exclude=[str(source / "long.mp4")])
    assert len(others) == 6
    alone = found(database, captions_only.caption, "open the drawer", where="caption = 'Open the drawer'")
    assert len(alone) == 9  # where there is nothing else, one recording may give them all


def test_videos_replaced_before_an_interrupt_leave_nothing_behind(corpus, bring, captions_only):
    bring(corpus, captions_only)
    for i, path in enumerate(sorted(corpus.glob("videos/*"))):
        write(path, seed=200 + i)

    def interrupt(report):
        if report.added:
            raise KeyboardInterrupt

    import motionrag.retrieval.ingest as module

    before = module.COMMIT_CLIPS, module.CAPTIONS_AT_ONCE
    module.COMMIT_CLIPS, module.CAPTIONS_AT_ONCE = 4, 2
    try:
        with pytest.raises(KeyboardInterrupt):
            bring(corpus, captions_only, progress=interrupt)
    finally:
        module.COMMIT_CLIPS, module.CAPTIONS_AT_ONCE = before
    database, _ = bring(corpus, captions_only)
    assert database.count() == 12
    assert verify(database) == []


def test_a_video_overwritten_by_a_copy_of_another_goes(corpus, bring, captions_only):
    bring(corpus, captions_only)
    shutil.copy(corpus / "videos/clip_000.mp4", corpus / "videos/clip_001.mp4")
    database, report = bring(corpus, captions_only)
    assert (report.replaced, database.count()) == (1, 11)
    assert database.find("clip_001.mp4") == []


def test_links_are_found_and_left_out_by_their_own_name(corpus, bring, captions_only, tmp_path):
    links = tmp_path / "links"
    (links / "videos").mkdir(parents=True)
    for path in corpus.glob("videos/*"):
        (links / "videos" / path.name).symlink_to(path)
    write_captions(links, read_captions(corpus))
    database, _ = bring(links, captions_only)
    name = str(links / "videos/clip_002.mp4")
    assert len(database.find(name)) == 1
    best = found(database, captions_only.caption, "Open the lid of the red box", exclude=[name])
    assert best[0].caption == "Open the drawer of the desk"


def test_a_worker_that_does_not_start_stops_the_run_and_blames_no_clip(corpus, bring, captions_only, monkeypatch):
    monkeypatch.setattr(pool, "COMMAND", [sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(MotionRAGError, match="a decoding process does not start: no such thing"):
        bring(corpus, captions_only)
    assert MotionDatabase.open(corpus.parent / "db").failures() == []


def test_workers_do_not_import_from_the_working_directory(corpus, bring, captions_only, tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    assert bring(corpus, captions_only)[1].added == 12


def test_pipes_are_refused_and_never_read(corpus, bring, captions_only):
    os.mkfifo(corpus / "videos/pipe.mp4")
    write_captions(corpus, [*read_captions(corpus), {"video": "videos/pipe.mp4", "caption": "x"}])
    database, report = bring(corpus, captions_only)
    assert (report.added, report.set_aside) == (12, 1)
    assert "pipe" in database.failures()[0]["reason"] or "regular" in database.failures()[0]["reason"]


def test_a_retry_splits_as_the_first_try_would_have(bring, captions_only, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    whole = write(source / "long.mp4", seed=5, count=120).read_bytes()
    (source / "long.txt").write_text("a long one")
    (source / "long.mp4").write_bytes(whole[: len(whole) // 3])
    database, report = bring(source, captions_only, splitting=Splitting(seconds=3))
    assert report.set_aside == 1
    (source / "long.mp4").write_bytes(whole)
    job, splitting = retrial(database.failures()[0]["job"])
    assert splitting == Splitting(seconds=3)
    assert ingest([job], database, captions_only, splitting=splitting, retry=True).added == 3
    assert database.failures() == []


def test_rows_that_were_mended_leave_the_list(corpus, bring, captions_only):
    text = (corpus / "captions.jsonl").read_text()
    (corpus / "captions.jsonl").write_text(text + '{"video": "videos/clip_000.mp4"\n')
    database, _ = bring(corpus, captions_only)
    assert len(database.failures()) == 1
    (corpus / "captions.jsonl").write_text(text)
    assert bring(corpus, captions_only)[0].failures() == []


def test_a_moved_folder_with_a_corrected_caption_is_both(corpus, bring, captions_only, tmp_path):
    bring(corpus, captions_only)
    corpus.rename(tmp_path / "moved")
    lines = read_captions(tmp_path / "moved")
    lines[0]["caption"] = "Shake the bottle"
    write_captions(tmp_path / "moved", lines)
    database, _ = bring(tmp_path / "moved", captions_only)
    assert database.find("clip_000.mp4")[0]["caption"] == "Shake the bottle"
    assert bring(tmp_path / "moved", captions_only)[1].updated == 0


def test_an_open_retriever_sees_what_others_write(corpus, bring, captions_only, monkeypatch):
    import motionrag.retrieval.store as store

    monkeypatch.setattr(store, "REFRESH_S", 0.0)
    database, _ = bring(corpus, captions_only)
    retriever = Retriever(database, captions_only.caption)
    query = retriever.query("open the box")
    other = MotionDatabase.open(database.uri)
    other.remove("caption LIKE 'Open%'")
    other.compact()
    assert retriever.search(query) == []


def test_missing_files_of_the_store_are_one_message(corpus, bring, captions_only):
    database, _ = bring(corpus, captions_only)
    for file in (corpus.parent / "db/clips.lance/data").iterdir():
        file.unlink()
    damaged = MotionDatabase.open(database.uri)
    retriever = Retriever(damaged, captions_only.caption)
    with pytest.raises(MotionRAGError, match="a file of it is missing or damaged"):
        retriever.search(retriever.query("open the box"))
    with pytest.raises(MotionRAGError, match="a file of it is missing or damaged"):
        damaged.rows(["caption"])


def test_file_uris_are_folders(corpus, bring, captions_only, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    database, _ = bring(corpus, captions_only, db=f"file://{tmp_path}/there")
    assert database.uri == f"{tmp_path}/there"
    assert not (tmp_path / "file:").exists()
