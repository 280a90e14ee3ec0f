"""Write simulated clips: captioned, with the true motion of each, always the same for a seed."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionrag.synth.write import Progress

EVERY_S = 10.0  # between lines where there is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder; what is missing is written")
    parser.add_argument("--clips", required=True, type=int, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the corpus (default: 0)")
    parser.add_argument(
        "--families",
        default="known",
        metavar="NAMES",
        help="motion families in turn, with commas: known, unseen or names of families (default: known)",
    )
    parser.add_argument(
        "--size", type=int, default=64, metavar="N", help="side of the frames in pixels (default: 64)"
    )
    parser.add_argument("--frames", type=int, default=16, metavar="N", help="frames a clip (default: 16)")
    parser.add_argument("--fps", type=float, default=8.0, metavar="N", help="frames a second (default: 8)")
    parser.add_argument("--format", default="mp4", metavar="SUFFIX", help="of the videos (default: mp4)")


def run(arguments: argparse.Namespace) -> None:
    """Write what is missing, with progress on standard error."""
    from motionrag.synth.write import CAPTIONS, PICTURE, TRUTH, CorpusSettings, write_corpus

    settings = CorpusSettings(
        clips=arguments.clips,
        seed=arguments.seed,
        families=[name.strip() for name in arguments.families.split(",") if name.strip()],
        size=arguments.size,
        frames=arguments.frames,
        fps=arguments.fps,
        format=arguments.format,
    )
    with _progress() as progress:
        written = write_corpus(arguments.out, settings, progress)
    there = settings.clips - written
    print(f"{arguments.out}: {settings.clips} clips ({written} written, {there} there already)")
    for name, what in ((CAPTIONS, "captions"), (TRUTH, "true motion"), (PICTURE, "the families")):
        print(f"  {what:<12} {arguments.out / name}")


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        last = time.monotonic()

        def line(progress: Progress) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY_S:
                last = time.monotonic()
                print(f"{progress.done}/{progress.total} clips, {_state(progress)}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("synth", total=None, state="")

        def show(progress: Progress) -> None:
            bar.update(task, completed=progress.done, total=progress.total, state=_state(progress))

        yield show


def _state(progress: Progress) -> str:
    rate = progress.fresh / max(progress.elapsed_s, 1e-9)
    return f"{rate:.1f} clips/s, {(progress.total - progress.done) / rate:.0f} s left"
