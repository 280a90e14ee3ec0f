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

_CHANGES = (
    *("references", "scale", "steps", "guidance", "guidance_rescale", "timestep_spacing", "scheduler"),
    *("frames", "size", "fps", "negative_prompt"),
)
_NEW_CLIPS_ONLY = ("prompt", "reference_video", "seed", *_CHANGES, "dtype")
_ONE_CLIP_ONLY = ("image", "prompt", "reference_video", "compare")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--image", type=Path, metavar="IMG", help="target image, of any size and format")
    parser.add_argument("--prompt", metavar="TEXT", help="what shall happen")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help=".mp4, .mov, .mkv, .webm, .gif, .webp; .png: a sheet; with --jobs a folder",
    )
    parser.add_argument(
        "--jobs", type=Path, metavar="JSONL", help="make many clips: an object with image and prompt on each line"
    )
    parser.add_argument("--references", type=int, metavar="K", help="how many clips to follow (default 9)")
    parser.add_argument(
        "--reference-video", action="append", type=Path, metavar="FILE", help="follow this video; may be repeated"
    )
    parser.add_argument("--scale", type=float, metavar="S", help="strength of the motion (default 1)")
    parser.add_argument(
        "--seed", type=int, nargs="+", metavar="N", help="of the noise (default 0); with several, a clip of each"
    )
    parser.add_argument("--compare", action="store_true", help="the bare base too, and a sheet of all")
    parser.add_argument("--settings", type=Path, metavar="JSON", help="make the clip of these settings once more")
    _add_parts(parser)
    _add_sampling(parser)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("parts", "what makes the clips; `motionrag doctor` says what is here")
    group.add_argument("--db", metavar="DB", help="motion database with tokens (default: the embedded one)")
    group.add_argument("--bundle", metavar="BUNDLE", help="folder or hub id (default: tiny, the embedded one)")
    group.add_argument(
        "--base", metavar="BASE", help="name, folder or hub id of the base (default: the bundle's own)"
    )
    group.add_argument(
        "--model", metavar="MODEL", help="folder or hub id of the base's weights (default: as published)"
    )
    add_device_option(group)
    group.add_argument(
        "--memory",
        metavar="MODE",
        help="full: all on the device (default); offload: one model at a time; low: one layer at a time, in float8",
    )
    group.add_argument(
        "--quantize",
        metavar="KIND",
        help="keep denoiser and text encoder in int8 (torchao) or nf4 (bitsandbytes); none: as they are (default)",
    )
    group.add_argument("--dtype", help="float32, bfloat16 or float16 (default: float32 on the CPU, else bfloat16)")
    group.add_argument("--compile", action="store_true", help="compile the base: slow to begin with, then faster")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the clip", "by default the base's own")
    group.add_argument("--frames", type=int, metavar="N", help="how many")
    group.add_argument("--size", metavar="WxH", help="width and height, such as 720x480")
    group.add_argument("--fps", type=float, metavar="F", help="frames a second")
    group.add_argument("--steps", type=int, metavar="N", help="denoising steps")
    group.add_argument("--guidance", type=float, metavar="G", help="strength of guidance")
    group.add_argument("--negative-prompt", metavar="TEXT", help="what shall not be seen")
    group.add_argument(
        "--guidance-rescale", type=float, metavar="R", help="how far it is brought back, 0 to 1 (DynamiCrafter)"
    )
    group.add_argument("--timestep-spacing", metavar="S", help="of the steps: trailing or leading (DynamiCrafter)")
    group.add_argument("--scheduler", metavar="CLASS", help="of diffusers, such as CogVideoXDDIMScheduler")


