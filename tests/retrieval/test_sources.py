"""Sources: what rows, folders and values become; one bad row never costs another, nothing is lost silently."""

import csv
import datetime
import json
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motionrag.errors import MotionRAGError
from motionrag.retrieval.failures import Failure, retrial
from motionrag.retrieval.sources import COLLECTION, Job, as_type, column_types, read_jobs


@pytest.fixture
def jobs_of(tmp_path):
    """Write a table and read it."""

    def jobs_of(name, content, **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_jobs(path, **options)

    return jobs_of


@pytest.fixture
def parquet(tmp_path):
    """Write a Parquet table of columns beside `video` and `caption`, and read it."""

    def parquet(**columns):
        count = len(next(iter(columns.values())))
        columns = {"video": [f"{i}.mp4" for i in range(count)], "caption": ["a"] * count, **columns}
        pq.write_table(pa.table(columns), tmp_path / "x.parquet")
        return read_jobs(tmp_path / "x.parquet")

    return parquet


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def storable(jobs):
    """Whether rows survive what is done with them: JSON, an Arrow table, a look at the file."""
    for job in jobs:
        assert retrial(Failure.of(job, "", 0, 0, None).job)[0] == job
        pa.array([job.video, job.caption, job.fault, *job.metadata, *map(str, job.metadata.values())], pa.string())
        assert all(value is None or isinstance(value, (str, float, int, bool)) for value in job.metadata.values())
        os.path.exists(job.video)
    return True


def captions(jobs):
    return [job.caption for job in jobs if job.fault is None]


def faults(jobs):
    return [job.fault for job in jobs if job.fault is not None]


def clip(path, caption="a cup"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    path.with_suffix(".txt").write_text(caption)


# -- folders


def test_sidecars_under_a_dot_folder_and_through_dots(tmp_path, monkeypatch):
    folder = tmp_path / ".cache" / "clips"
    clip(folder / "a.mp4")
    clip(folder / ".hidden" / "b.mp4")
    clip(folder / ".c.mp4")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    for source in (folder, folder / "sub" / "..", Path(".."), Path("../../clips")):
        jobs = read_jobs(source)
        assert [(job.video, job.caption, job.fault) for job in jobs] == [(str(folder / "a.mp4"), "a cup", None)]
        assert jobs[0].metadata == {COLLECTION: "clips"}
    monkeypatch.chdir(folder)
    assert captions(read_jobs(Path("."))) == ["a cup"]


def test_sidecar_texts_become_one_line(tmp_path):
    clip(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_bytes("\ufeffOpen\r\n the \n\ndrawer\n".encode())
    clip(tmp_path / "b.mp4", "a\0b")
    (tmp_path / "c.mp4").touch()
    (tmp_path / "c.txt").write_bytes(b"\xff\xfea\x00")
    jobs = read_jobs(tmp_path)
    assert captions(jobs) == ["Open the drawer"]
    assert ["NUL" in jobs[1].fault, "cannot be read" in jobs[2].fault] == [True, True]
    assert storable(jobs)


def test_a_file_name_that_is_not_utf8_is_one_fault(tmp_path):
    clip(tmp_path / "a.mp4")
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        clip(tmp_path / name)
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    jobs = read_jobs(tmp_path)
    assert captions(jobs) == ["a cup"]
    assert jobs[1].video == str(tmp_path) + "/caf\\xe9.mp4"
    assert "not UTF-8" in jobs[1].fault
    assert storable(jobs)


def test_subfolders_with_captions_are_named(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mp4").touch()
        (tmp_path / name / "Captions.CSV").write_text("Video,Caption\na.mp4,a cup\n")
    with pytest.raises(MotionRAGError, match=f"its subfolders have; ingest each: {tmp_path}/one, {tmp_path}/two"):
        read_jobs(tmp_path)
    assert captions(read_jobs(tmp_path / "one")) == ["a cup"]
    clip(tmp_path / "b.mp4")
    assert captions(read_jobs(tmp_path)) == ["a cup"]


# -- columns


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.CSV", " Video ,CAPTION,Start\na.mp4,a cup,1\n"),
        ("x.Tsv", "FILE_NAME\tText\tBegin\na.mp4\ta cup\t1\n"),
        ("x.JSONL", '{"Video": "a.mp4", "Caption": "a cup", "START": 1}\n'),
    ],
)
def test_case_and_blanks_in_names_do_not_matter(jobs_of, tmp_path, name, content):
    (job,) = jobs_of(name, content)
    assert job == Job(
        video=str(tmp_path / "a.mp4"), caption="a cup", start_s=1.0, metadata={COLLECTION: "x"}, fault=None
    )


def test_parquet_in_any_case(tmp_path):
    pq.write_table(pa.table({"Path": ["a.mp4"], "Prompt": ["a cup"]}), tmp_path / "x.Parquet")
    assert captions(read_jobs(tmp_path / "x.Parquet")) == ["a cup"]


def test_the_caption_column_is_the_same_for_all_rows(jobs_of):
    rows = [{"video": "a.mp4", "text": "long"}, {"video": "b.mp4", "text": "other", "Caption": "a cup"}]
    jobs = jobs_of("x.jsonl", lines(*rows))
    assert captions(jobs) == ["a cup"]
    assert faults(jobs) == ["x.jsonl line 1: no caption"]
    assert [job.metadata["text"] for job in jobs] == ["long", "other"]


def test_a_caption_column_that_some_rows_lack(jobs_of):
    rows = [{"video": "a.mp4"}, {"caption": "no video"}, {"video": "b.mp4", "Blurb": "a cup", "caption": "other"}]
    jobs = jobs_of("x.jsonl", lines(*rows), caption_column="blurb")
    assert captions(jobs) == ["a cup"]
    assert faults(jobs) == ["x.jsonl line 1: no caption", "x.jsonl line 2: names no video"]
    assert jobs[1].video.endswith("/x.jsonl line 2")
    assert jobs[2].metadata["source_caption"] == "other"
    assert storable(jobs)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"caption": "x"}, {"caption": "y"}], {}, "no column names the video.*it has 'caption'"),
        ([{"video": "x.mp4"}], {}, "no column holds captions.*--caption-column"),
        ([{"video": "x.mp4", "caption": "x"}], {"caption_column": "blurb"}, "no column 'blurb'; it has 'video'"),
    ],
)
def test_a_column_that_no_row_has_is_an_error(jobs_of, rows, options, message):
    with pytest.raises(MotionRAGError, match=message):
        jobs_of("x.jsonl", lines(*rows), **options)


