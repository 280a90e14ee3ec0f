"""Progress on standard error: a bar with rate and time left on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionrag.retrieval.ingest import IngestReport, Progress

EVERY_S = 10.0  # between lines where there is no terminal


@contextmanager
def ingest_progress() -> Iterator[Progress]:
    """A callback for `ingest` that draws how far it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    last = time.monotonic()
    if not console.is_terminal:

        def line(report: IngestReport) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY_S:
                last = time.monotonic()
                print(f"{report.done}/{report.total} rows, {_state(report)}", file=sys.stderr, flush=True)

        yield line
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("ingest", total=None, state="")

        def draw(report: IngestReport) -> None:
            bar.update(task, completed=report.done, total=report.total, state=_state(report))

        yield draw


def _state(report: IngestReport) -> str:
    rate = report.decoded / report.elapsed_s if report.elapsed_s else 0.0
    left = (report.total - report.done) * report.elapsed_s / report.fresh if report.fresh else 0.0
    aside = f", {report.set_aside} set aside" if report.set_aside else ""
    return f"{rate:.1f} clips/s, {left:.0f} s left{aside}"
