"""How a new adapter begins: every place of a frame attends to that frame's motion token.

For resamplers that make one token a frame. An adapter that begins with random queries spends its first tens of
thousands of clips on finding out which token is for which frame.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from motionrag.errors import MotionRAGError
from motionrag.models.adapter import MotionAdapter

RIDGE = 1e-2
"""Of the least squares, relative to the inputs' variance."""
SHARPNESS = 12.0
"""Difference of the attention's logits between the own frame and the others, where frames are told perfectly."""


@torch.no_grad()
def align_frames(
    adapter: MotionAdapter, denoiser: nn.Module, heads: int, tokens: Tensor, run: Callable[[], object]
) -> dict[str, float]:
    """Set queries and keys of all sites by least squares, so that each frame's places attend to its token.

    Args:
        adapter: Changed in place.
        denoiser: The base's, without hooks.
        heads: Of its attention.
        tokens: Motion tokens of clips [N,T,D], one a frame.
        run: Calls the denoiser on noised clips of T frames.

    Returns:
        How much of the frames' codes each site's hidden states tell: R^2 in [0, 1].

    Raises:
        MotionRAGError: If a site's width has no room for T codes a head, or places cannot be shared among T frames.
    """
    hidden = _hidden_states(denoiser, list(adapter.config.sites), run)
    T = tokens.shape[1]
    codes = torch.eye(T) - 1 / T
    told: dict[str, float] = {}
    for name, states in hidden.items():
        width = states.shape[-1] // heads
        if width < T or states.shape[1] < T:
            raise MotionRAGError(f"{name}: a head is {width} wide, {T} frames cannot be told apart in it")
        places = states.shape[1] // T * T  # the last ones: text comes first
        frames = codes.repeat_interleave(places // T, dim=0).expand(len(states), -1, -1)
        query, told[name] = _least_squares(states[:, -places:].flatten(0, 1), frames.flatten(0, 1))
        key, _ = _least_squares(tokens.flatten(0, 1), codes.repeat(len(tokens), 1))
        strength = (SHARPNESS * width**0.5) ** 0.5
        site = adapter.site(name)
        for weight, found in ((site.to_q.weight, query), (site.to_k.weight, key)):
            weight.zero_()
            rearrange(weight, "(h d) w -> h d w", h=heads)[:, :T] = strength * found.T.to(weight)
    return told


def _hidden_states(denoiser: nn.Module, sites: list[str], run: Callable[[], object]) -> dict[str, Tensor]:
    """What reaches each site's output projection [B,L,W] while the denoiser runs."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            found[name] = arguments[0].detach().float().cpu()

        return hook

    modules = dict(denoiser.named_modules())
    handles = [modules[f"{name}.to_out.0"].register_forward_pre_hook(keep(name)) for name in sites]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found


def _least_squares(inputs: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """Weights [W,T] from inputs [N,W] to wanted [N,T], and how much of its variance they tell, in [0, 1]."""
    inputs, wanted = inputs.double(), wanted.double()
    gram = inputs.T @ inputs
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram, inputs.T @ wanted)
    left = (wanted - inputs @ weights).square().sum() / wanted.square().sum()
    return weights.float(), float(1 - left)
