"""Killed at any moment, run by two at once, out of room: nothing is lost, nothing doubled, nothing half written."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.verify import verify
from tests.retrieval.corpus import make_corpus

# Small batches, so that kills fall between and into writes; a stub of the text model, so that a run is short.
RUN = """
import resource, sys, numpy as np
import motionrag.retrieval.ingest as module
from motionrag.encoders.protocols import EncoderInfo
from motionrag.retrieval.encoding import ClipEncoders
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder
from pathlib import Path

module.COMMIT_CLIPS, module.COMPACT_EVERY = 3, 2

class Text:
    info = EncoderInfo(kind="text", model="letters", dimension=26, fingerprint="0" * 64)
    def encode(self, texts):
        rows = np.array([[text.count(chr(97 + i)) + 0.1 for i in range(26)] for text in texts], np.float32)
        return rows.reshape(-1, 26) / np.linalg.norm(rows.reshape(-1, 26), axis=1, keepdims=True)

encoders = ClipEncoders(caption=CaptionEncoder(motion=Text()))
database = MotionDatabase.create(sys.argv[2], encoders.settings)
print("ready", flush=True)
if len(sys.argv) > 4:  # no file may grow beyond this, as on a disk without room
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
report = module.ingest(read_jobs(Path(sys.argv[1])), database, encoders, workers=int(sys.argv[3]), batch_size=2)
print(report.added, report.unchanged, report.set_aside, flush=True)
"""


def start(corpus, db, workers=1, *room):
    command = [sys.executable, "-c", RUN, str(corpus), str(db), str(workers), *map(str, room)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [int(word) for word in out.split()[-3:]]


def check(db, clips):
    database = MotionDatabase.open(db)
    ids = [row["id"] for row in database.rows(["id"])]
    assert len(ids) == len(set(ids)) == clips
    assert verify(database) == []
    assert database.failures() == []


def kill_often(tmp_path, kills, clips, seed):
    """Kill ingests at random moments until `kills` have hit a running one, then let one finish."""
    corpus, db = make_corpus(tmp_path / "corpus", clips), tmp_path / "db"
    rng = random.Random(seed)
    begun, hit, progress = time.monotonic(), 0, []
    finish(start(corpus, tmp_path / "trial"))
    whole = time.monotonic() - begun
    while hit < kills:
        process = start(corpus, db)
        process.stdout.readline()  # "ready": after it comes what may be half done
        time.sleep(rng.uniform(0, 0.35 * whole))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            hit += 1
        process.communicate()
        database = MotionDatabase.open(db)
        count = database.count()
        assert not progress or count >= progress[-1], "a kill lost clips that had been written"
        progress.append(count)
        if count == clips:  # begin again, so that every kill falls into work
            database.remove("take < 1000")
            progress = []
    added, unchanged, aside = finish(start(corpus, db))
    assert (added + unchanged, aside) == (clips, 0)
    check(db, clips)


def test_kills_lose_and_double_nothing(tmp_path):
    kill_often(tmp_path, kills=6, clips=24, seed=1)


@pytest.mark.slow
def test_a_hundred_kills_lose_and_double_nothing(tmp_path):
    kill_often(tmp_path, kills=100, clips=48, seed=2)


def test_a_kill_while_the_database_is_made(tmp_path):
    corpus, db = make_corpus(tmp_path / "corpus", 3), tmp_path / "db"
    for pause in (0.9, 1.1, 1.3):
        process = start(corpus, db)
        time.sleep(pause)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(corpus, db))
    check(db, 3)


def test_two_at_once_both_succeed(tmp_path):
    corpus, db = make_corpus(tmp_path / "corpus", 24), tmp_path / "db"
    processes = [start(corpus, db), start(corpus, db)]
    reports = [finish(process) for process in processes]
    assert sum(added for added, _, _ in reports) == 24
    assert all(added + unchanged == 24 for added, unchanged, _ in reports)
    check(db, 24)


def test_a_full_disk_is_one_message_and_loses_nothing(tmp_path):
    corpus, db = make_corpus(tmp_path / "corpus", 12), tmp_path / "db"
    process = start(corpus, db, 1, 2048)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "MotionRAGError" in err.splitlines()[-1]
    assert "cannot be written" in err.splitlines()[-1]
    finish(start(corpus, db))
    check(db, 12)


def test_workers_go_when_their_parent_is_killed(tmp_path):
    corpus, db = make_corpus(tmp_path / "corpus", 24), tmp_path / "db"
    process = start(corpus, db, workers=2)
    process.stdout.readline()
    time.sleep(1.0)
    children = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)  # it alone, not its group
    process.communicate()
    deadline = time.monotonic() + 20
    while any(alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(child) for child in children)


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
