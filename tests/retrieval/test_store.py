"""The store: settings that must agree, exports that travel, damage that is noticed, an object store."""

import json
import os
import re
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motionrag.errors import MotionRAGError
from motionrag.retrieval import lance
from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.portable import describe, export, jobs_of, open_shelf, take_over
from motionrag.retrieval.schema import DatabaseSettings, array_of
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder
from motionrag.retrieval.verify import verify
from motionrag.video import read_clip, write_video
from tests.retrieval.corpus import CAPTIONS


class OtherText:
    """A text encoder with another fingerprint."""

    def __init__(self, text):
        self.text = text
        self.info = replace(text.info, fingerprint="f" * 64, model="other")

    def encode(self, texts):
        return self.text.encode(texts)[:, ::-1]

    encode_prompts = encode


def contents(database):
    """Everything in a database, by id."""
    found = {}
    for part in database.scan():
        light = part.select(database.light_columns).to_pylist()
        arrays = {name: array_of(part, name, (-1,)) for name in part.column_names if name not in light[0]}
        for i, row in enumerate(light):
            found[row["id"]] = (row, {name: values[i].tobytes() for name, values in arrays.items()})
    return found


def test_settings_survive_the_disk(full, encoders):
    assert MotionDatabase.open(full.uri).settings == encoders.settings
    assert full.settings.arrays()["motion_tokens"] == (4, 16)
    facts = json.loads(json.dumps(describe(full)))
    assert facts["clips"] == 12
    assert facts["tokens"]["motion_tokens"] == {
        "bundle": encoders.settings.motion_tokens.bundle,
        "queries": 4,
        "width": 16,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"motion": None, "motion_tokens": None}, "motion: .*videomae.* against none"),
        ({"features": True}, "features: kept in one"),
        ({"caption_method": "0" * 64}, "another version of the caption encoder"),
    ],
)
def test_other_settings_are_refused_by_name(full, change, message):
    with pytest.raises(MotionRAGError, match=message) as error:
        MotionDatabase.create(full.uri, replace(full.settings, **change))
    assert "motionrag ingest" in str(error.value)


def test_tokens_without_their_encoder_are_refused(full):
    with pytest.raises(MotionRAGError, match="motion_tokens are made of motion features"):
        replace(full.settings, motion=None)


def test_another_schema_version_says_what_to_do(tmp_path, captions_only):
    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    newer = {**asdict(database.settings), "schema_version": 99}
    with pytest.raises(MotionRAGError, match="schema version 99, this motionrag reads 1; install a newer motionrag"):
        DatabaseSettings.from_metadata({b"motionrag": json.dumps(newer).encode()}, "db")
    with pytest.raises(MotionRAGError, match="ingest its videos again"):
        DatabaseSettings.from_metadata({b"motionrag": json.dumps({**newer, "schema_version": 0}).encode()}, "db")
    with pytest.raises(MotionRAGError, match="not written by motionrag"):
        DatabaseSettings.from_metadata({}, "db")


def test_folders_that_are_no_database(tmp_path):
    with pytest.raises(MotionRAGError, match="no such database; make one with"):
        MotionDatabase.open(tmp_path / "nothing")
    with pytest.raises(MotionRAGError, match="is no motion database"):
        MotionDatabase.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(MotionRAGError, match="no such database"):
        MotionDatabase.open(tmp_path / "file")


def test_creating_over_a_file_is_refused(tmp_path, captions_only):
    (tmp_path / "file").write_text("x")
    with pytest.raises(MotionRAGError, match="is a file; --db wants a folder"):
        MotionDatabase.create(tmp_path / "file", captions_only.settings)


def test_export_and_back_without_the_videos(full, encoders, tmp_path):
    path = tmp_path / "all.parquet"
    assert export(full, path) == 12
    assert not list(tmp_path.glob(".*"))
    shelf = open_shelf(str(path))
    database = MotionDatabase.create(tmp_path / "db", shelf.settings)
    report = take_over(shelf, database, encoders.caption)
    assert (report.added, report.total, report.done) == (12, 12, 12)
    assert contents(database) == contents(full)
    assert verify(database) == []
    assert take_over(shelf, database, encoders.caption).unchanged == 12


def test_a_database_is_a_source_and_captions_are_encoded_anew(full, caption, tmp_path):
    other = CaptionEncoder(OtherText(caption.motion))
    settings = replace(full.settings, text=other.info, text_width=other.width)
    database = MotionDatabase.create(tmp_path / "db", settings)
    take_over(open_shelf(full.uri), database, other)
    part = next(database.scan(["caption", "text_vector"]))
    vectors = array_of(part, "text_vector", (other.width,))
    np.testing.assert_allclose(vectors, other.encode(part.column("caption").to_pylist()), atol=1e-3)
    assert {row["id"] for row in database.rows(["id"])} == set(contents(full))


def test_tokens_of_another_bundle_are_not_taken_over(full, captions_only, tmp_path):
    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    with pytest.raises(MotionRAGError, match=r"its clips do not fit .* \(motion: none against"):
        take_over(open_shelf(full.uri), database, captions_only.caption)


def test_a_database_can_be_encoded_anew_from_its_videos(full, captions_only, tmp_path):
    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    report = ingest(jobs_of(open_shelf(full.uri)), database, captions_only)
    assert report.added == 12
    assert database.count("lab = 'lab1'") == full.count("lab = 'lab1'") == 4


