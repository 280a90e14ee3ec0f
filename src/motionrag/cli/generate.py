"""Let an image move as a prompt says, and as the clips of a database do that fit it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.cli.loading import add_device_option
from motionrag.errors import MotionRAGError
from motionrag.registry import EMBEDDED

if TYPE_CHECKING:
    from motionrag.pipeline import GenerationSettings, MotionRAG, Video
    from motionrag.pipeline.stages import Report

_NEW_CLIPS_ONLY = ("prompt", "references", "reference_video", "scale", "seed", "steps", "guidance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--image", type=Path, metavar="IMG", help="target image, of any size and format")
    parser.add_argument("--prompt", metavar="TEXT", help="what shall happen")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".mp4, .mov, .mkv, .webm, .gif, .webp; .png: a sheet"
    )
    parser.add_argument("--db", metavar="DB", help="motion database with tokens (default: the embedded one)")
    parser.add_argument(
        "--base", metavar="BASE", help="tiny, cogvideox, svd, a folder or hub id (default: the bundle's own)"
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="folder or hub id (default: tiny, the embedded one)")
    parser.add_argument("--references", type=int, metavar="K", help="how many clips to follow (default 9)")
    parser.add_argument(
        "--reference-video", action="append", type=Path, metavar="FILE", help="follow this video; may be repeated"
    )
    parser.add_argument("--scale", type=float, metavar="S", help="strength of the motion (default 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="of the noise (default 0)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the base's own)")
    parser.add_argument("--guidance", type=float, metavar="G", help="strength of guidance (default: the base's own)")
    parser.add_argument("--compare", action="store_true", help="the bare base too, and a sheet of all")
    parser.add_argument("--settings", type=Path, metavar="JSON", help="make the clip of these settings once more")
    add_device_option(parser)


def run(arguments: argparse.Namespace) -> None:
    """Generate, save, say what was done."""
    from motionrag.pipeline.result import GenerationSettings, check_output

    _check_options(arguments)
    out = check_output(arguments.out)
    if arguments.settings is None:
        video, rag = _new(arguments)
    else:
        video, rag = _again(arguments, GenerationSettings.load(arguments.settings))
    beside = video.save(out)
    _tell(video)
    print(out, beside, sep="\n")
    if arguments.compare:
        _compare(rag, video, arguments, out)


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.settings is None:
        if arguments.image is None or arguments.prompt is None:
            raise MotionRAGError("give --image and --prompt, or --settings of a clip to make once more")
        if arguments.references is not None and arguments.reference_video:
            raise MotionRAGError("--reference-video takes the place of a search: leave --references out")
        return
    for name in _NEW_CLIPS_ONLY:
        if getattr(arguments, name) is not None:
            raise MotionRAGError(f"--{name.replace('_', '-')} is part of --settings: leave one of them out")


def _new(arguments: argparse.Namespace) -> tuple[Video, MotionRAG]:
    from motionrag.pipeline.picture import picture
    from motionrag.pipeline.stages import check_prompt, check_seed
    from motionrag.video import probe

    # what can be refused before models are loaded is
    check_prompt(arguments.prompt)
    check_seed(arguments.seed or 0)
    picture(arguments.image)
    for video in arguments.reference_video or ():
        probe(video)
    rag = _load(arguments.base, arguments.bundle, arguments.db, arguments.device)
    given: dict[str, Any] = {
        name: value for name in _NEW_CLIPS_ONLY[3:] if (value := getattr(arguments, name)) is not None
    }
    if arguments.references is not None:
        given["references"] = arguments.references
    with _progress() as report:
        video = rag(
            arguments.image,
            arguments.prompt,
            reference_videos=arguments.reference_video or (),
            report=report,
            **given,
        )
    return video, rag


def _again(arguments: argparse.Namespace, settings: GenerationSettings) -> tuple[Video, MotionRAG]:
    from motionrag.pipeline.identity import versions

    for name, kept in (("base", settings.base), ("bundle", settings.bundle), ("db", settings.database)):
        if getattr(arguments, name) is None and kept is None:
            raise MotionRAGError(f"{arguments.settings}: its {name} was in memory; name one with --{name}")
    rag = _load(
        arguments.base or settings.base,
        arguments.bundle or settings.bundle,
        arguments.db or settings.database,
        arguments.device,
    )
    for name, version in versions().items():
        if (then := settings.versions.get(name)) != version:
            _note(f"the clip was made with {name} {then}, here is {version}: it may differ a little")
    with _progress() as report:
        return rag.repeat(settings, arguments.image, report=report), rag


def _load(base: str | None, bundle: str | None, db: str | None, device: str) -> MotionRAG:
    from motionrag.pipeline import MotionRAG

    return MotionRAG.from_pretrained(base=base, bundle=bundle or EMBEDDED, db=db, device=device)


def _compare(rag: MotionRAG, video: Video, arguments: argparse.Namespace, out: Path) -> None:
    from motionrag.pipeline.figure import compare_sheet

    with _progress() as report:
        bare = rag.bare(video.settings, arguments.image, report=report)
    clip, page = out.with_suffix(f".base{out.suffix}"), out.with_suffix(".compare.png")
    bare.write(clip)
    compare_sheet(bare, video, page)
    print(clip, page, sep="\n")


def _tell(video: Video) -> None:
    """How many references there are, and where the time went."""
    settings = video.settings
    found, asked = len(video.references), settings.asked
    if not found:
        _note(f"no relevant reference in {settings.database}: this clip is the bare base's")
    elif found < asked:
        _note(f"{found} relevant references, {asked} were asked for")
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in video.timings.items())
    _note(f"{found} references; {seconds}")


def _note(text: str) -> None:
    print(f"motionrag generate: {text}", file=sys.stderr)


@contextmanager
def _progress() -> Iterator[Report | None]:
    """A bar of denoising steps on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        yield lambda done, steps: bar.update(task, completed=done, total=steps)
