"""The embedded default, measured: known and unseen motions, the same images, prompts and seeds for every system.

    bare         the base alone
    ours         9 references of the database, adapted to the image
    top1, mean   the same references, the best alone or averaged, in place of the context transformer
    unextended   ours with the unseen motions left out of the database (unseen motions only)
    oracle       the motion tokens of the very clip that is wanted: what the adapter can do at best
    true         the clip itself: what the measures can say at best

Databases are made by the product's own `synth` and `ingest`; the one for unseen motions is that of the known ones
with clips of unseen ones added, and nothing is trained in between. No clip that is asked for is in any of them.

Family accuracy is that of a classifier of its own; the path error is the distance of the tracked object to its true
path, in units of its true displacement, where place and path are foretold by the caption; likeness is that of the
object to its first frame, over the same of the true clip. All with 95% bootstrap intervals over clips.

All that is made is kept in --work, so that a run that was stopped goes on from there:

    python benchmarks/embedded.py --out benchmarks/results/embedded.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionrag import MotionRAG, checkpoint
from motionrag.cli import main as motionrag
from motionrag.errors import MotionRAGError
from motionrag.evaluation.embedded import (
    ALONE,
    BARE,
    FUSIONS,
    GROUPS,
    ORACLE,
    OURS,
    TRUE,
    HeldOut,
    bars,
    held_out,
    judge,
    summary,
)
from motionrag.evaluation.families import FamilyClassifier
from motionrag.pipeline.identity import versions
from motionrag.pipeline.parts import load_bundle, load_retriever
from motionrag.pipeline.picture import picture
from motionrag.registry import EMBEDDED
from motionrag.synth import families
from motionrag.video import Strip, sheet
from motionrag.video.files import replacing_file

SYSTEMS = [BARE, OURS, *FUSIONS, ALONE, ORACLE]
REFERENCES = 9
DATABASE_SEED, HELD_OUT_SEED = 20_001, 20_002
MEASURES = {"accuracy": "family accuracy", "path_error": "path error", "path_error_median": "path error, median"}
MEASURES |= {"path_error_to_bare": "path error / bare", "similarity": "likeness", "lost": "lost frames"}
SHOWN = [TRUE, BARE, OURS, ORACLE]


@dataclass(frozen=True, kw_only=True)
class Databases:
    """Folders of the two."""

    known: Path
    extended: Path


def run(command: list[str]) -> None:
    """A verb of the product, in this process."""
    print("$ motionrag " + " ".join(command), file=sys.stderr, flush=True)
    if motionrag(command) != 0:
        raise SystemExit(1)


def build_databases(arguments: argparse.Namespace) -> Databases:
    """Write the corpora, and bring them into databases; what is there is not done again."""
    corpora = {}
    for group in GROUPS:
        names = [one.name for one in families().values() if one.predictable and one.known == (group == "known")]
        corpora[group] = arguments.work / f"{group}-{arguments.each}"
        options = ["--clips", str(arguments.each * len(names)), "--seed", str(DATABASE_SEED)]
        run(["synth", "--out", str(corpora[group]), "--families", ",".join(names), *options])
    bundle = load_bundle(arguments.bundle)
    made = "".join(
        checkpoint.fingerprint(part.state_dict()) for part in (bundle.motion_resampler, bundle.appearance_resampler)
    )
    folder = arguments.work / f"databases-{arguments.each}-{digest(made)}"
    found = Databases(known=folder / "known", extended=folder / "extended")
    encoders = [
        part
        for kind in ("motion", "appearance")
        if (name := getattr(arguments, kind))
        for part in (f"--{kind}", name)
    ]
    encoders += ["--bundle", arguments.bundle, "--device", arguments.device]
    run(["ingest", str(corpora["known"]), "--db", str(found.known), *encoders])
    if not found.extended.exists():
        with checkpoint.replacing(found.extended) as temporary:
            shutil.copytree(found.known, temporary, dirs_exist_ok=True)
    run(["ingest", str(corpora["unseen"]), "--db", str(found.extended), *encoders])
    return found


def digest(value: Any) -> str:
    """8 hex digits of what JSON says of it."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


