"""Batches made from stateless seeds, each prepared in a background thread while the one before is used."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from motionrag.training.settings import TrainSettings


def batches(
    make: Callable[[int, torch.Generator], Any], settings: TrainSettings, first: int, process: int
) -> Generator[Any, None, None]:
    """The batches of all forward passes, from update `first` (counted from 0) on.

    Args:
        make: A batch of a given size, all its randomness from the generator; called in another thread, one call at
            a time.
        settings: Steps, passes to a step, batch size and seed.
        first: The first update.
        process: Which of several processes this is.
    """
    places = ((step, micro) for step in range(first, settings.steps) for micro in range(settings.accumulate))

    def prepare(step: int, micro: int) -> Any:
        generator = torch.Generator().manual_seed(seed_of(settings.seed, step, micro, process, 0))
        with torch.no_grad():
            return make(settings.batch, generator)

    with ThreadPoolExecutor(1, "batches") as pool:

        def submit() -> Future[Any] | None:
            place = next(places, None)
            return pool.submit(prepare, *place) if place else None

        ahead = submit()
        while ahead is not None:
            batch = ahead.result()
            ahead = submit()
            yield batch


def seed_of(*parts: int) -> int:
    """A seed in [0, 2^62) that follows from numbers, unlike that of any other numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 2)
