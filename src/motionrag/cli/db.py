"""Look into a motion database and keep it in order."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.cli.loading import add_device_option
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.retrieval.sources import Job
    from motionrag.retrieval.store import MotionDatabase
    from motionrag.retrieval.worker import Splitting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        sub.add_argument("--db", required=True, metavar="DB", help="folder or object store URI")
        return sub

    info = action("info", "what is in it, and what it was made with")
    listing = action("list", "its clips, or those that were set aside")
    listing.add_argument("--set-aside", action="store_true", help="the clips that could not be read, with reasons")
    listing.add_argument(
        "--limit", type=int, default=50, metavar="N", help="how many at most (default 50; 0 for all)"
    )
    show = action("show", "all that is known of a clip")
    show.add_argument("clip", metavar="CLIP", help="id, its first digits, or path of the video or the end of it")
    remove = action("remove", "delete clips; their videos stay")
    remove.add_argument("clips", nargs="*", metavar="CLIP", help="ids or paths of videos")
    retry = action("retry", "try again what was set aside")
    retry.add_argument("--forget", action="store_true", help="empty that list instead")
    retry.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="decoding processes")
    add_device_option(retry)
    action("compact", "merge small files, drop old versions, build the indices its size warrants")
    verify = action("verify", "read every row and check it; exit code 1 if anything is wrong")
    export = action("export", "write one file that `motionrag ingest` reads back without the videos")
    export.add_argument("file", type=Path, metavar="FILE", help="a .parquet file")
    for sub in (listing, remove):
        sub.add_argument(
            "--where", metavar="CONDITION", help="SQL on any column, such as \"lab = 'x' AND end_s < 5\""
        )
    for sub in (info, listing, show, retry, verify):
        sub.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    """Carry out one action."""
    from motionrag.retrieval.store import MotionDatabase

    {
        "info": _info,
        "list": _list,
        "show": _show,
        "remove": _remove,
        "retry": _retry,
        "compact": _compact,
        "verify": _verify,
        "export": _export,
    }[arguments.action](MotionDatabase.open(arguments.db), arguments)


def _info(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    from motionrag.retrieval.portable import describe

    facts = describe(database)
    if arguments.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            for inner, what in value.items():
                shown = (
                    ", ".join(f"{k} {v}" for k, v in what.items() if v is not None)
                    if isinstance(what, dict)
                    else what
                )
                print(f"{f'{name}: {inner}':<32}{'none' if what is None else shown}")
        else:
            print(f"{name:<32}{', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}")


def _facts(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)


def _list(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    if arguments.limit < 0:
        raise MotionRAGError(f"--limit {arguments.limit} must be 0 or more")
    if arguments.set_aside:
        if arguments.where:
            raise MotionRAGError("--where filters clips, not those set aside")
        columns, rows = ["video", "span", "reason"], database.failures()
    else:
        columns = ["id", "video", "start_s", "end_s", "duplicate_of", *database.source_columns]
        rows = database.rows(columns, arguments.where, arguments.limit + 1 if arguments.limit else None)
    cut = arguments.limit and len(rows) > arguments.limit
    rows = rows[: arguments.limit] if cut else rows
    if arguments.json:
        print(json.dumps([{name: row[name] for name in columns} for row in rows]))
        return
    for row in rows:
        if arguments.set_aside:
            part = "" if row["span"] == "whole" else f" [{row['span']} s]"
            print(f"{row['video']}{part}: {row['reason']}")
        else:
            mark = f"  (near-duplicate of {row['duplicate_of'][:12]})" if row["duplicate_of"] else ""
            seconds = f"{row['start_s']:8.2f}-{row['end_s']:.2f} s"
            print(f"{row['id'][:12]}  {seconds}  {row['caption']}  {row['video']}{mark}")
    if cut:
        print("... more; --limit 0 prints all", file=sys.stderr)


def _show(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    rows = database.find(arguments.clip)
    if not rows:
        raise MotionRAGError(f"{arguments.clip}: no clip of {database.uri} has this id or path")
    shapes = {name: list(shape) for name, shape in database.settings.arrays().items()}
    if arguments.json:
        print(json.dumps([{**row, "arrays": shapes} for row in rows]))
        return
    for row in rows:
        for name, value in row.items():
            if value is not None and name != "bands":
                print(f"{name:<20}{value}")
        print(f"{'keeps':<20}{', '.join(f'{name} {shape}' for name, shape in shapes.items())}\n")


def _remove(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    if bool(arguments.clips) == bool(arguments.where):
        raise MotionRAGError("name either clips or --where CONDITION")
    if arguments.where:
        gone = database.remove(arguments.where)
    else:
        found = {name: database.find(name) for name in arguments.clips}
        for name, rows in found.items():
            if not rows:
                raise MotionRAGError(f"{name}: no clip of {database.uri} has this id or path; nothing was removed")
            if len({row["video"] for row in rows}) > 1:
                videos = ", ".join(sorted({row["video"] for row in rows})[:5])
                raise MotionRAGError(
                    f"{name}: may be any of {videos}; give a whole path or an id; nothing was removed"
                )
        gone = database.remove_ids([row["id"] for rows in found.values() for row in rows])
    print(f"{database.uri}: {gone} clips removed, {database.count()} left")


def _retry(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    from motionrag.cli.ingest import tell
    from motionrag.cli.loading import chosen_encoders
    from motionrag.cli.progress import ingest_progress
    from motionrag.retrieval.failures import retrial
    from motionrag.retrieval.ingest import ingest

    failures = database.failures()
    if not failures:
        print(f"{database.uri}: nothing is set aside")
        return
    if arguments.forget:
        database.release([row["id"] for row in failures])
        print(f"{database.uri}: {len(failures)} taken off the list")
        return
    again: dict[Splitting | None, list[Job]] = {}
    for row in failures:
        job, splitting = retrial(row["job"])
        again.setdefault(splitting, []).append(job)
    none: dict[str, Any] = dict.fromkeys(("text", "motion", "appearance", "bundle"), None)
    made = argparse.Namespace(**none, features=False, device=arguments.device)
    encoders = chosen_encoders(made, database.settings)
    database.check(encoders.settings)
    for splitting, jobs in again.items():
        options: dict[str, Any] = {"splitting": splitting, "workers": arguments.workers, "retry": True}
        with ingest_progress() as progress:
            report = ingest(jobs, database, encoders, progress=progress, **options)
        tell(report, database, as_json=arguments.json)


def _compact(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    database.compact()
    print(f"{database.uri}: {database.count()} clips; indices: {', '.join(database.indices()) or 'none needed'}")


def _verify(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    from motionrag.retrieval.verify import verify

    problems = verify(database)
    if arguments.json:
        print(json.dumps({"clips": database.count(), "problems": problems}))
    else:
        for problem in problems[:100]:
            print(problem)
        print(f"{database.uri}: {database.count()} clips, {len(problems) or 'no'} problems")
    if problems:
        raise MotionRAGError(f"{database.uri}: {len(problems)} problems; ingest the clips named above again")


def _export(database: MotionDatabase, arguments: argparse.Namespace) -> None:
    from motionrag.retrieval.portable import export

    clips = export(database, arguments.file)
    print(f"{arguments.file}: {clips} clips, {arguments.file.stat().st_size / 1e6:.1f} MB")
