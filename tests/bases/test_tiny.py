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
from motionrag.registry import base_spec, embedded

FRAMES, SIDE = 4, 32


def new_vae():
    torch.manual_seed(0)
    vae = tiny.FrameVAE(widths=(16, 16, 16), encoder_blocks=(1, 1), decoder_blocks=(1, 1, 1))
    vae.latent_mean.copy_(torch.linspace(-1, 1, 8))
    vae.latent_std.copy_(torch.linspace(0.5, 2, 8))
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
        patch_size_t=2,
        temporal_compression_ratio=1,
        max_text_seq_length=tiny.PROMPT_LENGTH,
        use_rotary_positional_embeddings=True,
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


def test_frames_are_coded_as_differences_from_the_first(video):
    """What stands still is zero; each frame needs the first one and no other, and clips keep apart."""
    vae = new_vae()
    latents = vae.encode(video).latent_dist.mode()
    first, third = (vae.encode(video[1:, :, frame : frame + 1]).latent_dist.mode() for frame in (0, 2))
    torch.testing.assert_close(latents[1:, :, :1], first)
    torch.testing.assert_close(latents[1:, :, 2:3], third - first)
    torch.testing.assert_close(vae.decode(latents).sample[1:, :, 2:3], vae.decode(third).sample)
    still = vae.encode(video[:, :, :1].expand(-1, -1, 3, -1, -1)).latent_dist.mode()
    assert still[:, :, 1:].abs().max() < 1e-5


def test_latents_are_standardised_and_back(video):
    """Training measures mean and spread of raw latents; encode takes them out, decode puts them in again."""
    vae = new_vae()
    raw, log_variance = vae.encode_frames(video[0].transpose(0, 1))
    posterior = vae.encode(video[:1]).latent_dist
    mean, std = vae.latent_mean[:, None, None], vae.latent_std[:, None, None]
    expected = (raw - mean) / std
    expected = torch.cat([expected[:1], expected[1:] - expected[:1]])
    torch.testing.assert_close(posterior.mode()[0].transpose(0, 1), expected)
    torch.testing.assert_close(posterior.std[0].transpose(0, 1), (0.5 * log_variance).exp() / std)
    decoded = vae.decode(posterior.mode()).sample[0].transpose(0, 1)
    torch.testing.assert_close(decoded, vae.decode_frames(raw), atol=1e-5, rtol=1e-4)


def test_a_fresh_vae_starts_with_little_noise(video):
    """Blocks are identities and the noise is small at first: without that, training takes several times as long."""
    _, log_variance = tiny.FrameVAE().encode_frames(video[0].transpose(0, 1))
    torch.testing.assert_close(log_variance, torch.full_like(log_variance, -6.0))


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
        (lambda state: state.pop("latent_mean"), "lack latent_mean"),
        (lambda state: state.update(more=torch.zeros(1)), "hold besides more"),
        (lambda state: state.update(latent_std=torch.ones(3)), "holds no FrameVAE"),
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