def test_exports_that_are_damaged(full, tmp_path):
    path = tmp_path / "all.parquet"
    export(full, path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path.write_bytes(data)
    shelf = open_shelf(str(path))
    with pytest.raises(MotionRAGError, match="damaged or cut short"):
        list(shelf.batches())
    with pytest.raises(MotionRAGError, match="give it the suffix"):
        export(full, tmp_path / "all.zip")
    with pytest.raises(MotionRAGError, match="cannot be written"):
        export(full, tmp_path / "missing" / "all.parquet")


def damaged(corpus, bring, encoders, change):
    """A database of which one column was written wrongly."""
    database, _ = bring(corpus, encoders)
    part = pa.concat_tables(database.scan())
    table = change(part)
    database._clips.delete("true")
    database._clips.add(table)
    return database


def replaced(name, edit):
    def change(table):
        values = table.column(name).to_pylist()
        edit(values)
        index = table.schema.get_field_index(name)
        return table.set_column(index, table.schema.field(name), pa.array(values, table.schema.field(name).type))

    return change


def zero(values):
    values[3] = [0.0] * len(values[3])


def infinite(values):
    values[3] = [float("inf")] * len(values[3])


def scaled(values):
    values[3] = [2 * value for value in values[3]]


def first(value):
    return lambda values: values.__setitem__(0, value)


@pytest.mark.parametrize(
    ("column", "edit", "message"),
    [
        ("motion_tokens", zero, "its motion_tokens is not a motion_tokens"),
        ("appearance_tokens", infinite, "its appearance_tokens is not"),
        ("text_vector", scaled, "its text_vector is not a text_vector \\(length 2\\)"),
        ("caption", first(" "), "has no caption"),
        ("end_s", first(0.0), "hold nothing"),
        ("content_hash", first("0" * 64), "its id does not fit its content"),
        ("id", lambda values: values.__setitem__(0, values[1]), "is there twice"),
        ("duplicate_of", first("0" * 32), "which is not there"),
    ],
)
def test_verify_notices_every_damage(corpus, bring, encoders, column, edit, message):
    database = damaged(corpus, bring, encoders, replaced(column, edit))
    problems = verify(database)
    assert problems
    assert any(re.search(message, problem) for problem in problems), problems


def test_verify_notices_missing_files_and_columns(corpus, bring, captions_only):
    database, _ = bring(corpus, captions_only)
    database._clips.drop_columns(["bands"])
    assert verify(database) == ["column bands is missing"]
    database, _ = bring(corpus, captions_only, db=corpus / "db2")
    for file in (corpus / "db2/clips.lance/data").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MotionRAGError, match="a file of it is missing or damaged"):
        verify(MotionDatabase.open(corpus / "db2"))


def test_indices_are_built_when_the_size_warrants(corpus, bring, captions_only, monkeypatch):
    """The thresholds are lowered to this size; what is built and that it answers as before is what counts."""
    database, _ = bring(corpus, captions_only)
    assert database.indices() == ["caption"]  # its words
    retriever = Retriever(database, captions_only.caption)
    query = retriever.query("open the box")
    before = [reference.record.id for reference in retriever.search(query, floor=-1)]
    monkeypatch.setattr(lance, "SCALAR_INDEX_FROM", 12)
    database.compact()
    assert {"id", "video", "bands", "lab"} <= set(database.indices())
    assert [reference.record.id for reference in retriever.search(query, floor=-1)] == before
    assert database.count("lab = 'lab1'") == 4
    assert bring(corpus, captions_only)[1].fresh == 0


def test_near_duplicates_are_found_through_the_index_too(corpus, bring, captions_only, monkeypatch, tmp_path):
    monkeypatch.setattr(lance, "SCALAR_INDEX_FROM", 12)
    bring(corpus, captions_only)
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / "again.mkv", read_clip(corpus / "videos/clip_000.mp4", frames=12).frames, 12)
    (other / "again.txt").write_text("The same once more")
    assert bring(other, captions_only)[1].duplicates == 1


@pytest.fixture(scope="module")
def object_store():
    """An S3-compatible server on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    environment = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "no_proxy": "127.0.0.1,localhost",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    import boto3

    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="clips")
    yield "s3://clips"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def test_an_object_store_does_all_a_folder_does(object_store, corpus, encoders, tmp_path):
    uri = f"{object_store}/db"
    with pytest.raises(MotionRAGError, match="is no motion database"):
        MotionDatabase.open(uri)
    database = MotionDatabase.create(uri, encoders.settings)
    assert ingest(read_jobs(corpus), database, encoders).added == 12
    assert ingest(read_jobs(corpus), MotionDatabase.open(uri), encoders).fresh == 0
    assert verify(database) == []
    retriever = Retriever(database, encoders.caption)
    found = retriever.search(retriever.query("open the box"), 2, tokens=True)
    assert {reference.record.caption for reference in found} == {CAPTIONS[0], CAPTIONS[2]}
    assert found[0].motion_tokens.shape == (4, 16)
    assert database.remove("lab = 'lab1'") == 4
    assert export(database, tmp_path / "x.parquet") == 8
    assert MotionDatabase.settings_of(f"{object_store}/nothing") is None


def test_an_object_store_that_does_not_answer(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with pytest.raises(MotionRAGError, match="s3://clips/db: cannot be opened"):
        MotionDatabase.open("s3://clips/db")


def test_clip_encoders_refuse_tokens_without_features(encoders):
    with pytest.raises(MotionRAGError, match="name the motion encoder too"):
        ClipEncoders(caption=encoders.caption, tokenizers=encoders.tokenizers)


def test_an_exported_file_is_known_by_its_metadata(full, tmp_path):
    pq.write_table(pa.table({"video": ["a"], "caption": ["b"]}), tmp_path / "plain.parquet")
    assert open_shelf(str(tmp_path / "plain.parquet")) is None
    assert open_shelf(str(tmp_path)) is None
    assert open_shelf(full.uri).rows == 12
