"""The bundle that the three stages train parts of: made new, taken over, or warm-started; and the base it adapts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.bases.attachment import attach, new_adapter
from motionrag.config import parse
from motionrag.errors import MotionRAGError
from motionrag.models.bundle import BundleConfig, MotionBundle
from motionrag.models.context import ContextConfig
from motionrag.models.resampler import PerceiverResampler, ResamplerConfig
from motionrag.registry import base_spec
from motionrag.training.alignment import align_frames
from motionrag.training.cache import Cache
from motionrag.training.conditioning import open_base
from motionrag.training.conditioning.protocol import precision
from motionrag.training.data import DataSettings
from motionrag.training.denoise import Denoising, SampleSettings
from motionrag.training.kin import KinSettings, open_kin
from motionrag.training.objectives import ObjectiveSettings
from motionrag.types import WHOLE, View


@dataclass(frozen=True, kw_only=True)
class FrozenBase:
    """The base that an adapter is trained for."""

    name: str = "tiny"
    """A key of `motionrag.registry.BASES`."""
    folder: str | None = None
    """Where it is; None for the embedded one, or the published one on the hub."""
    bf16: bool = False
    """Whether its weights are kept in bfloat16."""
    gradient_checkpointing: bool = False
    """Whether to compute its blocks twice to save memory."""

    def open(self, device: torch.device | str) -> Any:
        """Its pipeline, no part of which is trained."""
        pipe = open_base(self.name, self.folder, device=device, dtype=torch.bfloat16 if self.bf16 else torch.float32)
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()
        return pipe


@dataclass(frozen=True, kw_only=True)
class BundleSettings:
    """Sizes of a new bundle, or where one is taken over."""

    folder: str | None = None
    """A bundle to go on with; sizes are then its own."""
    resampler: str | None = None
    """Folder of a motion resampler to start a new bundle with, as `motionrag.checkpoint` saves one."""
    value_std: float = 0.0
    """Spread of a new adapter's value projections; 0 leaves the base as it was to begin with."""
    until: float = 1.0
    """Progress of the denoising at which a new adapter ends (`AdapterConfig.until`); training takes all of it."""
    motion_resampler: ResamplerConfig = ResamplerConfig()
    """Motion features to tokens; the published sizes unless given."""
    appearance_resampler: ResamplerConfig = ResamplerConfig(input_dim=1024)
    """Appearance features to tokens."""
    context: ContextConfig = ContextConfig()
    """The Motion Context Transformer."""
    seed: int = 0
    """Of the first weights."""

    def __post_init__(self) -> None:
        if self.folder is not None and self.resampler is not None:
            raise MotionRAGError("bundle.folder has a resampler already: leave bundle.resampler out")

    def open(self, pipe: Any, base: str, view: View | None) -> MotionBundle:
        """The bundle for a base.

        Args:
            pipe: The base's pipeline.
            base: Its short name.
            view: What its encoders see of the clips; None is a bundle's own, and whole clips for a new one.

        Raises:
            MotionRAGError: If the bundle is not there, is for another base, or sees clips otherwise.
        """
        if self.folder is not None:
            bundle = MotionBundle.from_pretrained(self.folder).float()
            if bundle.config.adapter.base != base:
                raise MotionRAGError(f"{self.folder}: is a bundle for {bundle.config.adapter.base}, not for {base}")
            check_view(bundle, view, self.folder)
            return bundle
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            start = load_resampler(Path(self.resampler)) if self.resampler is not None else None
            adapter = new_adapter(pipe, base, motion_dim=self.context.width)
            bundle = MotionBundle(
                BundleConfig(
                    adapter=replace(adapter.config, until=self.until),
                    motion_resampler=start.config if start is not None else self.motion_resampler,
                    appearance_resampler=self.appearance_resampler,
                    context=self.context,
                    view=view or WHOLE,
                )
            )
            if start is not None:
                bundle.motion_resampler = start
            for name in adapter.config.sites:
                nn.init.normal_(bundle.adapter.site(name).to_v.weight, std=self.value_std)
        return bundle


