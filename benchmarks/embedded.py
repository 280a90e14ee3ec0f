"""The embedded default against the lines it is to reach: what `motionrag evaluate` finds, and the time ours adds.

    python benchmarks/embedded.py --out benchmarks/results/embedded.json

Clips are kept in --work, so that a run that was stopped goes on from there. Added time: ours and the bare base
in turn, one clip at a time, as the product makes them with the embedded database.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motionrag import MotionRAG
from motionrag.cli import main as motionrag
from motionrag.evaluation.held_out import held_out
from motionrag.evaluation.suite import TRUE
from motionrag.pipeline.picture import picture
from motionrag.video.files import replacing_file

SUITES = ("known", "unseen", "fusion", "references", "fusion-known", "retrieval", "database-size", "scale")
REFERENCES = 9
SEED = 20_002
RULES: dict[str, Callable[[float, float], bool]] = {
    "at least": operator.ge,
    "at most": operator.le,
    "more than": operator.gt,
    "less than": operator.lt,
}


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A line to reach."""

    name: str
    """What is measured."""
    value: float | None
    """Of ours, or as the name says; None where it was not measured."""
    rule: str
    """One of `RULES`."""
    limit: float | None
    """The line."""

    @property
    def passed(self) -> bool | None:
        """Whether it is reached; None where that is not known."""
        if self.value is None or self.limit is None:
            return None
        return RULES[self.rule](self.value, self.limit)


def bars(suites: Mapping[str, Any], added_time: float | None) -> list[Bar]:
    """The lines that the embedded default is to reach.

    Args:
        suites: Those of a report.json.
        added_time: Of ours over the bare base, as a share of the bare base's.
    """

    def got(suite: str, system: str, metric: str) -> float | None:
        systems = suites.get(suite, {}).get("systems", {})
        value: float | None = systems.get(system, {}).get("figures", {}).get(metric, {}).get("value")
        return value

    def share(suite: str, system: str) -> float | None:
        ours, bare = (got(suite, name, "path-error") for name in (system, "bare"))
        return None if ours is None or not bare else ours / bare

    accuracy, path, likeness = "family-accuracy", "path-error", "likeness"
    lines: list[tuple[str, float | None, str, float | None]] = [
        *(
            (f"{g}: the judge's accuracy on true clips", got(g, TRUE, accuracy), "at least", 0.95)
            for g in SUITES[:2]
        ),
        (
            "known: accuracy, to the bare base's",
            got("known", "ours", accuracy),
            "at least",
            got("known", "bare", accuracy),
        ),
        ("known: path error over the bare base's", share("known", "ours"), "at most", 0.8),
        ("unseen: accuracy", got("unseen", "ours", accuracy), "at least", 0.6),
        ("unseen: accuracy of the bare base", got("unseen", "bare", accuracy), "less than", 0.2),
        ("unseen: path error over the bare base's", share("unseen", "ours"), "at most", 0.6),
        ("unseen: accuracy without the extension", got("unseen", "unextended", accuracy), "less than", 0.2),
    ]
    for rule in ("top1", "mean"):
        for metric, way in ((accuracy, "more than"), (path, "less than")):
            lines.append(
                (
                    f"unseen: {metric}, to that of {rule}",
                    got("fusion", "ours", metric),
                    way,
                    got("fusion", rule, metric),
                )
            )
    lines += [(f"{g}: likeness of the object", got(g, "ours", likeness), "at least", 0.95) for g in SUITES[:2]]
    lines.append(("time added to the bare base", added_time, "at most", 0.08))
    return [Bar(name=name, value=value, rule=rule, limit=limit) for name, value, rule, limit in lines]


def added_time(rag: MotionRAG, rounds: int) -> dict[str, Any]:
    """Seconds of ours and of the bare base in turn; the first round warms up and does not count."""
    clips, rows = held_out("known", rounds + 1, SEED, size=rag.sampling.height, frames=rag.sampling.frames), []
    for number, (image, prompt) in enumerate(zip(clips.images, clips.prompts, strict=True)):
        target = picture(image)
        began = time.perf_counter()
        video = rag(target, prompt, references=REFERENCES, seed=number)
        ours = time.perf_counter() - began
        bare = rag.bare(video.settings, target).timings["generate"]
        stages = {f"ours_{stage}": seconds for stage, seconds in video.timings.items()}
        rows.append({"ours": ours, "bare": bare, "references": len(video.references), **stages})
    rows = [row for row in rows[1:] if row["references"] == REFERENCES]
    if not rows:
        return {"rounds": 0, "added": None}
    added = [row["ours"] / row["bare"] - 1 for row in rows]
    return {
        "rounds": len(rows),
        "added": round(statistics.median(added), 4),
        "quartiles": [round(float(np.quantile(added, q)), 4) for q in (0.25, 0.75)],
        "seconds": {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]},
    }


def main() -> None:
    """Run the suites, measure the time, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the figures, as JSON")
    parser.add_argument("--work", type=Path, default=Path("runs/embedded"), help="clips and the report")
    parser.add_argument("--clips", type=int, help="at most that many of each suite")
    parser.add_argument("--timed", type=int, default=24, help="rounds to tell the added time; 0 for none")
    arguments = parser.parse_args()
    count = ["--clips", str(arguments.clips)] if arguments.clips else []
    if motionrag(["evaluate", *SUITES, "--out", str(arguments.work), *count]):
        raise SystemExit(1)
    report = json.loads((arguments.work / "report.json").read_text(encoding="utf-8"))
    timing = {"rounds": 0, "added": None}
    if arguments.timed:
        timing = added_time(MotionRAG.from_pretrained(), arguments.timed)
    reached = bars(report["suites"], timing["added"])
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    report["command"] = f"motionrag evaluate {' '.join(SUITES)}"  # without the folders of this machine
    found = {
        "machine": machine,
        **report,
        "time": timing,
        "bars": [asdict(b) | {"passed": b.passed} for b in reached],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing_file(arguments.out) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"time: {json.dumps(timing)}\n")
    for bar in reached:
        said = {True: "passed", False: "FAILED", None: "not measured"}[bar.passed]
        value, limit = ("-" if x is None else f"{x:.3f}" for x in (bar.value, bar.limit))
        print(f"{said:<13} {bar.name}: {value}, {bar.rule} {limit}")


if __name__ == "__main__":
    main()
