"""The pipeline of a base model: the embedded one, one of the registry, or any folder or hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from motionrag.encoders.source import one_line, quiet
from motionrag.errors import MotionRAGError
from motionrag.registry import BASES, base_spec


def load_base(name: str, *, like: str | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """Load a base model as a diffusers pipeline, without progress bars.

    Args:
        name: A key of `motionrag.registry.BASES`, a folder that `save_pretrained` wrote, or a hub id.
        like: The key of `BASES` that a folder is a model of: what lies there may be the parts of one that comes
            with the package, as training writes them.
        device: Where it runs.
        dtype: What it computes in.

    Raises:
        MotionRAGError: If it is not there or cannot be loaded.
    """
    known = name if name in BASES else like
    spec = base_spec(known) if known is not None else None
    is_parts = Path(name).is_dir() and not (Path(name) / "model_index.json").is_file()
    with quietly():
        if spec is not None and spec.loader is not None and (name in BASES or is_parts):
            load = _imported(spec.loader)
            pipe = (load() if name in BASES else load(Path(name))).to(dtype)
        else:
            pipe = _pretrained(spec.repository if spec is not None and name in BASES else name, dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _pretrained(name: str, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    try:
        own = _own_loader(DiffusionPipeline.load_config(name)["_class_name"])
        return own(Path(name)).to(dtype) if own else DiffusionPipeline.from_pretrained(name, torch_dtype=dtype)
    except Exception as error:  # readers of weights and configurations raise all kinds
        raise MotionRAGError(
            f"no base model at {name!r}: it is neither one of {', '.join(BASES)}, nor a pipeline's folder, nor a "
            f"hub id that is cached or can be reached ({one_line(error)})"
        ) from error


def _own_loader(pipeline: str) -> Any:
    """The loader of a base whose pipeline class diffusers does not have; None for one that it has."""
    import diffusers

    if hasattr(diffusers, pipeline):
        return None
    loaders = (spec.loader for spec in map(base_spec, BASES) if spec.pipeline == pipeline)
    loader = next(loaders, None)
    return _imported(loader) if loader is not None else None


def _imported(loader: str) -> Any:
    module, function = loader.split(":")
    return getattr(import_module(module), function)


@contextmanager
def quietly() -> Iterator[None]:
    """No bars and warnings of diffusers and the Hugging Face libraries inside the block."""
    from diffusers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with quiet():
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
