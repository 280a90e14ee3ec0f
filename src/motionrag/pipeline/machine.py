"""What this machine has and which models it can run: versions, devices, the local cache; nothing is fetched.

Memory is estimated, not measured: parameters times bytes, and an allowance for what is computed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from motionrag.errors import MotionRAGError
from motionrag.pipeline.memory import FULL, LOW, OFFLOAD
from motionrag.registry import BASES, EMBEDDED, base_spec, embedded
from motionrag.types import BaseSpec

LIBRARIES = ("motionrag", "torch", "diffusers", "transformers", "accelerate", "lancedb", "av")
ENCODERS = {
    "motion": ("MCG-NJU/videomae-base-finetuned-ssv2", "cc-by-nc-4.0"),
    "appearance": ("facebook/dinov2-large", "apache-2.0"),
}
"""The encoders of the published bundles: hub id and licence."""
PARTS = ("base", "motion", "appearance", "bundle", "captions", "database")
"""What the embedded default is made of."""
ALLOWANCE = {FULL: 12e9, OFFLOAD: 8e9, LOW: 5e9}
"""Bytes beside the base's weights, by memory mode: our own modules, and what is computed at the published size.

Rounded up so that CogVideoX-5B comes to what diffusers' and its authors' documents report: 33, 19 and 5 GB.
"""
_WEIGHTS = (".safetensors", ".bin", ".ckpt", ".pt")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where models can run."""

    name: str
    """As in `--device`."""
    title: str
    """What it is."""
    memory: int
    """Bytes it has."""
    free: int
    """Bytes that are not in use."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model and where it stands."""

    name: str
    """As in `--base`, or the kind of an encoder."""
    repository: str
    """Hub id; empty for what comes with the package."""
    license: str
    """As its authors name it."""
    state: str
    """"ready", "incomplete" or "missing"."""
    bytes: int = 0
    """On disk."""
    lacks: list[str] = field(default_factory=list)
    """What is missing."""
    get: list[str] = field(default_factory=list)
    """Commands that fetch it."""
    estimates: dict[str, int] = field(default_factory=dict)
    """Bytes wanted of the device by memory mode, the base computing in two bytes a number."""
    runs: dict[str, str] = field(default_factory=dict)
    """By device the options to run it with, or why it cannot."""


