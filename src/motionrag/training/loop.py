"""The one loop that trains every part: accumulation, moving average, checkpoints, exact resume.

The randomness of update s, forward pass m, process p follows from (seed, s, m, p) alone, so a run that was stopped
and resumed computes what one that was not would have.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast, send_to_device
from filelock import FileLock, Timeout
from torch import Tensor, nn

from motionrag.checkpoint import replacing
from motionrag.errors import MotionRAGError
from motionrag.training import checkpoints
from motionrag.training.batches import batches, seed_of
from motionrag.training.optim import MovingAverage, average_gradients, lr_share, make_optimizers
from motionrag.training.plots import plot_losses
from motionrag.training.settings import TrainSettings, plain, refuse_changes
from motionrag.training.stopping import stop_requests
from motionrag.training.tracker import JsonLines, Means, read_lines

PLOT_EVERY_S = 30.0


class Task(Protocol):
    """What is trained; an optional `adamw_only: tuple[str, ...]` are patterns of names that Muon is not to have."""

    model: nn.Module
    """Exactly what is optimised, averaged and saved, on its device; frozen parts lie outside it."""

    def batch(self, size: int, generator: torch.Generator) -> Any:
        """CPU tensors in dictionaries, tuples or lists, made in another thread; all randomness from `generator`."""

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float | Tensor]]:
        """The scalar loss and metrics of a batch, under autocast; batch and generator are on the model's device."""

    def sample(self, folder: Path, step: int) -> dict[str, float] | None:
        """Write pictures named after the step, with the weights now in the model (the average); perhaps metrics."""

    def export(self, folder: Path) -> None:
        """Write the part in its own published format into an empty folder, the average in place."""


@dataclass(frozen=True)
class Progress:
    """How far a training is, after an update; the rate is over all since this process began."""

    step: int
    steps: int
    loss: float
    clips_per_s: float
    seconds_left: float


class Stopped(MotionRAGError):
    """The training was asked to stop, and has written its checkpoint."""


def train(
    task: Task,
    settings: TrainSettings,
    out: Path,
    *,
    report: Callable[[Progress], None] | None = None,
    task_settings: Any = None,
) -> Path:
    """Train, or go on with the training that `out` holds.

    Args:
        task: What is trained, its model on the device it is to be trained on.
        settings: How.
        out: Folder of the run: checkpoints/, metrics.jsonl, loss.png, samples/ and, at the end, final/.
        report: Called after each update, in the main process only.
        task_settings: The dataclass the task was made from; a run is not resumed with other ones.

    Returns:
        The folder of the exported part, out/final.

    Raises:
        Stopped: On Ctrl-C or SIGTERM, once a checkpoint is written.
        MotionRAGError: If the run in `out` had other settings or is in use, the loss is not finite, or something
            cannot be written.
    """
    check_resumable(out, type(task), settings, task_settings)
    accelerator = _accelerator(settings, next(task.model.parameters()).device)
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / ".lock", blocking=False)
        if accelerator.is_main_process:
            lock.acquire()
        try:
            with stop_requests() as stop:
                return _Run(task, settings, out, accelerator, report, task_settings).train(stop)
        finally:
            lock.release()
    except Timeout:
        raise MotionRAGError(f"{out}: another training writes into this folder") from None
    except OSError as error:
        raise MotionRAGError(f"{error}; {_last_checkpoint(out)}, and the same command goes on from there") from error


def check_resumable(out: Path, task: type[Any], settings: TrainSettings, task_settings: Any = None) -> None:
    """Refuse a run of other settings: `train` does so too, this is for before a costly task is made.

    Raises:
        MotionRAGError: If `out` holds a training of other settings; the first is named.
    """
    if kept := checkpoints.checkpoints(out / "checkpoints"):
        refuse_changes(checkpoints.load_state(kept[-1]), task.__name__, settings, task_settings, str(out))


def _accelerator(settings: TrainSettings, device: torch.device) -> Accelerator:
    AcceleratorState._reset_state(
        reset_partial_state=not torch.distributed.is_initialized()
    )  # one process, many parts
    if settings.precision == "fp16" and device.type == "cpu":
        raise MotionRAGError("train.precision: fp16 needs a GPU; bf16 works on the CPU too")
    try:
        return Accelerator(mixed_precision=settings.precision, cpu=device.type == "cpu")
    except ValueError as error:
        raise MotionRAGError(f"train.precision {settings.precision}: {error}") from error


def _last_checkpoint(out: Path) -> str:
    kept = checkpoints.checkpoints(out / "checkpoints")
    return f"the last checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"


