"""The checkpoints of one training: each a folder that is there whole or not at all, the newest few kept."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motionrag.checkpoint import replacing
from motionrag.errors import MotionRAGError

NAME = re.compile(r"step-(\d+)")


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], objects: Any, state: Any, *, keep: int
) -> Path:
    """Write the checkpoint of a step (unless it is there) and remove all but the newest `keep`.

    Args:
        folder: Where the checkpoints are.
        step: Updates done.
        tensors: File name without suffix -> its tensors, written as safetensors.
        objects: Tensors, numbers and containers of them, written by `torch.save`.
        state: What goes into state.json; it is written last.
        keep: How many checkpoints stay.

    Raises:
        OSError: If it cannot be written; the earlier checkpoints are as they were.
    """
    made = folder / f"step-{step:06d}"
    if not made.exists():
        try:
            with replacing(made) as temporary:
                for name, values in tensors.items():
                    cpu = {key: value.detach().cpu().contiguous() for key, value in values.items()}
                    save_file(cpu, temporary / f"{name}.safetensors")
                torch.save(objects, temporary / "optimizer.pt")
                (temporary / "state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
                for path in temporary.iterdir():
                    _to_disk(path)
        except (SafetensorError, RuntimeError) as error:  # how safetensors and torch call a full disk
            raise OSError(f"{made}: cannot be written ({error})") from error
    for old in checkpoints(folder)[:-keep]:
        doomed = old.with_name(f".{old.name}.tmp")
        os.rename(old, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    return made


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(checkpoint: Path) -> tuple[dict[str, dict[str, Tensor]], Any, dict[str, Any]]:
    """Read what `save` wrote: tensors by file, objects, state; all on the CPU.

    Raises:
        MotionRAGError: If a file is missing or damaged.
    """
    state = load_state(checkpoint)
    try:
        objects = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
        tensors = {path.stem: load_file(path) for path in checkpoint.glob("*.safetensors")}
    except (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        raise _damaged(checkpoint, error) from error
    return tensors, objects, state


def load_state(checkpoint: Path) -> dict[str, Any]:
    """A checkpoint's state alone.

    Raises:
        MotionRAGError: If it is missing or damaged.
    """
    try:
        state: dict[str, Any] = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, error) from error
    return state


def _damaged(checkpoint: Path, error: Exception) -> MotionRAGError:
    why = " ".join(str(error).split())[:300]
    return MotionRAGError(f"{checkpoint}: damaged ({why}); delete this folder to go on from the checkpoint before")


def clean(folder: Path) -> None:
    """Remove what a killed training had begun to write or to remove."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and saved buffers by name, each once even where weights are tied."""
    saved = model.state_dict().keys()
    buffers = {name: value for name, value in model.named_buffers() if name in saved}
    return {name: value.detach() for name, value in (*model.named_parameters(), *buffers.items())}


def copy_into(target: Mapping[str, Tensor], source: Mapping[str, Tensor], where: str) -> None:
    """Copy tensors of the same names and shapes.

    Raises:
        MotionRAGError: If a name or shape differs; the first is named.
    """
    for name in sorted({*target, *source}):
        ours, theirs = target.get(name), source.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            shapes = [tuple(value.shape) if value is not None else "missing" for value in (theirs, ours)]
            raise MotionRAGError(f"{where}: {name} is {shapes[0]} there and {shapes[1]} in the model")
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])
