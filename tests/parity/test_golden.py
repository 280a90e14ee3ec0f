"""The published code's own numbers: every golden file but DynamiCrafter's two (test_dynamicrafter.py).

Another folder of the same layout is read with MOTIONRAG_GOLDEN=FOLDER. Largest errors are printed at the end.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import motionrag
from motionrag.checkpoint import load_strict
from motionrag.convert.keys import target_of
from motionrag.convert.published import convert
from motionrag.models.adapter import AdapterConfig, AdapterSite, MotionAdapter
from motionrag.models.context import ContextConfig, MotionContextTransformer, block_losses
from motionrag.models.resampler import PerceiverResampler, ResamplerConfig
from tests.parity.conftest import ERRORS

GOLDEN = Path(os.environ.get("MOTIONRAG_GOLDEN", Path(__file__).parents[1] / "data" / "golden"))
TOLERANCE = 1e-5


def golden(name):
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
    tensors = {"weights": {}, "input": {}, "output": {}, "config": config}
    for key, tensor in load_file(path).items():
        group, _, rest = key.partition(".")
        tensors[group][rest] = tensor
    return tensors


def section(weights, prefix):
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def compare(name, actual, expected):
    error = (actual - expected).abs().max().item()
    ERRORS[name] = error
    assert actual.shape == expected.shape
    assert error <= TOLERANCE, f"{name}: {error:.2e}"


def resampler_from(published, **sizes):
    module = PerceiverResampler(ResamplerConfig(**sizes))
    names = {target_of(key).name.removeprefix("motion_resampler."): value for key, value in published.items()}
    load_strict(module, names, "golden")
    return module.eval()


@torch.no_grad()
def test_resampler():
    g = golden("resampler")
    c = g["config"]
    module = resampler_from(
        g["weights"],
        input_dim=c["embedding_dim"],
        width=c["dim"],
        depth=c["depth"],
        heads=c["heads"],
        head_dim=c["dim_head"],
        queries=c["num_queries"],
        output_dim=c["output_dim"],
        ff_mult=c["ff_mult"],
    )
    compare("resampler", module(g["input"]["features"]), g["output"]["tokens"])


@torch.no_grad()
def test_context_transformer():
    g = golden("context_transformer")
    c, r = g["config"], g["config"]["resampler"]
    sizes = {"width": r["dim"], "depth": r["depth"], "heads": r["heads"], "head_dim": r["dim_head"]}
    sizes |= {"queries": c["queries"], "output_dim": c["width"]}
    motion = resampler_from(section(g["weights"], "vision_proj."), input_dim=c["motion_feature_dim"], **sizes)
    appearance = resampler_from(
        section(g["weights"], "condition_proj."), input_dim=c["appearance_feature_dim"], **sizes
    )
    context = MotionContextTransformer(
        ContextConfig(
            width=c["width"],
            queries=c["queries"],
            layers=c["layers"],
            heads=c["heads"],
            feed_forward=c["feedforward"],
            max_positions=c["motion_positions_max"],
        )
    ).eval()
    names = {target_of(key).name: value for key, value in g["weights"].items()}
    load_strict(context, section(names, "context."), "golden")

    i = g["input"]
    reference_motion = motion(i["reference_motion_features"]).flip(1)  # golden inputs: most similar first
    reference_appearance = appearance(i["reference_appearance_features"]).flip(1)
    target_appearance = appearance(i["target_appearance_features"])
    blocks = context(reference_motion, torch.cat([reference_appearance, target_appearance[:, None]], dim=1))
    compare("context transformer, all blocks", blocks, g["output"]["all_blocks"])
    compare("context transformer, target", blocks[:, -1], g["output"]["target_tokens"])
    null = motion(torch.zeros_like(i["target_motion_features"]))
    compare("no-motion tokens", null, g["output"]["null_tokens"])
    true = torch.cat([reference_motion, motion(i["target_motion_features"])[:, None]], dim=1)
    losses = block_losses(blocks, true)
    compare("loss over all blocks", losses.mean()[None], g["output"]["loss_all_blocks"].reshape(1))
    compare("loss of the target block", losses[-1:], g["output"]["loss_target_block"].reshape(1))


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_adapter_site(scale):
    from diffusers.models.attention_processor import Attention

    g = golden("adapter_site_svd")
    c, w, i = g["config"], g["weights"], g["input"]
    attn = Attention(c["query_dim"], c["cross_attention_dim"], heads=c["heads"], dim_head=c["dim_head"])
    attn.load_state_dict(section(w, "attn."))
    compare(
        "site without adapter",
        attn(i["hidden_states"], i["encoder_hidden_states"]),
        g["output"]["without_adapter"],
    )
    site = AdapterSite(c["query_dim"], i["motion_tokens"].shape[-1])
    load_strict(site, {name: w[f"processor.{name[:4]}_ip.0.weight"] for name in site.state_dict()}, "golden")
    attention = site.prepare(i["motion_tokens"], c["heads"]).scaled(scale)
    attn.to_out[0].register_forward_pre_hook(lambda module, args: attention.add_to(args[0]))
    compare(
        f"site at scale {scale}",
        attn(i["hidden_states"], i["encoder_hidden_states"]),
        g["output"][f"scale_{scale}"],
    )


def adapter_from(published, base, motion_dim):
    targets = {key: target_of(key) for key in published}
    assert {target.base for target in targets.values()} == {base}
    sites = {t.site: published[key].shape[0] for key, t in targets.items() if t.name.endswith("to_q.weight")}
    adapter = MotionAdapter(AdapterConfig(base=base, motion_dim=motion_dim, sites=sites))
    load_strict(adapter, {t.name.removeprefix("adapter."): published[key] for key, t in targets.items()}, "golden")
    return adapter.eval()


def check_denoiser(name, base, model, call, sites):
    """With the adapter of the golden file itself, and with that of the converted checkpoint."""
    g = golden(name)
    model.load_state_dict(section(g["weights"], "base."))
    compare(f"{base} without adapter", call(model.eval(), g["input"]), g["output"]["without_adapter"])
    motion = g["input"]["motion_tokens"]
    recorded = adapter_from(section(g["weights"], "adapter."), base, motion.shape[-1])
    for source, adapter in (("", recorded), (" converted", converted(base).adapter)):
        assert sorted(adapter.config.sites) == sorted(sites)
        with motionrag.attach(model, adapter) as attached, attached.condition(motion):
            compare(f"{base} with{source} adapter", call(model, g["input"]), g["output"]["with_adapter"])


def converted(base, transformer="motion_transformer"):
    c, folder = golden("context_transformer")["config"], GOLDEN / "checkpoints"
    names = [f"{base}_motion_adapter", transformer, "motion_proj"]
    bundle, _ = convert(
        [folder / f"{name}.ckpt" for name in names],
        base=base,
        head_dim=c["resampler"]["dim_head"],
        context_head_dim=c["width"] // c["heads"],
    )
    return bundle.eval()


@torch.no_grad()
def test_svd_unet():
    from diffusers import UNetSpatioTemporalConditionModel

    config = golden("svd_unet")["config"]
    unet = UNetSpatioTemporalConditionModel(
        **{key: tuple(value) if isinstance(value, list) else value for key, value in config["unet"].items()}
    )
    check_denoiser(
        "svd_unet",
        "svd",
        unet,
        lambda model, i: model(i["sample"], i["timestep"], i["encoder_hidden_states"], i["added_time_ids"]).sample,
        [site.removeprefix("unet.") for site in config["sites"]],
    )


@torch.no_grad()
def test_cogvideox_transformer():
    from diffusers import CogVideoXTransformer3DModel

    config = golden("cogvideox_transformer")["config"]
    check_denoiser(
        "cogvideox_transformer",
        "cogvideox",
        CogVideoXTransformer3DModel(**config["transformer"]),
        lambda model, i: (
            model(
                i["hidden_states"],
                i["encoder_hidden_states"],
                i["timestep"],
                image_rotary_emb=(i["rotary_cos"], i["rotary_sin"]),
            ).sample
        ),
        config["sites"],
    )


@torch.no_grad()
@pytest.mark.parametrize("base", ["cogvideox", "svd", "dynamicrafter"])
def test_published_checkpoints(base):
    """The files give a bundle that reproduces the context transformer's golden output."""
    i, bundle = golden("context_transformer")["input"], converted(base)
    target = bundle.adapt(
        bundle.motion_resampler(i["reference_motion_features"]),
        bundle.appearance_resampler(i["reference_appearance_features"]),
        bundle.appearance_resampler(i["target_appearance_features"]),
    )
    expected = golden("context_transformer")["output"]["target_tokens"]
    compare(f"{base} checkpoints, target tokens", target, expected)


def test_published_checkpoints_without_start_token():
    """Everything but the start token, which no file of these holds, is the same."""
    with_start, without = (
        converted("svd", name).state_dict() for name in ("motion_transformer", "motion_transformer_without_sos")
    )
    assert [name for name in with_start if not torch.equal(with_start[name], without[name])] == ["context.start"]
