"""Gradient checkpointing: blocks computed again in the backward pass must see the motion of their forward pass.

By then another call may have been prepared, or the `condition` block have ended. diffusers models hand every
checkpointed block to `_gradient_checkpointing_func`; for the time of one forward call that function is replaced by
one that ties the hooks' state to the block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from motionrag.bases.site_hook import SiteHook

_FUNCTION = "_gradient_checkpointing_func"


class _Tied:
    """A block that runs, whenever it does, with the state the hooks had when it was tied."""

    def __init__(self, block: Callable[..., Any], hooks: list[SiteHook]) -> None:
        self.block = block
        self.states = [(hook, hook.state) for hook in hooks]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        others = [(hook, hook.state) for hook, _ in self.states]
        for hook, state in self.states:
            hook.state = state
        try:
            return self.block(*args, **kwargs)
        finally:
            for hook, state in others:
                hook.state = state


class Checkpointing:
    """Ties the blocks of a model's forward calls to the state its hooks have then."""

    def __init__(self, model: nn.Module, hooks: list[SiteHook]) -> None:
        self._model = model
        self._hooks = hooks
        self._replaced: list[tuple[nn.Module, Callable[..., Any]]] = []

    def capture(self) -> None:
        """Before a forward call: tie every block that will be checkpointed."""
        self.release()
        for module in self._model.modules():
            checkpoint = module.__dict__.get(_FUNCTION)
            if checkpoint is not None and getattr(module, "gradient_checkpointing", False):
                self._replaced.append((module, checkpoint))
                setattr(module, _FUNCTION, self._tying(checkpoint))

    def release(self) -> None:
        """After it: put the model's own functions back."""
        for module, checkpoint in self._replaced:
            setattr(module, _FUNCTION, checkpoint)
        self._replaced = []

    def _tying(self, checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        return lambda block, *args, **kwargs: checkpoint(_Tied(block, self._hooks), *args, **kwargs)