def test_names_of_columns_are_kept_apart(jobs_of):
    names = ["2nd Score", "_rowid", "_distance", "_score", "Camera Motion", "camera-motion", "camera_motion", "id"]
    names += ["source id", "lab", "lab", "(fps)", "", "???", "_", "Caption"]
    header = ",".join(["video", "caption", *names])
    (job,) = jobs_of("x.csv", f"{header}\na.mp4,a cup,{','.join(f'v{i}' for i in range(len(names)))}\n")
    expected = ["c_2nd_score", "c_rowid", "c_distance", "c_score", "camera_motion", "camera_motion_2"]
    expected += ["camera_motion_3", "source_id", "source_id_2", "lab", "lab_2", "fps", "column", "column_2"]
    expected += ["column_3", "source_caption"]
    assert job.caption == "a cup"
    assert job.metadata == {COLLECTION: "x", **{name: f"v{i}" for i, name in enumerate(expected)}}


def test_a_collection_of_its_own_is_text(jobs_of):
    jobs = jobs_of("x.csv", "video,caption,collection\na.mp4,a,7\nb.mp4,b,\n")
    assert [job.metadata for job in jobs] == [{COLLECTION: "7"}, {COLLECTION: "x"}]


# -- bad rows


def test_characters_that_are_no_text_cost_their_row_only(jobs_of):
    rows = [
        {"video": "a\ud800.mp4", "caption": "x"},
        {"video": "a\0.mp4", "caption": "x"},
        {"video": "a.mp4", "caption": "x \ud800 y"},
        {"video": "a.mp4", "caption": "x \0 y"},
        {"video": "a.mp4", "caption": "a cup", "no\ud800te": "p\ud800\0q", "list": ["\udcff"], "\0": 1},
    ]
    jobs = jobs_of("x.jsonl", lines(*rows))
    assert captions(jobs) == ["a cup"]
    assert [os.path.basename(job.video) for job in jobs[:2]] == ["a\\ud800.mp4", "a\\x00.mp4"]
    assert all("NUL or characters that are no text" in fault for fault in faults(jobs))
    assert jobs[4].metadata == {COLLECTION: "x", "no_te": "p\\ud800\\x00q", "list": '["\\\\xff"]', "column": 1}
    assert storable(jobs)


def test_json_that_is_hostile_costs_its_line_only(jobs_of):
    bad = [
        "[" * 100_000,
        '{"video": ' + "1" * 5000 + "}",
        "nonsense",
        "[]",
        '{"video": "a.mp4", "caption": {"x": 1}}',
    ]
    bad += [
        '{"video": ["a.mp4"], "caption": "x"}',
        '{"video": "a.mp4", "caption": "x", "start": 1' + "0" * 400 + "}",
    ]
    bad += ['{"video": "a.mp4", "caption": "x", "start": true}', "{}"]
    jobs = jobs_of("x.jsonl", "\n".join([*bad, '{"video": "a.mp4", "caption": "a cup"}']))
    assert captions(jobs) == ["a cup"]
    assert len(faults(jobs)) == len(bad)
    assert storable(jobs)


