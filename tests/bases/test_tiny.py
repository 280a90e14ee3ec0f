"""The tiny base: our VAE in diffusers' own pipeline, with MiniLM as its text encoder."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

import motionrag
from motionrag import MotionRAGError, testing
from motionrag.bases import tiny
from motionrag.bases.loading import load_base
from motionrag.bases.warp_vae import Layers, MotionCoder, warp
from motionrag.registry import base_spec, embedded

FRAMES, SIDE = 4, 32


def new_vae():
    torch.manual_seed(0)
    vae = tiny.WarpVAE(picture_widths=(16, 16, 16), motion_widths=(16, 16, 16), motion_channels=6)
    vae.picture_mean.copy_(torch.linspace(-1, 1, 8)[:, None, None])
    vae.picture_std.copy_(torch.linspace(0.5, 2, 8)[:, None, None])
    vae.motion_mean.copy_(torch.linspace(-1, 1, 6)[:, None, None])
    vae.motion_std.copy_(torch.linspace(0.5, 2, 6)[:, None, None])
    return vae.eval()


def new_transformer(layers=1):
    torch.manual_seed(0)
    return CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=16,
        out_channels=8,
        time_embed_dim=16,
        text_embed_dim=384,
        num_layers=layers,
        sample_width=SIDE // 8,
        sample_height=SIDE // 8,
        sample_frames=FRAMES,
        patch_size=2,
        temporal_compression_ratio=1,
        max_text_seq_length=tiny.PROMPT_LENGTH,
        use_rotary_positional_embeddings=True,
        use_learned_positional_embeddings=True,
    ).eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as a training writes it; not to be changed."""
    folder = tmp_path_factory.mktemp("base")
    new_transformer().save_pretrained(folder / "transformer")
    new_vae().save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def pipe(saved):
    return tiny.load(saved)


@pytest.fixture
def video():
    return testing.random_tensor(2, 3, FRAMES, SIDE, 40, seed=3).clamp(-1, 1)


def clip(pipe, image, prompt="a red ball slides to the left", **options):
    """A clip f32 [T,3,H,W] in [0, 1] from two steps, as the package itself calls the pipeline."""
    spec = base_spec("tiny")
    sampling = replace(spec.sampling(pipe), steps=2)
    arguments = spec.arguments(pipe, [image], [prompt], sampling)
    generator = torch.Generator().manual_seed(1)
    return pipe(**arguments, generator=generator, output_type="pt", **options).frames[0]


