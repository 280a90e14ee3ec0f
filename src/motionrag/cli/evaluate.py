"""Compare systems on the same images, prompts and seeds: tables, plots and clips side by side, as one page."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.cli.loading import add_device_option
from motionrag.errors import MotionRAGError
from motionrag.registry import EMBEDDED

if TYPE_CHECKING:
    from motionrag.evaluation.report import Measured
    from motionrag.evaluation.runner import Progress
    from motionrag.evaluation.suite import Suite
    from motionrag.pipeline import MotionRAG

EVERY_S = 10.0  # between lines where there is no terminal
OUT = Path("runs/evaluate")
QUICK = 8
"""Clips of each suite with --quick: one of each unseen family."""
QUICK_ADDED = 240
"""Clips brought into each of its databases at most: 30 of each unseen family."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("suites", nargs="*", metavar="SUITE", help="names of suites, or YAML files; none lists them")
    parser.add_argument("--out", type=Path, metavar="DIR", help="clips and reports (runs/evaluate)")
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar=("RUN", "RUN"),
        help="make nothing; say what the second --out has otherwise than the first, by suite, system and metric "
        "(comparison.html in --out, or in the second)",
    )
    fewer = parser.add_mutually_exclusive_group()
    fewer.add_argument(
        "--quick", action="store_true", help=f"{QUICK} clips of each suite, fewer brought in: no figures"
    )
    fewer.add_argument("--clips", type=int, metavar="N", help="at most that many clips of each suite")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the suites; may be repeated",
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="folder or hub id (default: tiny)")
    parser.add_argument("--base", metavar="BASE", help="name, folder or hub id (default: the bundle's own)")
    parser.add_argument("--db", metavar="DB", help="in place of the suites' own database")
    parser.add_argument(
        "--features",
        action="append",
        default=[],
        metavar="KIND=SOURCE",
        help="where a network is: action, dino, clip, fvd, fid or text-video = hub id, folder, TorchScript file",
    )
    parser.add_argument(
        "--retrieval-caption-column",
        metavar="NAME",
        help="column of the suites' videos that finds references, if another than the captions' (motion_caption)",
    )
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="clips made at once (8)")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run the suites one after the other, and write the report."""
    from motionrag.evaluation.report import write_report
    from motionrag.evaluation.suite import load_suite, packaged_suites
    from motionrag.evaluation.tables import markdown

    command = shlex.join(["motionrag", *arguments.command])
    if arguments.compare:
        _compare(arguments, command)
        return
    if not arguments.suites:
        for name in packaged_suites():
            print(f"{name:<15} {load_suite(name).about}")
        return
    arguments.out = arguments.out or OUT
    suites = {Path(name).stem: _suite(name, arguments) for name in arguments.suites}
    rag = _rag(arguments, suites)
    measured = [_measured(name, suite, rag, arguments) for name, suite in suites.items()]
    for one in measured:
        print(markdown(one))
    print(*write_report(arguments.out, measured, _about(rag), command=command), sep="\n")


def _compare(arguments: argparse.Namespace, command: str) -> None:
    from motionrag.evaluation.comparison import compare
    from motionrag.evaluation.report import write_comparison
    from motionrag.evaluation.tables import markdown

    for option in ("quick", "clips", "set", "bundle", "base", "db", "features", "retrieval_caption_column"):
        if getattr(arguments, option):
            named = option.replace("_", "-")
            raise MotionRAGError(f"--compare reads two finished runs: give --{named} to the runs themselves")
    first, second = arguments.compare
    compared = compare(first, second, arguments.suites)
    for one in compared:
        print(markdown(one))
    print(*write_comparison(arguments.out or second, compared, command=command), sep="\n")


def _suite(name: str, arguments: argparse.Namespace) -> Suite:
    from dataclasses import replace

    from motionrag.evaluation.suite import load_suite

    suite = load_suite(name, arguments.set)
    if arguments.quick:
        suite = suite.smaller(QUICK, QUICK_ADDED)
    elif arguments.clips is not None:
        if arguments.clips < 1:
            raise MotionRAGError(f"--clips {arguments.clips} must be at least 1")
        suite = suite.smaller(arguments.clips)
    if (column := arguments.retrieval_caption_column) is not None:
        if (videos := suite.targets.videos) is None:
            raise MotionRAGError(
                f"--retrieval-caption-column {column}: {name} has simulated clips, no table of videos"
            )
        videos = replace(videos, retrieval_caption_column=column)
        suite = replace(suite, targets=replace(suite.targets, videos=videos))
    if arguments.db is not None:
        if len({recipe.path for recipe in suite.databases.values()}) > 1:
            keys = " ".join(f"--set databases.{key}.path=..." for key in suite.databases)
            raise MotionRAGError(f"--db {arguments.db}: {name} has several databases; name each: {keys}")
        own = {key: replace(recipe, path=arguments.db) for key, recipe in suite.databases.items()}
        suite = replace(suite, databases=own)
    return suite


def _rag(arguments: argparse.Namespace, suites: dict[str, Suite]) -> MotionRAG:
    from motionrag.pipeline import MotionRAG

    paths = [recipe.path for suite in suites.values() for recipe in suite.databases.values()]
    db = next((path for path in paths if path != EMBEDDED), None)
    return MotionRAG.from_pretrained(
        base=arguments.base, bundle=arguments.bundle or EMBEDDED, db=db, device=arguments.device
    )


def _about(rag: MotionRAG) -> dict[str, Any]:
    from motionrag.pipeline.identity import versions

    return {"versions": versions(), "fingerprints": rag.fingerprints}


def _measured(name: str, suite: Suite, rag: MotionRAG, arguments: argparse.Namespace) -> Measured:
    from motionrag.evaluation.figures import figures
    from motionrag.evaluation.metrics import load_metrics
    from motionrag.evaluation.report import Measured
    from motionrag.evaluation.runner import run_suite
    from motionrag.evaluation.samples import by_system
    from motionrag.pipeline.databases import retrievers
    from motionrag.pipeline.systems import Systems

    metrics = load_metrics(suite.metrics, sources=_sources(arguments), device=arguments.device)
    databases = retrievers(suite.databases, rag.retriever, rag.bundle, arguments.out / "databases")
    maker = Systems(rag, databases, suite)
    with _progress(name) as report:
        samples = run_suite(
            name, suite, maker, metrics, arguments.out, about=_about(rag), batch=arguments.batch, report=report
        )
    rows = by_system(samples)
    return Measured(
        name=name,
        suite=suite,
        rows=rows,
        metrics=metrics,
        figures=figures(rows, metrics, suite.baseline),
        asked=maker.asked,
    )


def _sources(arguments: argparse.Namespace) -> dict[str, str]:
    made = {}
    for text in arguments.features:
        kind, sign, source = text.partition("=")
        if not sign or not source:
            raise MotionRAGError(f"--features {text}: write it as KIND=SOURCE, such as fvd=i3d.pt")
        made[kind] = source
    return made


@contextmanager
def _progress(name: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def line(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY_S or progress.done == progress.total:
                last = time.monotonic()
                print(
                    f"{name}: {progress.done}/{progress.total} clips, {_state(progress)}",
                    file=sys.stderr,
                    flush=True,
                )

        yield line
        return
    with Bar(
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), console=console
    ) as bar:
        task = bar.add_task(name, total=None, state="")

        def draw(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, state=_state(progress))

        yield draw


def _state(progress: Progress) -> str:
    rate = progress.done / progress.elapsed_s if progress.elapsed_s else 0.0
    left = (progress.total - progress.done) / rate if rate else 0.0
    return (
        f"{progress.system}, {rate:.1f} clips/s, {left:.0f} s left, {progress.done - progress.fresh} not made anew"
    )