def run(arguments: argparse.Namespace) -> None:
    """Generate, save, say what was done."""
    _check_options(arguments)
    if arguments.jobs is not None:
        from motionrag.cli.jobs import run_jobs

        run_jobs(arguments, defaults=_given(arguments))
    elif arguments.settings is not None:
        _again(arguments)
    else:
        _new(arguments)


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.settings is not None and arguments.jobs is not None:
        raise MotionRAGError("--jobs makes new clips, --settings an old one once more: leave one of them out")
    if arguments.settings is not None:
        for name in _NEW_CLIPS_ONLY:
            if getattr(arguments, name) is not None:
                raise MotionRAGError(f"--{name.replace('_', '-')} is part of --settings: leave one of them out")
    elif arguments.jobs is not None:
        for name in _ONE_CLIP_ONLY:
            if getattr(arguments, name):
                raise MotionRAGError(f"--{name.replace('_', '-')} is for one clip: leave it out beside --jobs")
    elif arguments.image is None or arguments.prompt is None:
        raise MotionRAGError("give --image and --prompt, or --settings of a clip to make once more, or --jobs")
    elif arguments.references is not None and arguments.reference_video:
        raise MotionRAGError("--reference-video takes the place of a search: leave --references out")


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of a `Job` that were given."""
    given = {name: value for name in (*_CHANGES, "seed") if (value := getattr(arguments, name)) is not None}
    if arguments.reference_video:
        given["reference_videos"] = [str(path) for path in arguments.reference_video]
    return given


def _new(arguments: argparse.Namespace) -> None:
    from motionrag.pipeline.jobs import Job, seeded
    from motionrag.pipeline.picture import picture
    from motionrag.pipeline.result import check_output
    from motionrag.video import probe

    # what can be refused before models are loaded is
    job = Job(image=str(arguments.image), prompt=arguments.prompt, **_given(arguments))
    job.check()
    outs = [check_output(seeded(arguments.out, seed, job.seeds)) for seed in job.seeds]
    picture(job.image)
    for path in job.reference_videos:
        probe(path)
    rag = load(arguments, asked=job.changes())
    for seed, out in zip(job.seeds, outs, strict=True):
        with progress() as report:
            video = rag(**job.request(seed), report=report)
        _save(rag, video, arguments, out)


def _again(arguments: argparse.Namespace) -> None:
    from motionrag.pipeline.identity import versions
    from motionrag.pipeline.result import GenerationSettings, check_output

    out = check_output(arguments.out)
    settings = GenerationSettings.load(arguments.settings)
    if settings.base is None and arguments.base is None and arguments.model is None:
        raise MotionRAGError(f"{arguments.settings}: its base was in memory; name one with --base")
    for name, kept in (("bundle", settings.bundle), ("db", settings.database)):
        if getattr(arguments, name) is None and kept is None:
            raise MotionRAGError(f"{arguments.settings}: its {name} was in memory; name one with --{name}")
    rag = load(arguments, settings)
    here = versions(rag.quantized) | {"memory": rag.memory, "compile": rag.compiled, "quantize": rag.quantized}
    then = settings.versions | {name: getattr(settings, name) for name in ("memory", "compile", "quantize")}
    for name, value in here.items():
        if then.get(name) != value:
            note(f"the clip was made with {name} {then.get(name)}, here is {value}: it may differ a little")
    with progress() as report:
        video = rag.repeat(settings, arguments.image, report=report)
    _save(rag, video, arguments, out)


def load(
    arguments: argparse.Namespace, settings: GenerationSettings | None = None, asked: dict[str, Any] | None = None
) -> MotionRAG:
    """The parts that options name, or else settings do."""
    from motionrag.pipeline import MotionRAG
    from motionrag.pipeline.memory import FULL, dtype_of

    base, model, bundle, db = arguments.base, arguments.model, arguments.bundle, arguments.db
    dtype, memory, compiled, quantized = arguments.dtype, arguments.memory, arguments.compile, arguments.quantize
    if settings is not None:
        base = settings.base if base is None and model is None else base
        bundle, db, dtype = bundle or settings.bundle, db or settings.database, settings.dtype
        memory, compiled = memory or settings.memory, compiled or settings.compile
        quantized = quantized or settings.quantize
    return MotionRAG.from_pretrained(
        base=base,
        model=model,
        bundle=bundle or EMBEDDED,
        db=db,
        device=arguments.device,
        dtype=None if dtype is None else dtype_of(dtype),
        memory=memory or FULL,
        compile=compiled,
        quantize=None if quantized == "none" else quantized,  # as said beside settings that name one
        asked=asked,
    )


def _save(rag: MotionRAG, video: Video, arguments: argparse.Namespace, out: Path) -> None:
    beside = video.save(out)
    _tell(rag, video)
    print(out, beside, sep="\n", flush=True)
    if arguments.compare:
        _compare(rag, video, arguments, out)


def _compare(rag: MotionRAG, video: Video, arguments: argparse.Namespace, out: Path) -> None:
    from motionrag.pipeline.figure import compare_sheet

    with progress() as report:
        bare = rag.bare(video.settings, arguments.image, report=report)
    clip, page = out.with_suffix(f".base{out.suffix}"), out.with_suffix(".compare.png")
    bare.write(clip)
    compare_sheet(bare, video, page)
    print(clip, page, sep="\n", flush=True)


def _tell(rag: MotionRAG, video: Video) -> None:
    """Say how many references there are, and where time and memory went."""
    import torch

    settings = video.settings
    found, asked = len(video.references), settings.asked
    if not found:
        note(f"no relevant reference in {settings.database}: this clip is the bare base's")
    elif found < asked:
        note(f"{found} relevant references, {asked} were asked for")
    seconds = ", ".join(f"{stage} {value:.2f} s" for stage, value in video.timings.items())
    most = ""
    if rag.device.type == "cuda":
        most = f"; at most {torch.cuda.max_memory_allocated(rag.device) / 1e9:.1f} GB of the GPU"
    note(f"{found} references; {seconds}{most}")


def note(text: str) -> None:
    """A line on standard error."""
    print(f"motionrag generate: {text}", file=sys.stderr, flush=True)


@contextmanager
def progress() -> Iterator[Report | None]:
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
