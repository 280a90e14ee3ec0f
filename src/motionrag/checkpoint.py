"""Weights on disk: safetensors and config.json, with a fingerprint over both by which half a save is noticed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motionrag.errors import MotionRAGError

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"


def fingerprint(state: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> str:
    """SHA-256, as 64 hex digits, over every tensor's name, dtype, shape and bytes, and over the config."""
    digest = hashlib.sha256(json.dumps(config or {}, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(folder: Path, state: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write weights, config and their fingerprint into a new folder: over a bundle, through `replacing`.

    Raises:
        MotionRAGError: If the weights cannot be written, say because the disk is full.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    try:
        save_file(tensors, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors' name for a full disk too
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise MotionRAGError(
            f"{folder.parent}: {size / 1e6:,.1f} MB of weights cannot be written ({error})"
        ) from error
    document = {**config, "fingerprint": fingerprint(tensors, config)}
    (folder / CONFIG_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load(weights: Path, config: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save` wrote.

    Returns:
        The tensors, on the CPU, and the config without its fingerprint.

    Raises:
        MotionRAGError: If a file is missing, unreadable, or not what was saved.
    """
    try:
        document = json.loads(config.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise MotionRAGError(f"{config}: holds no settings, but {document!r}")
        state = load_file(weights)
    except FileNotFoundError as error:
        raise MotionRAGError(f"{error.filename or weights}: no such file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MotionRAGError(f"{config}: not valid JSON ({error})") from error
    except SafetensorError as error:
        raise MotionRAGError(f"{weights}: damaged or cut short ({error}); fetch or save it again") from error
    expected = document.pop("fingerprint", None)
    if expected is None:
        raise MotionRAGError(f"{config}: has no fingerprint, so it was not saved by motionrag")
    if fingerprint(state, document) != expected:
        raise MotionRAGError(
            f"{weights.parent}: {weights.name} and {config.name} do not belong together, or one was changed "
            "or cut short since they were saved; fetch or save them again"
        )
    return state, document


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load every tensor of a module, no more and no less; parameters take over the given tensors.

    Raises:
        MotionRAGError: If a key is missing or left over, or a shape differs; the first is named.
    """
    wanted = module.state_dict()
    complaints = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} belongs to nothing" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(tensor.shape)}"
            for name, tensor in wanted.items()
            if name in state and state[name].shape != tensor.shape
        ),
    ]
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        raise MotionRAGError(f"{where}: {complaints[0]}{more}")
    module.load_state_dict(dict(state), strict=True, assign=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`; once all is written it takes its place, or its files move into it.

    If the block fails, the temporary folder is removed and `folder` stays as it was.

    Raises:
        MotionRAGError: If `folder` is a file.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise MotionRAGError(f"{folder}: is a file, a folder is wanted")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if folder.exists():
            for file in temporary.iterdir():
                os.replace(file, folder / file.name)
        else:
            os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
