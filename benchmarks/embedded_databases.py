"""Build the databases that come with the package: simulated clips of known motions, and an excerpt of real ones.

Their videos lie in the databases' folders and are named relative to them, so that they can be handed on.

    python benchmarks/embedded_databases.py --real DATA/droid
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from motionrag.cli import main as motionrag
from motionrag.registry import EMBEDDED
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.synth import families
from motionrag.synth.write import CorpusSettings, write_corpus
from motionrag.video import Preparation, read_clip, write_video

ASSETS = Path(__file__).parents[1] / "src" / "motionrag" / "assets"
SEED = 20_000
"""Of the simulated clips; no training and no measurement has it."""


def simulated(folder: Path, each: int) -> None:
    """Captioned clips of all known motions whose captions foretell them."""
    names = [family.name for family in families().values() if family.known and family.predictable]
    write_corpus(folder, CorpusSettings(clips=each * len(names), seed=SEED, families=names))


def excerpt(source: Path, folder: Path, count: int) -> None:
    """Every n-th clip of a captioned folder, small and 16 frames long."""
    jobs = [job for job in read_jobs(source) if job.fault is None]
    prepare = Preparation(frames=16, shortest_edge=64, crop=(64, 64))
    (folder / "clips").mkdir(parents=True)
    rows = []
    for job in jobs[:: max(1, len(jobs) // count)][:count]:
        clip = read_clip(job.video, frames=16, start_s=job.start_s or 0.0, end_s=job.end_s)
        name = f"clips/{Path(job.video).stem}.mp4"
        write_video(folder / name, prepare(clip.frames), 8.0)
        rows.append(json.dumps({"video": name, "caption": job.caption}))
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def build(source: Path, target: Path) -> None:
    """Ingest a folder of clips into a database that holds them, in place of the one there."""
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        made = Path(work) / target.name
        if motionrag(["ingest", str(source), "--db", str(made), "--bundle", EMBEDDED]):
            raise SystemExit(1)
        shutil.copytree(source / "clips", made / "clips")
        database = MotionDatabase.open(made)
        rows = list(database.rows(["id", "video"]))
        videos = [str(Path(row["video"]).relative_to(source.resolve())) for row in rows]
        database.update([row["id"] for row in rows], {"video": videos}, {})
        database.compact(keep=timedelta(0))  # no version but the last
        shutil.rmtree(target, ignore_errors=True)
        made.rename(target)
    print(f"{target}: {len(rows)} clips, {sum(file.stat().st_size for file in target.rglob('*')) / 1e6:.1f} MB")


def main() -> None:
    """Build what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=40, help="clips a known family (default: 40)")
    parser.add_argument("--real", type=Path, help="captioned folder of real clips for the excerpt; none: only synth")
    parser.add_argument("--excerpt", type=int, default=120, help="real clips (default: 120)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        simulated(Path(work) / "known", arguments.each)
        build(Path(work) / "known", ASSETS / "database")
        if arguments.real:
            excerpt(arguments.real, Path(work) / "real", arguments.excerpt)
            build(Path(work) / "real", ASSETS / "excerpt")


if __name__ == "__main__":
    main()
