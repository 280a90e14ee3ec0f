"""Tiny real pipelines with a call that makes a small clip, and what the tests of the bases share."""

from importlib.util import find_spec

import pytest
import torch

import motionrag
from motionrag import testing
from motionrag.pipeline.quantize import QUANTIZERS

CLOSE = {"atol": 1e-4, "rtol": 1e-4}  # of whole pipeline runs, in [0, 1]; other motion differs by over 1e-2


QUANTISED = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(find_spec(quantizer.package) is None, reason=f"{quantizer.package} is missing"),
    )
    for kind, quantizer in QUANTIZERS.items()
]
"""Each kind of quantised base; skipped where what makes it is not installed."""


def noisy_adapter(model, base):
    """An adapter with random weights, whose effect shows."""
    adapter = motionrag.new_adapter(model, base, motion_dim=16)
    testing.random_weights(adapter)
    return adapter


def attached_with_noise(runner):
    return motionrag.attach(runner.pipe, noisy_adapter(runner.pipe, runner.base))


def denoiser_of(runner):
    return runner.pipe.unet if runner.base == "svd" else runner.pipe.transformer


def denoiser_inputs(runner, batch, frames=3, size=8, dtype=torch.float32):
    """Arguments of one call of the bare denoiser."""

    def noise(*shape, seed):
        return testing.random_tensor(*shape, seed=seed).to(dtype)

    if runner.base == "svd":
        return {
            "sample": noise(batch, frames, 8, size, size, seed=1),
            "timestep": torch.tensor(0.7),
            "encoder_hidden_states": noise(batch, 1, 16, seed=2),
            "added_time_ids": noise(batch, 3, seed=3),
        }
    tokens = frames * (size // 2) ** 2
    angle = testing.random_tensor(tokens, 16, seed=4)
    return {
        "hidden_states": noise(batch, frames, 8, size, size, seed=1),
        "encoder_hidden_states": noise(batch, 6, 12, seed=2),
        "timestep": torch.full((batch,), 400),
        "image_rotary_emb": (angle.cos(), angle.sin()),
    }


class Runner:
    """A tiny real pipeline and the call that makes a small clip with it, always from the same noise."""

    def __init__(self, base, pipe, image):
        self.base, self.pipe, self.image = base, pipe, image

    def __call__(self, *, videos=1, batch=1, guided=True, steps=2, frames=None, seed=1, size=16, **options):
        generators = [torch.Generator().manual_seed(seed + i) for i in range(batch * videos)]
        options = {
            "height": size,
            "width": size,
            "num_inference_steps": steps,
            "output_type": "pt",
            "generator": generators,
            **options,
        }
        if self.base == "svd":
            options |= {"max_guidance_scale": 3.0 if guided else 1.0, "noise_aug_strength": 0.0}
            options |= {"num_frames": frames or 3, "num_videos_per_prompt": videos}
            # its pipeline draws image noise from some of the generators only: give the latents themselves
            shape = (1, options["num_frames"], 4, size // 2, size // 2)
            options["latents"] = torch.cat([torch.randn(shape, generator=generator) for generator in generators]).to(
                self.pipe.unet.dtype
            )
            return self.pipe([self.image] * batch, **options).frames
        options |= {
            "guidance_scale": 3.0 if guided else 1.0,
            "num_frames": frames or 9,
            "max_sequence_length": 6,
        }
        options |= {"prompt_embeds": testing.random_tensor(1, 6, 12, seed=5).repeat(batch * videos, 1, 1)}
        options |= {"negative_prompt_embeds": testing.random_tensor(1, 6, 12, seed=6).repeat(batch * videos, 1, 1)}
        return self.pipe(
            [self.image] * (batch * videos),
            **{k: v.to(self.pipe.transformer.dtype) if torch.is_tensor(v) else v for k, v in options.items()},
        ).frames


def build(base, image):
    return Runner(base, testing.tiny_svd() if base == "svd" else testing.tiny_cogvideox(), image)
