"""Train one part by a recipe, or go on with a training that was stopped: the same command does both."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionrag.training.loop import Progress

EVERY_S = 30.0  # between lines where there is no terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a packaged recipe")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="RUN", help="folder of the run; resumed if begun")
    what.add_argument(
        "--estimate", action="store_true", help="say how much memory a stage on a base of full size takes, and end"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a setting of the recipe, say train.steps=2000; may be repeated",
    )
    parser.add_argument(
        "--retrieval-caption-column",
        metavar="NAME",
        help="column of the recipe's videos that finds references, if another than the captions' (motion_caption)",
    )
    parser.add_argument("--device", help="where to train, cpu, cuda, cuda:1, mps (default: the best there is)")


def run(arguments: argparse.Namespace) -> None:
    """Train, and say where the results are; or say how much memory it would take."""
    if arguments.retrieval_caption_column is not None:
        arguments.set.append(f"data.retrieval_caption_column={json.dumps(arguments.retrieval_caption_column)}")
    if arguments.estimate:
        _estimate(arguments.recipe, arguments.set)
        return
    from accelerate import PartialState

    from motionrag.encoders.source import checked_device
    from motionrag.training.loop import check_resumable, train
    from motionrag.training.recipe import load_recipe

    cls, task_settings, settings = load_recipe(arguments.recipe, arguments.set)
    check_resumable(arguments.out, cls, settings, task_settings)
    device = checked_device(arguments.device) if arguments.device else PartialState().device
    prepares = "report" in inspect.signature(cls).parameters
    task = cls(task_settings, device=device, **({"report": _preparation()} if prepares else {}))
    with _progress() as report:
        final = train(task, settings, arguments.out, report=report, task_settings=task_settings)
    if PartialState().is_main_process:
        print(f"Trained for {settings.steps:,} steps: {final}")
        print(f"Losses {arguments.out / 'loss.png'}, samples {arguments.out / 'samples'}")


def _estimate(recipe: str, overrides: list[str]) -> None:
    """Print the memory of a stage, with gradient checkpointing and without, where that is a choice."""
    from motionrag.training.estimate import estimate
    from motionrag.training.recipe import load_recipe

    _, task_settings, settings = load_recipe(recipe, overrides)
    base = getattr(task_settings, "base", None)
    ways = [None] if base is None else [True, False]
    found = [estimate(task_settings, settings, gradient_checkpointing=way) for way in ways]
    heads = [""] if base is None else ["checkpointing", "without"]
    print(f"GB of memory for {recipe}{'' if base is None else f' on {base.name}'}, batch {settings.batch}")
    print(" ".join([f"{'':12}", *(f"{head:>14}" for head in heads)]).rstrip())
    for name in ("frozen", "trained", "gradients", "optimizer", "average", "activations", "total"):
        print(" ".join([f"{name:12}", *(f"{getattr(each, name) / 1e9:14.1f}" for each in found)]))


def _preparation() -> Callable[[int, int], None]:
    """A callback for tasks that first compute something of each clip."""
    last = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY_S or done == total:
            last = time.monotonic()
            print(f"prepared {done:,}/{total:,} clips", file=sys.stderr, flush=True)

    return line


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
            if time.monotonic() - last >= EVERY_S or progress.step == progress.steps:
                last = time.monotonic()
                print(f"step {progress.step}/{progress.steps}, {_state(progress)}", file=sys.stderr, flush=True)

        yield line
        return
    with Bar(
        BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), console=console, transient=True
    ) as bar:
        task = bar.add_task("train", total=None, state="")

        def draw(progress: Progress) -> None:
            bar.update(task, completed=progress.step, total=progress.steps, state=_state(progress))

        yield draw


def _state(progress: Progress) -> str:
    hours, rest = divmod(int(progress.seconds_left), 3600)
    left = f"{hours}:{rest // 60:02}:{rest % 60:02}"
    return f"loss {progress.loss:.4g}, {progress.clips_per_s:.1f} clips/s, {left} left"
