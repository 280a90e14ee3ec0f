"""A scheduler of diffusers in place of a model's own, for as long as clips are made with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from motionrag.errors import MotionRAGError, did_you_mean


def schedulers_of(pipe: Any) -> dict[str, type[Any]]:
    """Name -> class of the schedulers that a pipeline takes: those it names, and those compatible with its own."""
    named = pipe._get_signature_types().get("scheduler", ())
    classes = [type(pipe.scheduler), *named, *pipe.scheduler.compatibles]
    return {cls.__name__: cls for cls in classes if hasattr(cls, "from_config")}


def check_scheduler(pipe: Any, name: str | None) -> None:
    """Refuse a scheduler that a pipeline does not take.

    Raises:
        MotionRAGError: If there is none of that name, or it does not fit.
    """
    known = schedulers_of(pipe) if name is not None else {}
    if name is not None and name not in known:
        near = did_you_mean(name, known) or f"; it takes {', '.join(known)}"
        raise MotionRAGError(f"scheduler {name!r} does not fit {type(pipe).__name__}{near}")


@contextmanager
def scheduled(pipe: Any, name: str | None) -> Iterator[None]:
    """Let a pipeline sample with another scheduler, with the settings of its own.

    Args:
        pipe: The pipeline.
        name: Class of diffusers; None is the pipeline's own.

    Raises:
        MotionRAGError: As `check_scheduler`.
    """
    check_scheduler(pipe, name)
    own = pipe.scheduler
    if name is None or name == type(own).__name__:
        yield
        return
    pipe.scheduler = schedulers_of(pipe)[name].from_config(own.config)
    try:
        yield
    finally:
        pipe.scheduler = own
