"""Ingest: every source and format in, nothing done twice, bad clips set aside, nothing lost."""

import csv
import os
import re
import shutil
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from motionrag.errors import MotionRAGError
from motionrag.retrieval import pool
from motionrag.retrieval.failures import Failure, retrial
from motionrag.retrieval.pool import DecodePool
from motionrag.retrieval.schema import array_of
from motionrag.retrieval.sources import Job, read_jobs
from motionrag.retrieval.verify import verify
from motionrag.retrieval.worker import Decoded, Splitting, Task
from motionrag.video import read_clip, write_video
from tests.retrieval.corpus import CAPTIONS, frames, read_captions, write, write_captions
from tests.video.hostile import make_hostile


def captions_of(database):
    return sorted(row["caption"] for row in database.rows(["caption"]))


def test_a_folder_with_captions(corpus, bring, encoders):
    database, report = bring(corpus, encoders, workers=2)
    assert (report.added, report.set_aside, report.total, report.done) == (12, 0, 12, 12)
    assert captions_of(database) == sorted(CAPTIONS)
    assert verify(database) == []
    row = database.rows(database.light_columns, "take = 3")[0]
    assert row["video"] == str(corpus / "videos/clip_003.mp4")
    assert (row["lab"], row["take"], row["collection"]) == ("lab0", 3, "corpus")
    assert row["start_s"] == 0
    assert row["end_s"] == pytest.approx(1.0)


def test_tokens_are_what_the_bundle_makes_of_the_clip(corpus, bring, encoders):
    database, _ = bring(corpus, encoders)
    clip = read_clip(corpus / "videos/clip_003.mp4")
    part = next(database.scan(["motion_tokens", "appearance_tokens", "motion_vector"], "take = 3"))
    for kind, encoder in encoders.video.items():
        features = encoder.encode(encoder.preparation(clip.frames)[None])
        with torch.no_grad():
            expected = encoders.tokenizers[kind].resample(features)[0].numpy()
        np.testing.assert_allclose(array_of(part, f"{kind}_tokens", (4, 16))[0], expected, atol=4e-3)
        assert np.abs(expected).max() > 0.1
    pooled = encoders.video["motion"].pool(
        encoders.video["motion"].encode(encoders.video["motion"].preparation(clip.frames)[None])
    )
    np.testing.assert_allclose(array_of(part, "motion_vector", (32,))[0], pooled[0].numpy(), atol=1e-3)


def test_features_are_kept_on_request(corpus, bring, encoders):
    from dataclasses import replace

    database, _ = bring(corpus, replace(encoders, features=True))
    shape = database.settings.arrays()["motion_features"]
    assert shape == (encoders.video["motion"].info.length, 32)
    part = next(database.scan(["motion_features"]))
    assert np.isfinite(array_of(part, "motion_features", shape)).all()
    assert verify(database) == []


def test_the_second_run_does_nothing(corpus, bring, captions_only):
    bring(corpus, captions_only)
    database, report = bring(corpus, captions_only)
    assert (report.added, report.unchanged, report.decoded) == (0, 12, 0)
    assert database.count() == 12


def test_touched_files_are_known_by_their_content(corpus, bring, captions_only):
    bring(corpus, captions_only)
    for path in corpus.glob("videos/*"):
        os.utime(path, (1, 1))
    _, report = bring(corpus, captions_only)
    assert (report.decoded, report.unchanged) == (0, 12)
    _, report = bring(corpus, captions_only)  # and are known unread from then on
    assert report.fresh == 0


def test_a_moved_folder_is_followed(corpus, bring, captions_only, tmp_path):
    bring(corpus, captions_only)
    moved = tmp_path / "elsewhere"
    corpus.rename(moved)
    database, report = bring(moved, captions_only)
    assert (report.decoded, report.added, database.count()) == (0, 0, 12)
    assert all(row["video"].startswith(str(moved)) for row in database.rows(["video"]))
    assert bring(moved, captions_only)[1].fresh == 0


def test_a_copied_folder_adds_nothing_and_changes_no_path(corpus, bring, captions_only, tmp_path):
    bring(corpus, captions_only)
    database, report = bring(shutil.copytree(corpus, tmp_path / "copy"), captions_only)
    assert (report.decoded, report.added, database.count()) == (0, 0, 12)
    assert all(row["video"].startswith(str(corpus)) for row in database.rows(["video"]))


