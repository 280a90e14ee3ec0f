"""The method at work, as one page that opens offline: a known motion, an unseen one, and one on real clips.

Each is made by the bare base and with the motion of references, from the same picture, words and noise. The unseen
motion is asked for twice: before and after clips of it are in the database, with nothing trained in between.

    python examples/demo.py [--out outputs/demo] [--image IMG --prompt TEXT --videos FOLDER]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from page import Clip, References, Section, write_page
from PIL import Image

from motionrag import MotionRAG
from motionrag.cli import main as motionrag
from motionrag.errors import MotionRAGError
from motionrag.pipeline.figure import compare_sheet
from motionrag.pipeline.picture import fitted, picture
from motionrag.pipeline.result import Video
from motionrag.pipeline.stages import check_prompt
from motionrag.registry import EMBEDDED, embedded
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.synth import render
from motionrag.synth.write import CorpusSettings, write_corpus
from motionrag.video import read_clip, write_video

SEED = 7_000_000
"""Of the demo's own scenes, which no training and no database has."""
KNOWN, UNSEEN = ("leap", 7), ("spiral", 3)
"""Family and number of the two simulated scenes."""
NEW_CLIPS = 60
"""Of the unseen motion, brought into the database."""


@dataclass(kw_only=True)
class Demo:
    """What the cases share."""

    out: Path
    """Folder of all that is written."""
    options: dict[str, str]
    """Base, bundle and database for `MotionRAG.from_pretrained`; the embedded ones where they are left out."""
    made: list[Path] = field(default_factory=list)
    """Clips and sheets written so far."""

    @property
    def page(self) -> Path:
        """The page that shows all."""
        return self.out / "index.html"

    def open(self, db: Path | None = None) -> MotionRAG:
        """The base, the bundle, and the database or another one."""
        return MotionRAG.from_pretrained(**(self.options | ({"db": str(db)} if db else {})))

    def compare(self, rag: MotionRAG, name: str, image: Path, prompt: str) -> tuple[Video, Video, Path]:
        """The bare base's clip and ours, from one picture, prompt and noise; written with their sheet."""
        ours = rag(image, prompt)
        bare = rag.bare(ours.settings)
        clip, alone, sheet = (self.out / f"{name}{suffix}" for suffix in (".mp4", ".base.mp4", ".compare.png"))
        ours.save(clip)
        bare.write(alone)
        compare_sheet(bare, ours, sheet)
        self.made += [clip, alone, sheet]
        return bare, ours, sheet

    def keep(self, name: str, frames: NDArray[np.uint8], fps: float) -> Path:
        """Write a true clip u8 [T,3,H,W], and its first frame as the target image, whose path is returned."""
        write_video(self.out / f"{name}.true.mp4", frames, fps)
        self.made.append(self.out / f"{name}.true.mp4")
        image = self.out / f"{name}.png"
        Image.fromarray(np.ascontiguousarray(np.moveaxis(frames[0], 0, -1))).save(image)
        return image

    def ingest(self, source: Path, db: Path, *options: str) -> float:
        """`motionrag ingest SOURCE --db DB`; returns the seconds it took."""
        began = time.perf_counter()
        if code := motionrag(["ingest", str(source), "--db", str(db), *options]):
            raise SystemExit(code)  # it has said why
        return time.perf_counter() - began


def known(demo: Demo, rag: MotionRAG) -> Section:
    """A motion that the database has clips of."""
    true, prompt = scene(rag, *KNOWN)
    image = demo.keep("known", true, rag.sampling.fps)
    bare, ours, sheet = demo.compare(rag, "known", image, prompt)
    return Section(
        title="A motion it knows",
        text=f"The database holds {rag.retriever.database.count():,} clips of other scenes, none of this one.",
        prompt=prompt,
        picture=seen(rag, image),
        clips=[
            Clip.of("The base alone", bare),
            Clip.of("With the references' motion", ours, ours=True),
            Clip(label="The true clip", frames=true, fps=rag.sampling.fps),
        ],
        references=[References(label="Its references", clips=ours.references)],
        sheets=[sheet],
    )


