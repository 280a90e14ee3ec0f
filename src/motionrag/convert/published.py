"""Published checkpoint files to a bundle: sizes read off the tensors, every key accounted for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from motionrag import checkpoint
from motionrag.convert.keys import WITHOUT_QUERIES, Target, target_of
from motionrag.convert.reader import read_checkpoint
from motionrag.errors import MotionRAGError
from motionrag.models.adapter import AdapterConfig
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import ResamplerConfig
from motionrag.registry import base_spec

START = "context.start"


@dataclass(frozen=True)
class KeyReport:
    """One line of the account: what became of a key."""

    file: str
    """Name of the file; empty for a key that no file holds."""
    key: str
    """Name in the file."""
    action: str
    """"mapped", "derived", "overridden" or "dropped"."""
    name: str
    """Name in the bundle; empty for a dropped key."""
    shape: tuple[int, ...]
    """Shape of the tensor."""
    note: str = ""
    """The reason, or where a derived value comes from."""


@dataclass(frozen=True)
class _File:
    path: Path
    tensors: dict[str, Tensor]
    targets: dict[str, Target]

    @property
    def bases(self) -> set[str]:
        return {target.base for target in self.targets.values() if target.base}

    @property
    def stage(self) -> int:
        """Which training stage wrote it: the adapter's own files are of stage 1 or 3, later ones override."""
        context = any(target.name and target.name.startswith("context.encoder.") for target in self.targets.values())
        return 2 * context + bool(self.bases)


UNTRAINED_QUERIES = "to_q_a"
"""Key by which reports name query projections that no file holds."""


def convert(
    paths: Sequence[Path],
    *,
    base: str | None = None,
    head_dim: int = 64,
    context_head_dim: int | None = None,
    seed: int = 0,
) -> tuple[MotionBundle, list[KeyReport]]:
    """Turn published checkpoint files of one base model into a bundle.

    Args:
        paths: The files, in any order; where they hold the same part, the later training stage counts.
        base: The base model they must be of; None takes what the adapter's keys say.
        head_dim: Width of an attention head in the resamplers (64 in all published files).
        context_head_dim: The same in the context transformer; None takes `head_dim` (published: 64 too).
        seed: Seed of what no file holds: the start token, and DynamiCrafter's query projections.

    Returns:
        The bundle, in float32, and a report on every key of every file.

    Raises:
        MotionRAGError: If a file cannot be read safely, is of another base, holds nothing of the method, or
            if parts are missing or do not fit together.
    """
    if not 0 <= seed < 2**63:
        raise MotionRAGError(f"seed={seed} must be at least 0 and below 2**63")
    files = sorted((_read(Path(path)) for path in paths), key=lambda file: file.stage)
    base = _one_base(files, base)
    state, reports = _merge(files)
    if base in WITHOUT_QUERIES:
        reports += _draw_queries(state, seed)
    config = _config(state, base, head_dim, context_head_dim or head_dim)
    if START not in state:
        state[START] = _start_token(config.context, seed)
        shape = tuple(state[START].shape)
        note = f"no file holds a start token; drawn from N(0, 1/D) with seed {seed}"
        reports.append(KeyReport("", "sos_token", "derived", START, shape, note))
    with torch.device("meta"):
        bundle = MotionBundle(config)
    checkpoint.load_strict(bundle, state, where=", ".join(file.path.name for file in files))
    return bundle, reports


def _draw_queries(state: dict[str, Tensor], seed: int) -> list[KeyReport]:
    """Query projections for the sites that have none, as torch initialises them: U(-1/sqrt(D), 1/sqrt(D))."""
    generator, reports = torch.Generator().manual_seed(seed), list[KeyReport]()
    for key in sorted(name for name in state if re.fullmatch(r"adapter\..+\.to_k\.weight", name)):
        name = key.replace(".to_k.", ".to_q.")
        if name not in state:
            width = len(state[key])
            state[name] = (2 * torch.rand(width, width, generator=generator) - 1) / width**0.5
            note = f"released without, since it was never trained; random, with seed {seed}"
            reports.append(KeyReport("", UNTRAINED_QUERIES, "derived", name, (width, width), note))
    return reports


def _read(path: Path) -> _File:
    tensors = read_checkpoint(path)
    file = _File(path, tensors, {key: target_of(key) for key in tensors})
    if not any(target.name for target in file.targets.values()):
        raise MotionRAGError(
            f"{path}: none of its {len(tensors)} keys belongs to MotionRAG (the first is {next(iter(tensors))!r}); "
            "wanted are motion_proj.ckpt, motion_transformer.ckpt and Motion-Adapter.ckpt"
        )
    return file