def test_a_corrected_caption_is_taken_over_without_decoding(corpus, bring, captions_only, caption):
    bring(corpus, captions_only)
    lines = read_captions(corpus)
    lines[3] |= {"caption": "Shake the bottle", "lab": "other"}
    write_captions(corpus, lines)
    database, report = bring(corpus, captions_only)
    assert (report.updated, report.unchanged, report.decoded) == (1, 11, 0)
    part = next(database.scan(["caption", "lab", "text_vector"], "take = 3"))
    assert part.to_pylist()[0]["caption"] == "Shake the bottle"
    assert part.to_pylist()[0]["lab"] == "other"
    vector = array_of(part, "text_vector", (caption.width,))[0]
    np.testing.assert_allclose(vector, caption.encode(["Shake the bottle"])[0], atol=1e-3)
    assert bring(corpus, captions_only)[1].updated == 0


def test_another_video_at_a_path_replaces_the_clip(corpus, bring, captions_only):
    bring(corpus, captions_only)
    write(corpus / "videos/clip_003.mp4", seed=77)
    database, report = bring(corpus, captions_only)
    assert (report.added, report.replaced, database.count()) == (1, 1, 12)
    assert verify(database) == []


def test_a_clip_named_twice_is_counted_once_and_told(corpus, bring, captions_only):
    lines = read_captions(corpus)
    write_captions(corpus, [*lines, {**lines[0], "caption": "Something else"}])
    database, report = bring(corpus, captions_only)
    assert (report.added, report.repeated, report.done) == (12, 1, 13)
    assert "Something else" not in captions_of(database)


def table_rows(corpus):
    return [{"video": str(corpus / line["video"]), "caption": line["caption"]} for line in read_captions(corpus)]


def test_csv_with_parts_in_seconds(corpus, bring, captions_only, tmp_path):
    write(tmp_path / "long.mp4", seed=50, count=60)
    with open(tmp_path / "parts.csv", "w", newline="") as file:
        rows = csv.DictWriter(file, ["path", "text", "start_time", "end_time", "score", "2nd Score"])
        rows.writeheader()
        rows.writerow(
            {"path": "long.mp4", "text": "a, with a comma", "start_time": "0:01", "end_time": 2, "score": 1}
        )
        rows.writerow({"path": "long.mp4", "text": "b", "start_time": "2.5", "end_time": "", "score": 2.5})
        rows.writerow({"path": "long.mp4", "text": "c", "start_time": "soon", "end_time": "", "score": 3})
        rows.writerow({"path": "long.mp4", "text": "d", "start_time": "9", "end_time": "12", "score": 3})
        rows.writerow({"path": "long.mp4", "text": "e", "start_time": "3", "end_time": "2", "score": 3})
    database, report = bring(tmp_path / "parts.csv", captions_only)
    rows = sorted(
        database.rows(["caption", "start_s", "end_s", "score", "collection"]), key=lambda row: row["caption"]
    )
    assert [(row["caption"], row["start_s"], row["score"]) for row in rows] == [
        ("a, with a comma", 1, 1),
        ("b", 2.5, 2.5),
    ]
    assert rows[0]["end_s"] == 2
    assert rows[1]["end_s"] == pytest.approx(5)
    assert rows[0]["collection"] == "parts"
    reasons = {row["caption"]: row["reason"] for row in database.failures()}
    assert "'soon' is no time in seconds" in reasons["c"]
    assert "outside" in reasons["d"]
    assert "end before start" in reasons["e"]
    assert report.set_aside == 3


def test_openvid_columns(corpus, bring, captions_only, tmp_path):
    names = ["video", "caption", "aesthetic score", "motion score", "temporal consistency score", "camera motion"]
    names += ["frame", "fps", "seconds"]
    rows = [
        dict(zip(names, [line["video"], line["caption"], 5.1, 0.3, 0.9, "pan_left", 12, 12.0, 1.0], strict=True))
        for line in read_captions(corpus)
    ]
    pq.write_table(pa.Table.from_pylist(rows), corpus / "OpenVid-1M.parquet")
    database, report = bring(corpus / "OpenVid-1M.parquet", captions_only)
    assert report.added == 12
    assert database.count("camera_motion = 'pan_left' AND aesthetic_score > 5 AND frame = 12") == 12


def test_sidecar_texts(corpus, bring, captions_only):
    for line in read_captions(corpus)[:4]:
        (corpus / line["video"]).with_suffix(".txt").write_text(line["caption"] + "\n")
    (corpus / "videos/clip_004.txt").write_text("  \n")
    (corpus / "captions.jsonl").unlink()
    database, _ = bring(corpus, captions_only)
    assert captions_of(database) == sorted(CAPTIONS[:4])
    reasons = [row["reason"] for row in database.failures()]
    assert reasons.count("no caption: its text file is empty") == 1
    assert sum("is missing" in reason for reason in reasons) == 7


