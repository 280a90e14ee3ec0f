"""A Motion-Adapter on an unmodified diffusers pipeline: hooks in, hooks out, nothing else touched.

Each site gets a forward pre-hook on its output projection `to_out[0]`; a pre-hook on the denoiser itself
decides, before every denoising call, which rows of motion tokens it needs and at what strength.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from motionrag.bases.site_hook import SiteHook
from motionrag.errors import MotionRAGError
from motionrag.models.adapter import MotionAdapter
from motionrag.registry import base_spec
from motionrag.types import BaseSpec, Scale, scale_at


@dataclass
class _Condition:
    """The motion of one `with attached.condition(...)` block, and the rows made of it so far."""

    motion: Tensor
    null: Tensor | None
    scale: Scale
    rows: dict[bool, Tensor] = field(default_factory=dict)

    def rows_for(self, *, guided: bool) -> Tensor:
        """Rows [R,Q,D] of a call: the motions, behind as many no-motion rows where guidance asks for them."""
        if guided not in self.rows:
            self.rows[guided] = torch.cat([self._null_rows(), self.motion]) if guided else self.motion
        return self.rows[guided]

    def _null_rows(self) -> Tensor:
        if self.null is None:
            raise MotionRAGError(
                "guidance is on and needs the no-motion tokens: pass null=... to condition(), or switch guidance off"
            )
        B, Q, _ = self.motion.shape
        # Attending to every token r times over is attending to it once: fused motions may be longer.
        return self.null.to(self.motion).repeat(B, Q // self.null.shape[1], 1)


class AttachedAdapter:
    """A Motion-Adapter attached to a denoiser; made by `attach`, ended by `detach`.

    Idle, the base runs as if nothing were attached. Inside `with attached.condition(...)` its sites see
    the motion tokens.
    """

    def __init__(self, pipe: Any, denoiser: nn.Module, adapter: MotionAdapter, spec: BaseSpec) -> None:
        self._pipe = pipe if pipe is not denoiser else None
        self._denoiser = denoiser
        self._adapter = adapter
        self._spec = spec
        self._parameters = list(inspect.signature(denoiser.forward).parameters)
        self._condition: _Condition | None = None
        self._timesteps: Any = None
        self._guided = False
        self._hooks = {
            name: SiteHook(adapter.site(name), heads=denoiser.get_submodule(name).heads)  # type: ignore[arg-type]
            for name in adapter.config.sites
        }
        self._sit()
        self._handle = denoiser.register_forward_pre_hook(self._before_call, with_kwargs=True)

    @contextmanager
    def condition(self, motion: Tensor, null: Tensor | None = None, scale: Scale = 1.0) -> Iterator[AttachedAdapter]:
        """Inside the block, calls of the pipeline (or of the bare denoiser) are conditioned on the motion.

        Keys and values are computed once a block and kept until it ends. Where gradients reach the adapter
        or the tokens they are computed at every call instead; a gradient-checkpointed base then wants its
        backward pass inside the block too.

        Args:
            motion: Motion tokens [B,Q,D]; the call's batch must be a multiple of B, and each motion serves
                as many neighbouring rows (several videos a prompt).
            null: No-motion tokens [1,Q,D], which guidance sets against the motion.
            scale: Strength for all, or `ScaleRange`s by site and denoising step; 0 is the bare base.

        Raises:
            MotionRAGError: If the shapes do not fit each other, the adapter or (at the call) the batch; if
                guidance is on and `null` is missing; if a block is already open.
        """
        self._check(motion, null, scale)
        self._condition = _Condition(motion, null, scale)
        self._timesteps = None
        try:
            yield self
        finally:
            self._condition = None
            for hook in self._hooks.values():
                hook.forget()

    def detach(self) -> None:
        """Take every hook out again; the base is then exactly as it was."""
        self._handle.remove()
        for hook in self._hooks.values():
            hook.forget()
            hook.stand_up()

    def __enter__(self) -> AttachedAdapter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _check(self, motion: Tensor, null: Tensor | None, scale: Scale) -> None:
        if self._condition is not None:
            raise MotionRAGError("a condition() block is already open on this pipeline: close it first")
        D = self._adapter.config.motion_dim
        if motion.ndim != 3 or motion.shape[-1] != D:
            raise MotionRAGError(f"motion tokens are {tuple(motion.shape)}, this adapter takes [B,Q,{D}]")
        if null is not None and (
            null.ndim != 3 or null.shape[0] != 1 or null.shape[2] != D or motion.shape[1] % null.shape[1]
        ):
            raise MotionRAGError(
                f"no-motion tokens are {tuple(null.shape)}, motion tokens {tuple(motion.shape)} want [1,Q,{D}]"
            )
        if self._pipe is None and not isinstance(scale, (int, float)):
            raise MotionRAGError("ranges of scale follow a pipeline's denoising steps: attach to the pipeline")

    def _sit(self) -> None:
        for name, hook in self._hooks.items():
            hook.sit_on(_output_projection(self._denoiser.get_submodule(name)))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Prepare every site for this call of the denoiser."""
        if self._condition is None:
            for hook in self._hooks.values():
                hook.forget()
            return
        self._sit()
        self._notice_new_run()
        sample: Tensor = self._argument(0, args, kwargs)
        rows = self._condition.rows_for(guided=self._guided)
        if sample.shape[0] % len(rows):
            guided = "with guidance" if self._guided else "without guidance"
            raise MotionRAGError(
                f"the base was called with a batch of {sample.shape[0]} rows, which {len(self._condition.motion)} "
                f"motions {guided} ({len(rows)} rows) do not divide: pass one motion for each prompt"
            )
        progress = self._progress(args, kwargs)
        for name, hook in self._hooks.items():
            hook.prepare(rows, scale_at(self._condition.scale, name, progress), like=sample)

    def _notice_new_run(self) -> None:
        """Read the guidance once a pipeline run: schedulers lay out new timesteps for each."""
        if self._pipe is None:
            return
        timesteps = self._pipe.scheduler.timesteps
        if timesteps is not self._timesteps:
            self._timesteps = timesteps
            try:
                self._guided = self._spec.guided(self._pipe)
            except AttributeError as error:
                raise MotionRAGError(
                    f"the {self._spec.denoiser} was called outside its pipeline: call the pipeline, "
                    f"or attach to the {self._spec.denoiser} itself"
                ) from error

    def _progress(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Step index over number of steps, in [0, 1); 0 where the scale does not ask for it."""
        if self._condition is None or isinstance(self._condition.scale, (int, float)):
            return 0.0
        now = torch.as_tensor(self._argument(self._parameters.index("timestep"), args, kwargs))
        steps = self._timesteps
        return int((steps - now.flatten()[0].to(steps)).abs().argmin()) / len(steps)

    def _argument(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[position] if position < len(args) else kwargs[self._parameters[position]]


def attach(pipe: Any, adapter: MotionAdapter) -> AttachedAdapter:
    """Attach an adapter to a pipeline of the base it was made for.

    Args:
        pipe: The diffusers pipeline; or its bare denoiser, to train or to call it directly, where rows of
            motion are the rows of the call and no guidance is added.
        adapter: The Motion-Adapter, on the device and in the precision its projections shall be computed in.

    Returns:
        The attachment: use `condition()`, end it with `detach()` or as a context manager.

    Raises:
        MotionRAGError: If the pipeline is of another base, a site is missing or of another width, an adapter
            is attached already, or the denoiser was compiled before (hooks would go unnoticed).
    """
    spec = base_spec(adapter.config.base)
    denoiser = getattr(pipe, spec.denoiser, pipe)
    _check_denoiser(denoiser, spec)
    _check_sites(denoiser, adapter)
    return AttachedAdapter(pipe, denoiser, adapter, spec)


def new_adapter(pipe: Any, base: str, motion_dim: int = 1024) -> MotionAdapter:
    """An untrained adapter for every site of a pipeline (or bare denoiser); it leaves the base as it is."""
    spec = base_spec(base)
    denoiser = getattr(pipe, spec.denoiser, pipe)
    _check_denoiser(denoiser, spec)
    return MotionAdapter.for_denoiser(denoiser, base=base, sites=spec.sites, motion_dim=motion_dim)


def _output_projection(attention: Any) -> Any:
    return attention.to_out[0]


def _check_denoiser(denoiser: Any, spec: BaseSpec) -> None:
    if hasattr(denoiser, "_orig_mod") or any(
        getattr(module, "_compiled_call_impl", None) is not None
        for module in (denoiser.modules() if isinstance(denoiser, nn.Module) else ())
    ):
        raise MotionRAGError("the denoiser is already compiled: attach the adapter first, then compile")
    if spec.denoiser_class not in [cls.__name__ for cls in type(denoiser).__mro__]:
        raise MotionRAGError(
            f"the adapter is made for {spec.name} ({spec.denoiser_class}), this is a {type(denoiser).__name__}"
        )
    hooks = denoiser._forward_pre_hooks.values()
    if any(isinstance(getattr(hook, "__self__", None), AttachedAdapter) for hook in hooks):
        raise MotionRAGError("an adapter is already attached to this model: detach() it first")


def _check_sites(denoiser: nn.Module, adapter: MotionAdapter) -> None:
    layers = dict(denoiser.named_modules())
    for name, width in adapter.config.sites.items():
        if name not in layers or not hasattr(layers[name], "to_out"):
            raise MotionRAGError(
                f"{type(denoiser).__name__} has no attention layer {name!r}: another variant of the base?"
            )
        found = _output_projection(layers[name]).in_features
        if found != width:
            raise MotionRAGError(
                f"site {name!r} is {found} wide in this model, the adapter was made for {width}: "
                "another size of the base?"
            )
