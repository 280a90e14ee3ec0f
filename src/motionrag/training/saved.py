"""Counts what a forward pass saves for its backward pass, on any device: on "meta" nothing is stored or computed.

A tensor is counted once, by the memory it lies in; weights are left out. Attention is counted as fused kernels save
it: queries, keys, values, the result and one number a query.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_leaves

_CHECKPOINT = "_gradient_checkpointing_func"  # of diffusers' models
_Storages = dict[int, torch.UntypedStorage]  # by their place; held, so that no other comes to lie there


class Saved(AbstractContextManager["Saved"]):
    """Inside the block every forward pass is counted.

    Args:
        modules: All whose weights are not to be counted.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = list(modules)
        self._weights = {
            _place(tensor) for module in self._modules for tensor in (*module.parameters(), *module.buffers())
        }
        self._kept: _Storages = {}
        self.block = 0
        """Bytes that the largest block saves which is computed again in the backward pass."""
        self.largest = 0
        """Bytes of the largest tensor."""
        self._stack = ExitStack()

    @property
    def kept(self) -> int:
        """Bytes that are kept from the forward to the backward pass."""
        return _size(self._kept)

    def __enter__(self) -> Saved:
        self._stack.enter_context(self._hooks(self._kept))
        self._stack.enter_context(patch.object(F, "scaled_dot_product_attention", _fused))
        for module in self._modules:
            for part in module.modules():
                if getattr(part, "gradient_checkpointing", False) and hasattr(part, _CHECKPOINT):
                    self._stack.enter_context(patch.object(part, _CHECKPOINT, self._again))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _again(self, block: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A block that will be computed again: its arguments are kept, what it saves is there for a while."""
        inner: _Storages = {}
        with self._hooks(inner):
            out = block(*args, **kwargs)
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(out)):
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor):
                    self._count(leaf, self._kept)
        self.block = max(self.block, _size(inner))
        return out

    def _hooks(self, into: _Storages) -> saved_tensors_hooks:
        def pack(tensor: Tensor) -> Tensor:
            self._count(tensor, into)
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)

    def _count(self, tensor: Tensor, into: _Storages) -> None:
        place = _place(tensor)
        if place not in self._weights and place not in self._kept:
            into[place] = tensor.untyped_storage()
            self.largest = max(self.largest, into[place].nbytes())


def _size(storages: _Storages) -> int:
    return sum(storage.nbytes() for storage in storages.values())


def _place(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


class _Fused(torch.autograd.Function):
    """Saves what fused attention saves; its result is not computed."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_zeros(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out, query.new_zeros(query.shape[:-1], dtype=torch.float32))
        return out


def _fused(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    out: Tensor = _Fused.apply(query, key, value)
    return out
