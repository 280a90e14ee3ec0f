"""The Motion-Adapter: motion tokens injected into a frozen base model by attention (paper, section 3.4).

At each adapted attention layer (a *site*) the attention output h, just before the output projection, becomes
`h + scale * softmax(Wq h (Wk m)^T / sqrt(d)) Wv m` for motion tokens m. Queries are not formed: keys
and values depend on m alone, so Wq is folded into the keys once, and a site costs heads x Q columns a token
instead of the full width (25 / 64 of the published work at 25 tokens and heads of 64).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Which sites of which base a Motion-Adapter holds projections for."""

    base: str
    """Short name of the base model, a key of `motionrag.registry.BASES`."""
    motion_dim: int
    """Width D of the motion tokens."""
    sites: Mapping[str, int]
    """Module name of each adapted attention layer in the denoiser -> width of its attention output."""
    until: float = 1.0
    """Progress of the denoising, in (0, 1], from which on the base goes on by itself where the scale is a number.
    Not in the paper; 1 as published."""

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise MotionRAGError(f"AdapterConfig: until={self.until} is a progress, more than 0 and at most 1")
        if not self.sites:
            raise MotionRAGError("AdapterConfig: sites is empty, an adapter needs at least one site")


class AdapterSite(nn.Module):
    """The three projections of one site; a new one has zero values, so the base is left as it was."""

    def __init__(self, width: int, motion_dim: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(motion_dim, width, bias=False)
        self.to_v = nn.Linear(motion_dim, width, bias=False)
        nn.init.zeros_(self.to_v.weight)

    def prepare(self, motion: Tensor, heads: int) -> MotionAttention:
        """All that depends on the motion tokens alone.

        Args:
            motion: Motion tokens [R,Q,D], one row for each differently conditioned group of hidden rows.
            heads: Attention heads of the site's own layer.

        Returns:
            Keys and values; the queries' projection is folded into the keys where that is the cheaper way.
        """
        motion = motion.to(self.to_k.weight)
        k = rearrange(self.to_k(motion), "r q (h d) -> r h q d", h=heads)
        v = rearrange(self.to_v(motion), "r q (h d) -> r h q d", h=heads)
        if k.shape[2] > k.shape[3]:
            return MotionAttention(k, v, self.to_q.weight)
        to_q = rearrange(self.to_q.weight, "(h d) w -> h d w", h=heads)
        return MotionAttention(rearrange(k @ to_q, "r h q w -> r (h q) w") * k.shape[-1] ** -0.5, v, None)


class MotionAttention(NamedTuple):
    """What a site needs of the motion tokens to attend to them, for H heads of width d = W / H."""

    keys: Tensor
    """With folded queries [R, H*Q, W], to act on h itself, softmax scale included; else [R,H,Q,d]."""
    values: Tensor
    """[R,H,Q,d]."""
    to_q: Tensor | None
    """The queries' projection [W,W] where it is not folded: for more tokens than a head is wide."""

    def to(self, like: Tensor) -> MotionAttention:
        """The same on the device and in the precision of a tensor."""
        return MotionAttention(*(None if part is None else part.to(like) for part in self))  # type: ignore[arg-type]

    def scaled(self, scale: float) -> MotionAttention:
        """The same with its result multiplied by a strength."""
        return self._replace(values=self.values * scale)

    def add_to(self, hidden: Tensor) -> Tensor:
        """Add the motion attention to a layer's attention output.

        Args:
            hidden: Attention output [N,L,W]; rows (batch, video, frame), batch outermost. Each of the R rows of
                motion serves N / R of them in turn.

        Raises:
            MotionRAGError: If N is not a multiple of R.
        """
        (R, H, Q), N = self.values.shape[:3], hidden.shape[0]
        if N % R:
            raise MotionRAGError(f"{N} hidden rows cannot be shared among {R} rows of motion tokens")
        h = rearrange(hidden, "(r n) l (h d) -> r h (n l) d", r=R, h=H)
        if self.to_q is None:
            scores = torch.bmm(self.keys, rearrange(hidden, "(r n) l w -> r w (n l)", r=R)).view(R * H, Q, -1)
            attended = torch.bmm(scores.softmax(dim=1).transpose(1, 2), self.values.flatten(0, 1)).view(h.shape)
        else:
            q = rearrange(F.linear(hidden, self.to_q), "(r n) l (h d) -> r h (n l) d", r=R, h=H)
            attended = F.scaled_dot_product_attention(q, self.keys, self.values)
        return rearrange(h + attended, "r h (n l) d -> (r n) l (h d)", n=N // R)


class MotionAdapter(nn.Module):
    """The projections of all sites; it becomes active through `motionrag.attach(pipe, adapter)`."""

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.sites = nn.ModuleDict(
            {name.replace(".", "/"): AdapterSite(width, config.motion_dim) for name, width in config.sites.items()}
        )

    def site(self, name: str) -> AdapterSite:
        """The projections of a site by its module name in the denoiser."""
        site: AdapterSite = self.sites[name.replace(".", "/")]  # type: ignore[assignment]
        return site

    @classmethod
    def for_denoiser(cls, denoiser: nn.Module, *, base: str, sites: str, motion_dim: int) -> MotionAdapter:
        """A new adapter for every attention layer of a denoiser whose name the pattern matches in full.

        Args:
            denoiser: A diffusers model with `Attention` layers.
            base: Short name of the base model.
            sites: Regular expression for module names.
            motion_dim: Width of the motion tokens.

        Raises:
            MotionRAGError: If the pattern matches no attention layer.
        """
        widths = {
            name: module.to_out[0].in_features
            for name, module in denoiser.named_modules()
            if re.fullmatch(sites, name) and hasattr(module, "to_out")
        }
        if not widths:
            raise MotionRAGError(f"no attention layer of {type(denoiser).__name__} matches the sites {sites!r}")
        return cls(AdapterConfig(base=base, motion_dim=motion_dim, sites=widths))