def test_only_line_feeds_end_a_line(jobs_of):
    text = "a\u2028b\x85c\x0bd\x0ce"
    rows = [{"video": "a.mp4", "caption": text, "note": text}]
    (job,) = jobs_of("x.jsonl", json.dumps(rows[0], ensure_ascii=False) + "\r\n")
    assert (job.caption, job.fault, job.metadata["note"]) == ("a b c d e", None, text)
    for name, comma in (("x.csv", ","), ("x.tsv", "\t")):
        (job,) = jobs_of(name, f"video{comma}caption{comma}note\r\na.mp4{comma}{text}{comma}{text}\r\n")
        assert (job.caption, job.fault, job.metadata["note"]) == ("a b c d e", None, text)


def test_captions_of_several_lines_and_large_values(jobs_of):
    content = f'video,caption,note\na.mp4,"A man,\nhe walks, slowly,\n""home""",x\n\nb.mp4,b,{"y" * 500_000}\n'
    before = csv.field_size_limit()
    jobs = jobs_of("x.csv", content + f"c.mp4,c,{'y' * 1_500_000}\nd.mp4,d\n")
    assert captions(jobs) == ['A man, he walks, slowly, "home"', "b", "d"]
    assert len(jobs[1].metadata["note"]) == 500_000
    assert faults(jobs) == ["x.csv line 7 is not valid CSV (field larger than field limit (1048576))"]
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("closing", ["", '"quoted"', 'stray quote at its end"'])
def test_a_quote_that_is_not_closed_costs_its_row_only(jobs_of, closing):
    content = 'video,caption\na.mp4,"one\nin lines"\nb.mp4,"two\nc.mp4,three\nd.mp4,four\n'
    jobs = jobs_of("x.csv", content + (f"e.mp4,{closing}\n" if closing else ""))
    assert captions(jobs)[:3] == ["one in lines", "three", "four"]
    assert faults(jobs)[0].startswith("x.csv line 4 opens a quote that is not closed")
    assert len(faults(jobs)) == 1


def test_the_line_of_the_quote_is_told_where_a_closed_one_comes_before(jobs_of):
    jobs = jobs_of("x.csv", 'video,note,caption\na.mp4,"one\ntwo","three\nb.mp4,x,four\n')
    assert faults(jobs)[0].startswith("x.csv line 3 opens a quote")
    assert captions(jobs) == ["four"]


def test_many_open_quotes_take_no_ages(jobs_of):
    jobs = jobs_of("x.csv", "video,caption\n" + '"a.mp4,""b\n' * 2000 + "b.mp4,a cup\n")
    assert (captions(jobs), len(faults(jobs))) == (["a cup"], 2000)


def test_rows_too_long_and_too_short(jobs_of):
    jobs = jobs_of("x.csv", "video,caption,n\na.mp4,a cup\nb.mp4,x,1,2\nc.mp4\n")
    assert captions(jobs) == ["a cup"]
    assert faults(jobs) == [
        "x.csv line 3 has more values than the header has names",
        "x.csv line 4: no caption",
    ]


def test_a_broken_header_is_an_error(jobs_of):
    with pytest.raises(MotionRAGError, match="its header, line 1, cannot be read"):
        jobs_of("x.csv", 'video,"caption\na.mp4,x\n')


# -- values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "", "-2.5"], [1, None, -2.5]),
        (["1e-05", "2E3", "0"], [1e-05, 2000.0, 0]),
        (["007", "12"], ["007", "12"]),
        (["1e5", "3a7"], ["1e5", "3a7"]),
        (["1", "2", "x"], ["1", "2", "x"]),
        (["1_000", "2"], ["1_000", "2"]),
        (["9007199254740993", "1"], ["9007199254740993", "1"]),
        (["1" * 5000, "1"], ["1" * 5000, "1"]),
        (["1e999", "1"], ["1e999", "1"]),
        (["\u0663", "1"], ["\u0663", "1"]),
        (["nan", "1"], ["nan", "1"]),
        (["true", "false"], ["true", "false"]),
        (["", " "], [None, None]),
    ],
)
def test_csv_columns_are_numbers_or_text_as_a_whole(jobs_of, values, expected):
    rows = [f"a{i}.mp4,{i},{value}" for i, value in enumerate(values)]
    jobs = jobs_of("x.csv", "video,caption,n\n" + "\n".join(rows))
    assert [job.metadata["n"] for job in jobs] == expected
    kind = column_types(jobs).get("n")
    texts = any(isinstance(value, str) for value in expected)
    assert kind == (pa.string() if texts else pa.float64() if any(v is not None for v in expected) else None)
    if kind is not None:
        pa.array([as_type(job.metadata["n"], kind) for job in jobs], kind)