def test_bad_rows_are_set_aside_and_good_ones_kept(corpus, bring, captions_only):
    text = (corpus / "captions.jsonl").read_text()
    bad = '{"video": "videos/clip_000.mp4"\n[1, 2]\n{"video": "videos/gone.mp4", "caption": "x"}\n'
    bad += '{"video": "", "caption": "x"}\n{"video": "videos/clip_001.mp4", "caption": " ", "start": 0}\n'
    (corpus / "captions.jsonl").write_text(text + "\n" + bad)
    database, report = bring(corpus, captions_only)
    assert (report.added, report.set_aside) == (12, 5)
    reasons = sorted(row["reason"] for row in database.failures())
    for reason, words in zip(
        reasons,
        [
            "line 14 is not valid JSON",
            "line 15 is no JSON object",
            "line 17: names no video",
            "line 18: no caption",
            "no such file",
        ],
        strict=True,
    ):
        assert words in reason


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nothing", "no such file or folder"),
        (lambda folder: folder, "holds no clips; wanted: captions.jsonl"),
        (lambda folder: _written(folder / "x.jsonl", "[]\n{"), None),
        (lambda folder: _written(folder / "x.txt", "a"), "is no source"),
        (lambda folder: _written(folder / "x.csv", "caption\nx\n"), "no column names the video"),
        (lambda folder: _written(folder / "x.parquet", "PAR1 not"), "no readable Parquet"),
        (lambda folder: _written(folder / "x.jsonl", b"\xff\xfe\x00"), "not UTF-8"),
    ],
)
def test_sources_that_are_none(tmp_path, make, message):
    source = make(tmp_path)
    if message is None:
        assert all(job.fault for job in read_jobs(source))
        return
    with pytest.raises(MotionRAGError, match=message):
        read_jobs(source)


