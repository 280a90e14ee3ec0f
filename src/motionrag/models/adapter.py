"""The Motion-Adapter: motion tokens injected into a frozen base model by attention (paper, section 3.4).

At each adapted attention layer (a *site*) the attention output h, just before the output projection, becomes
`h + scale * softmax(Wq h (Wk m)^T / sqrt(d)) Wv m` for motion tokens m. The queries are never formed: keys
and values depend on m alone, so Wq is folded into the keys once, and a site costs heads x Q columns a token
instead of the full width (25 / 64 of the published work at 25 tokens and heads of 64).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Which sites of which base a Motion-Adapter holds projections for."""

    base: str
    """Short name of the base model, a key of `motionrag.registry.BASES` (or "dynamicrafter")."""
    motion_dim: int
    """Width D of the motion tokens."""
    sites: Mapping[str, int]
    """Module name of each adapted attention layer in the denoiser -> width of its attention output."""

    def __post_init__(self) -> None:
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

    def fold(self, motion: Tensor, heads: int) -> tuple[Tensor, Tensor]:
        """All that depends on the motion tokens alone.

        Args:
            motion: Motion tokens [R,Q,D], one row for each differently conditioned group of hidden rows.
            heads: Attention heads of the site's own layer.

        Returns:
            Keys [R, heads*Q, W] that act on h directly, softmax scale included, and values [R*heads, Q, W/heads].
        """
        motion = motion.to(self.to_k.weight)
        k = rearrange(self.to_k(motion), "r q (h d) -> r h q d", h=heads)
        v = rearrange(self.to_v(motion), "r q (h d) -> (r h) q d", h=heads)
        to_q = rearrange(self.to_q.weight, "(h d) w -> h d w", h=heads)
        return rearrange(k @ to_q, "r h q w -> r (h q) w") * k.shape[-1] ** -0.5, v


def inject(hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Add the motion attention to a layer's attention output.

    Args:
        hidden: Attention output [N,L,W], N a multiple of R: hidden rows (batch, video, frame), batch outermost.
        keys: Folded keys [R, heads*Q, W] of `AdapterSite.fold`.
        values: Values [R*heads, Q, W/heads], already scaled; each row serves N / R hidden rows in turn.

    Raises:
        MotionRAGError: If N is not a multiple of R.
    """
    N, R, Q = hidden.shape[0], keys.shape[0], values.shape[1]
    if N % R:
        raise MotionRAGError(f"{N} hidden rows cannot be shared among {R} rows of motion tokens")
    h = rearrange(hidden, "(r n) l w -> r w (n l)", r=R)
    scores = torch.bmm(keys, h).view(len(values), Q, -1)
    attended = torch.bmm(scores.softmax(dim=1).transpose(1, 2), values)
    h = rearrange(h, "r (h d) n -> r h n d", d=values.shape[2])
    return rearrange(h + attended.view(h.shape), "r h (n l) d -> (r n) l (h d)", n=N // R)


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
