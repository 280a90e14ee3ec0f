"""The published code's own numbers for DynamiCrafter: its UNet with and without adapter, its sampler."""

import json

import pytest
import torch
from safetensors import safe_open

import motionrag
from motionrag.bases.dynamicrafter.convert import fill, states_of
from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler, guide
from motionrag.bases.dynamicrafter.sizes import unet_sizes
from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet
from tests.parity.conftest import ERRORS
from tests.parity.test_golden import GOLDEN, adapter_from, converted, section

SPACINGS = {"uniform": "leading", "uniform_trailing": "trailing"}


def golden(name):
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {"config": json.loads(file.metadata()["config"])}
        for key in file.keys():  # noqa: SIM118 - it is no dictionary
            group, _, rest = key.partition(".")
            tensors.setdefault(group, {})[rest] = file.get_tensor(key)
    return tensors


def compare(name, actual, expected, tolerance):
    error = (actual - expected).abs().max().item()
    ERRORS[name] = error
    assert actual.shape == expected.shape
    assert error <= tolerance, f"{name}: {error:.2e}"


def unet_of(g):
    """Sizes from the file's own settings; the weights through the conversion of the released checkpoints."""
    c = g["config"]["unet"]
    unet = DynamiCrafterUNet(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        model_channels=c["model_channels"],
        channel_mult=tuple(c["channel_mult"]),
        attention_resolutions=tuple(sorted(c["attention_resolutions"], reverse=True)),
        num_res_blocks=c["num_res_blocks"],
        attention_head_dim=c["num_head_channels"],
        transformer_depth=c["transformer_depth"],
        cross_attention_dim=c["context_dim"],
        dropout=c["dropout"],
        learnable_image_scale=c.get("image_cross_attention_scale_learnable", False),
        num_frames=c["temporal_length"],
        default_rate=c["default_fs"],
    )
    _, states = states_of(section(g["weights"], "base."))
    fill(unet, states["unet"], "golden")
    found = unet_sizes(states["unet"])
    assert found == {key: unet.config[key] for key in found}, "what the shapes tell is what the file says"
    return unet.eval()


@torch.no_grad()
def test_unet():
    g = golden("dynamicrafter_unet")
    i, unet = g["input"], unet_of(g)

    def call():
        return unet(i["sample"], i["timestep"], i["prompt_embeddings"], i["image_embeddings"], i["fs"]).sample

    compare("dynamicrafter without adapter", call(), g["output"]["without_adapter"], 1e-4)
    motion = i["motion_tokens"]
    recorded = adapter_from(section(g["weights"], "adapter."), "dynamicrafter", motion.shape[-1])
    for source, adapter in (("", recorded), (" converted", converted("dynamicrafter").adapter)):
        assert sorted(motionrag.new_adapter(unet, "dynamicrafter").config.sites) == sorted(adapter.config.sites)
        with motionrag.attach(unet, adapter) as attached, attached.condition(motion):
            compare(f"dynamicrafter with{source} adapter", call(), g["output"]["with_adapter"], 1e-4)


def scheduler_of(g, spacing):
    c = g["config"]
    assert c["parameterization"] == "v"
    return DynamiCrafterScheduler(
        num_train_timesteps=len(g["schedule"]["alphas_cumprod"]),
        beta_start=c["linear_start"],
        beta_end=c["linear_end"],
        timestep_spacing=SPACINGS[spacing],
        rescale_betas_zero_snr=c["rescale_betas_zero_snr"],
        base_scale=c["dynamic_rescale"]["base_scale"],
        turning_step=c["dynamic_rescale"]["turning_step"],
    )


@pytest.mark.parametrize("spacing", SPACINGS)
def test_schedule(spacing):
    g = golden("dynamicrafter_sampler")
    scheduler, schedule = scheduler_of(g, spacing), g["schedule"]
    compare("dynamicrafter alphas", scheduler.alphas_cumprod.double(), schedule["alphas_cumprod"], 1e-7)
    compare("dynamicrafter betas", scheduler.betas, schedule["betas_zero_snr"], 1e-12)
    compare("dynamicrafter latent scale", scheduler.latent_scale, schedule["latent_scale"], 1e-12)
    scheduler.set_timesteps(30)
    assert scheduler.timesteps.flip(0).tolist() == schedule[f"timesteps_{spacing}_30"].tolist()


@torch.no_grad()
@pytest.mark.parametrize("rescale", [0.0, 0.7])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_sampler(spacing, rescale):
    g = golden("dynamicrafter_sampler")
    c, i, scheduler = g["config"], g["input"], scheduler_of(g, spacing)

    def model(x, t, condition):  # as the file says
        return torch.tanh(0.3 * x + 0.5 * condition) * (1 - t / 2000)

    scheduler.set_timesteps(c["steps"])
    x = i["x_T"]
    for t in scheduler.timesteps:
        velocity = guide(model(x, t, i["uncond"]), model(x, t, i["cond"]), c["guidance_scale"], rescale)
        x = scheduler.step(velocity, t, x, eta=c["eta"]).prev_sample
    expected = g["output"][f"{spacing}.guidance_rescale_{rescale}"]
    compare(f"dynamicrafter sampler, {spacing}, rescale {rescale}", x, expected, 1e-5)
