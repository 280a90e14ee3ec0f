"""Say what this machine can run: versions, devices, models that are here, and how to get those that are not."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from motionrag.pipeline.machine import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="the same as JSON")


def run(arguments: argparse.Namespace) -> None:
    """Look, and print; the network is left alone."""
    from motionrag.encoders.source import quiet
    from motionrag.pipeline import machine

    with quiet():
        here = machine.devices()
        found = machine.models(here)
    versions, extras = machine.versions(), machine.extras()
    if arguments.json:
        parts = {"devices": here, "models": found}
        lists = {name: [asdict(one) for one in part] for name, part in parts.items()}  # type: ignore[attr-defined]
        print(json.dumps({"versions": versions, "extras": extras, **lists}, indent=2))
        return
    print("Versions")
    print("  " + ", ".join(f"{name} {value}" for name, value in versions.items()))
    for extra, packages in extras.items():
        for name, value in packages.items():
            print(f"  {name} {value or f'is not installed: pip install motionrag[{extra}]'}")
    print("\nDevices")
    for device in here:
        print(f"  {device.name:<8} {device.title}: {_gb(device.memory)}, {_gb(device.free)} free")
    print("\nModels; memory is estimated: parameters x 2 bytes, and an allowance for what is computed")
    for model in found:
        print(*_told(model), sep="\n")


def _told(model: Model) -> Iterator[str]:
    where = model.repository or "comes with motionrag"
    size = f", {_gb(model.bytes)}" if model.bytes else ""
    yield f"  {model.name}: {model.state}{size} ({where}, licence {model.license})"
    if model.lacks:
        more = f" and {len(model.lacks) - 4} more" if len(model.lacks) > 4 else ""
        yield f"    lacks {', '.join(model.lacks[:4])}{more}"
    for command in model.get:
        yield f"    get it: {command}"
    if model.estimates:
        wanted = ", ".join(f"{mode} {_gb(count)}" for mode, count in model.estimates.items())
        yield f"    wants about this much of a device, by --memory: {wanted}"
    for device, how in model.runs.items():
        yield f"    on {device}: {how}"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
