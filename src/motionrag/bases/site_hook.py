"""The forward pre-hook that sits on one site's output projection and adds the motion attention there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from motionrag.errors import MotionRAGError
from motionrag.models.adapter import AdapterSite, inject


class SiteHook:
    """Idle, live (training) or holding folded keys and values for the run in progress.

    A hook that has nothing to add leaves the arguments untouched, so that scale 0 is the base bit for bit.
    """

    def __init__(self, site: AdapterSite, heads: int) -> None:
        self.site = site
        self.heads = heads
        self._seat: nn.Module | None = None
        self._handle: Any = None
        self._recompute_lost = False
        self.live: tuple[Tensor, float] | None = None
        self.forget()

    def sit_on(self, linear: nn.Module) -> None:
        """Sit on this module: a LoRA or a quantiser may have put another one in its place since."""
        if self._seat is not linear:
            self.stand_up()
            self._seat, self._handle = linear, linear.register_forward_pre_hook(self)

    def stand_up(self) -> None:
        """Leave the module."""
        if self._handle is not None:
            self._handle.remove()
        self._seat = self._handle = None

    def forget(self) -> None:
        """Become idle and free what was kept."""
        self._recompute_lost = self.live is not None
        self.live = None
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self._folded: tuple[Tensor, Tensor] | None = None
        self._folded_rows: Tensor | None = None
        self._scale = 0.0

    def prepare(self, rows: Tensor, scale: float, like: Tensor) -> None:
        """Get ready for a call of the denoiser.

        Args:
            rows: Motion tokens [R,Q,D].
            scale: Strength; 0 makes the hook idle.
            like: A tensor of the device and precision the base computes in.
        """
        trained = torch.is_grad_enabled() and (
            rows.requires_grad or any(p.requires_grad for p in self.site.parameters())
        )
        if trained:
            self.forget()
            self.live = (rows, scale) if scale else None
        else:
            self._keep(rows, scale, like)

    def _keep(self, rows: Tensor, scale: float, like: Tensor) -> None:
        """Fold once for these rows; between steps only the scale of the values may change."""
        self.live = None
        if rows is not self._folded_rows:
            keys, values = self.site.fold(rows, self.heads)
            self._folded, self._folded_rows = (keys.to(like), values.to(like.device)), rows
            self._scale = 0.0
        if scale == 0:
            self.keys = self.values = None
        elif scale != self._scale and self._folded is not None:
            self.keys, self.values = self._folded[0], (self._folded[1] * scale).to(like.dtype)
        self._scale = scale

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments of `to_out[0]` with the motion attention added to the first, or None to leave them."""
        hidden: Tensor = args[0]
        if self.live is not None:
            rows, scale = self.live
            keys, values = self.site.fold(rows, self.heads)
            values = values * scale
        elif self.keys is not None and self.values is not None:
            keys, values = self.keys, self.values
        else:
            self._refuse_lost_recompute()
            return None
        return (inject(hidden, keys.to(hidden), values.to(hidden)), *args[1:])

    def _refuse_lost_recompute(self) -> None:
        """A gradient-checkpointed block recomputed after its motion is gone would give wrong gradients."""
        if torch.compiler.is_compiling() or not self._recompute_lost:
            return
        if torch._C._current_graph_task_id() != -1:
            raise MotionRAGError(
                "a gradient-checkpointed block is recomputed after its condition() block ended: "
                "run the backward pass inside the `with` block"
            )