def versions() -> dict[str, str]:
    """Of Python and the libraries that count."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def extras() -> dict[str, dict[str, str | None]]:
    """Optional packages by the extra that brings them: version, or None if it is not installed."""
    found: dict[str, dict[str, str | None]] = {}
    for line in requires("motionrag") or []:
        match = re.match(r"([A-Za-z0-9._-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[2] != "dev":
            try:
                installed = version(match[1])
            except PackageNotFoundError:
                installed = None
            found.setdefault(match[2], {})[match[1]] = installed
    return found


def devices() -> list[Device]:
    """GPUs first, the CPU last."""
    import psutil  # type: ignore[import-untyped]
    import torch

    found = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            title = torch.cuda.get_device_name(index)
            found.append(Device(name=f"cuda:{index}", title=title, memory=total, free=free))
    memory = psutil.virtual_memory()
    if torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
        free = total - int(torch.mps.driver_allocated_memory())
        found.append(Device(name="mps", title="Apple GPU", memory=total, free=free))
    title = f"{os.cpu_count()} CPUs ({platform.machine()}, {sys.platform})"
    return [*found, Device(name="cpu", title=title, memory=memory.total, free=memory.available)]


def models(on: Sequence[Device]) -> list[Model]:
    """The embedded default, every base, and the encoders of the published bundles."""
    bases = [_base(base_spec(name), on) for name in BASES if name != EMBEDDED]
    return [_embedded(), *bases, *(_encoder(kind, *known) for kind, known in ENCODERS.items())]


def estimates(spec: BaseSpec) -> dict[str, int]:
    """Bytes that a base wants of the device in each memory mode; empty where its parameters are not known."""
    if not spec.parameters:
        return {}
    weights = {name: 2 * count for name, count in spec.parameters.items()}
    held = {FULL: sum(weights.values()), OFFLOAD: max(weights.values()), LOW: weights.get("vae", 0)}
    return {mode: int(held[mode] + ALLOWANCE[mode]) for mode in held}


def runs(spec: BaseSpec, on: Sequence[Device]) -> dict[str, str]:
    """By device the options to run a base with, or why it cannot; what is offloaded lies in RAM."""
    wanted, ram = estimates(spec), on[-1].memory
    if not wanted:
        return {}
    total = sum(spec.parameters.values())
    found = {}
    for device in on:
        if device.name == "cpu":
            fits = {"float32": 4 * total + ALLOWANCE[FULL], "bfloat16": 2 * total + ALLOWANCE[FULL]}
            dtype = next((dtype for dtype, need in fits.items() if need <= ram), None)
            slow = "; expect hours a clip"
            least = f"no: it wants about {_gb(fits['bfloat16'])} of RAM"
            found["cpu"] = f"--device cpu --dtype {dtype}{slow}" if dtype else least
        else:
            modes = [mode for mode in wanted if not (mode == LOW and device.name == "mps")]  # which has no float8
            mode = next((m for m in modes if wanted[m] <= device.memory and (m == FULL or 2 * total <= ram)), None)
            least = f"no: it wants about {_gb(wanted[modes[-1]])} there and {_gb(2 * total)} of RAM"
            found[device.name] = f"--device {device.name} --memory {mode}" if mode else least
    return found


def _gb(count: float) -> str:
    return f"{count / 1e9:.0f} GB"


def _embedded() -> Model:
    folders, lacks = [], []
    for part in PARTS:
        try:
            folders.append(embedded(part))
        except MotionRAGError:
            lacks.append(part)
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    return Model(
        name=EMBEDDED,
        repository="",
        license=base_spec(EMBEDDED).license,
        state="incomplete" if lacks else "ready",
        bytes=size,
        lacks=lacks,
        get=["pip install --force-reinstall motionrag"] if lacks else [],
        runs={} if lacks else {"cpu": "needs no options"},
    )


def _base(spec: BaseSpec, on: Sequence[Device]) -> Model:
    if spec.files:
        size, lacks = _named_files(spec.files)
        get = [f"hf download {name} {' '.join(files)}" for name, files in spec.files.items()]
    else:
        size, lacks = _pipeline(spec.repository)
        get = [
            f"hf download {spec.repository} model_index.json",
            f'hf download {spec.repository} --include "*/*" --exclude "*.fp16.*"',
        ]
    made = _model(spec.name, spec.repository, spec.license, size, lacks, get)
    return Model(**{**vars(made), "estimates": estimates(spec), "runs": runs(spec, on)})


def _encoder(kind: str, repository: str, license: str) -> Model:
    folder = _snapshot(repository)
    lacks = ["all of it"] if folder is None else list(_lacking(folder))
    size = 0 if folder is None else _size(folder)
    return _model(f"{kind} encoder", repository, license, size, lacks, [f"hf download {repository}"])


def _model(name: str, repository: str, license: str, size: int, lacks: list[str], get: list[str]) -> Model:
    state = "ready" if not lacks else "incomplete" if size else "missing"
    return Model(
        name=name,
        repository=repository,
        license=license,
        state=state,
        bytes=size,
        lacks=lacks,
        get=get if lacks else [],
    )


def _snapshot(repository: str) -> Path | None:
    """Folder of a hub model in the cache, complete or not."""
    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (HfHubHTTPError, HFValidationError, OSError):
        return None


def _pipeline(repository: str) -> tuple[int, list[str]]:
    """Bytes of a diffusers pipeline in the cache, and what it lacks of what its index names."""
    folder = _snapshot(repository)
    if folder is None:
        return 0, ["all of it"]
    index = _json(folder / "model_index.json")
    if not index:
        return _size(folder), ["model_index.json"]
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0] is not None]
    lacks = [one for name in parts for one in _lacking(folder, name)]
    return _size(folder), lacks


def _lacking(folder: Path, part: str = "") -> Iterator[str]:
    """What a model's folder lacks: everything, its settings, its weights, or some of their files."""
    place = folder / part
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    if not names:
        yield part or "all of it"
        return
    weights = [name for name in names if name.endswith((*_WEIGHTS, ".index.json"))]
    if part and not weights and "config.json" not in names:
        return  # a tokenizer, a scheduler
    if "config.json" not in names:
        yield os.path.join(part, "config.json")
    sharded = [name for name in names if name.endswith(".index.json")]
    shards = {file for name in sharded for file in _json(place / name).get("weight_map", {}).values()}
    whole = [name for name in names if name.endswith(_WEIGHTS) and name not in shards]
    if whole or (shards and shards <= set(names)):
        return
    yield from (os.path.join(part, name) for name in sorted(shards - set(names)) or ["weights"])


def _named_files(files: Mapping[str, Sequence[str]]) -> tuple[int, list[str]]:
    size, lacks = 0, []
    for repository, names in files.items():
        for name in names:
            found = try_to_load_from_cache(repository, name)
            if isinstance(found, str):
                size += Path(found).stat().st_size
            else:
                lacks.append(f"{repository}/{name}")
    return size, lacks


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
