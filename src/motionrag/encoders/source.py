"""Where an encoder's files are: a local folder or a hub id, resolved to one commit; and loading without noise."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from motionrag.errors import MotionRAGError

SMALL_FILES = ["*.json", "*.txt", "*.model"]
"""What is fetched from the hub to look at; the libraries fetch the weights they choose."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model whose small files are at hand."""

    model: str
    """Hub id or absolute folder."""
    revision: str | None
    """Commit hash on the hub; None for a folder."""
    folder: Path
    """Holds its configuration files; for a hub id the snapshot in the cache."""
    cache: str
    """Where hub files are kept."""


def resolve(model: str, revision: str | None) -> Source:
    """Find a model and pin its revision.

    Args:
        model: A local folder or a hub id.
        revision: Branch, tag or commit on the hub; None for its main branch.

    Raises:
        MotionRAGError: If it is neither a folder nor a hub id that is cached or can be reached.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise MotionRAGError(f"{model}: is a local folder, which has no revision {revision!r}; leave it out")
        folder = folder.resolve()
        return Source(model=str(folder), revision=None, folder=folder, cache=constants.HF_HUB_CACHE)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise MotionRAGError(
            f"{model}: no such folder; give the folder of a saved model, or a hub id such as owner/name"
        )
    snapshot = _snapshot(model, revision)
    return Source(model=model, revision=snapshot.name, folder=snapshot, cache=constants.HF_HUB_CACHE)


def _snapshot(model: str, revision: str | None) -> Path:
    """Fetch the small files of a hub model; offline, find them in the cache. The folder is named by the commit."""
    try:
        with quiet():
            return Path(
                snapshot_download(
                    model, revision=revision, allow_patterns=SMALL_FILES, cache_dir=constants.HF_HUB_CACHE
                )
            )
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise MotionRAGError(
            f"no encoder at {model!r}{at}: it is neither a local folder nor a hub id that is cached or can be "
            f"reached ({one_line(error)}); check the name, or fetch it while online with `hf download {model}`"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        MotionRAGError: If there is no such file, or it holds something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MotionRAGError(f"{path.parent}: has no {path.name}, so it holds no model") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MotionRAGError(f"{path}: not valid JSON ({error}); fetch or save the model again") from error
    if not isinstance(document, dict):
        raise MotionRAGError(f"{path}: holds no settings, but {document!r}")
    return document


def refuse_missing(names: Iterable[str], spare: Sequence[str], model: str) -> None:
    """Refuse weights that lack a parameter, but for the spare ones: transformers would leave it random.

    Raises:
        MotionRAGError: If there is such a one; the first is named.
    """
    missing = sorted(name for name in names if not any(part in name for part in spare))
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise MotionRAGError(
            f"{model}: its weights lack {missing[0]}{more}, which would stay random; fetch or save the model again"
        )


def checked_device(device: str) -> str:
    """The same device, known to work.

    Raises:
        MotionRAGError: If there is no such device here.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError, NotImplementedError) as error:  # as the builds of torch put it
        raise MotionRAGError(
            f'device {device!r} cannot be used here ({one_line(error)}); "cpu" always can'
        ) from error
    return device


def one_line(error: BaseException) -> str:
    """The start of a library's message, on one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines of the Hugging Face libraries inside the block; restored after it.

    Nor of the packages that they import where these are installed, which tell on import of kernels they do not find.
    """
    from transformers.utils import logging as transformers_logging

    names = ("transformers", "sentence_transformers", "huggingface_hub", "torchao", "bitsandbytes")
    loggers = [logging.getLogger(name) for name in (*names, "torch.utils._pytree")]
    levels = [logger.level for logger in loggers]
    bars, no_hub_bars = transformers_logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # the hub's too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
        (disable_progress_bars if no_hub_bars else enable_progress_bars)()
