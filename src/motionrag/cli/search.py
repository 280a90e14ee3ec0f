"""Find the references that move as a prompt says, or as a clip does."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.cli.loading import add_device_option
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.encoders.motion_text import Explanation
    from motionrag.retrieval.search import Query, Retriever
    from motionrag.types import Reference

NOTHING = "no relevant reference"
LEAST_SHOWN = 0.02  # of the score: axes of motion that add or take less are not shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what shall happen")
    parser.add_argument("--db", required=True, metavar="DB", help="folder or object store URI")
    parser.add_argument("-k", type=int, default=9, metavar="K", help="how many references (default 9)")
    parser.add_argument("--image", type=Path, metavar="FILE", help="target image; what looks like it ranks higher")
    parser.add_argument(
        "--clip", type=Path, metavar="FILE", help="a video: more that move like this, in place of PROMPT"
    )
    parser.add_argument(
        "--where", metavar="CONDITION", help="SQL on any column, such as \"lab = 'x' AND end_s < 5\""
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="CLIP", help="id or path to leave out")
    parser.add_argument("--floor", type=float, metavar="F", help="lowest relevance, in [-1, 1] (see the docs)")
    parser.add_argument("--queries", type=Path, metavar="FILE", help=".jsonl with a `prompt` a line: many in one go")
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show what adds to each score: sentences of the caption, motion, shared words",
    )
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw the references as film strips, a .png")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Search, print, draw."""
    given = [arguments.prompt is not None, arguments.clip is not None, arguments.queries is not None]
    if sum(given) != 1:
        raise MotionRAGError("give one of PROMPT, --clip and --queries")
    if arguments.sheet is not None and arguments.sheet.suffix.lower() != ".png":
        raise MotionRAGError(f"{arguments.sheet}: a sheet is a .png")
    if arguments.queries is not None and (arguments.sheet is not None or arguments.image is not None):
        raise MotionRAGError("--queries goes with neither --sheet nor --image")
    if arguments.explain and arguments.clip is not None:
        raise MotionRAGError("--explain reads captions, and --clip compares none: give a PROMPT")
    prompts = list(_prompts(arguments.queries)) if arguments.queries is not None else None
    retriever = _retriever(arguments)
    if prompts is not None:
        for row in prompts:
            found = _search(retriever, retriever.query(row["prompt"]), arguments)
            why = _why(retriever, row["prompt"], found, arguments)
            lines = [plain(reference, parts) for reference, parts in zip(found, why, strict=True)]
            print(json.dumps({**row, "references": lines}), flush=True)
        return
    found = _search(retriever, _query(retriever, arguments), arguments)
    why = _why(retriever, arguments.prompt, found, arguments)
    if arguments.json:
        print(json.dumps([plain(reference, parts) for reference, parts in zip(found, why, strict=True)]))
    else:
        _print(found, why)
    if not found:
        print(f"motionrag search: {NOTHING} in {arguments.db}", file=sys.stderr)
    elif arguments.sheet is not None:
        _draw(found, arguments.sheet)
        print(arguments.sheet, file=sys.stderr)


def plain(reference: Reference, why: Explanation | None = None) -> dict[str, Any]:
    """A reference as printed; with `why`, what adds to its score too."""
    record = reference.record
    second = {"retrieval_caption": record.retrieval_caption} if record.retrieval_caption else {}
    explained = (
        {
            "why": {
                "sentences": [
                    {"sentence": part.text.strip(), "share": round(part.share, 4), "score": round(part.score, 4)}
                    for part in why.sentences
                ],
                "axes": {name: round(value, 4) for name, value in why.axes.items() if abs(value) >= LEAST_SHOWN},
                "long": round(why.lifted, 4),
                "opposed": round(why.opposed, 4),
                "words": round(reference.words, 4),
            }
        }
        if why
        else {}
    )
    return {
        "rank": reference.rank + 1,
        "score": reference.score,
        "video": record.video,
        "start_s": record.start_s,
        "end_s": record.end_s,
        "caption": record.caption,
        **second,
        **explained,
        "id": record.id,
        "metadata": dict(record.metadata),
    }


