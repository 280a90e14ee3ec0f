"""Many clips in one run of the verb `generate`: models loaded once, clips that are there left alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.cli.generate import load, note
from motionrag.cli.progress import EVERY_S
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.pipeline.jobs import Piece


@dataclass
class _Count:
    total: int
    made: int = 0
    there: int = 0
    failed: int = 0

    @property
    def done(self) -> int:
        return self.made + self.there + self.failed

    def state(self, seconds: float) -> str:
        """Rate and time left, once there is one."""
        if not self.made:
            return f"{self.there} there already"
        each = seconds / self.made
        return f"{60 / each:.3g} clips a minute, {(self.total - self.done) * each:.0f} s left"


def run_jobs(arguments: argparse.Namespace, defaults: Mapping[str, Any]) -> None:
    """Make the clips of a file; what fails is told with its line, and the rest goes on.

    Raises:
        MotionRAGError: If nothing can be made, or, at the end, if a line failed.
    """
    from motionrag.pipeline.jobs import make, read_list

    folder = _folder(arguments.out)
    pieces, bad = read_list(arguments.jobs, folder, defaults)
    for line, reason in bad.items():
        _complain(arguments.jobs, line, reason)
    count, failed = _Count(total=len(pieces)), set(bad)
    rag = load(arguments) if pieces else None
    folder.mkdir(parents=True, exist_ok=True)
    with _progress(count) as (advance, report):
        for piece in pieces:
            assert rag is not None
            try:
                if make(rag, piece, report):
                    count.made += 1
                    print(piece.out, flush=True)
                else:
                    count.there += 1
            except (MotionRAGError, OSError) as error:
                count.failed += 1
                failed.add(piece.line)
                _complain(arguments.jobs, piece.line, _named(piece, str(error)))
            advance()
    note(f"{count.made} clips made, {count.there} were there already, {count.failed + len(bad)} failed")
    if failed:
        lines = ", ".join(map(str, sorted(failed)[:10])) + (" ..." if len(failed) > 10 else "")
        raise MotionRAGError(f"{arguments.jobs}: {len(failed)} lines failed ({lines}); mend them and run this again")


def _folder(out: Path) -> Path:
    if out.exists() and not out.is_dir():
        raise MotionRAGError(f"{out}: is a file; with --jobs, --out is the folder of all clips")
    return out


def _named(piece: Piece, reason: str) -> str:
    return reason if len(piece.job.seeds) == 1 else f"seed {piece.seed}: {reason}"


def _complain(path: Path, line: int, reason: str) -> None:
    note(f"{path}:{line}: {' '.join(reason.split())}")


@contextmanager
def _progress(count: _Count) -> Iterator[tuple[Callable[[], None], Callable[[int, int], None] | None]]:
    """What to call after each clip and each denoising step: bars on a terminal, lines now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    began = last = time.monotonic()
    if not console.is_terminal:

        def line() -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= EVERY_S:
                last = now
                note(f"{count.done}/{count.total} clips, {count.state(now - began)}")

        yield line, None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        clips = bar.add_task("clips", total=count.total, state="")
        steps = bar.add_task("denoising", total=None, state="")

        def draw() -> None:
            bar.update(clips, completed=count.done, state=count.state(time.monotonic() - began))

        yield draw, lambda done, total: bar.update(steps, completed=done, total=total)
