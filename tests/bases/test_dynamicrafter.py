"""DynamiCrafter at tiny size: a checkpoint in the released layout becomes a pipeline that the adapter works with."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import motionrag
from motionrag import MotionRAGError, testing
from motionrag.bases.dynamicrafter import loading
from motionrag.bases.dynamicrafter.convert import convert, fill, states_of
from motionrag.bases.dynamicrafter.pipeline import DynamiCrafterPipeline
from motionrag.bases.dynamicrafter.scheduler import DynamiCrafterScheduler, guide
from motionrag.bases.dynamicrafter.sizes import unet_sizes
from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet
from motionrag.bases.loading import load_base
from motionrag.checkpoint import fingerprint
from motionrag.registry import base_spec
from motionrag.types import Rules

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "dynamicrafter_unet.safetensors"
WIDTH, FRAMES, POSITIONS, LETTERS = 16, 4, 9, "abcdefghijklmnopqrstuvwxyz"
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
WORDS = ["!", *LETTERS, *(f"{letter}</w>" for letter in LETTERS), *SPECIAL]


# -- a tiny checkpoint in the released layout


class Block(nn.Module):
    """Of OpenCLIP's transformer: its names and its computation."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, 16, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 2 * WIDTH))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, x, mask=None):
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


def tower(blocks):
    transformer = nn.Module()
    transformer.resblocks = nn.ModuleList(Block() for _ in range(blocks))
    return transformer


class Text(nn.Module):
    """OpenCLIP's text side; the answer is the last but one block's."""

    def __init__(self):
        super().__init__()
        self.token_embedding = nn.Embedding(len(WORDS), WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(POSITIONS, WIDTH))
        self.transformer, self.ln_final = tower(3), nn.LayerNorm(WIDTH)
        self.text_projection, self.logit_scale = (
            nn.Parameter(torch.randn(WIDTH, WIDTH)),
            nn.Parameter(torch.ones(())),
        )

    def forward(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding
        mask = torch.full((POSITIONS, POSITIONS), float("-inf")).triu(1)
        for block in self.transformer.resblocks[:-1]:
            x = block(x, mask)
        return self.ln_final(x)


class Vision(nn.Module):
    """OpenCLIP's image side; the answer is all tokens before the last norm."""

    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(5, WIDTH))
        self.conv1 = nn.Conv2d(3, WIDTH, 8, stride=8, bias=False)
        self.ln_pre, self.transformer, self.ln_post = nn.LayerNorm(WIDTH), tower(2), nn.LayerNorm(WIDTH)
        self.proj = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).mT
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x = self.ln_pre(x)
        for block in self.transformer.resblocks:
            x = block(x)
        return x


