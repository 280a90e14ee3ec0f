"""DynamiCrafter's DDIM sampler: diffusers' scheduler, with the released code's time steps and latent rescaling.

The noise schedule and what training needs of it are diffusers'. A step differs from diffusers' own in two ways: the
next time step is the one that is in fact laid out (diffusers computes it, and is one off where the steps do not
divide the schedule), and clean latents are scaled by the ratio of `latent_scale` between the two. "Leading" steps
reach to the end of the schedule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput, rescale_zero_terminal_snr
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401 - a saved pipeline looks for it here
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from motionrag.errors import MotionRAGError
from motionrag.types import SPACINGS


class DynamiCrafterScheduler(DDIMScheduler):
    """DDIM with latents that shrink towards noise; its defaults are the settings of the 1024 model.

    Args:
        num_train_timesteps: Steps of the whole schedule.
        beta_start: First beta.
        beta_end: Last beta; their roots are evenly spaced between.
        prediction_type: "v_prediction" or "epsilon".
        timestep_spacing: "trailing" (from the last step on) or "leading" (from the first on).
        rescale_betas_zero_snr: Whether nothing is left of the clip at the last step.
        base_scale: What clean latents are multiplied with from `turning_step` on; 1 leaves them as they are.
        turning_step: Until there the factor goes from 1 to `base_scale` in a straight line.
    """

    ignore_for_config = (
        "beta_schedule",
        "trained_betas",
        "clip_sample",
        "set_alpha_to_one",
        "steps_offset",
        "thresholding",
        "dynamic_thresholding_ratio",
        "clip_sample_range",
        "sample_max_value",
    )

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction_type: str = "v_prediction",
        timestep_spacing: str = "trailing",
        rescale_betas_zero_snr: bool = True,
        base_scale: float = 0.3,
        turning_step: int = 400,
    ) -> None:
        if prediction_type not in ("v_prediction", "epsilon"):
            raise MotionRAGError(f"prediction_type={prediction_type!r} must be 'v_prediction' or 'epsilon'")
        _check_spacing(timestep_spacing)
        if prediction_type == "epsilon" and rescale_betas_zero_snr:
            raise MotionRAGError(
                f"prediction_type={prediction_type!r} and rescale_betas_zero_snr={rescale_betas_zero_snr}: where "
                "nothing is left of the clip, its noise does not tell it; use 'v_prediction', or leave the betas"
            )
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            prediction_type=prediction_type,
            timestep_spacing=timestep_spacing,
            rescale_betas_zero_snr=rescale_betas_zero_snr,
        )
        # As the released code computes them: in double precision. Single is off by 1e-6 and more.
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64) ** 2
        self.betas = rescale_zero_terminal_snr(betas) if rescale_betas_zero_snr else betas
        self.alphas = 1 - self.betas
        self.alphas_cumprod = self.alphas.cumprod(0).float()
        self.final_alpha_cumprod = self.alphas_cumprod[0]
        falling = torch.linspace(1, base_scale, turning_step, dtype=torch.float64)
        constant = torch.full((num_train_timesteps,), base_scale, dtype=torch.float64)
        self.latent_scale = torch.cat([falling, constant])[:num_train_timesteps]

    def set_timesteps(
        self, num_inference_steps: int, device: Any = None, timestep_spacing: str | None = None
    ) -> None:
        """Lay out the steps of a run, from noise to clip; "leading" makes one or more besides if they do not divide.

        Args:
            num_inference_steps: How many.
            device: Where they are told.
            timestep_spacing: "trailing" or "leading"; None is the scheduler's own.

        Raises:
            MotionRAGError: If there are none, or more than the schedule has, or there is no such spacing.
        """
        spacing = timestep_spacing or self.config.timestep_spacing
        _check_spacing(spacing)
        steps = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= steps:
            raise MotionRAGError(f"num_inference_steps={num_inference_steps} must be between 1 and {steps}")
        if spacing == "trailing":
            timesteps = np.arange(steps, 0, -steps / num_inference_steps).round() - 1
        else:
            timesteps = np.arange(0, steps - 1, steps // num_inference_steps)[::-1] + 1
        self.timesteps = torch.from_numpy(timesteps.astype(np.int64)).to(device)
        self.num_inference_steps = len(timesteps)
        self._laid_out = timesteps.astype(np.int64).tolist()

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | int,
        sample: Tensor,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> Any:
        """Latents one step nearer to the clip, computed in float32 (DDIM, equation 12).

        x' = sqrt(a') r x0 + sqrt(1 - a' - s^2) e + s z, where x0 and e are what the model's answer says of clip and
        noise, r = latent_scale' / latent_scale, s^2 = eta^2 (1 - a') / (1 - a) (1 - a / a') and z is new noise.

        Args:
            model_output: Velocity or noise, of any shape.
            timestep: One of `timesteps`.
            sample: Latents at it, of that shape.
            eta: How much of the noise is drawn anew.
            generator: Draws it; one for all or one for each row.
            return_dict: Whether the answer is an object with `prev_sample` and `pred_original_sample`; else a tuple.

        Raises:
            MotionRAGError: If `set_timesteps` laid out no such step.
        """
        now, before = self._now_and_before(int(timestep))
        a = self.alphas_cumprod[now].item()
        a_before = (self.alphas_cumprod[before] if before is not None else self.final_alpha_cumprod).item()
        x0, noise = self._clean_and_noise(model_output.float(), sample.float(), a)
        if before is not None:
            x0 = x0 * (self.latent_scale[before] / self.latent_scale[now]).item()
        variance = eta**2 * (1 - a_before) / (1 - a) * (1 - a / a_before)
        x = a_before**0.5 * x0 + max(1 - a_before - variance, 0.0) ** 0.5 * noise
        if eta > 0:
            x = x + variance**0.5 * randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x, x0 = x.to(sample.dtype), x0.to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)

    def _now_and_before(self, timestep: int) -> tuple[int, int | None]:
        """A step, and the next one on the way to the clip; None after the last."""
        laid_out = getattr(self, "_laid_out", [])
        if timestep not in laid_out:
            raise MotionRAGError(f"no step {timestep} was laid out: call set_timesteps() and take its timesteps")
        place = laid_out.index(timestep) + 1
        return timestep, laid_out[place] if place < len(laid_out) else None

    def _clean_and_noise(self, output: Tensor, x: Tensor, a: float) -> tuple[Tensor, Tensor]:
        if self.config.prediction_type == "epsilon":
            return (x - (1 - a) ** 0.5 * output) / a**0.5, output
        return a**0.5 * x - (1 - a) ** 0.5 * output, a**0.5 * output + (1 - a) ** 0.5 * x


def _check_spacing(spacing: str) -> None:
    if spacing not in SPACINGS:
        raise MotionRAGError(f"timestep_spacing={spacing!r} must be one of {', '.join(SPACINGS)}")


def guide(unconditional: Tensor, conditional: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Classifier-free guidance, brought back towards the conditional prediction's standard deviation.

    Args:
        unconditional: Prediction without prompt, image and motion, [B,...].
        conditional: Prediction with them, [B,...].
        scale: Strength; 1 is the conditional prediction.
        rescale: How far back, in [0, 1] (Lin et al., WACV 2024, section 3.4).
    """
    guided = unconditional + scale * (conditional - unconditional)
    return rescale_noise_cfg(guided, conditional, rescale) if rescale else guided