class _Run:
    """One process of one training, from its last checkpoint on; `step` counts the updates done."""

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        out: Path,
        accelerator: Accelerator,
        report: Callable[[Progress], None] | None,
        task_settings: Any,
    ):
        self.task, self.settings, self.out, self.accelerator, self.report = task, settings, out, accelerator, report
        self.task_settings = task_settings
        self.folder = out / "checkpoints"
        self.main = accelerator.is_main_process
        self.device = next(task.model.parameters()).device
        self.parameters = [value for value in task.model.parameters() if value.requires_grad]
        self.optimizers = make_optimizers(task.model, settings, getattr(task, "adamw_only", ()))
        if self.main:
            checkpoints.clean(self.folder)
        if accelerator.num_processes > 1:
            for value in checkpoints.own_tensors(task.model).values():
                broadcast(value)
        self.average = MovingAverage(task.model, settings)
        self.means = Means()
        self.step = 0
        if kept := checkpoints.checkpoints(self.folder):
            self._resume(kept[-1])

    def train(self, stop: threading.Event) -> Path:
        """Take the steps that are left and export."""
        settings, first, began = self.settings, self.step, time.monotonic()
        clips = settings.batch * settings.accumulate * self.accelerator.num_processes
        if self.main:
            self.accelerator.trackers = [JsonLines(self.out / "metrics.jsonl", self.step)]
        self.task.model.train()
        logged, saved, plotted, last_logged = began, began, began, first
        with closing(batches(self.task.batch, settings, first, self.accelerator.process_index)) as made:
            for self.step in range(first + 1, settings.steps + 1):
                loss = self._update(made)
                now = time.monotonic()
                if self.main and self.report:
                    rate = (self.step - first) / (now - began)
                    left = (settings.steps - self.step) / rate
                    self.report(Progress(self.step, settings.steps, loss, rate * clips, left))
                stopping = self._any(stop.is_set())
                if not self.main:
                    if stopping:
                        break
                    continue
                end = stopping or self.step == settings.steps
                if end or self.step % settings.log_every == 0:
                    rate = (self.step - last_logged) * clips / (now - logged)
                    self.accelerator.log({**self.means.take(), "clips_per_s": rate}, step=self.step)
                    logged, last_logged = now, self.step
                if end or now - plotted >= PLOT_EVERY_S:
                    plot_losses(read_lines(self.out / "metrics.jsonl"), self.out / "loss.png")
                    plotted = now
                late = 0 < settings.save_minutes * 60 <= now - saved
                if end or late or (settings.save_every and self.step % settings.save_every == 0):
                    self._save()
                    saved = now
                done = self.step == settings.steps
                if done or (settings.sample_every and self.step % settings.sample_every == 0):
                    self._sample()
                if stopping and not done:
                    break
        if self.step < settings.steps:
            raise Stopped(
                f"{self.out}: stopped at step {self.step:,} of {settings.steps:,}, checkpoint written; "
                "the same command goes on from there"
            )
        if self.main:
            self._export()
        self.accelerator.wait_for_everyone()
        return self.out / "final"

    def _update(self, made: Iterator[Any]) -> float:
        """One update of the weights; returns the loss, the mean over passes and processes."""
        settings, scaler = self.settings, self.accelerator.scaler
        total = torch.zeros((), device=self.device)
        for micro in range(settings.accumulate):
            loss = self._pass(next(made), micro)
            self.accelerator.backward(loss / settings.accumulate)
            total += loss.detach().float() / settings.accumulate
        if self.accelerator.num_processes > 1:
            total = self.accelerator.reduce(total, "mean")
            average_gradients(self.accelerator, self.parameters)
        if scaler is not None:
            for optimizer in self.optimizers.values():
                scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip or math.inf)
        value, size = torch.stack([total, norm.float()]).tolist()
        if not math.isfinite(value):
            self._not_finite("loss")
        if scaler is None and not math.isfinite(size):
            self._not_finite("gradient")
        lr = settings.lr * lr_share(settings, self.step - 1)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr
            if math.isfinite(size):  # else fp16 ran over: none steps, and the scaler scales less
                optimizer.step()
            optimizer.zero_grad()
        if scaler is not None:
            scaler.update()
        self.average.update(self.step)
        self.means.add({"loss": value, "lr": lr, "grad_norm": size})
        return value

    def _pass(self, batch: Any, micro: int) -> Tensor:
        """One forward pass with its own seed of dropout and noise."""
        seed = seed_of(self.settings.seed, self.step - 1, micro, self.accelerator.process_index, 1)
        torch.manual_seed(seed)
        generator = torch.Generator(self.device).manual_seed(seed + 1)
        with self.accelerator.autocast():
            loss, metrics = self.task.loss(send_to_device(batch, self.device), generator)
        self.means.add({name: torch.as_tensor(value).detach() for name, value in metrics.items()})
        return loss

    def _not_finite(self, what: str) -> NoReturn:
        raise MotionRAGError(
            f"{self.out}: the {what} of step {self.step:,} is not finite, the step was not taken; "
            f"{_last_checkpoint(self.out)}; try a lower train.lr in another folder"
        )

    def _any(self, flag: bool) -> bool:
        """Whether it holds in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device), "sum") > 0)

    def _resume(self, checkpoint: Path) -> None:
        tensors, objects, state = checkpoints.load(checkpoint)
        if state["processes"] != (now := self.accelerator.num_processes):
            raise MotionRAGError(f"{self.out}: was trained by {state['processes']} processes, now by {now}")
        checkpoints.copy_into(checkpoints.own_tensors(self.task.model), tensors["model"], str(checkpoint))
        checkpoints.copy_into(self.average.values, tensors["ema"], str(checkpoint))
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(objects[name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(objects["scaler"])
        self.step = state["step"]

    def _save(self) -> None:
        objects = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        if self.accelerator.scaler is not None:
            objects["scaler"] = self.accelerator.scaler.state_dict()
        tensors = {"model": checkpoints.own_tensors(self.task.model), "ema": self.average.values}
        state = {
            "step": self.step,
            "task": type(self.task).__name__,
            "processes": self.accelerator.num_processes,
            "train": plain(self.settings),
            "settings": plain(self.task_settings),
        }
        checkpoints.save(self.folder, self.step, tensors, objects, state, keep=self.settings.keep)

    def _sample(self) -> None:
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        with self._averaged():
            metrics = self.task.sample(folder, self.step)
        if metrics:
            self.accelerator.log(metrics, step=self.step)

    def _export(self) -> None:
        final = self.out / "final"
        with replacing(final) as temporary:
            with self._averaged():
                self.task.export(temporary)
            shutil.rmtree(final, ignore_errors=True)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        self.task.model.eval()
        try:
            with self.average.in_place(), torch.no_grad():
                yield
        finally:
            self.task.model.train()