def _one_base(files: Sequence[_File], wanted: str | None) -> str:
    found = {base: file.path for file in files for base in file.bases}
    if not found:
        raise MotionRAGError("no adapter among the files: add the base's Motion-Adapter.ckpt")
    if wanted is not None and set(found) != {wanted}:
        other = next(base for base in found if base != wanted)
        raise MotionRAGError(f"{found[other]}: an adapter for {other}, not for {wanted}")
    if len(found) > 1:
        raise MotionRAGError(
            "adapters of several bases: " + ", ".join(f"{path.name} is for {base}" for base, path in found.items())
        )
    return next(iter(found))


def _merge(files: Sequence[_File]) -> tuple[dict[str, Tensor], list[KeyReport]]:
    state: dict[str, Tensor] = {}
    reports: list[KeyReport] = []
    source: dict[str, tuple[int, _File]] = {}
    for file in files:
        for key, target in file.targets.items():
            action, shape = "mapped" if target.name else "dropped", tuple(file.tensors[key].shape)
            if target.name:
                if target.name in source:
                    index, earlier = source[target.name]
                    if earlier.stage == file.stage:
                        raise MotionRAGError(
                            f"{earlier.path} and {file.path} hold the same part ({key}): give one of them"
                        )
                    note = f"a later stage's value is in {file.path.name}"
                    reports[index] = replace(reports[index], action="overridden", note=note)
                state[target.name] = file.tensors[key].float()
                source[target.name] = len(reports), file
            reports.append(KeyReport(file.path.name, key, action, target.name or "", shape, target.note))
    return state, reports


def _config(state: Mapping[str, Tensor], base: str, head_dim: int, context_head_dim: int) -> BundleConfig:
    motion = _resampler_config(state, "motion_resampler", head_dim, "motion_proj.ckpt")
    appearance = _resampler_config(state, "appearance_resampler", head_dim, "motion_transformer.ckpt")
    linear = _needed(state, "context.encoder.layers.0.linear1.weight", 2, "motion_transformer.ckpt")
    context = ContextConfig(
        width=linear.shape[1],
        queries=motion.queries,
        layers=_count(state, r"context\.encoder\.layers\.(\d+)\."),
        heads=_heads(linear.shape[1], context_head_dim),
        feed_forward=linear.shape[0],
    )
    sites = {
        name.split(".")[2].replace("/", "."): tensor.shape[0]
        for name, tensor in state.items()
        if re.fullmatch(r"adapter\..+\.to_q\.weight", name)
    }
    if not sites:
        raise MotionRAGError(
            "the files hold no query projections of the adapter: add a complete Motion-Adapter.ckpt"
        )
    keys = [name for name in state if re.fullmatch(r"adapter\..+\.to_k\.weight", name)]
    motion_dim = _needed(state, keys[0] if keys else "adapter's to_k", 2, "Motion-Adapter.ckpt").shape[1]
    return BundleConfig(
        adapter=AdapterConfig(base=base, motion_dim=motion_dim, sites=sites),
        motion_resampler=motion,
        appearance_resampler=appearance,
        context=context,
        view=base_spec(base).view,
    )


def _resampler_config(state: Mapping[str, Tensor], part: str, head_dim: int, file: str) -> ResamplerConfig:
    def needed(name: str, axes: int = 2) -> Tensor:
        return _needed(state, f"{part}.{name}", axes, file)

    proj_in, up = needed("proj_in.weight"), needed("blocks.0.feed_forward.up.weight")
    return ResamplerConfig(
        input_dim=proj_in.shape[1],
        width=proj_in.shape[0],
        depth=_count(state, rf"{part}\.blocks\.(\d+)\."),
        heads=_heads(needed("blocks.0.attention.to_q.weight").shape[0], head_dim),
        head_dim=head_dim,
        queries=needed("latents", axes=3).shape[1],
        output_dim=needed("proj_out.weight").shape[0],
        ff_mult=up.shape[0] // proj_in.shape[0],
    )


def _needed(state: Mapping[str, Tensor], name: str, axes: int, file: str) -> Tensor:
    """A tensor that tells a size, or what to do when it is not there."""
    if name not in state:
        raise MotionRAGError(f"the files hold no {name}: add a complete {file}")
    if state[name].ndim != axes:
        raise MotionRAGError(
            f"{name} is {tuple(state[name].shape)}, a tensor of {axes} axes is wanted: not a {file}?"
        )
    return state[name]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def _heads(width: int, head_dim: int) -> int:
    if head_dim < 1 or width % head_dim:
        raise MotionRAGError(
            f"attention {width} wide does not divide into heads of {head_dim}: give the right --head-dim"
        )
    return width // head_dim


def _start_token(config: ContextConfig, seed: int) -> Tensor:
    """As the published code initialises it: normal, standard deviation 1/sqrt(D)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, config.queries, config.width, generator=generator) / config.width**0.5
