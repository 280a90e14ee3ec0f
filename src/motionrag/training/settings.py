"""How a part is trained, whatever it is: length, optimizer, schedule, precision, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of one training; in a recipe they stand under `train`."""

    steps: int
    """Updates of the weights, all in all; raise it to go on with a finished run."""

    batch: int
    """Clips (or whatever the task counts) in one forward pass of one process."""

    accumulate: int = 1
    """Forward passes whose gradients are averaged into one update."""

    lr: float = 1e-3
    """Learning rate after warm-up, for AdamW and Muon alike (Muon's updates are scaled to AdamW's size)."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the 2-D matrices inside blocks, AdamW for the rest."""

    weight_decay: float = 0.01
    """Decoupled decay of weights with two or more dimensions."""

    beta1: float = 0.9
    """AdamW's decay of the mean gradient."""

    beta2: float = 0.99
    """AdamW's decay of the mean squared gradient."""

    clip: float = 1.0
    """Largest norm of all gradients together; 0 does not clip."""

    schedule: Literal["wsd", "cosine", "constant"] = "wsd"
    """After warm-up: constant, then linear to 0 over the last `cooldown`; half a cosine to 0; or constant."""

    warmup: int = 100
    """Updates over which the learning rate rises linearly from 0."""

    cooldown: float = 0.2
    """Share of `steps` over which `wsd` falls to 0."""

    ema: float = 0.999
    """Largest decay of the moving average of the weights, which is what is exported; 0 keeps no average."""

    ema_power: float = 0.667
    """The average's decay after n updates is 1 - (1 + n) ** -ema_power, up to `ema`."""

    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the loss; weights and optimizer keep their own type."""

    seed: int = 0
    """Of batches, noise and dropout; the weights' first values are the task's."""

    log_every: int = 10
    """Updates between two lines of metrics.jsonl."""

    sample_every: int = 1000
    """Updates between two sets of samples; one more is made at the end; 0 makes none but that."""

    save_every: int = 1000
    """Updates between two checkpoints; 0 saves by the clock only."""

    save_minutes: float = 15.0
    """Minutes after which a checkpoint is written in any case; 0 saves by updates only."""

    keep: int = 2
    """Newest checkpoints that stay."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch": 1, "accumulate": 1, "log_every": 1, "keep": 1}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and value < least.get(field.name, 0):
                raise MotionRAGError(f"train.{field.name} is {value}, at least {least.get(field.name, 0)} is wanted")
        for name, most in (("cooldown", 1.0), ("ema", 0.999999), ("beta1", 0.999999), ("beta2", 0.999999)):
            if getattr(self, name) > most:
                raise MotionRAGError(f"train.{name} is {getattr(self, name)}, at most {most} is wanted")


FREE = {"steps", "log_every", "sample_every", "save_every", "save_minutes", "keep"}
"""Settings that a resumed run may change: they do not change what the steps taken so far computed."""


def refuse_changes(old: dict[str, Any], task: str, settings: TrainSettings, task_settings: Any, where: str) -> None:
    """Refuse to resume with settings that would have computed something else.

    Args:
        old: A checkpoint's state: its `step` and `task`, and `train` and `settings` as `plain` made them.
        task: The name of the task's class.
        settings: Those of the loop now.
        task_settings: The dataclass of the task now, or None.
        where: The run, for the message.

    Raises:
        MotionRAGError: If one differs; the first is named.
    """
    changes = [("task", old["task"], task)] if old["task"] != task else []
    changes += [(f"train.{name}", *rest) for name, *rest in differences(old["train"], settings) if name not in FREE]
    if task_settings is not None:
        changes += differences(old["settings"] or {}, task_settings)
    for name, before, now in changes:
        raise MotionRAGError(
            f"{where}: {name} was {before!r} in this run and is {now!r} now; "
            "put it back, or train into another folder"
        )
    if old["step"] > settings.steps:
        raise MotionRAGError(f"{where}: {old['step']:,} steps are done, train.steps is {settings.steps:,}; raise it")


def plain(value: Any) -> Any:
    """Settings as JSON has them: dataclasses are dictionaries, tuples lists, paths strings."""
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def differences(old: dict[str, Any], new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every setting that is not what it was, as (dotted name, old value, new value).

    Args:
        old: Settings as `plain` made them, perhaps by an earlier version: what it did not know had its default.
        new: The dataclass of the settings now.
        prefix: Before each name.
    """
    for field in fields(new):
        value = getattr(new, field.name)
        before = old.get(field.name, MISSING)
        if before is MISSING:
            default: Any = field.default_factory
            made = field.default if default is MISSING else default()
            before = None if made is MISSING else plain(made)
        if is_dataclass(value) and isinstance(before, dict):
            yield from differences(before, value, f"{prefix}{field.name}.")
        elif before != plain(value):
            yield f"{prefix}{field.name}", before, plain(value)
