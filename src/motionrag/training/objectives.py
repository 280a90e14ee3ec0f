"""What a base model's network is taught, from its scheduler's own settings: one target for one noised sample.

Each objective below is the mean squared error of the network's raw output to a target. That is the weighting the
models were trained with: v-prediction with 1 / (1 - a_t) on x_0 (CogVideoX, DynamiCrafter), EDM's
lambda(s) c_out(s)^2 = 1 (SVD, sigma_data = 1), plain velocity matching (rectified flow).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """How noise levels are drawn, and where the loss looks; the target itself is the scheduler's."""

    levels: Literal["uniform", "logit-normal"] = "uniform"
    """Rectified flow only: sigma uniform in (0, 1), or sigmoid of a standard normal, which spares both ends."""
    shift: float = 1.0
    """Rectified flow only: sigma becomes s sigma / (1 + (s - 1) sigma); above 1 there is more noise."""
    motion_weight: float = 0.0
    """How much more the moving parts of a clip weigh (`motion_weights`); 0 weighs all alike."""

    def __post_init__(self) -> None:
        if self.shift <= 0 or self.motion_weight < 0:
            raise MotionRAGError(
                f"objective: shift={self.shift} must be above 0, motion_weight={self.motion_weight} 0 or more"
            )


class Noised(NamedTuple):
    """A training sample of the denoiser."""

    sample: Tensor
    """What the network is given: the noised latents, scaled as it expects, [B,T,C,H,W]."""
    timestep: Tensor
    """The noise level in the network's own terms, [B]."""
    target: Tensor
    """What it shall answer, [B,T,C,H,W]."""


Objective = Callable[[Tensor, torch.Generator], Noised]
"""Clean latents [B,T,C,H,W], scaled as the pipeline scales them, and all the randomness -> a training sample."""


def objective_of(scheduler: Any, settings: ObjectiveSettings) -> Objective:
    """The objective that a scheduler samples with.

    Args:
        scheduler: A diffusers scheduler: rectified flow (flow-matching classes, or `flow_prediction`), continuous
            v-prediction over sigmas (SVD), or discrete v- or noise-prediction, zero terminal SNR and latents that
            shrink included (CogVideoX, DynamiCrafter).
        settings: The rest.

    Raises:
        MotionRAGError: If the scheduler's prediction is another, or settings are given that it has no use for.
    """
    config, name = scheduler.config, type(scheduler).__name__
    prediction = config.get("prediction_type", "flow_prediction" if name.startswith("FlowMatch") else None)
    if prediction == "flow_prediction":
        steps = float(config.num_train_timesteps)
        return lambda x0, generator: rectified_flow(x0, flow_levels(len(x0), settings, generator), generator, steps)
    if settings.levels != "uniform" or settings.shift != 1.0:
        raise MotionRAGError(
            f"levels and shift belong to rectified flow, {name} predicts {prediction!r}: leave them"
        )
    if prediction == "v_prediction" and config.get("timestep_type") == "continuous":
        return lambda x0, generator: edm(x0, edm_levels(len(x0), generator), generator)
    if prediction not in {"v_prediction", "epsilon"} or not hasattr(scheduler, "alphas_cumprod"):
        raise MotionRAGError(f"{name} predicts {prediction!r}, for which there is no training objective")
    velocity, scale = prediction[0] == "v", getattr(scheduler, "latent_scale", None)
    return lambda x0, generator: discrete(x0, scheduler.alphas_cumprod, generator, velocity=velocity, scale=scale)


def flow_levels(batch: int, settings: ObjectiveSettings, generator: torch.Generator) -> Tensor:
    """Noise levels sigma in (0, 1), f32 [B], one in each of B equal parts of the distribution."""
    u = stratified(batch, generator)
    sigma = u if settings.levels == "uniform" else torch.special.ndtri(u).sigmoid()
    return settings.shift * sigma / (1 + (settings.shift - 1) * sigma)


