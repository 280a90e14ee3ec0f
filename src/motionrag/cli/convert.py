"""Turn published checkpoints into a bundle, or a base model's own into its pipeline; every key is accounted for."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.convert.published import KeyReport

COLOURS = {"mapped": "green", "derived": "yellow", "overridden": "dim", "dropped": "red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="motion_proj.ckpt, motion_transformer.ckpt and Motion-Adapter.ckpt of one base, in any order",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where to write the bundle")
    parser.add_argument("--base", help="refuse files of another base than this one")
    parser.add_argument(
        "--pipeline",
        action="store_true",
        help="FILE is the released checkpoint of --base itself: write the folder of its pipeline",
    )
    parser.add_argument(
        "--head-dim", type=int, default=64, help="width of a resampler's attention head (64 in all published files)"
    )
    parser.add_argument(
        "--context-head-dim", type=int, help="the same of the context transformer (default: --head-dim)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the start token, should it be missing")
    parser.add_argument("--json", action="store_true", help="print the account as one JSON object a line")


def run(arguments: argparse.Namespace) -> None:
    """Convert, write the bundle, print the account."""
    from motionrag.convert.published import UNTRAINED_QUERIES, convert

    if arguments.out.is_file():
        raise MotionRAGError(f"{arguments.out}: is a file, --out wants a folder")
    if arguments.pipeline:
        _pipeline(arguments)
        return
    bundle, reports = convert(
        arguments.files,
        base=arguments.base,
        head_dim=arguments.head_dim,
        context_head_dim=arguments.context_head_dim,
        seed=arguments.seed,
    )
    bundle.save_pretrained(arguments.out)
    made, taken = bundle.config.context.width, bundle.config.adapter.motion_dim
    if made != taken:
        print(
            f"warning: the adapter takes tokens {taken} wide, the context transformer makes {made}",
            file=sys.stderr,
        )
    drawn = sum(report.key == UNTRAINED_QUERIES for report in reports)
    if drawn:
        print(
            f"warning: the adapter was released without the query projections of its {drawn} sites, which were "
            f"never trained: they are random, drawn with seed {arguments.seed}",
            file=sys.stderr,
        )
    if arguments.json:
        for report in reports:
            print(json.dumps(asdict(report)))
        return
    _print_table(reports)
    parameters = sum(tensor.numel() for tensor in bundle.state_dict().values())
    print(f"Bundle for {bundle.config.adapter.base}: {parameters:,} parameters, {arguments.out}")
    print(f"Fingerprint {bundle.fingerprint()}")


def _pipeline(arguments: argparse.Namespace) -> None:
    """Convert the base model itself."""
    from importlib import import_module

    from motionrag.registry import base_spec

    if arguments.base is None or len(arguments.files) != 1:
        raise MotionRAGError("--pipeline wants one FILE, and with --base the model it is of")
    spec = base_spec(arguments.base)
    if spec.converter is None:
        raise MotionRAGError(f"{spec.name} needs no conversion: {spec.repository or 'it'} is a diffusers pipeline")
    module, function = spec.converter.split(":")
    account = getattr(import_module(module), function)(arguments.files[0], arguments.out)
    if arguments.json:
        for entry in account:
            print(json.dumps(asdict(entry)))
        return
    counts = Counter(entry.part or "dropped" for entry in account)
    print(", ".join(f"{count} keys {part}" for part, count in counts.items()))
    print(f"{spec.pipeline}: {arguments.out}")


def _print_table(reports: list[KeyReport]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_edge=False)
    for title in ("file", "key", "", "name in the bundle", "shape", "note"):
        table.add_column(title, overflow="fold")
    for report in reports:
        action = Text(report.action, style=COLOURS[report.action])
        shape = "x".join(map(str, report.shape))
        table.add_row(report.file, report.key, action, report.name, shape, report.note)
    console = Console()
    if not console.is_terminal:
        console.width = 240
    console.print(table)
    counts = Counter(report.action for report in reports)
    console.print(", ".join(f"{count} {action}" for action, count in counts.items()) + ".", highlight=False)