def unseen(demo: Demo, rag: MotionRAG) -> Section:
    """A motion that nothing was trained on, before and after clips of it are in the database."""
    family = UNSEEN[0]
    true, prompt = scene(rag, *UNSEEN)
    image = demo.keep("unseen", true, rag.sampling.fps)
    bare, before, sheet_before = demo.compare(rag, "unseen.before", image, prompt)
    new, database = demo.out / f"{family}-clips", demo.out / f"{family}-database"
    began = time.perf_counter()
    write_corpus(new, CorpusSettings(clips=NEW_CLIPS, seed=SEED + 1, families=[family]))
    rendered_s = time.perf_counter() - began
    shutil.rmtree(database, ignore_errors=True)
    shutil.copytree(rag.retriever.database.uri, database)
    ingest_s = demo.ingest(new, database)
    _, after, sheet_after = demo.compare(demo.open(database), "unseen.after", image, prompt)
    if before.settings.fingerprints != after.settings.fingerprints:
        raise MotionRAGError("a weight has changed between the two clips: this demo would show nothing")
    own = [reference.record.id for reference in after.references if Path(reference.record.video).is_relative_to(new)]
    marks = ", ".join(f"{part} {after.settings.fingerprints[part][:8]}" for part in ("base", "bundle"))
    return Section(
        title="A motion it has never seen",
        text=(
            "No part was trained on it, and the database has no clip of it: “before”. Then "
            f"{NEW_CLIPS} clips of it, of other scenes, were rendered ({rendered_s:.1f} s) and brought into a copy "
            f"of the database ({ingest_s:.1f} s), and the same was asked again: “after”. Nothing was trained in "
            f"between, the weights are the same ({marks})."
        ),
        prompt=prompt,
        picture=seen(rag, image),
        clips=[
            Clip.of("The base alone", bare),
            Clip.of("Before", before),
            Clip.of(f"After: {NEW_CLIPS} clips of it in the database", after, ours=True),
            Clip(label="The true clip", frames=true, fps=rag.sampling.fps),
        ],
        references=[
            References(label="References before", clips=before.references),
            References(label="References after", clips=after.references, new=own),
        ],
        sheets=[sheet_before, sheet_after],
    )


def real(demo: Demo, database: Path, image: Path, prompt: str, text: str, true: Clip | None = None) -> Section:
    """A prompt on real clips."""
    rag = demo.open(database)
    bare, ours, sheet = demo.compare(rag, "real", image, prompt)
    return Section(
        title="Real clips",
        text=text,
        prompt=prompt,
        picture=seen(rag, image),
        clips=[
            Clip.of("The base alone", bare),
            Clip.of("With the references' motion", ours, ours=True),
            *([true] if true else []),
        ],
        references=[References(label="Its references", clips=ours.references)],
        sheets=[sheet],
    )


def of_user(demo: Demo, rag: MotionRAG, image: Path, prompt: str, videos: Path) -> Section:
    """The user's own picture, prompt and captioned clips."""
    database, made = demo.out / "your-database", rag.retriever.database.settings
    shutil.rmtree(database, ignore_errors=True)
    encoders = ["--motion", made.motion.model, "--appearance", made.appearance.model]
    seconds = demo.ingest(videos, database, "--bundle", demo.options["bundle"], *encoders)
    return real(demo, database, image, prompt, f"Your picture and your clips, ingested in {seconds:.1f} s.")


