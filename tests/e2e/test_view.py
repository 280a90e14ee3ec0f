"""A bundle that sees windows and frames of clips: its databases are of the same, and others are refused."""

from argparse import Namespace
from dataclasses import replace

import pytest

from motionrag import MotionRAG
from motionrag.cli import main
from motionrag.cli.search import _query
from motionrag.encoders import load_motion_encoder
from motionrag.models.bundle import MotionBundle
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.types import WHOLE, View
from motionrag.video import read_view
from tests.e2e.conftest import PROMPT

VIEW = View(frames=6, fps=8.0, height=24, width=40)


@pytest.fixture(scope="module")
def bundle(home, tmp_path_factory):
    loaded = MotionBundle.from_pretrained(home / "tiny-bundle")
    loaded.config = replace(loaded.config, view=VIEW)
    folder = tmp_path_factory.mktemp("view") / "bundle"
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def database(home, bundle):
    """Of the other's videos, encoded again as the message says."""
    made = bundle.with_name("db")
    assert main(["ingest", str(home / "tiny-db"), "--db", str(made), "--bundle", str(bundle), "--workers", "1"]) == 0
    return made


def test_a_database_keeps_the_view_of_its_bundle(database, home):
    opened, plain = MotionDatabase.open(database), MotionDatabase.open(home / "tiny-db")
    assert (opened.settings.view, plain.settings.view) == (VIEW, WHOLE)
    assert opened.settings.motion.fingerprint != plain.settings.motion.fingerprint
    row = opened.rows(["id", "video", "start_s"], limit=1)[0]
    encoder = load_motion_encoder(str(home / "videomae"), view=VIEW)
    clip = read_view(row["video"], VIEW, frames=16)
    expected = encoder.pool(encoder.encode(encoder.preparation(clip.frames)[None]))[0]
    table = opened.take(opened.nearest("motion_vector", expected.numpy(), 1), ["id", "motion_vector"])
    assert table.column("id").to_pylist() == [row["id"]]
    assert table.column("motion_vector").to_pylist()[0] == pytest.approx(expected.tolist(), abs=2e-3)


def test_a_clip_as_the_query_is_seen_so_too(database):
    opened = MotionDatabase.open(database)
    row = opened.rows(["video", "motion_vector"], limit=1)[0]
    retriever = Retriever.open(database, motion=True)
    query = _query(retriever, Namespace(clip=row["video"], image=None))
    assert query.motion.tolist() == pytest.approx(row["motion_vector"], abs=2e-3)


def test_a_database_of_another_view_is_refused_with_the_remedy(home, bundle, capsys):
    out = str(bundle.with_name("x.mp4"))
    arguments = ["--db", str(home / "tiny-db"), "--base", str(home / "tiny-base"), "--bundle", str(bundle)]
    assert main(["generate", "--image", str(home / "image.png"), "--prompt", PROMPT, "--out", out, *arguments]) != 0
    said = capsys.readouterr().err
    assert "its clips were seen as whole clips" in said
    assert "takes windows of 6 frames at 8 fps, 40x24" in said
    assert f"motionrag ingest {home / 'tiny-db'} --db NEW --bundle {bundle}" in said


def test_references_of_a_users_own_are_seen_so_too(home, bundle, database):
    rag = MotionRAG.from_pretrained(base=str(home / "tiny-base"), bundle=str(bundle), db=str(database))
    kept = rag.retrieve(PROMPT, 1, floor=-1)[0]
    own = rag.read_references([kept.record.video])[0]
    assert own.motion_tokens == pytest.approx(kept.motion_tokens, abs=2e-2)
    assert own.appearance_tokens == pytest.approx(kept.appearance_tokens, abs=2e-2)
    assert (
        rag.generate([home / "image.png"], [PROMPT], rag.encode_motion([own_frames(own)]), seeds=[0]).shape[0] == 1
    )


def own_frames(reference):
    return read_view(reference.record.video, VIEW, frames=16).frames