def _written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_recordings_are_split_evenly_and_known_as_such(bring, captions_only, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write(source / "long.mp4", seed=5, count=120)
    write(source / "short.mp4", seed=6)
    for name in ("long", "short"):
        (source / f"{name}.txt").write_text(f"a {name} one")
    database, report = bring(source, captions_only, splitting=Splitting(seconds=3))
    spans = sorted(
        (row["start_s"], row["end_s"]) for row in database.rows(["start_s", "end_s"], "caption = 'a long one'")
    )
    assert [round(start, 2) for start, _ in spans] == [0, 3.33, 6.67]
    assert report.added == 4
    again = bring(source, captions_only, splitting=Splitting(seconds=3))[1]
    assert (again.fresh, again.added) == (0, 0)
    assert database.count("span = 'whole'") == 1
    assert verify(database) == []


def test_recordings_are_split_at_scene_cuts(bring, captions_only, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    write_video(source / "film.mp4", np.concatenate([frames(1, 30), frames(2, 42)]), 12)
    (source / "film.txt").write_text("two scenes")
    database, _ = bring(source, captions_only, splitting=Splitting(scenes=True))
    spans = sorted((row["start_s"], row["end_s"]) for row in database.rows(["start_s", "end_s"]))
    assert spans == [(0, pytest.approx(2.5, abs=0.1)), (pytest.approx(2.5, abs=0.1), pytest.approx(6, abs=0.1))]


def test_near_duplicates_are_marked(corpus, bring, captions_only):
    clip = read_clip(corpus / "videos/clip_000.mp4", frames=12)
    write_video(corpus / "videos/again.mkv", clip.frames, 12)
    lines = read_captions(corpus)
    write_captions(corpus, [*lines, {"video": "videos/again.mkv", "caption": "The same once more"}])
    database, report = bring(corpus, captions_only)
    assert report.duplicates == 1
    first, again = (database.find(name)[0] for name in ("clip_000.mp4", "again.mkv"))
    marks = {first["duplicate_of"], again["duplicate_of"]}
    assert marks in ({None, first["id"]}, {None, again["id"]})
    database.remove_ids([next(row["id"] for row in (first, again) if row["duplicate_of"] is None)])
    assert database.count("duplicate_of IS NOT NULL") == 0
    assert verify(database) == []


def test_thirty_hostile_files_are_set_aside_for_thirty_right_reasons(corpus, bring, captions_only):
    (corpus / "hostile").mkdir()
    reasons = make_hostile(corpus / "hostile")
    assert len(reasons) == 30
    lines = [{"video": f"hostile/{name}", "caption": f"hostile {name}"} for name in reasons]
    write_captions(corpus, [*read_captions(corpus), *lines])
    database, report = bring(corpus, captions_only, workers=2)
    assert (report.added, report.set_aside) == (12, 30)
    told = {os.path.relpath(row["video"], corpus / "hostile"): row["reason"] for row in database.failures()}
    assert sorted(told) == sorted(reasons)
    wrong = {name: told[name] for name, reason in reasons.items() if not re.search(reason, told[name])}
    assert wrong == {}
    again = bring(corpus, captions_only)[1]
    assert (again.fresh, again.set_aside) == (0, 30)


def test_retry_takes_what_was_repaired(corpus, bring, captions_only):
    from motionrag.retrieval.ingest import ingest

    path = corpus / "videos/clip_003.mp4"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    database, report = bring(corpus, captions_only)
    assert (report.added, report.set_aside) == (11, 1)
    jobs = [retrial(row["job"])[0] for row in database.failures()]
    assert ingest(jobs, database, captions_only, retry=True).set_aside == 1
    path.write_bytes(whole)
    assert ingest(jobs, database, captions_only, retry=True).added == 1
    assert database.failures() == []
    row = database.find("clip_003.mp4")[0]
    assert (row["caption"], row["lab"], row["take"]) == (CAPTIONS[3], "lab0", 3)


HOSTILE_WORKER = """
import os, time
import motionrag.retrieval.worker as worker
real = worker.carry_out
def carry_out(task):
    if task.video.endswith("/crash.mp4"): os.abort()
    if task.video.endswith("/hang.mp4"): time.sleep(1000)
    yield from real(task)
worker.carry_out = carry_out
worker.main()
"""


def test_a_crash_or_a_hang_costs_one_video(corpus, monkeypatch):
    monkeypatch.setattr(pool, "COMMAND", [sys.executable, "-c", HOSTILE_WORKER])
    monkeypatch.setattr(pool, "TIMEOUT_S", 3.0)
    names = ["clip_000", "crash", "clip_001", "hang", "clip_002"]
    tasks = [Task(video=str(corpus / f"videos/{name}.mp4")) for name in names]
    with DecodePool(2) as workers:
        answers = list(workers.run(tasks, lambda task: task))
    told = {os.path.basename(task.video): answer for task, answer in answers if answer is not None}
    assert "the decoder crashes on it" in told["crash.mp4"].reason
    assert "the decoder hangs on it" in told["hang.mp4"].reason
    assert all(isinstance(told[f"clip_00{i}.mp4"], Decoded) for i in range(3))
    assert sum(answer is None for _, answer in answers) == len(names)


def test_an_interrupt_keeps_what_was_decoded(corpus, bring, captions_only):
    def interrupt(report):
        if report.decoded >= 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bring(corpus, captions_only, progress=interrupt)
    database, report = bring(corpus, captions_only)
    assert report.unchanged >= 5
    assert database.count() == 12


def test_a_column_that_changes_its_type_is_named(corpus, bring, captions_only):
    bring(corpus, captions_only)
    write_captions(corpus, [{**line, "take": "three"} for line in read_captions(corpus)])
    with pytest.raises(MotionRAGError, match="column 'take' holds double, the source has string"):
        bring(corpus, captions_only)


def test_columns_of_text_take_all_and_large_numbers_stay_exact(corpus, bring, captions_only):
    bring(corpus, captions_only)
    write_captions(corpus, [{**line, "take": 0.5, "lab": 7, "n": 2**60 + 1} for line in read_captions(corpus)])
    database, report = bring(corpus, captions_only)
    assert report.updated == 12
    assert database.count(f"take = 0.5 AND lab = '7' AND n = '{2**60 + 1}'") == 12


def test_two_videos_that_change_places_are_followed(corpus, bring, captions_only, tmp_path):
    database, _ = bring(corpus, captions_only)
    before = {row["id"] for row in database.rows(["id"])}
    one, other = corpus / "videos/clip_001.mp4", corpus / "videos/clip_002.mp4"
    one.rename(tmp_path / "x.mp4")
    other.rename(one)
    write(other, seed=88)
    (tmp_path / "x.mp4").rename(corpus / "videos/clip_100.mp4")
    write_captions(corpus, [*read_captions(corpus), {"video": "videos/clip_100.mp4", "caption": "was the first"}])
    bring(corpus, captions_only)
    database, report = bring(corpus, captions_only)
    assert report.fresh == 0
    assert {row["id"] for row in database.rows(["id"])} > before
    assert database.count() == 13
    assert verify(database) == []


def test_progress_counts_every_row(corpus, bring, captions_only):
    seen = []
    bring(corpus, captions_only, progress=lambda report: seen.append((report.done, report.total)))
    assert seen[-1] == (12, 12)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_what_was_set_aside_can_be_tried_again():
    job = Job(
        video="/x.mp4", caption="c", start_s=1.0, end_s=None, metadata={"a": 1, "b": None, "c": "x", "d": True}
    )
    for splitting in (None, Splitting(seconds=3), Splitting(scenes=True)):
        assert retrial(Failure.of(job, "a reason", 1, 2, splitting).job) == (job, splitting)