def vae_tensors(widths=(32, 64)):
    """Names and shapes of Stable Diffusion's VAE as its authors wrote it."""
    shapes = {}

    def layer(name, width_in, width_out=None, kernel=3):
        shapes[f"{name}.weight"] = (width_in,) if width_out is None else (width_out, width_in, kernel, kernel)
        shapes[f"{name}.bias"] = (width_out or width_in,)

    def resnet(name, width_in, width_out):
        layer(f"{name}.norm1", width_in), layer(f"{name}.conv1", width_in, width_out)
        layer(f"{name}.norm2", width_out), layer(f"{name}.conv2", width_out, width_out)
        if width_in != width_out:
            layer(f"{name}.nin_shortcut", width_in, width_out, 1)

    def middle(name, width):
        resnet(f"{name}.block_1", width, width), resnet(f"{name}.block_2", width, width)
        layer(f"{name}.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            layer(f"{name}.attn_1.{part}", width, width, 1)

    first, last = widths
    layer("encoder.conv_in", 3, first), resnet("encoder.down.0.block.0", first, first)
    layer("encoder.down.0.downsample.conv", first, first), resnet("encoder.down.1.block.0", first, last)
    middle("encoder.mid", last), layer("encoder.norm_out", last), layer("encoder.conv_out", last, 8)
    layer("quant_conv", 8, 8, 1), layer("post_quant_conv", 4, 4, 1)
    layer("decoder.conv_in", 4, last), middle("decoder.mid", last)
    resnet("decoder.up.1.block.0", last, last), resnet("decoder.up.1.block.1", last, last)
    layer("decoder.up.1.upsample.conv", last, last)
    resnet("decoder.up.0.block.0", last, first), resnet("decoder.up.0.block.1", first, first)
    layer("decoder.norm_out", first), layer("decoder.conv_out", first, 3)
    return {name: 0.1 * torch.randn(shape) + name.endswith(".norm1.weight") for name, shape in shapes.items()}


def projection_tensors(width=24, queries=3 * FRAMES):
    shapes = {"latents": (1, queries, width), "proj_in.weight": (width, WIDTH), "proj_in.bias": (width,)}
    shapes |= {"proj_out.weight": (WIDTH, width), "proj_out.bias": (WIDTH,)}
    shapes |= {f"norm_out.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    for i in range(2):
        shapes |= {f"layers.{i}.0.norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")}
        shapes |= {f"layers.{i}.0.to_q.weight": (64, width), f"layers.{i}.0.to_kv.weight": (128, width)}
        shapes |= {f"layers.{i}.0.to_out.weight": (width, 64)}
        shapes |= {f"layers.{i}.1.0.{kind}": (width,) for kind in ("weight", "bias")}
        shapes |= {f"layers.{i}.1.1.weight": (2 * width, width), f"layers.{i}.1.3.weight": (width, 2 * width)}
    return {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def prefixed(prefix, tensors):
    return {prefix + name: tensor.detach() for name, tensor in tensors.items()}


def golden(prefix):
    """Tensors of the published code's tiny UNet, under their published names."""
    return {key.removeprefix(prefix): value for key, value in load_file(GOLDEN).items() if key.startswith(prefix)}


def released(base_scale=0.3):
    """The tensors of a checkpoint, the UNet's those of the golden file, and the towers they were taken from."""
    torch.manual_seed(0)
    text, vision = Text(), Vision()
    scheduler = DynamiCrafterScheduler(base_scale=base_scale)
    tensors = {
        **golden("weights.base."),
        **prefixed("image_proj_model.", projection_tensors()),
        **prefixed("first_stage_model.", vae_tensors()),
        **prefixed("cond_stage_model.model.", text.state_dict()),
        **prefixed("embedder.model.visual.", vision.state_dict()),
        **prefixed("embedder.model.", {"ln_final.weight": torch.ones(WIDTH), "logit_scale": torch.ones(())}),
        "betas": scheduler.betas.float(),
        "alphas_cumprod": scheduler.alphas_cumprod,
        "sqrt_alphas_cumprod": scheduler.alphas_cumprod.sqrt(),
        "scale_arr": torch.cat([scheduler.latent_scale, torch.full((400,), base_scale)]).float(),
    }
    return tensors, text, vision


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """A converted folder, the account of its keys, and OpenCLIP's towers."""
    folder = tmp_path_factory.mktemp("dynamicrafter")
    tensors, text, vision = released()
    torch.save({"state_dict": tensors}, folder / "model.ckpt")
    account = convert(folder / "model.ckpt", folder / "out", tokenizer=tokenizer, frames=FRAMES)
    return folder / "out", account, text, vision


@pytest.fixture(scope="module")
def pipe(made):
    return load_base(str(made[0]))


@pytest.fixture(autouse=True)
def no_adapter_stays(request):
    yield
    if "pipe" in request.fixturenames:
        assert not request.getfixturevalue("pipe").unet._forward_pre_hooks


@pytest.fixture
def tokens():
    return testing.random_tensor(1, 5, WIDTH, seed=1), testing.random_tensor(1, 5, WIDTH, seed=2)


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (16, 32, 3), dtype=np.uint8))


def run(pipe, seed=1, **options):
    options = {"guidance_scale": 3.0, "num_inference_steps": 2, "height": 16, "width": 32} | options
    images = options.pop("image", picture())
    generator = options.pop("generator", torch.Generator().manual_seed(seed))
    return pipe(images, options.pop("prompt", "a ball"), generator=generator, output_type="pt", **options).frames


