"""A Motion-Adapter on an unmodified diffusers pipeline: hooks in, hooks out, nothing else touched.

Each site gets a forward pre-hook on its output projection `to_out[0]`; a pre-hook on the denoiser itself
decides, before every denoising call, which rows of motion tokens it needs and at what strength.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from motionrag.bases.checkpointing import Checkpointing
from motionrag.bases.site_hook import SiteHook
from motionrag.errors import MotionRAGError
from motionrag.models.adapter import MotionAdapter
from motionrag.registry import base_spec
from motionrag.types import BaseSpec, Scale, ScaleRange, scale_at


@dataclass
class _Condition:
    """The motion of one `with attached.condition(...)` block, and the rows made of it so far."""

    motion: Tensor
    null: Tensor | None
    scale: Scale
    _rows: dict[tuple[bool, bool], Tensor] = field(default_factory=dict)

    def rows(self, *, guided: bool) -> Tensor:
        """Rows [R,Q,D] of a call: the motions, behind as many no-motion rows where guidance asks for them."""
        if not guided:
            return self.motion
        key = (torch.is_grad_enabled(), torch.is_inference_mode_enabled())
        if key not in self._rows:
            self._rows[key] = torch.cat([self._null_rows(), self.motion])
        return self._rows[key]

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

    Idle, the base runs as if nothing were attached. Inside `with attached.condition(...)` the runs of the
    pipeline it was attached to see the motion tokens.
    """

    def __init__(self, pipe: Any, denoiser: nn.Module, adapter: MotionAdapter, spec: BaseSpec) -> None:
        self.adapter = adapter
        """The attached adapter."""
        self._pipe = pipe if pipe is not denoiser else None
        self._denoiser = denoiser
        self._spec = spec
        self._argument_names = list(inspect.signature(denoiser.forward).parameters)
        self._condition: _Condition | None = None
        self._run_before: Any = None
        self._run: Any = None
        self._guided = False
        self._hooks = {
            name: SiteHook(adapter.site(name), heads=denoiser.get_submodule(name).heads)  # type: ignore[arg-type]
            for name in adapter.config.sites
        }
        self._checkpointing = Checkpointing(denoiser, list(self._hooks.values()))
        self._handles = [
            denoiser.register_forward_pre_hook(self._before_call, with_kwargs=True),
            denoiser.register_forward_hook(self._after_call, always_call=True),
        ]
        self._place_hooks()

    @contextmanager
    def condition(self, motion: Tensor, null: Tensor | None = None, scale: Scale = 1.0) -> Iterator[AttachedAdapter]:
        """Inside the block, runs of the pipeline (or calls of the bare denoiser) are conditioned on the motion.

        Keys and values are computed once and kept until the block ends; where gradients reach the adapter or
        the tokens they are computed at every call instead. Backward passes may come after the block, also
        through a gradient-checkpointed base.

        Args:
            motion: Motion tokens [B,Q,D]; the call's batch must be a multiple of B, and each motion serves
                as many neighbouring rows (several videos a prompt).
            null: No-motion tokens [1,Q',D], which guidance sets against the motion; Q a multiple of Q'.
            scale: Strength for all sites, and for the steps that the adapter is for (`AdapterConfig.until`); or
                `ScaleRange`s by site and denoising step, taken as they are; 0 is the bare base.

        Raises:
            MotionRAGError: If the shapes do not fit each other, the adapter or (at the call) the batch; if
                guidance is on and `null` is missing; if a range fits no site; if a block is already open;
                if the adapter was detached or the pipeline has another denoiser now.
        """
        self._check_attached()
        _check_tokens(motion, null, self.adapter.config.motion_dim)
        scale = _checked_scale(scale, list(self._hooks), has_steps=self._pipe is not None)
        if isinstance(scale, float) and self._pipe is not None and (until := self.adapter.config.until) < 1:
            scale = [ScaleRange(scale=scale, end=until)]
        self._condition = _Condition(motion, null, scale)
        self._run_before = self._pipe and self._pipe.scheduler.timesteps
        self._run = None
        try:
            yield self
        finally:
            self._condition = None
            for hook in self._hooks.values():
                hook.forget()

    def detach(self) -> None:
        """Take every hook out again; the base is then exactly as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for hook in self._hooks.values():
            hook.forget()
            hook.remove()

    def __enter__(self) -> AttachedAdapter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.detach()

    def _check_attached(self) -> None:
        if not self._handles:
            raise MotionRAGError("this adapter was detached: attach() it again")
        if self._condition is not None:
            raise MotionRAGError("a condition() block is already open on this model: close it first")
        now = getattr(self._pipe, self._spec.denoiser, self._denoiser)
        if getattr(now, "_orig_mod", now) is not self._denoiser:
            raise MotionRAGError(
                f"the pipeline has another {self._spec.denoiser} than the adapter was attached to: attach() again"
            )

    def _place_hooks(self) -> None:
        for name, hook in self._hooks.items():
            hook.place_on(_output_projection(self._denoiser.get_submodule(name)))

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Prepare every site for this call of the denoiser."""
        if self._condition is not None:
            self._place_hooks()
            self._prepare_hooks(self._condition, args, kwargs)
        if torch.is_grad_enabled():
            self._checkpointing.capture()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_call(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self._checkpointing.release()

    def _prepare_hooks(self, condition: _Condition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._notice_run()
        sample: Tensor = self._argument(0, args, kwargs)
        rows = condition.rows(guided=self._guided)
        if len(sample) % len(rows):
            guided = "with guidance" if self._guided else "without guidance"
            raise MotionRAGError(
                f"the base was called with a batch of {len(sample)} rows, which {len(condition.motion)} "
                f"motions {guided} ({len(rows)} rows) do not divide: pass one motion for each prompt"
            )
        progress = self._progress(condition.scale, args, kwargs)
        for name, hook in self._hooks.items():
            hook.prepare(rows, scale_at(condition.scale, name, progress), like=sample)

    def _notice_run(self) -> None:
        """Read the guidance once a pipeline run; schedulers lay out new timesteps for each run."""
        if self._pipe is None:
            return
        timesteps = self._pipe.scheduler.timesteps
        if timesteps is self._run:
            return
        if timesteps is self._run_before:
            raise MotionRAGError(
                f"the {self._spec.denoiser} was called outside a run of its pipeline: call the pipeline, "
                f"or attach to the {self._spec.denoiser} itself"
            )
        self._guided = self._spec.guided(self._pipe)
        self._run = timesteps

    def _progress(self, scale: Scale, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
        """Step index over number of steps, in [0, 1); 0 where there are no steps or the scale ignores them."""
        if self._pipe is None or isinstance(scale, float):
            return 0.0
        now = torch.as_tensor(self._argument(self._argument_names.index("timestep"), args, kwargs))
        steps = self._run
        return int((steps - now.flatten()[0].to(steps)).abs().argmin()) / len(steps)

    def _argument(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args[position] if position < len(args) else kwargs[self._argument_names[position]]


def _check_tokens(motion: Tensor, null: Tensor | None, D: int) -> None:
    if motion.ndim != 3 or motion.shape[-1] != D or 0 in motion.shape:
        raise MotionRAGError(f"motion tokens are {tuple(motion.shape)}, this adapter takes [B,Q,{D}]")
    if null is None:
        return
    if null.ndim != 3 or null.shape[0] != 1 or null.shape[2] != D or 0 in null.shape:
        raise MotionRAGError(f"no-motion tokens are {tuple(null.shape)}, wanted are [1,Q,{D}]")
    if motion.shape[1] % null.shape[1]:
        raise MotionRAGError(
            f"{motion.shape[1]} motion tokens are not a multiple of {null.shape[1]} no-motion tokens: "
            "both must come from the same resampler"
        )


def _checked_scale(scale: Scale, sites: list[str], *, has_steps: bool) -> Scale:
    if isinstance(scale, Real):
        return float(scale)
    if not isinstance(scale, (list, tuple)) or not scale or not all(isinstance(part, ScaleRange) for part in scale):
        raise MotionRAGError(f"scale must be a number or a list of ScaleRange, not {scale!r}")
    for part in scale:
        if not any(part.covers_site(site) for site in sites):
            raise MotionRAGError(f"no site matches {part.sites!r}; the first site is {sites[0]!r}")
        if part.follows_steps and not has_steps:
            raise MotionRAGError("ranges of steps follow a pipeline's denoising steps: attach to the pipeline")
    return scale


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
    if isinstance(denoiser, nn.Module) and any(
        hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in denoiser.modules()
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
