"""Bring trained parts into the package, in half precision.

    python benchmarks/embedded_assets.py --bundle runs/joint-2/final --strength 2 --kept 0.65 --until 0.5

What is left out stays as it is. The databases are made with the bundle: `embedded_databases.py` comes after.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from motionrag import MotionBundle, checkpoint

ASSETS = Path(__file__).parents[1] / "src" / "motionrag" / "assets"
PARTS = {
    "base": ("transformer", "vae"),
    "motion": (".",),
    "appearance": (".",),
}
"""Folders of weights in what each part's training writes."""
COPIED = ("families", "captions-motion", "captions-whole")
"""Parts that are as small as they can be when they are trained, with a fingerprint of their own."""
MOST = 60e6
"""Bytes of all weights together."""


def halved(source: Path, target: Path) -> None:
    """A folder of weights, its matrices in half precision; its settings lose the path they came from."""
    with checkpoint.replacing(target) as temporary:
        for file in sorted(source.iterdir()):
            if file.suffix == ".safetensors":
                state = {k: v.half() if v.is_floating_point() else v for k, v in load_file(file).items()}
                save_file(state, temporary / file.name, metadata={"format": "pt"})
            elif file.suffix == ".json":
                settings = json.loads(file.read_text(encoding="utf-8"))
                settings.pop("_name_or_path", None)
                (temporary / file.name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def strengthened(bundle: MotionBundle, strength: float) -> MotionBundle:
    """The bundle with its adapter's values multiplied: what was scale `strength` is scale 1."""
    for name in bundle.config.adapter.sites:
        bundle.adapter.site(name).to_v.weight.mul_(strength)
    return bundle


def main() -> None:
    """Bring in what is named, then say how large all is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in (*PARTS, *COPIED, "bundle"):
        parser.add_argument(f"--{part}", type=Path, help=f"what training `{part}` wrote")
    parser.add_argument(
        "--strength", type=float, default=1.0, help="of the bundle's adapter, folded into its values (default: 1)"
    )
    parser.add_argument(
        "--kept", type=float, help="of the bundle's context: the references' own motion (default: as it has it)"
    )
    parser.add_argument(
        "--until", type=float, help="progress of the denoising at which its adapter ends (default: as it has it)"
    )
    arguments = parser.parse_args()
    for part, folders in PARTS.items():
        source = getattr(arguments, part)
        for folder in folders if source else ():
            halved(source / folder, ASSETS / part / folder)
    for part in COPIED:
        if source := getattr(arguments, part.replace("-", "_")):
            target = ASSETS / part.replace("-", "/")
            target.parent.mkdir(exist_ok=True)
            with checkpoint.replacing(target) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True)
    if arguments.bundle:
        trained = MotionBundle.from_pretrained(arguments.bundle).float()
        context, adapter = trained.config.context, trained.config.adapter
        if arguments.kept is not None:
            context = replace(context, kept=arguments.kept)
        if arguments.until is not None:
            adapter = replace(adapter, until=arguments.until)
        whole = MotionBundle(replace(trained.config, context=context, adapter=adapter))
        whole.load_state_dict(trained.state_dict())
        bundle = strengthened(whole, arguments.strength)
        bundle.half().save_pretrained(ASSETS / "bundle")
    sizes = {file: file.stat().st_size for file in sorted(ASSETS.rglob("*.safetensors"))}
    for file, size in sizes.items():
        print(f"{size / 1e6:6.2f} MB  {file.relative_to(ASSETS)}")
    print(f"{sum(sizes.values()) / 1e6:6.2f} MB  together, {MOST / 1e6:.0f} at most")
    if sum(sizes.values()) > MOST:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