class Bench:
    """Loaded parts, the clips that are asked for, and where frames are kept."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        databases = build_databases(arguments)
        self.rag = MotionRAG.from_pretrained(
            base=arguments.base, bundle=arguments.bundle, db=str(databases.known), device=arguments.device
        )
        extended = load_retriever(str(databases.extended), arguments.bundle, arguments.device)
        self.retrievers = {"known": self.rag.retriever, "unseen": extended}
        own = self.rag.sampling
        self.held_out = {
            group: held_out(group, arguments.clips, HELD_OUT_SEED, size=own.height, frames=own.frames)
            for group in GROUPS
        }
        self.settings = {
            "references": REFERENCES,
            "database_seed": DATABASE_SEED,
            "database_clips_per_family": arguments.each,
            "held_out_seed": HELD_OUT_SEED,
            "noise_seeds": "number of the clip",
            "scale": 1.0,
            "sampling": asdict(own),
            "fingerprints": self.rag.fingerprints,
        }
        self.found: dict[tuple[str, str], list[list[Any]]] = {}
        self.kept = arguments.work / f"clips-{digest(self.settings)}"

    def references(self, group: str, system: str) -> list[list[Any]]:
        """Those of each clip."""
        database = "known" if system == ALONE else group
        if (group, database) not in self.found:
            retriever, prompts = self.retrievers[database], self.held_out[group].prompts
            self.found[group, database] = [
                retriever.search(retriever.query(prompt), REFERENCES, tokens=True) for prompt in prompts
            ]
        return self.found[group, database]

    def motion(self, group: str, system: str) -> list[torch.Tensor | None]:
        """Motion tokens [1,Q,D] of each clip, None where the bare base makes it."""
        clips = self.held_out[group]
        if system == BARE:
            return [None] * len(clips.prompts)
        if system == ORACLE:
            parts = [self.rag.encode_motion(list(part.numpy())) for part in clips.clips.video.split(32)]
            return list(torch.cat(parts)[:, None])
        looks = torch.cat(
            [
                self.rag.encode_images(list(part))
                for part in np.array_split(clips.images, max(1, len(clips.images) // 32))
            ]
        )
        fusion = system if system in FUSIONS else None
        return [
            self.rag.adapt(found, look[None], fusion) if found else None
            for found, look in zip(self.references(group, system), looks, strict=True)
        ]

    def frames(self, group: str, system: str) -> torch.Tensor:
        """Clips u8 [B,T,3,H,W] that a system makes, those that are kept and the others."""
        folder = self.kept / f"{group}-{system}"
        folder.mkdir(parents=True, exist_ok=True)
        count, size = self.arguments.clips, self.arguments.batch
        parts = [list(range(first, min(first + size, count))) for first in range(0, count, size)]
        files = [folder / f"{part[0]:05d}-{part[-1]:05d}.npz" for part in parts]
        if missing := [i for i, file in enumerate(files) if not file.exists()]:
            motion = self.motion(group, system)
            began = time.monotonic()
            for done, i in enumerate(missing, 1):
                made = self.generate(group, parts[i], [motion[number] for number in parts[i]])
                with replacing_file(files[i]) as temporary, temporary.open("wb") as stream:
                    np.savez_compressed(stream, frames=made)
                left = (time.monotonic() - began) / done * (len(missing) - done)
                print(
                    f"{group} {system}: {parts[i][-1] + 1}/{count} clips, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )
        return torch.from_numpy(np.concatenate([np.load(file)["frames"] for file in files]))

    def generate(self, group: str, numbers: list[int], motion: list[torch.Tensor | None]) -> np.ndarray:
        """Clips by number: those with motion together, and those without."""
        clips = self.held_out[group]
        made: dict[int, np.ndarray] = {}
        for with_motion in (True, False):
            own = [i for i, tokens in enumerate(motion) if (tokens is not None) == with_motion]
            if not own:
                continue
            frames = self.rag.generate(
                [clips.images[numbers[i]] for i in own],
                [clips.prompts[numbers[i]] for i in own],
                torch.cat([motion[i] for i in own]) if with_motion else None,
                seeds=[numbers[i] for i in own],
            )
            made |= dict(zip(own, frames, strict=True))
        return np.stack([made[i] for i in range(len(numbers))])

    def retrieval(self, group: str, system: str) -> dict[str, float]:
        """How many references a clip gets, and how many of those are of its family."""
        own = self.held_out[group].clips.family
        found = self.references(group, system)
        alike = [
            [r.record.metadata.get("family") == name for r in row] for row, name in zip(found, own, strict=True)
        ]
        counts = [len(row) for row in alike]
        return {
            "references": statistics.mean(counts),
            "without": sum(not count for count in counts),
            "of_the_family": sum(map(sum, alike)) / max(1, sum(counts)),
        }

    def added_time(self, rounds: int) -> dict[str, Any]:
        """Seconds of ours and of the bare base in turn, one clip at a time, as the product makes them."""
        clips, rows = self.held_out["known"], []
        for number in range(rounds + 1):
            target = picture(clips.images[number % len(clips.images)])
            began = time.perf_counter()
            video = self.rag(target, clips.prompts[number % len(clips.prompts)], references=REFERENCES, seed=number)
            ours = time.perf_counter() - began
            bare = self.rag.bare(video.settings, target).timings["generate"]
            rows.append(
                {
                    "ours": ours,
                    "bare": bare,
                    "references": len(video.references),
                    **{f"ours_{k}": v for k, v in video.timings.items()},
                }
            )
        rows = [row for row in rows[1:] if row["references"] == REFERENCES]  # the first warms up
        if not rows:
            return {"rounds": 0, "added": None}
        medians = {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}
        added = sorted(row["ours"] / row["bare"] - 1 for row in rows)
        quartiles = [round(float(np.quantile(added, q)), 4) for q in (0.25, 0.75)]
        return {
            "rounds": len(rows),
            "added": round(statistics.median(added), 4),
            "quartiles": quartiles,
            "seconds": medians,
        }


def markdown(figures: dict[str, Any]) -> str:
    """One row a system."""
    lines = ["| motions | system | " + " | ".join(MEASURES.values()) + " |", "|---" * (2 + len(MEASURES)) + "|"]
    for group, systems in figures.items():
        for system, values in systems.items():
            cells = [cell(values.get(measure)) for measure in MEASURES]
            lines.append(f"| {group} | {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(figure: dict[str, Any] | None) -> str:
    """A value with its interval."""
    if not figure or figure["value"] is None:
        return ""
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


def by_family(systems: dict[str, Any]) -> str:
    """Accuracy and path error of each family, by system."""
    lines = ["| family | " + " | ".join(systems) + " |", "|---" * (1 + len(systems)) + "|"]
    for family in next(iter(systems.values()))["families"]:
        cells = []
        for values in systems.values():
            row = values["families"][family]
            path = "" if row["path_error"] is None else f", {row['path_error']:.2f}"
            cells.append(f"{row['accuracy']:.2f}{path}")
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(made: dict[str, torch.Tensor], clips: HeldOut, path: Path) -> None:
    """A clip of each of up to 8 families, as each system makes it."""
    names = clips.clips.family
    firsts = [names.index(name) for name in dict.fromkeys(names)]
    rows = [
        Strip(frames=made[system][i].numpy(), caption=clips.prompts[i], details=f"{system}, {names[i]}")
        for i in firsts[:: max(1, len(firsts) // 8)][:8]
        for system in SHOWN
        if system in made
    ]
    sheet(rows, path)


def main() -> None:
    """Make what is missing, measure, print, write."""
    arguments = parse_arguments()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    classifier = FamilyClassifier.from_pretrained(arguments.classifier)
    bench = Bench(arguments)
    figures: dict[str, Any] = {}
    retrieval: dict[str, Any] = {}
    for group in GROUPS:
        clips = bench.held_out[group]
        systems = [name for name in arguments.systems if group == "unseen" or name != ALONE]
        made = {TRUE: clips.clips.video} | {name: bench.frames(group, name) for name in systems}
        figures[group] = summary(
            {name: judge(video, clips, classifier) for name, video in made.items()}, clips.clips.family
        )
        retrieval[group] = {name: bench.retrieval(group, name) for name in systems if name in (OURS, ALONE)}
        draw(made, clips, arguments.out.with_name(f"{arguments.out.stem}-{group}.png"))
    timing = bench.added_time(arguments.timed) if arguments.timed else {"rounds": 0, "added": None}
    reached = [asdict(bar) | {"passed": bar.passed} for bar in bars(figures, timing["added"])]
    result = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "versions": versions(),
        "settings": {
            **bench.settings,
            "clips": arguments.clips,
            "batch": arguments.batch,
            "device": arguments.device,
        },
        "figures": figures,
        "retrieval": retrieval,
        "time": timing,
        "bars": reached,
    }
    with replacing_file(arguments.out) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    tell(result)


def tell(result: dict[str, Any]) -> None:
    """Print the tables and the bars."""
    print(markdown(result["figures"]), end="\n\n")
    for group, systems in result["figures"].items():
        print(f"{group}: family accuracy, path error\n\n{by_family(systems)}\n")
    print(f"retrieval: {json.dumps(result['retrieval'])}\ntime: {json.dumps(result['time'])}\n")
    for bar in result["bars"]:
        said = {True: "passed", False: "FAILED", None: "not measured"}[bar["passed"]]
        value, limit = ("-" if x is None else f"{x:.3f}" for x in (bar["value"], bar["limit"]))
        print(f"{said:<13} {bar['name']}: {value}, {bar['rule']} {limit}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="write the figures as JSON, picture sheets beside it"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/embedded"),
        help="where corpora, databases and clips are kept; delete it once code has changed",
    )
    parser.add_argument("--clips", type=int, default=216, help="held-out clips of each group, its families in turn")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=SYSTEMS)
    parser.add_argument("--each", type=int, default=160, help="clips of each family in the databases")
    parser.add_argument("--batch", type=int, default=12, help="clips made at once")
    parser.add_argument(
        "--timed", type=int, default=12, help="clips made one by one to tell the added time; 0 for none"
    )
    parser.add_argument("--base", help="folder of another base")
    parser.add_argument(
        "--bundle", default=EMBEDDED, help="folder of another bundle; wants --motion and --appearance"
    )
    parser.add_argument("--motion", help="folder of the motion encoder")
    parser.add_argument("--appearance", help="folder of the appearance encoder")
    parser.add_argument("--classifier", type=Path, help="folder of another family classifier")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except MotionRAGError as error:
        raise SystemExit(f"error: {error}") from None