# -- conversion


def test_every_key_is_accounted_for(made):
    folder, account, *_ = made
    assert sorted(entry.key for entry in account) == sorted(released()[0])
    dropped = {entry.key: entry.name for entry in account if entry.part is None}
    assert all(dropped.values())
    assert "betas" in dropped
    assert "cond_stage_model.model.transformer.resblocks.2.ln_1.weight" in dropped
    assert not any(key.startswith(("model.", "image_proj_model.", "first_stage_model.")) for key in dropped)
    assert "DynamiCrafterPipeline" in (folder / "model_index.json").read_text()


@torch.no_grad()
def test_towers_answer_as_openclip_does(pipe, made):
    _, _, text, vision = made
    ids = pipe.tokenizer(["ab a", ""], padding="max_length", max_length=POSITIONS, return_tensors="pt").input_ids
    start, end = (WORDS.index(word) for word in SPECIAL)
    assert ids.tolist()[1] == [start, end, *[0] * (POSITIONS - 2)], "OpenCLIP fills up with zeros"
    torch.testing.assert_close(pipe.encode_prompt(["ab a", ""]), text(ids))
    pixels = testing.random_tensor(2, 3, 16, 16)
    torch.testing.assert_close(pipe.image_encoder(pixels).last_hidden_state, vision(pixels))


def test_vae_is_named_as_diffusers_names_it(pipe):
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = {key: value for key, value in released()[0].items() if key.startswith("first_stage_model.")}
    theirs = convert_ldm_vae_checkpoint(tensors, pipe.vae.config)
    ours = pipe.vae.state_dict()
    assert sorted(theirs) == sorted(ours)
    assert all(torch.equal(theirs[name].reshape(tensor.shape), tensor) for name, tensor in ours.items())


def test_pipeline_is_saved_and_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "again")
    again = load_base(str(tmp_path / "again"))
    assert isinstance(again, DynamiCrafterPipeline)
    for part in ("unet", "image_projection", "vae", "text_encoder", "image_encoder"):
        assert fingerprint(getattr(again, part).state_dict()) == fingerprint(getattr(pipe, part).state_dict())
    assert dict(again.scheduler.config) == dict(pipe.scheduler.config)
    assert torch.equal(run(again), run(pipe))


@pytest.mark.parametrize("variant", ["512", "256"])
def test_other_released_models(variant, tmp_path, tokenizer):
    tensors, *_ = released(base_scale=0.7)
    if variant == "256":  # other names, learnt strengths, and noise as its schedule has it
        tensors = {key.replace("fps_embedding", "framestride_embed"): value for key, value in tensors.items()}
        sites = {key[: -len("to_k_ip.weight")] for key in tensors if key.endswith("to_k_ip.weight")}
        tensors |= {f"{site}alpha": torch.tensor(0.5) for site in sites}
        del tensors["scale_arr"], tensors["alphas_cumprod"]
    torch.save(tensors, tmp_path / "model.ckpt")
    convert(tmp_path / "model.ckpt", tmp_path / "out", tokenizer=tokenizer, frames=FRAMES)
    pipe = load_base(str(tmp_path / "out"))
    config, sampling = pipe.unet.config, base_spec("dynamicrafter").sampling(pipe)
    if variant == "256":
        assert (config.sample_size, config.default_rate, sampling.fps) == ([32, 32], 3, 8.0)
        assert pipe.scheduler.config.prediction_type == "epsilon"
        assert pipe.scheduler.alphas_cumprod[-1] > 0
        assert pipe.unet.middle_block[1].transformer_blocks[0].attn2.alpha == 0.5
    else:
        assert (config.sample_size, config.default_rate, sampling.fps) == ([40, 64], 24, 24.0)
        assert pipe.scheduler.latent_scale[-1] == 0.7
    assert run(pipe).isfinite().all()