def test_captions_and_videos_of_digits_stay_as_written(jobs_of, tmp_path):
    (job,) = jobs_of("x.csv", "video,caption\n1.50,2.00\n")
    assert (job.video, job.caption) == (str(tmp_path / "1.50"), "2.00")


def test_parquet_values_become_plain(parquet):
    utc = datetime.timezone.utc
    when = datetime.datetime(2024, 1, 2, 3, 4, 5)
    jobs = parquet(
        stamp=pa.array([1704164645000000001, None, 0], pa.timestamp("ns")),
        zoned=pa.array([when.replace(tzinfo=utc), None, None], pa.timestamp("us", "UTC")),
        beyond=pa.array([10**13, 0, 0], pa.timestamp("s")),
        day=[when.date(), None, None],
        clock=pa.array([when.time(), None, None], pa.time64("ns")),
        price=[Decimal("1.25"), None, None],
        data=[b"text", b"\xff\x00", b"\0"],
        length=pa.array([1_500_000_001, None, 0], pa.duration("ns")),
        tags=[["a\u00e9", "b"], [], None],
        inner=[{"n": float("nan"), "when": when, "raw": b"x"}, None, None],
        half=pa.array([0.5, None, 1.0], pa.float32()).cast(pa.float16()),
        score=[1.0, float("nan"), float("inf")],
        broken=pa.StringArray.from_buffers(3, *pa.array([b"\xe9", b"a", b"b"]).buffers()[1:]),
    )
    first = jobs[0].metadata
    assert first["stamp"] == "2024-01-02T03:04:05"
    assert first["zoned"] == "2024-01-02T03:04:05+00:00"
    assert isinstance(first["beyond"], str)
    assert (first["day"], first["clock"]) == ("2024-01-02", "03:04:05")
    assert (first["price"], first["length"], first["half"]) == (1.25, 1.5, 0.5)
    assert [job.metadata["data"] for job in jobs] == ["text", "ff00", "00"]
    assert [job.metadata["tags"] for job in jobs] == ['["a\u00e9", "b"]', "[]", None]
    assert json.loads(first["inner"]) == {"n": None, "when": "2024-01-02T03:04:05", "raw": "x"}
    assert [job.metadata["score"] for job in jobs] == [1.0, None, None]
    assert first["broken"] == "\\xe9"
    assert storable(jobs)
    assert faults(jobs) == []


def test_parquet_times_that_are_missing(parquet):
    jobs = parquet(start=[1.0, float("nan"), None], end=pa.array([2_000_000, None, 5], pa.duration("us")))
    assert [(job.start_s, job.end_s) for job in jobs] == [(1.0, 2.0), (None, None), (None, 5e-06)]
    assert [job.span for job in jobs][:2] == ["1.000-2.000", "whole"]
    assert faults(jobs) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [("NaN", None), ("NaT", None), ("None", None), ("", None), ("1:02:03.5", 3723.5), ("01:30", 90), (" 2 ", 2)],
)
def test_times(jobs_of, text, expected):
    (job,) = jobs_of("x.csv", f"video,caption,start\na.mp4,a,{text}\n")
    assert (job.start_s, job.fault) == (expected, None)


@pytest.mark.parametrize("text", ["soon", "-1", "inf"])
def test_what_is_no_time_is_a_fault(jobs_of, text):
    (job,) = jobs_of("x.csv", f"video,caption,start,end\na.mp4,a,1,{text}\n")
    assert (job.start_s, job.end_s) == (None, None)
    assert f"{text!r} is no time in seconds" in job.fault


def test_parquet_captions_in_lists_and_objects(parquet):
    jobs = parquet(caption=[["", " ", "a cup", "b"], [], None])
    assert captions(jobs) == ["a cup"]
    assert faults(jobs) == ["x.parquet row 2: no caption", "x.parquet row 3: no caption"]
    assert "holds an object, not text" in parquet(caption=[{"en": "a cup"}])[0].fault


def test_a_parquet_file_cut_short_is_an_error(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"video": ["a.mp4"] * 1000, "caption": [str(i) for i in range(1000)]}), path)
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(len(content) // 2) + content[4 + len(content) // 2 :])
    with pytest.raises(MotionRAGError, match="no readable Parquet"):
        read_jobs(path)