def _retriever(arguments: argparse.Namespace) -> Retriever:
    from motionrag.retrieval.search import Retriever

    wanted = {"motion": arguments.clip is not None, "appearance": arguments.image is not None}
    return Retriever.open(arguments.db, device=arguments.device, **wanted)


def _query(retriever: Retriever, arguments: argparse.Namespace) -> Query:
    from motionrag.video import content_hash, read_image, read_view

    image = read_image(arguments.image) if arguments.image is not None else None
    if arguments.clip is None:
        return retriever.query(arguments.prompt, image=image)
    from dataclasses import replace

    from motionrag.retrieval.ingest import FRAMES

    frames = max(FRAMES, retriever.motion.preparation.frames) if retriever.motion else FRAMES  # as in an ingest
    clip = read_view(arguments.clip, retriever.database.settings.view, frames=frames)
    query = retriever.query(clip=clip, image=image)
    return replace(query, own_hash=content_hash(arguments.clip))


def _search(retriever: Retriever, query: Query, arguments: argparse.Namespace) -> list[Reference]:
    from motionrag.retrieval.search import FLOOR

    floor = arguments.floor
    if floor is None:
        floor = FLOOR if query.text is not None else -1.0
    exclude = [key for name in arguments.exclude for key in _excluded(retriever, name)]
    return retriever.search(query, arguments.k, where=arguments.where, exclude=exclude, floor=floor)


def _excluded(retriever: Retriever, name: str) -> list[str]:
    rows = retriever.database.find(name)
    if not rows:
        raise MotionRAGError(f"--exclude {name}: no clip of {retriever.database.uri} has this id or path")
    return [row["id"] for row in rows]


def _prompts(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise MotionRAGError(f"{path}: is not UTF-8 text ({error})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise MotionRAGError(f"{path} line {number}: is not valid JSON ({error.msg})") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise MotionRAGError(f'{path} line {number}: wants an object with a "prompt"')
        yield row


def _why(
    retriever: Retriever, prompt: str | None, found: Sequence[Reference], arguments: argparse.Namespace
) -> Sequence[Explanation | None]:
    """Why each reference was found; None where it is not asked for."""
    if not arguments.explain or prompt is None:
        return [None for _ in found]
    return retriever.explain(prompt, found, image=arguments.image is not None)


def _reasons(reference: Reference, why: Explanation) -> str:
    """The sentences that add most and lower it most, the others together, shared words, and axes of motion."""
    best = max(why.sentences, key=lambda part: part.score)
    worst = min(why.sentences, key=lambda part: part.score)
    named = [best, worst] if worst is not best and worst.score < 0 else [best]
    lines = [f"{part.score:+.2f} {part.text.strip()}" for part in named]
    if left := len(why.sentences) - len(named):
        others = sum(part.score for part in why.sentences) - sum(part.score for part in named)
        lines.append(f"{others:+.2f} the other {f'{left} sentences' if left > 1 else 'sentence'}")
    if why.lifted >= LEAST_SHOWN:
        lines.append(f"{why.lifted:+.2f} long caption")
    if why.opposed:
        lines.append(f"{why.opposed:+.2f} moves the opposite way")
    if reference.words:
        lines.append(f"{reference.words:+.2f} shared words")
    if axes := [f"{name} {value:+.2f}" for name, value in why.axes.items() if abs(value) >= LEAST_SHOWN]:
        lines.append(f"motion: {', '.join(axes)}")
    return "\n".join(lines)


def _print(found: Sequence[Reference], why: Sequence[Explanation | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        print(NOTHING)
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("caption", ratio=3, overflow="fold")
    if explained := any(why):
        table.add_column("why", ratio=3, overflow="fold")
    table.add_column("video", ratio=2, overflow="fold")
    for reference, reason in zip(found, why, strict=True):
        record = reference.record
        seconds = f"{record.start_s:.1f}-{record.end_s:.1f}"
        reasons = [_reasons(reference, reason) if reason else ""] if explained else []
        row = [str(reference.rank + 1), f"{reference.score:.3f}", seconds, record.compared, *reasons, record.video]
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)


def _draw(found: Sequence[Reference], path: Path) -> None:
    """Film strips of the references."""
    from motionrag.pipeline.figure import reference_strip
    from motionrag.video import sheet

    sheet([reference_strip(reference) for reference in found], path)