def without(prefix):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.startswith(prefix)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model."), "it holds nothing for input_blocks.0.0.weight"),
        (without("first_stage_model.decoder.up.0"), r"vae: decoder.up_blocks.1.resnets.0.*is missing"),
        (without("scale_arr"), "say so, variant= one of 1024, 512, 256"),
        (lambda tensors: tensors | {"scale_arr": torch.full((1400,), 0.3)}, "its scale_arr is another"),
        (
            lambda tensors: tensors | {"model.diffusion_model.new.weight": torch.ones(1)},
            "'model.diffusion_model.new",
        ),
        (lambda tensors: {"weight": torch.ones(1)}, "nothing is known of its key 'weight'"),
        (lambda tensors: {"weight": "no tensor"}, "no state dict of tensors alone"),
        (lambda tensors: {}, "no state dict of tensors alone"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_line(change, message, tmp_path, tokenizer):
    torch.save({"state_dict": change(released()[0])}, tmp_path / "model.ckpt")
    with pytest.raises(MotionRAGError, match=message) as refused:
        convert(tmp_path / "model.ckpt", tmp_path / "out", tokenizer=tokenizer, frames=FRAMES)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path / 'model.ckpt'}: ")
    assert not (tmp_path / "out").exists()


class Code:
    def __reduce__(self):
        return print, ("run",)


def test_other_files_are_refused(tmp_path, tokenizer, made, capsys):
    path, out = tmp_path / "model.ckpt", tmp_path / "out"
    with pytest.raises(MotionRAGError, match="no such file"):
        convert(path, out, tokenizer=tokenizer)
    path.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(MotionRAGError, match="refused, it is damaged"):
        convert(path, out, tokenizer=tokenizer)
    torch.save({"state_dict": {"weight": Code()}}, path)
    with pytest.raises(MotionRAGError, match="holds more than tensors"):
        convert(path, out, tokenizer=tokenizer)
    assert capsys.readouterr().out == ""
    with pytest.raises(MotionRAGError, match="is there already"):
        convert(path, made[0], tokenizer=tokenizer)
    torch.save(released()[0], path)
    with pytest.raises(MotionRAGError, match="no tokenizer at"):
        convert(path, out, tokenizer=str(tmp_path / "none"), frames=FRAMES)
    with pytest.raises(MotionRAGError, match="did you mean '1024'"):
        convert(path, out, tokenizer=tokenizer, frames=FRAMES, variant="1023")
    with pytest.raises(MotionRAGError, match="give the right variant"):
        convert(path, out, tokenizer=tokenizer, frames=FRAMES, variant="512")


