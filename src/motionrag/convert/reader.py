"""Reading a published checkpoint safely: a PyTorch pickle holding tensors and nothing that could run."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError

_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, memory-mapped where the format allows.

    Takes a bare state dict (`motion_proj.ckpt`) or one under the key `state_dict` (the others).

    Raises:
        MotionRAGError: If the file is missing, cut short, not a PyTorch checkpoint, carries Python objects
            other than tensors and plain containers (they are never loaded), or holds a non-finite weight.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ZIP))
    except FileNotFoundError as error:
        raise MotionRAGError(f"{path}: no such file") from error
    if magic == _ZIP and not zipfile.is_zipfile(path):
        raise MotionRAGError(f"{path}: cut short (its end is missing); download it again")
    if magic != _ZIP and not magic.startswith(_PICKLE):
        raise MotionRAGError(f"{path}: not a PyTorch checkpoint; download it again")
    try:
        with warnings.catch_warnings():  # about pickle protocols; the file is refused or read
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=magic == _ZIP)
    except Exception as error:  # torch names no limit to what a damaged file may raise
        if found := re.search(r"Unsupported (?:global: GLOBAL|class) (\S+)", str(error)):
            raise MotionRAGError(
                f"{path}: refused, it carries Python objects or code ({found[1]}) and not just tensors; "
                "nothing of it was run. Get the file from its authors"
            ) from error
        raise MotionRAGError(f"{path}: refused, it is damaged or a pickle of something else than tensors") from error
    return _tensors(path, content)


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise MotionRAGError(f"{path}: holds no state dict")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise MotionRAGError(f"{path}: its entry {key!r} is a {type(value).__name__}, not a tensor")
        if value.is_floating_point() and not value.isfinite().all():
            raise MotionRAGError(f"{path}: its tensor {key!r} is not finite")
    return {str(key): value for key, value in content.items()}
