"""Bring captioned clips into a motion database: each is decoded and encoded once, and never again at a query."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from motionrag.cli.loading import add_device_option, add_encoder_options, chosen_encoders
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.retrieval.ingest import IngestReport, Progress
    from motionrag.retrieval.portable import Shelf
    from motionrag.retrieval.store import MotionDatabase

SOURCES = """a folder with captions.jsonl (or .csv, .tsv, .parquet), or with a .txt beside each video; such a table
itself, with columns `video` and `caption` and perhaps `start` and `end` in seconds (OpenVid-1M's names are known); a
file that `motionrag db export` wrote; another database"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("source", metavar="SOURCE", help=SOURCES)
    parser.add_argument("--db", required=True, metavar="DB", help="folder or object store URI (s3://bucket/db)")
    parser.add_argument(
        "--clip-seconds", type=float, metavar="S", help="split recordings into clips of about S seconds"
    )
    parser.add_argument("--scenes", action="store_true", help="split recordings where the scene changes")
    parser.add_argument("--caption-column", metavar="NAME", help="the table's column of captions")
    parser.add_argument(
        "--retrieval-caption-column",
        metavar="NAME",
        help="the column that search compares with prompts, if another (OpenVid-1M: motion_caption)",
    )
    add_encoder_options(parser)
    add_device_option(parser)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="decoding processes")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="clips an encoder takes at once")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Ingest, with progress on standard error and a report at the end."""
    from motionrag.cli.progress import ingest_progress
    from motionrag.retrieval.portable import open_shelf

    for name in ("workers", "batch_size", "clip_seconds"):
        value = getattr(arguments, name)
        if value is not None and not value > 0:
            raise MotionRAGError(f"--{name.replace('_', '-')} {value:g} must be more than 0")
    if "://" not in arguments.source and not Path(arguments.source).exists():
        raise MotionRAGError(f"{arguments.source}: no such file or folder")
    shelf = open_shelf(arguments.source)
    for name in ("caption_column", "retrieval_caption_column"):
        if shelf is not None and getattr(arguments, name) is not None:
            raise MotionRAGError(
                f"--{name.replace('_', '-')}: {arguments.source} is a database, which has its captions already; "
                "name the table of its videos instead"
            )
    if shelf is not None and _same_place(arguments.source, arguments.db):
        raise MotionRAGError(f"{arguments.db}: is the source itself; --db wants another database")
    with ingest_progress() as progress:
        if shelf is not None:
            database, report = _from_shelf(arguments, shelf, progress)
        else:
            database, report = _from_videos(arguments, progress)
    tell(report, database, as_json=arguments.json)


def _same_place(source: str, db: str) -> bool:
    return source == db or (Path(source).exists() and Path(db).exists() and Path(source).samefile(db))


def _from_videos(arguments: argparse.Namespace, progress: Progress) -> tuple[MotionDatabase, IngestReport]:
    from motionrag.retrieval.ingest import ingest
    from motionrag.retrieval.sources import read_jobs
    from motionrag.retrieval.store import MotionDatabase
    from motionrag.retrieval.worker import Splitting

    jobs = read_jobs(
        Path(arguments.source),
        caption_column=arguments.caption_column,
        retrieval_caption_column=arguments.retrieval_caption_column,
    )
    made = MotionDatabase.settings_of(arguments.db)
    encoders = chosen_encoders(arguments, made)
    database = MotionDatabase.create(arguments.db, encoders.settings)
    split = arguments.scenes or arguments.clip_seconds is not None
    report = ingest(
        jobs,
        database,
        encoders,
        splitting=Splitting(seconds=arguments.clip_seconds, scenes=arguments.scenes) if split else None,
        workers=arguments.workers,
        batch_size=arguments.batch_size,
        progress=progress,
    )
    return database, report


def _from_shelf(
    arguments: argparse.Namespace, shelf: Shelf, progress: Progress
) -> tuple[MotionDatabase, IngestReport]:
    """Take rows over where the encoders are the same, else encode their videos anew."""
    from dataclasses import replace

    from motionrag.retrieval.ingest import ingest
    from motionrag.retrieval.portable import jobs_of, take_over
    from motionrag.retrieval.store import MotionDatabase
    from motionrag.retrieval.vectors import method_fingerprint

    made = MotionDatabase.settings_of(arguments.db)
    anew = any(getattr(arguments, name) for name in ("motion", "appearance", "bundle", "features"))
    if not anew and (made is None or made.same_video(shelf.settings)):
        from motionrag.cli.loading import caption_encoder

        text = (made or shelf.settings).text
        caption = caption_encoder(
            arguments.text or text.model, None if arguments.text else text.revision, arguments.device
        )
        settings = replace(
            shelf.settings,
            text=caption.info,
            caption_method=method_fingerprint(),
            text_width=caption.width,
        )
        database = MotionDatabase.create(arguments.db, settings)
        return database, take_over(shelf, database, caption, progress)
    encoders = chosen_encoders(arguments, made or shelf.settings)
    database = MotionDatabase.create(arguments.db, encoders.settings)
    if encoders.settings.same_video(shelf.settings):  # the same models, from another place
        return database, take_over(shelf, database, encoders.caption, progress)
    report = ingest(
        jobs_of(shelf),
        database,
        encoders,
        workers=arguments.workers,
        batch_size=arguments.batch_size,
        progress=progress,
    )
    return database, report


def tell(report: IngestReport, database: MotionDatabase, *, as_json: bool) -> None:
    """Print what was done and what to do next."""
    clips = database.count()
    if as_json:
        print(json.dumps({"database": database.uri, "clips": clips, **asdict(report)}))
        return
    print(f"{database.uri}: {clips} clips")
    for name, what in (
        ("added", "added"),
        ("unchanged", "there already"),
        ("updated", "there already, with a caption, column or path that has changed"),
        ("replaced", "gone, as another video lies at their path now"),
        ("repeated", "named a second time by the source; the first row counts"),
        ("duplicates", "of those added are near-duplicates of another clip"),
        ("set_aside", f"set aside: see why with `motionrag db list --set-aside --db {database.uri}`"),
    ):
        if getattr(report, name):
            print(f"  {getattr(report, name):>7}  {what}")
    if report.decoded:
        print(
            f"  {report.decoded / report.elapsed_s:.1f} clips/s in {report.elapsed_s:.1f} s "
            f"(decode {report.decode_s:.1f} s of its processes, encode {report.encode_s:.1f} s, "
            f"write {report.write_s:.1f} s)",
            file=sys.stderr,
        )