def test_the_released_model_is_converted_once(made, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(loading.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "hf_hub_download", lambda *names: calls.append(names) or made[0])
    monkeypatch.setattr(loading, "convert", lambda checkpoint, folder: folder.symlink_to(checkpoint))
    for _ in range(2):
        assert isinstance(load_base("dynamicrafter"), DynamiCrafterPipeline)
    assert calls == [("Doubiiu/DynamiCrafter_1024", "model.ckpt")]


def test_the_released_model_out_of_reach(tmp_path, monkeypatch):
    monkeypatch.setattr(loading.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(loading, "hf_hub_download", lambda *names: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(MotionRAGError, match=r"`hf download Doubiiu/DynamiCrafter_1024 model\.ckpt`"):
        load_base("dynamicrafter")


# -- the UNet


def golden_unet():
    _, states = states_of(golden("weights.base."))
    unet = DynamiCrafterUNet(**unet_sizes(states["unet"]), num_frames=FRAMES)
    fill(unet, states["unet"], "golden")
    i = golden("input.")
    return unet.eval(), (i["sample"], i["timestep"], i["prompt_embeddings"], i["image_embeddings"], i["fs"])


@torch.no_grad()
def test_unet_is_saved_and_loaded(tmp_path):
    unet, inputs = golden_unet()
    unet.save_pretrained(tmp_path)
    again = DynamiCrafterUNet.from_pretrained(tmp_path).eval()
    assert torch.equal(again(*inputs).sample, unet(*inputs).sample)
    assert torch.equal(again(*inputs, return_dict=False)[0], unet(*inputs).sample)


@torch.no_grad()
def test_unet_takes_its_rate_unless_another_is_given():
    unet, (*inputs, _) = golden_unet()
    own = unet(*inputs).sample
    assert torch.equal(unet(*inputs, torch.tensor([10, 10])).sample, own)
    assert not torch.allclose(unet(*inputs, torch.tensor([10, 24])).sample[1], own[1], atol=1e-4)


@torch.no_grad()
def test_unet_refuses_tokens_of_other_frames():
    unet, (sample, timestep, text, image, rate) = golden_unet()
    with pytest.raises(MotionRAGError, match="11 image tokens are not a multiple of 4 frames"):
        unet(sample, timestep, text, image[:, :-1], rate)


def test_gradient_checkpointing_changes_no_gradient(tokens):
    """Also of the adapter, whose condition is over when the backward pass computes the blocks again."""
    unet, inputs = golden_unet()
    unet.requires_grad_(False)
    adapter = motionrag.new_adapter(unet, "dynamicrafter", motion_dim=WIDTH)
    testing.random_weights(adapter)
    found = []
    with motionrag.attach(unet, adapter) as attached:
        for switch in (unet.disable_gradient_checkpointing, unet.enable_gradient_checkpointing):
            switch()
            adapter.zero_grad()
            calls = []
            handle = unet.middle_block[0].register_forward_pre_hook(lambda *args, calls=calls: calls.append(0))
            with attached.condition(tokens[0].repeat(2, 1, 1)):
                loss = unet(*inputs).sample.square().mean()
            loss.backward()
            handle.remove()
            found.append((len(calls), [parameter.grad.clone() for parameter in adapter.parameters()]))
    (plain_calls, plain), (again_calls, again) = found
    assert (plain_calls, again_calls) == (1, 2)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again, strict=True))
    assert any(grad.abs().max() > 0 for grad in plain)


def test_sites_of_the_full_model():
    """The published 16."""
    with torch.device("meta"):
        unet = DynamiCrafterUNet()
    pattern = base_spec("dynamicrafter").sites
    sites = [name for name, _ in unet.named_modules() if re.fullmatch(pattern, name)]
    places = [f"input_blocks.{i}" for i in (1, 2, 4, 5, 7, 8)] + ["middle_block"]
    places += [f"output_blocks.{i}" for i in range(3, 12)]
    assert sorted(sites) == sorted(f"{place}.1.transformer_blocks.0.attn2" for place in places)
    assert len(sites) == 16
    assert sum(parameter.numel() for parameter in unet.parameters()) == base_spec("dynamicrafter").parameters["unet"]


# -- the sampler


def test_zero_terminal_snr():
    scheduler = DynamiCrafterScheduler()
    assert scheduler.alphas_cumprod[-1] == 0
    scheduler.set_timesteps(30)
    assert scheduler.timesteps[0] == 999
    assert len(scheduler.timesteps) == 30
    x = testing.random_tensor(2, 4, 3, 4, 4)
    for eta in (0.0, 1.0):
        step = scheduler.step(x, 999, x, eta=eta, generator=torch.Generator().manual_seed(0))
        assert step.prev_sample.isfinite().all()
        assert torch.equal(step.pred_original_sample, -x), "there is nothing of the clip in the noise"


def test_sampler_is_diffusers_own_where_nothing_is_rescaled():
    from diffusers import DDIMScheduler

    ours = DynamiCrafterScheduler(base_scale=1.0)
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    x = y = testing.random_tensor(2, 4, 3, 4, 4)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(10)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    for t in ours.timesteps:
        x = ours.step(x.tanh(), t, x).prev_sample
        y = theirs.step(y.tanh(), t, y).prev_sample
    torch.testing.assert_close(x, y, atol=1e-4, rtol=1e-4)


def test_wrong_sampling_is_refused():
    with pytest.raises(MotionRAGError, match="must be one of trailing, leading"):
        DynamiCrafterScheduler(timestep_spacing="linspace")
    with pytest.raises(MotionRAGError, match="'v_prediction' or 'epsilon'"):
        DynamiCrafterScheduler(prediction_type="sample")
    with pytest.raises(MotionRAGError, match="prediction_type='epsilon' and rescale_betas_zero_snr=True"):
        DynamiCrafterScheduler(prediction_type="epsilon")
    scheduler = DynamiCrafterScheduler()
    with pytest.raises(MotionRAGError, match="no step 999 was laid out"):
        scheduler.step(torch.ones(1), 999, torch.ones(1))
    with pytest.raises(MotionRAGError, match="between 1 and 1000"):
        scheduler.set_timesteps(0)


# -- the pipeline


def test_a_seed_makes_a_clip(pipe):
    clip = run(pipe)
    assert clip.shape == (1, FRAMES, 3, 16, 32)
    assert 0 <= clip.min() < clip.max() <= 1
    assert torch.equal(run(pipe), clip)
    assert not torch.allclose(run(pipe, seed=2), clip, atol=1e-3)
    assert not torch.allclose(run(pipe, prompt="xyz"), clip, atol=1e-4)
    assert not torch.allclose(run(pipe, rate=5), clip, atol=1e-4)


def test_rows_of_a_batch_are_clips_of_their_own(pipe):
    def generators():
        return [torch.Generator().manual_seed(seed) for seed in (1, 2)]

    images, prompts = [picture(0), picture(1)], ["a ball", "xyz"]
    both = run(pipe, image=images, prompt=prompts, generator=generators())
    for row, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        alone = run(pipe, image=image, prompt=prompt, seed=row + 1)
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    twice = run(pipe, generator=generators(), num_videos_per_prompt=2)
    assert twice.shape[0] == 2


@torch.no_grad()
def test_guidance_in_one_call_is_guidance_in_two(pipe):
    """The batched call against the published two, through the same scheduler."""
    batched = run(pipe, eta=0.0)
    generator = torch.Generator().manual_seed(1)
    pixels = pipe.video_processor.preprocess(picture(), height=16, width=32)
    shown = pipe.encode_latents(pixels, generator)[:, :, None].expand(-1, -1, FRAMES, -1, -1)
    x = torch.randn(shown.shape, generator=generator)
    conditions = [
        (pipe.encode_prompt([text]), pipe.encode_image(image))
        for text, image in (("a ball", pixels), ("", 0 * pixels))
    ]
    pipe.scheduler.set_timesteps(2)
    for t in pipe.scheduler.timesteps:
        with_all, without_any = (pipe.unet(torch.cat([x, shown], dim=1), t, *given).sample for given in conditions)
        x = pipe.scheduler.step(guide(without_any, with_all, 3.0, 0.7), t, x).prev_sample
    frames = (pipe.decode_latents(x) / 2 + 0.5).clamp(0, 1).transpose(1, 2)
    torch.testing.assert_close(batched, frames, atol=1e-4, rtol=1e-4)


def test_guidance_of_one_is_the_plain_prediction(pipe):
    x = testing.random_tensor(2, 4)
    assert torch.equal(guide(0 * x, x, 1.0, 0.7), x)
    assert not torch.allclose(run(pipe, guidance_scale=1.0), run(pipe), atol=1e-4)


def test_embeddings_steps_and_latents(pipe):
    steps = []

    def report(pipe, step, timestep, tensors):
        steps.append((step, int(timestep)))
        return tensors

    text = {"prompt_embeds": pipe.encode_prompt(["a ball"]), "negative_prompt_embeds": pipe.encode_prompt([""])}
    assert torch.equal(run(pipe, prompt=None, callback_on_step_end=report, **text), run(pipe))
    assert steps == list(enumerate(pipe.scheduler.timesteps.tolist()))
    latents = pipe(
        picture(), "a", height=16, width=32, num_inference_steps=1, output_type="latent", return_dict=False
    )
    assert latents[0].shape == (1, 4, FRAMES, 8, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 15}, "height=15 and width=32 must be multiples of 4"),
        ({"num_frames": 3}, "clips of 4 frames only"),
        ({"prompt": ["a", "b"]}, "2 prompts for 1 images"),
        ({"prompt": None}, "give a prompt"),
        ({"prompt_embeds": torch.zeros(2, 3, WIDTH)}, "of 2 prompts for 1 images"),
        ({"generator": [torch.Generator()] * 2}, "2 generators for 1 clips"),
    ],
)
def test_wrong_calls_are_refused(pipe, options, message):
    with pytest.raises(MotionRAGError, match=message):
        run(pipe, **options)