def test_the_vae_is_what_the_pipeline_expects(pipe, video):
    assert (pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal) == (8, 1)
    assert pipe.vae_scaling_factor_image == 1.0
    vae = new_vae()
    assert not vae.config.invert_scale_latents
    latents = vae.encode(video).latent_dist
    assert latents.mode().shape == (2, 8, FRAMES, SIDE // 8, 5)
    assert latents.sample(torch.Generator().manual_seed(0)).shape == latents.mode().shape
    assert vae.decode(latents.mode()).sample.shape == video.shape
    assert torch.equal(vae.decode(latents.mode(), return_dict=False)[0], vae(video).sample)


def test_each_frame_is_coded_by_the_first_and_itself(video):
    """The image's latents are those of the clip's first frame; no other frame matters, and clips keep apart."""
    vae = new_vae()
    latents = vae.encode(video).latent_dist.mode()
    torch.testing.assert_close(latents[1:, :, :1], vae.encode(video[1:, :, :1]).latent_dist.mode())
    torch.testing.assert_close(latents[1:, :, [0, 2]], vae.encode(video[1:, :, [0, 2]]).latent_dist.mode())
    assert torch.equal(latents[:, 6:, 1:], torch.zeros_like(latents[:, 6:, 1:]))  # what motion does not use
    decoded = vae.decode(latents).sample
    torch.testing.assert_close(decoded[1:, :, [0, 2]], vae.decode(latents[1:, :, [0, 2]]).sample)


def test_latents_are_standardised_and_back(video):
    """Training measures mean and spread of raw latents; encode takes them out, decode puts them in again."""
    vae = new_vae()
    frames = video[0].transpose(0, 1)
    picture, picture_spread = vae.pictures.encode(frames[:1])
    motion, motion_spread = vae.motions.encode(frames[1:], frames[:1].expand_as(frames[1:]))
    posterior = vae.encode(video[:1]).latent_dist
    mode, std = (part[0].transpose(0, 1) for part in (posterior.mode(), posterior.std))
    torch.testing.assert_close(mode[:1], (picture - vae.picture_mean) / vae.picture_std)
    torch.testing.assert_close(mode[1:, :6], (motion - vae.motion_mean) / vae.motion_std)
    torch.testing.assert_close(std[:1], (0.5 * picture_spread).exp() / vae.picture_std)
    torch.testing.assert_close(std[1:, :6], (0.5 * motion_spread).exp() / vae.motion_std)
    decoded = vae.decode(posterior.mode()).sample[0].transpose(0, 1)
    first = vae.pictures.decode(picture)
    torch.testing.assert_close(decoded[:1], first, atol=1e-5, rtol=1e-4)
    moved = vae.motions.decode(motion[None], vae.layers(first)).frame
    torch.testing.assert_close(decoded[1:], moved, atol=1e-5, rtol=1e-4)


def test_warp_shows_what_came_from_elsewhere():
    picture = torch.zeros(1, 1, 16, 16)
    picture[:, :, 4, 4] = 1
    moved = warp(picture, torch.tensor([2.0 * 3 / 16, 2.0 * 5 / 16])[None, :, None, None].expand(1, 2, 16, 16))
    assert moved[0, 0, 9, 7] == pytest.approx(1, abs=1e-5)
    assert moved.sum() == pytest.approx(1, abs=1e-4)


def test_a_frame_is_the_moved_layer_over_what_is_behind():
    """By hand: with no rest, and the moving layer present everywhere, a frame is cover x moved + rest x behind."""
    torch.manual_seed(0)
    coder = MotionCoder((16, 16, 16), 4)
    torch.nn.init.zeros_(coder.refine[-1].weight)
    with torch.no_grad():
        coder.refine[-1].bias.copy_(torch.tensor([2.0 * 4 / 16, 0.0, 30.0, *[0.0] * 12]))
    picture, behind = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    cover = torch.full((1, 1, 16, 16), -30.0)
    cover[..., 2:8, 2:8] = 30.0
    moved = coder.decode(torch.randn(1, 2, 4, 2, 2), Layers(picture, cover, behind, torch.rand(1, 16, 2, 2)))
    assert moved.frame.shape == (2, 3, 16, 16)
    expected = behind.clone()
    expected[..., 2:8, 6:12] = picture[..., 2:8, 2:8]
    torch.testing.assert_close(moved.frame[:1], expected, atol=1e-3, rtol=0)


def test_a_fresh_vae_starts_with_little_noise(video):
    """With much of it at first, training takes several times as long."""
    vae, frames = tiny.WarpVAE(), video[0].transpose(0, 1)
    _, log_variance = vae.pictures.encode(frames)
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, -6.0))
    _, log_variance = vae.motions.encode(frames, frames)
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, -5.0))


def test_sides_must_divide_by_eight(video):
    with pytest.raises(MotionRAGError, match="36x32: both sides must be multiples of 8"):
        new_vae().encode(video[..., :36])


def test_what_was_saved_is_loaded(saved, video):
    loaded = tiny.load_vae(saved / "vae")
    assert not loaded.training
    assert torch.equal(loaded(video).sample, new_vae()(video).sample)