def of_excerpt(demo: Demo, rag: MotionRAG, excerpt: Path) -> Section:
    """One clip of a database as the target, taken out of a copy of it with its near-duplicates."""
    copy = demo.out / "real-database"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(excerpt, copy)
    database = MotionDatabase.open(copy)
    columns = ["id", "video", "start_s", "end_s", "caption", "duplicate_of"]
    target = min(database.rows(columns), key=lambda row: row["id"])
    group, clips = target["duplicate_of"] or target["id"], database.count()
    video = copy / target["video"]  # its path is relative where the database holds its videos
    frames = read_clip(video, frames=rag.sampling.frames, start_s=target["start_s"], end_s=target["end_s"]).frames
    image = demo.keep("real", frames, rag.sampling.fps)
    database.remove(f"id = '{group}' OR duplicate_of = '{group}'")
    text = (
        f"Picture and words are of one of {clips:,} real clips that come along (excerpts of DROID, Khazatsky et al. "
        "2024, CC BY 4.0); it was taken out of the database first."
    )
    true = Clip(label="The real clip", frames=frames, fps=rag.sampling.fps)
    return real(demo, copy, image, target["caption"], text, true)


def scene(rag: MotionRAG, family: str, number: int) -> tuple[NDArray[np.uint8], str]:
    """A simulated clip u8 [T,3,H,W] of the base's size, and its caption."""
    batch = render(SEED, [number], [family], size=rag.sampling.height, frames=rag.sampling.frames)
    return batch.video[0].numpy(), batch.captions[0][0]


def seen(rag: MotionRAG, image: Path) -> Image.Image:
    """The picture as the base gets it."""
    return fitted(picture(image), rag.sampling.height, rag.sampling.width)


def run(arguments: argparse.Namespace) -> Demo:
    """Make all of it."""
    mine = {name: getattr(arguments, name) for name in ("image", "prompt", "videos")}
    missing = [f"--{name}" for name, value in mine.items() if value is None]
    if missing and len(missing) < len(mine):
        raise MotionRAGError(f"your own clips want --image, --prompt and --videos together: {missing[0]} is missing")
    named = {name: value for name in ("base", "bundle", "db") if (value := getattr(arguments, name)) is not None}
    if not missing:  # what can be refused is, before anything is made
        check_prompt(arguments.prompt)
        picture(arguments.image)
        read_jobs(arguments.videos)
    demo = Demo(out=arguments.out.resolve(), options={"bundle": EMBEDDED} | named)
    rag = demo.open()
    demo.out.mkdir(parents=True, exist_ok=True)
    tell("1 of 3: a motion it knows")
    sections = [known(demo, rag)]
    tell(f"2 of 3: a motion it has never seen, before and after {NEW_CLIPS} clips of it are in the database")
    sections.append(unseen(demo, rag))
    tell("3 of 3: real clips")
    excerpt = None if named else excerpt_folder()
    if not missing:
        sections.append(of_user(demo, rag, **mine))
    elif excerpt is not None:
        sections.append(of_excerpt(demo, rag, excerpt))
    else:
        sections.append(Section(title="Real clips", text="No database of real clips comes along here."))
        tell("  no database of real clips comes along here; give your own with --image, --prompt and --videos")
    write_page(demo.page, rag, sections)
    return demo


def excerpt_folder() -> Path | None:
    """The database of real clips that comes with the package, if this one has it."""
    try:
        return embedded("excerpt")
    except MotionRAGError:
        return None


def tell(text: str) -> None:
    """Say how far it is."""
    print(text, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and say where everything is; what is wrong is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/demo"), metavar="DIR", help="default: outputs/demo"
    )
    parser.add_argument("--image", type=Path, metavar="IMG", help="a picture of yours")
    parser.add_argument("--prompt", metavar="TEXT", help="what shall happen in it")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="captioned clips, as `motionrag ingest` takes")
    for part in ("base", "bundle", "db"):
        parser.add_argument(f"--{part}", metavar="FOLDER", help="in place of the embedded one")
    began = time.perf_counter()
    try:
        demo = run(parser.parse_args(argv))
    except (MotionRAGError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    print(f"Done in {time.perf_counter() - began:.0f} s. Clips and sheets:", *demo.made, sep="\n  ")
    print(f"Open this in a browser: {demo.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
