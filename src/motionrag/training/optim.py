"""Optimizers, the learning rate's course, and the moving average of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from motionrag.errors import MotionRAGError
from motionrag.training.settings import TrainSettings

IN_BLOCK = re.compile(r"(^|[./])\d+[./]")  # a module list's index; names of adapter sites have slashes


def make_optimizers(
    model: nn.Module, settings: TrainSettings, adamw_only: Sequence[str] = ()
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a model's trainable parameters, by name.

    Args:
        model: Parameters that need no gradient are left alone.
        settings: Which optimizer, and its numbers.
        adamw_only: Regular expressions of parameter names that Muon is not to have.

    Raises:
        MotionRAGError: If nothing is trainable, or torch has no Muon.
    """
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if not parameters:
        raise MotionRAGError(f"{type(model).__name__} has no trainable parameter")
    muon = _muon_names(model, adamw_only) if settings.optimizer == "muon" else set()
    rest = [value for name, value in parameters.items() if name not in muon]
    made: dict[str, torch.optim.Optimizer] = {}
    if rest:
        groups = [
            {"params": [value for value in rest if value.ndim >= 2], "weight_decay": settings.weight_decay},
            {"params": [value for value in rest if value.ndim < 2], "weight_decay": 0.0},
        ]
        made["adamw"] = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            fused=rest[0].device.type in {"cpu", "cuda"},
        )
    if chosen := [value for name, value in parameters.items() if name in muon]:
        if not hasattr(torch.optim, "Muon"):
            raise MotionRAGError(f"train.optimizer: muon needs torch 2.9 or later, this is {torch.__version__}")
        made["muon"] = torch.optim.Muon(
            chosen, lr=settings.lr, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )
    return made


def _muon_names(model: nn.Module, adamw_only: Sequence[str]) -> set[str]:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return {
        name
        for name, value in model.named_parameters()
        if value.requires_grad
        and value.ndim == 2
        and id(value) not in tables
        and IN_BLOCK.search(name)
        and not any(re.search(pattern, name) for pattern in adamw_only)
    }


def lr_share(settings: TrainSettings, step: int) -> float:
    """The learning rate of update `step` (from 0), as a share of `settings.lr`."""
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.schedule == "constant":
        return warm
    if settings.schedule == "cosine":
        past = max(0, step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return warm * 0.5 * (1.0 + math.cos(math.pi * min(1.0, past)))
    falling = settings.steps * settings.cooldown
    return min(warm, (settings.steps - step) / falling) if falling else warm


def average_gradients(accelerator: Accelerator, parameters: Sequence[Tensor]) -> None:
    """Give each process the mean of all processes' gradients; a missing gradient counts as zero."""
    grads = [torch.zeros_like(value) if value.grad is None else value.grad for value in parameters]
    flat = accelerator.reduce(torch.cat([grad.reshape(-1).float() for grad in grads]), "mean")
    for value, part in zip(parameters, flat.split([grad.numel() for grad in grads]), strict=True):
        value.grad = part.view_as(value).to(value.dtype)


class MovingAverage:
    """Exponential moving average of a model's trainable parameters, in their own type."""

    def __init__(self, model: nn.Module, settings: TrainSettings):
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.most, self.power = settings.ema, settings.ema_power
        self.values = {name: value.detach().clone() for name, value in self.parameters.items()}

    def decay(self, step: int) -> float:
        """The share of the old average that stays at update `step` (from 1)."""
        return min(self.most, 1.0 - (1.0 + step) ** -self.power) if self.most else 0.0

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after update `step` (from 1)."""
        new = [value.detach() for value in self.parameters.values()]
        torch._foreach_lerp_(list(self.values.values()), new, 1.0 - self.decay(step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the average for weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.parameters.items():
            kept: Tensor = value.detach().clone()
            value.copy_(self.values[name])
            self.values[name].copy_(kept)
