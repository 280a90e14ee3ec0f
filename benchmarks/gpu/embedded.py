"""Train the embedded default at its larger size: every part by its packaged recipe, with the settings below.

Clips of 128x128, simulated and real ones mixed, on one H100 in about 25 minutes (planned; not run on one yet).
Needs nothing but this checkout, its environment and the package with MiniLM's weights; goes on where it was stopped.

    python benchmarks/gpu/embedded.py --out runs/gpu [--videos FOLDER] [--minutes 25]

The parts come out as RUN/base/final, RUN/joint/final and so on, as the recipes leave them; what measures better than
the parts in `src/motionrag/assets` by `benchmarks/embedded.py` replaces them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from motionrag.cli import main as motionrag

SIZE = 128
FAMILIES = "[known, free, free, free, free, wander, wander]"
SHARES = {"pictures": 0.08, "vae": 0.14, "motion": 0.12, "appearance": 0.05, "base": 0.3, "adapter": 0.17}
SHARES |= {"context": 0.06, "joint": 0.05, "families": 0.03}
"""Of the time, for each part in turn."""
STEPS_A_SECOND = {"pictures": 10, "vae": 6, "motion": 6, "appearance": 8, "base": 8, "adapter": 8}
STEPS_A_SECOND |= {"context": 25, "joint": 6, "families": 10}
"""Guesses for an H100, to be replaced by what the first run prints."""


def recipes(out: Path, videos: Path | None, clips: int, size: int) -> dict[str, list[str]]:
    """Recipe -> what differs from it."""
    synth = f"{{synth: {{count: {clips}, seed: 11, families: {FAMILIES}}}}}"
    real = f", {{videos: {videos}}}" if videos else ""
    sources = [f"data.sources=[{synth}{real}]", f"data.cache={out}/cache"]
    film = [f"videos={videos}"] if videos else []
    motion, appearance = (f"data.{part}_encoder={out}/{part}/final" for part in ("motion", "appearance"))
    base = f"base.folder={out}/base/final"
    return {
        "pictures": [f"size={size}", "train.batch=256", *film],
        "vae": [f"size={size}", f"init={out}/pictures/final", "train.batch=96", *film],
        "motion": ["train.batch=256", *film],
        "appearance": ["train.batch=256", *film],
        "base": [
            f"vae={out}/vae/final",
            f"new={{layers: 8, heads: 6, head_dim: 64, size: {size}}}",
            "train.batch=128",
            *sources,
        ],
        "adapter": [base, f"bundle.resampler={out}/motion/final/resampler", motion, "train.batch=128", *sources],
        "context": [f"bundle={out}/adapter/final", motion, appearance, "train.batch=128", *sources],
        "joint": [base, f"bundle={out}/context/final", f"data.cache={out}/cache", "train.batch=128"],
        "families": ["train.batch=256"],
    }


def main() -> int:
    """Train part after part, each for its share of the time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--videos", type=Path, help="captioned real clips")
    parser.add_argument("--minutes", type=float, default=25.0, help="in all (default: 25)")
    parser.add_argument("--clips", type=int, default=40_000, help="simulated clips in the cache (default: 40000)")
    parser.add_argument("--size", type=int, default=SIZE)
    parser.add_argument("--steps", type=int, help="steps of every part, in place of its share of the time")
    parser.add_argument("--set", action="append", default=[], help="a setting of every recipe, for a trial")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    for recipe, settings in recipes(arguments.out, arguments.videos, arguments.clips, arguments.size).items():
        if (arguments.out / recipe / "final").exists():
            continue
        began = time.monotonic()
        command = ["train", recipe, "--out", str(arguments.out / recipe), "--device", arguments.device]
        command += [part for setting in [*settings, *arguments.set] for part in ("--set", setting)]
        steps = arguments.steps or int(SHARES[recipe] * arguments.minutes * 60 * STEPS_A_SECOND[recipe])
        if motionrag([*command, "--set", f"train.steps={steps}"]):
            return 1
        print(f"{recipe}: {steps} steps in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