def published_view(pipe: Any, base: str, data: DataSettings) -> View:
    """What the published encoders of a base see of clips, at the size that clips are trained at."""
    spec = base_spec(base)
    size = data.sized(spec.sampling(pipe))
    return replace(spec.view, height=size.height, width=size.width) if spec.view.height else spec.view


def check_view(bundle: MotionBundle, view: View | None, name: str) -> None:
    """Refuse a bundle that sees clips otherwise than the data are.

    Raises:
        MotionRAGError: If it does.
    """
    if view not in (None, bundle.config.view):
        raise MotionRAGError(f"{name}: takes {bundle.config.view}, data.view asks for {view}; they must agree")


def load_resampler(folder: Path) -> PerceiverResampler:
    """A resampler that was saved by itself, with `motionrag.checkpoint`, in float32 whatever it lies there in.

    Raises:
        MotionRAGError: If there is none, or it is damaged.
    """
    config_file = folder / checkpoint.CONFIG_NAME
    state, document = checkpoint.load(folder / checkpoint.WEIGHTS_NAME, config_file)
    resampler = PerceiverResampler(parse(ResamplerConfig, document, where=str(config_file)))
    checkpoint.load_strict(resampler, {name: value.float() for name, value in state.items()}, where=str(folder))
    return resampler


@torch.no_grad()
def standardise(resampler: PerceiverResampler, features: Tensor) -> None:
    """Give a resampler's tokens mean 0 and spread 1 on every channel, over all clips and queries.

    What differs between clips is a few hundredths of a trained resampler's variance otherwise, and an adapter is
    slow to find it. Nothing is lost: the last layer norm's scale and shift take it up.

    Args:
        resampler: Changed in place.
        features: Of clips [N,L,D].
    """
    tokens = torch.cat([resampler(part) for part in features.split(64)]).flatten(0, 1)
    spread, mean = tokens.std(dim=0).clamp_min(1e-4), tokens.mean(dim=0)
    resampler.norm_out.weight.div_(spread)
    resampler.norm_out.bias.sub_(mean).div_(spread)


def check_features(cache: Cache, bundle: MotionBundle, kinds: tuple[str, ...]) -> None:
    """Refuse a cache whose features are of another width than the bundle's resamplers take.

    Raises:
        MotionRAGError: If they are, or are missing.
    """
    for kind in kinds:
        wanted = getattr(bundle.config, f"{kind}_resampler").input_dim
        found = cache.shape(kind)[-1]
        if found != wanted:
            raise MotionRAGError(
                f"{cache.folder}: its {kind} features are {found} wide, the bundle's resampler takes {wanted}: set "
                f"bundle.{kind}_resampler.input_dim, or name the encoder that the bundle is for"
            )


def trained(bundle: MotionBundle, names: tuple[str, ...]) -> nn.ModuleDict:
    """The parts of a bundle that a stage trains; all others are frozen."""
    bundle.requires_grad_(False)
    return nn.ModuleDict({name: getattr(bundle, name).requires_grad_(True) for name in names})