def test_half_precision_on_disk_is_float32_in_use(tmp_path):
    """The assets lie there in float16, and CPUs compute in float32."""
    new_vae().half().save_pretrained(tmp_path)
    assert {p.dtype for p in tiny.load_vae(tmp_path).parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("motion_mean"), "lack motion_mean"),
        (lambda state: state.update(more=torch.zeros(1)), "hold besides more"),
        (lambda state: state.update(motion_std=torch.ones(3)), "holds no WarpVAE"),
    ],
)
def test_other_weights_are_refused(tmp_path, change, message):
    """diffusers only warns of the first two, and the clips would come out wrong."""
    new_vae().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    change(state := load_file(weights))
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(MotionRAGError, match=message):
        tiny.load_vae(tmp_path)


def test_a_folder_without_a_base_is_refused(tmp_path):
    with pytest.raises(MotionRAGError, match="transformer: holds no CogVideoXTransformer3DModel"):
        tiny.load(tmp_path)
    with pytest.raises(MotionRAGError, match="lacks its embedded nothing"):
        embedded("nothing")


def test_the_pipeline_makes_a_clip_from_words(pipe, image):
    made = clip(pipe, image)
    assert made.shape == (FRAMES, 3, SIDE, SIDE)
    assert made.isfinite().all()
    assert torch.equal(made, clip(pipe, image))
    assert not torch.allclose(made, clip(pipe, image, "a red ball slides to the right"), atol=1e-4)


def test_minilm_is_the_text_encoder(pipe):
    """Embeddings have the length the transformer was built for; a prompt and an empty one differ."""
    embeds, negative = pipe.encode_prompt(
        "a red ball slides to the left", do_classifier_free_guidance=True, max_sequence_length=tiny.PROMPT_LENGTH
    )
    assert embeds.shape == negative.shape == (1, tiny.PROMPT_LENGTH, 384)
    assert not torch.allclose(embeds, negative, atol=1e-2)


def test_the_scheduler_is_a_rectified_flow():
    """With the true velocity, noise is led to the clean sample in any number of steps: the trained objective."""
    clean, noise = testing.random_tensor(1, 8, 4, seed=1), testing.random_tensor(1, 8, 4, seed=2)
    for steps in (2, 12):
        scheduler = tiny.scheduler()
        scheduler.set_timesteps(steps)
        sample = noise * scheduler.init_noise_sigma
        for step in scheduler.timesteps:
            sample = scheduler.step(noise - clean, step, sample).prev_sample
        torch.testing.assert_close(sample, clean, atol=0.02, rtol=0)


def test_an_adapter_attaches(pipe, image):
    """At scale 0 and after it is gone the base is bit for bit itself; between, the motion shows."""
    bare = clip(pipe, image)
    adapter = motionrag.new_adapter(pipe, "tiny", motion_dim=16)
    assert list(adapter.config.sites) == ["transformer_blocks.0.attn1"]
    testing.random_weights(adapter)
    motion, null = testing.random_tensor(1, 5, 16, seed=11), testing.random_tensor(1, 5, 16, seed=12)
    with motionrag.attach(pipe, adapter) as attached:
        with attached.condition(motion, null, scale=0.0):
            assert torch.equal(clip(pipe, image), bare)
        with attached.condition(motion, null):
            assert not torch.allclose(clip(pipe, image), bare, atol=1e-3)
    assert torch.equal(clip(pipe, image), bare)


def test_it_loads_like_any_base(saved, image):
    """By its folder through the loader of all bases, and the size of its clips follows from the transformer."""
    loaded = load_base(str(saved), like="tiny")
    sampling = base_spec("tiny").sampling(loaded)
    assert (sampling.width, sampling.height, sampling.frames) == (SIDE, SIDE, FRAMES)
    assert np.isfinite(clip(loaded, image).numpy()).all()


def test_its_config_names_no_path(saved):
    """Folders move from machine to machine."""
    for part in ("transformer", "vae"):
        config = json.loads((saved / part / "config.json").read_text())
        assert str(saved.parent) not in json.dumps(config)