def test_spec_fits_the_pipeline(pipe):
    spec = base_spec("dynamicrafter")
    sampling = spec.sampling(pipe)
    takes = {"negative_prompt": True, "guidance_rescale": True, "timestep_spacing": True}
    assert spec.rules(pipe) == Rules(multiple=4, frames=FRAMES, **takes)
    assert spec.rules(None) == Rules(multiple=64, frames=16, **takes)
    assert (sampling.height, sampling.width, sampling.frames) == (72 * 2, 128 * 2, FRAMES)
    assert (sampling.steps, sampling.guidance, sampling.fps) == (30, 2.0, 10.0)
    assert (sampling.guidance_rescale, sampling.timestep_spacing) == (0.7, "trailing")
    assert type(pipe).__name__ == spec.pipeline
    arguments = spec.arguments(pipe, [picture()], ["a ball"], sampling) | {"height": 16, "width": 32}
    frames = pipe(**arguments | {"num_inference_steps": 1}, output_type="np").frames
    assert frames.shape == (1, FRAMES, 16, 32, 3)


def test_sampling_as_in_the_published_evaluation(pipe):
    """What the documents name: another rate, spacing and no rescaling; the scheduler's own spacing stays."""
    spec = base_spec("dynamicrafter")
    own = replace(spec.sampling(pipe), height=16, width=32, steps=3)
    published = replace(own, fps=15.0, guidance_rescale=0.0, timestep_spacing="leading")

    def make(sampling):
        made = spec.arguments(pipe, [picture()], ["a ball"], sampling)
        frames = pipe(**made, generator=torch.Generator().manual_seed(0), output_type="pt").frames
        return frames, pipe.scheduler.timesteps.tolist()

    frames, steps = make(published)
    assert steps == [667, 334, 1]
    for name in ("fps", "guidance_rescale", "timestep_spacing"):
        assert not torch.equal(make(replace(published, **{name: getattr(own, name)}))[0], frames), name
    assert make(own)[1] == [999, 666, 332]
    unnamed = replace(own, guidance_rescale=None, timestep_spacing=None)
    assert torch.equal(make(unnamed)[0], make(own)[0])