def rectified_flow(x0: Tensor, sigma: Tensor, generator: torch.Generator, steps: float = 1000.0) -> Noised:
    """x_t = (1 - s) x_0 + s n, target n - x_0, timestep 1000 s (Liu et al. 2023)."""
    noise = noise_like(x0, generator)
    s = _over(sigma, x0)
    return Noised((1 - s) * x0 + s * noise, sigma.to(x0.device) * steps, noise - x0)


def edm_levels(batch: int, generator: torch.Generator, mean: float = 0.7, std: float = 1.6) -> Tensor:
    """Noise levels with log s ~ N(mean, std), f32 [B]; SVD's values."""
    return torch.exp(mean + std * torch.special.ndtri(stratified(batch, generator)))


def edm(x0: Tensor, sigma: Tensor, generator: torch.Generator) -> Noised:
    """EDM as SVD is trained: F(c_in (x_0 + s n), ln(s) / 4) with D = c_skip x + c_out F close to x_0.

    c_skip = 1 / (s^2 + 1), c_out = -s / sqrt(s^2 + 1), c_in = 1 / sqrt(s^2 + 1), so the target of F is
    (x_0 - c_skip x) / c_out = (n - s x_0) / sqrt(s^2 + 1); with the weight 1 / c_out^2 the loss of F is plain MSE.
    """
    noise = noise_like(x0, generator)
    s = _over(sigma, x0)
    c_in = (s**2 + 1).rsqrt()
    return Noised(c_in * (x0 + s * noise), sigma.to(x0.device).log() / 4, c_in * (noise - s * x0))


def discrete(
    x0: Tensor, alphas: Tensor, generator: torch.Generator, *, velocity: bool, scale: Tensor | None = None
) -> Noised:
    """x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) n, target v = sqrt(a_t) n - sqrt(1 - a_t) x_0, or n itself.

    Where the scheduler shrinks clean latents towards noise (DynamiCrafter), r_t x_0 stands for x_0 throughout.

    Args:
        x0: Clean latents.
        alphas: The scheduler's cumulative products a_t, which hold the terminal SNR and its shift.
        generator: All the randomness; t is uniform over the scheduler's steps.
        velocity: Whether the target is v.
        scale: Its factors r_t, if it has them.
    """
    t = (stratified(len(x0), generator) * len(alphas)).long().clamp_(max=len(alphas) - 1)
    noise = noise_like(x0, generator)
    a = _over(alphas.to(t.device)[t].float(), x0)
    if scale is not None:
        x0 = _over(scale.to(t.device)[t].float(), x0) * x0
    target = a.sqrt() * noise - (1 - a).sqrt() * x0 if velocity else noise
    return Noised(a.sqrt() * x0 + (1 - a).sqrt() * noise, t.to(x0.device), target)


def motion_weights(x0: Tensor, weight: float) -> Tensor:
    """Weight of each latent position [B,T,1,H,W]: 1 + w |x_0[t] - x_0[first]| / mean, brought to mean 1 a clip."""
    change = (x0 - x0[:, :1]).abs().mean(dim=2, keepdim=True)
    over = (1, 2, 3, 4)
    weights = 1 + weight * change / change.mean(dim=over, keepdim=True).clamp_min(1e-6)
    return weights / weights.mean(dim=over, keepdim=True)


def denoising_loss(prediction: Tensor, noised: Noised, x0: Tensor, motion_weight: float = 0.0) -> Tensor:
    """Mean squared error of the network's output, moving parts weighed more if asked for."""
    error = (prediction.float() - noised.target.float()).square()
    return (error * motion_weights(x0, motion_weight)).mean() if motion_weight else error.mean()


def stratified(batch: int, generator: torch.Generator) -> Tensor:
    """Uniform numbers in (0, 1), f32 [B]: one in each B-th part, in random order, so that batches differ less."""
    where = torch.randperm(batch, generator=generator, device=generator.device)
    within = torch.rand(batch, generator=generator, device=generator.device)
    return ((where + within) / batch).clamp_(1e-5, 1 - 1e-5)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of a tensor's shape and type, drawn where the generator lives."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=torch.float32).to(x)


def _over(values: Tensor, x: Tensor) -> Tensor:
    """[B] to [B,1,1,1,1], where and what x is."""
    return values.to(x).view(-1, *[1] * (x.ndim - 1))
