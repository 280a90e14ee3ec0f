import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from PIL import Image

from motionrag import testing


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def image():
    return Image.radial_gradient("L").resize((16, 16)).convert("RGB")


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


@pytest.fixture(params=["svd", "cogvideox"])
def runner(request, image):
    return build(request.param, image)


@pytest.fixture
def motion():
    return testing.random_tensor(1, 5, 16, seed=11)


@pytest.fixture
def null():
    return testing.random_tensor(1, 5, 16, seed=12)