# -- the adapter


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_adapter(pipe, tokens, guidance):
    """Idle, new or at scale 0 it leaves the base bit for bit as it was; with weights it changes the clip."""
    bare = run(pipe, guidance_scale=guidance)
    adapter = motionrag.new_adapter(pipe, "dynamicrafter", motion_dim=WIDTH)
    with motionrag.attach(pipe, adapter) as attached:
        with attached.condition(*tokens):
            assert torch.equal(run(pipe, guidance_scale=guidance), bare)
        testing.random_weights(adapter)
        with attached.condition(*tokens):
            moved = run(pipe, guidance_scale=guidance)
        assert not torch.allclose(moved, bare, atol=1e-3)
        with attached.condition(*tokens, scale=0.0):
            assert torch.equal(run(pipe, guidance_scale=guidance), bare)
        assert torch.equal(run(pipe, guidance_scale=guidance), bare)


@torch.no_grad()
def test_adapter_rows_follow_clips_and_guidance(tokens):
    """[no motion; motion] rows, each for all frames of its clip: as if every row were called alone."""
    unet, inputs = golden_unet()
    adapter = motionrag.new_adapter(unet, "dynamicrafter", motion_dim=WIDTH)
    testing.random_weights(adapter)
    motion = torch.cat(tokens)
    with motionrag.attach(unet, adapter) as attached:
        with attached.condition(motion):
            both = unet(*inputs).sample
        for row in range(2):
            with attached.condition(motion[row : row + 1]):
                alone = unet(*(value[row : row + 1] for value in inputs)).sample
            torch.testing.assert_close(both[row : row + 1], alone, atol=1e-5, rtol=1e-4)
