"""The forward pre-hook that sits on one site's output projection and adds the motion attention there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from motionrag.errors import MotionRAGError
from motionrag.models.adapter import AdapterSite, MotionAttention


@dataclass(frozen=True)
class Kept:
    """Keys and values computed before the call, at their strength."""

    attention: MotionAttention
    batch: int


@dataclass(frozen=True)
class Live:
    """Keys and values to be computed in the call, with gradients: training."""

    rows: Tensor
    scale: float
    batch: int


@dataclass(frozen=True)
class _Cached:
    key: tuple[object, ...]
    used: tuple[Tensor, ...]  # held, so that no other tensor can come to have the id of one of these
    attention: MotionAttention


class SiteHook:
    """Idle, or holding what the next calls of its layer add.

    Idle it leaves the arguments untouched, so that scale 0 is the base bit for bit.
    """

    def __init__(self, site: AdapterSite, heads: int) -> None:
        self.site = site
        self.heads = heads
        self.state: Kept | Live | None = None
        self._layer: nn.Module | None = None
        self._handle: Any = None
        self._cached: _Cached | None = None

    def place_on(self, layer: nn.Module) -> None:
        """Hook this layer: a LoRA or a quantiser may have put another one in its place since."""
        if self._layer is not layer:
            self.remove()
            self._layer, self._handle = layer, layer.register_forward_pre_hook(self)

    def remove(self) -> None:
        """Leave the layer."""
        if self._handle is not None:
            self._handle.remove()
        self._layer = self._handle = None

    def forget(self) -> None:
        """Become idle and free what was kept."""
        self.state = self._cached = None

    def prepare(self, rows: Tensor, scale: float, like: Tensor) -> None:
        """Get ready for a call of the denoiser.

        Args:
            rows: Motion tokens [R,Q,D].
            scale: Strength; 0 makes the hook idle.
            like: The sample of the call: its batch, and the device and precision the base computes in.
        """
        if scale == 0:
            self.state = None
        elif torch.is_grad_enabled() and (
            rows.requires_grad or any(parameter.requires_grad for parameter in self.site.parameters())
        ):
            self.state = Live(rows, scale, len(like))
        else:
            self.state = Kept(self._kept(rows, scale, like), len(like))

    def _kept(self, rows: Tensor, scale: float, like: Tensor) -> MotionAttention:
        """Keys and values of these rows: computed when rows or weights are new; the scale may change freely."""
        used = (rows, *self.site.parameters())
        versions = [(id(tensor), None if tensor.is_inference() else tensor._version) for tensor in used]
        key = (like.device, like.dtype, *versions)
        if self._cached is None or self._cached.key != key:
            # whatever mode this call happens to be in, later ones may be in another
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(like.device.type, enabled=False):
                attention = self.site.prepare(rows, self.heads).to(like)
            self._cached = _Cached(key, used, attention)
        return self._cached.attention.scaled(scale)

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The layer's arguments with the motion attention added to the first, or None to leave them."""
        state, hidden = self.state, args[0]
        if state is None:
            return None
        if hidden.shape[0] % state.batch:
            raise MotionRAGError(
                f"an adapted layer got {hidden.shape[0]} rows in a call of {state.batch}: something (a cache of "
                "one half of guidance?) skips rows, which the adapter cannot follow"
            )
        if isinstance(state, Live):
            attention = self.site.prepare(state.rows, self.heads).scaled(state.scale)
        else:
            attention = state.attention
        return (attention.to(hidden).add_to(hidden), *args[1:])