class Adapted:
    """A frozen base with an adapter on it: the loss and clips it makes under given motion tokens."""

    def __init__(
        self,
        settings: FrozenBase,
        data: DataSettings,
        objective: ObjectiveSettings,
        bundle: BundleSettings,
        *,
        device: torch.device | str,
        report: Any = None,
        kin: KinSettings | None = None,
    ) -> None:
        """Open base, cache and bundle, and attach.

        Args:
            settings: The base.
            data: The clips.
            objective: How the loss is taken.
            bundle: What is trained.
            device: Where.
            report: Told how far the making of the cache is.
            kin: Clips of kin to train on besides.
        """
        pipe = settings.open(device)
        view = data.view
        if view is None and bundle.folder is None:
            view = published_view(pipe, settings.name, data)
        self.bundle = bundle.open(pipe, settings.name, view)
        data = replace(data, view=self.bundle.config.view)
        self.base = Denoising(pipe, settings.name, data, objective, device=device, report=report)
        self.kin: Cache | None = None
        """The cache of clips of kin, with what the other has."""
        if kin is not None:
            self.kin = open_kin(kin, data, self.base.conditioning, self.base.sampling, device=device, report=report)
        pipe.register_modules(**{name: None for name in ("text_encoder",) if name in pipe.components})  # large, done
        self.bundle = self.bundle.to(device)
        if settings.gradient_checkpointing:
            self.base.denoiser.enable_gradient_checkpointing()  # type: ignore[operator]
        self._attached = attach(self.base.denoiser, self.bundle.adapter)
        self.no_motion = self.base.cache.constant("motion").float().to(device)

    def loss(self, motion: Tensor, batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        """The base's objective on a batch under motion tokens [B,Q,D]; the base computes as in a generation."""
        autocast = precision(self.base.denoiser) == torch.float32 and torch.is_autocast_enabled(motion.device.type)
        with self._attached.condition(motion), torch.autocast(motion.device.type, enabled=autocast):
            return self.base.loss(self.base.denoiser, batch, generator)

    def align_frames(self, tokens: Tensor, rows: Tensor) -> dict[str, float]:
        """Let a new adapter begin with each frame attending to its own token; see `alignment.align_frames`."""
        generator = torch.Generator(self.base.device).manual_seed(0)
        batch = self.base.batch(rows, 0.5, torch.Generator().manual_seed(0))
        batch = {name: values.to(self.base.device) for name, values in batch.items()}
        denoiser: Any = self.base.denoiser
        with self._alone():
            return align_frames(
                self.bundle.adapter,
                denoiser,
                denoiser.config.num_attention_heads,
                tokens,
                lambda: self.base.loss(denoiser, batch, generator),
            )

    def null(self) -> Tensor:
        """The tokens of no motion [1,Q,D]."""
        tokens: Tensor = self.bundle.motion_resampler(self.no_motion)
        return tokens

    def dropped(self, motion: Tensor, drop: Tensor) -> Tensor:
        """Motion tokens [B,Q,D] with those of no motion where `drop` [B] says so."""
        return torch.where(drop[:, None, None], self.null().to(motion), motion)

    def generate(self, rows: Tensor, first: Tensor, settings: SampleSettings, motion: Tensor | None) -> Tensor:
        """Clips u8 [B,T,3,H,W] by the unmodified pipeline: of the base alone, or under motion tokens [B,Q,D]."""
        with self._alone():
            if motion is None:
                return self.base.generate(rows, first, settings)
            with attach(self.base.pipe, self.bundle.adapter) as attached, attached.condition(motion, self.null()):
                return self.base.generate(rows, first, settings)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The base without the training's hooks."""
        self._attached.detach()
        try:
            yield
        finally:
            self._attached = attach(self.base.denoiser, self.bundle.adapter)

    @torch.no_grad()
    def held_out_losses(self, tokens: dict[str, Tensor], rows: Tensor, *, chunk: int = 16) -> dict[str, float]:
        """The loss on held-out clips without their prompts, under each kind of motion tokens, at the same noise.

        Args:
            tokens: Kind -> motion tokens [N,Q,D] of the clips.
            rows: Their numbers [N].
            chunk: Clips at once.
        """
        found: dict[str, float] = {}
        for kind, motion in tokens.items():
            total = 0.0
            for start in range(0, len(rows), chunk):
                part = slice(start, start + chunk)
                batch = self.base.batch(rows[part], 1.0, torch.Generator().manual_seed(start))
                batch = {name: values.to(self.base.device) for name, values in batch.items()}
                noise = torch.Generator(self.base.device).manual_seed(start)
                total += float(self.loss(motion[part], batch, noise)) * len(rows[part])
            found[f"loss_{kind}"] = total / len(rows)
        return found


def spread(tokens: Tensor) -> Tensor:
    """Share of the tokens' [B,Q,D] variance that lies between clips, in [0, 1]; near 0 they have collapsed."""
    tokens = tokens.detach().float()
    return tokens.var(dim=0, unbiased=False).mean() / tokens.var(unbiased=False).clamp_min(1e-12)
