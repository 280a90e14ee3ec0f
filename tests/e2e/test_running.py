"""How the bases run: sizes and rates of a clip, memory modes, precision; and that settings repeat all of it."""

import json
import sys

import pytest
import torch
import transformers
from PIL import Image

import motionrag
from motionrag.pipeline.memory import check_memory, told_plainly
from motionrag.pipeline.quantize import QUANTIZERS, quantize
from motionrag.registry import base_spec
from motionrag.types import Rules
from motionrag.video import probe
from tests.e2e.conftest import BASES, PROMPT
from tests.helpers import QUANTISED


@pytest.fixture
def new(run, home):
    """A clip of the test image in two steps."""

    def new(out, *arguments, base="cogvideox"):
        parts = [f"--{part}={home / base}-{part}" for part in ("base", "bundle", "db")]
        return run("--image", home / "image.png", "--prompt", PROMPT, "--steps=2", *parts, "--out", out, *arguments)

    return new


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--memory=offload", "--dtype=bfloat16"], {"memory": "offload", "dtype": "bfloat16"}),
        (["--memory=low"], {"memory": "low", "dtype": "float32", "quantize": None}),
    ],
    ids=["offload", "low"],
)
def test_every_way_to_run_is_kept_and_repeated(new, run, home, tmp_path, base, options, kept):
    """End to end on pipelines on disk; the settings file makes the same clip, bit for bit."""
    code, _, err = new(tmp_path / "clip.webp", *options, base=base)
    assert code == 0, err
    settings = json.loads((tmp_path / "clip.json").read_text())
    assert {name: settings[name] for name in kept} == kept
    assert len(settings["references"]) == 2
    code, _, err = run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")
    assert code == 0, err
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()


@pytest.mark.parametrize("base", BASES)
def test_what_the_modes_do(home, base):
    """Layers in float8 but for norms and the VAE; the VAE in tiles; ours untouched, and the motion felt."""
    parts = {"base": f"{base}-base", "bundle": f"{base}-bundle", "db": f"{base}-db"}
    named = {part: str(home / name) for part, name in parts.items()}
    rags = {mode: motionrag.MotionRAG.from_pretrained(**named, memory=mode) for mode in ("full", "offload", "low")}
    fingerprints = {mode: rag.fingerprints for mode, rag in rags.items()}
    assert fingerprints["full"] == fingerprints["offload"] == fingerprints["low"]
    for mode, rag in rags.items():
        denoiser = getattr(rag.pipe, rag.spec.denoiser)
        dtypes = {parameter.dtype for parameter in denoiser.parameters()}
        assert (torch.float8_e4m3fn in dtypes) == (mode == "low")
        assert {parameter.dtype for parameter in rag.bundle.parameters()} == {torch.float32}
        assert rag.pipe.vae.dtype == torch.float32
        if base == "cogvideox":
            assert rag.pipe.vae.use_tiling is rag.pipe.vae.use_slicing is (mode != "full")
        video = rag(home / "image.png", PROMPT, steps=2)
        assert (video.frames != rag.bare(video.settings).frames).any()
        assert rag.pipe._execution_device.type == rag.device.type == "cpu"


@pytest.mark.parametrize("memory", ["full", pytest.param("offload", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("base", BASES)
def test_a_quantised_base_is_kept_and_repeated(new, run, tmp_path, base, kind, memory):
    options = [f"--quantize={kind}", f"--memory={memory}"]
    code, _, err = new(tmp_path / "clip.webp", *options, base=base)
    assert code == 0, err
    settings = json.loads((tmp_path / "clip.json").read_text())
    assert (settings["quantize"], settings["memory"]) == (kind, memory)
    assert QUANTIZERS[kind].package in settings["versions"]
    code, _, err = run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")
    assert code == 0, err
    assert "differ" not in err
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()


@pytest.mark.parametrize("kind", QUANTISED)
def test_settings_of_a_quantised_base_without(new, run, tmp_path, kind):
    """Someone else's settings, on a machine that has memory, or lacks the package."""
    assert new(tmp_path / "clip.webp", f"--quantize={kind}")[0] == 0
    code, _, err = run(
        "--settings", tmp_path / "clip.json", "--quantize=none", "--memory=low", "--out", tmp_path / "a.webp"
    )
    assert code == 0, err
    assert f"the clip was made with quantize {kind}, here is None: it may differ a little" in err
    assert json.loads((tmp_path / "a.json").read_text())["quantize"] is None


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("base", BASES)
def test_what_is_quantised(home, base, kind):
    """Every linear layer of denoiser and text encoder, and nothing of ours; fingerprints are the base's own."""
    parts = {"base": f"{base}-base", "bundle": f"{base}-bundle", "db": f"{base}-db"}
    named = {part: str(home / name) for part, name in parts.items()}
    rag = motionrag.MotionRAG.from_pretrained(**named, quantize=kind)
    plain = motionrag.MotionRAG.from_pretrained(**named)
    assert rag.fingerprints == plain.fingerprints
    for part in (rag.spec.denoiser, "text_encoder", "vae"):
        module = getattr(rag.pipe, part, None)
        if module is None:
            continue
        linear = [layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)]
        exact = [layer for layer in linear if type(layer.weight) is torch.nn.Parameter]
        assert len(exact) == (len(linear) if part == "vae" else 0)
        assert module.dtype == torch.float32
    assert {type(parameter) for parameter in rag.bundle.parameters()} == {torch.nn.Parameter}
    assert {parameter.dtype for parameter in rag.bundle.parameters()} == {torch.float32}
    video = rag(home / "image.png", PROMPT, steps=2)
    assert (video.frames != rag.bare(video.settings).frames).any()
    assert (video.frames != plain(home / "image.png", PROMPT, steps=2).frames).any()


@pytest.mark.parametrize("kind", QUANTISED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_are_wanted_exact_stay_so(kind, dtype):
    """CogVideoX's text encoder asks for one of its layers, and looks at the dtype of that one's weight."""
    pipe = motionrag.testing.tiny_cogvideox()
    sizes = {"d_model": 12, "d_ff": 64, "d_kv": 6, "num_heads": 2, "num_layers": 1, "vocab_size": 32}
    config = transformers.T5Config(feed_forward_proj="gated-gelu", **sizes)
    pipe.register_modules(text_encoder=transformers.T5EncoderModel(config).to(dtype).eval())
    ids, cpu = torch.arange(8)[None], torch.device("cpu")
    with torch.no_grad():
        before = pipe.text_encoder(ids).last_hidden_state
        quantize(pipe, base_spec("cogvideox"), kind, on=cpu, home=cpu)
        after = pipe.text_encoder(ids).last_hidden_state
    layers = pipe.text_encoder.encoder.block[0].layer[1].DenseReluDense
    assert type(layers.wo.weight) is torch.nn.Parameter
    assert type(layers.wi_0.weight) is not torch.nn.Parameter
    assert 0 < (after - before).abs().max() < 0.3 * before.abs().max()


@pytest.mark.parametrize("kind", QUANTIZERS)
def test_a_quantiser_that_is_not_installed_is_said_before_anything_is_loaded(new, tmp_path, monkeypatch, kind):
    package = QUANTIZERS[kind].package
    monkeypatch.setitem(sys.modules, package, None)
    code, out, err = new(tmp_path / "clip.mp4", f"--quantize={kind}", f"--db={tmp_path}/nowhere")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"quantize={kind} is done by {package}, which does not work on cpu here" in err
    assert "pip install 'motionrag[quantize]'" in err


def test_size_frames_and_rate(new, run, tmp_path):
    """The clip is what was asked for, and its settings say so."""
    options = ["--size=48x32", "--frames=17", "--fps=12.5", "--guidance=2.5", "--negative-prompt=blur"]
    code, _, err = new(tmp_path / "clip.mp4", *options)
    assert code == 0, err
    found = probe(tmp_path / "clip.mp4")
    assert (found.width, found.height, found.frames, round(found.fps, 6)) == (48, 32, 17, 12.5)
    sampling = json.loads((tmp_path / "clip.json").read_text())["sampling"]
    wanted = {"width": 48, "height": 32, "frames": 17, "fps": 12.5, "guidance": 2.5, "negative_prompt": "blur"}
    wanted |= {"steps": 2, "guidance_rescale": None, "timestep_spacing": None, "scheduler": "CogVideoXDPMScheduler"}
    assert sampling == wanted
    assert run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.mp4")[0] == 0
    assert (tmp_path / "again.mp4").read_bytes() == (tmp_path / "clip.mp4").read_bytes()
    assert new(tmp_path / "other.mp4", *options[:-1])[0] == 0
    assert (tmp_path / "other.mp4").read_bytes() != (tmp_path / "clip.mp4").read_bytes()


def test_the_steps_of_a_base_that_lets_them_be_set(new, run, tmp_path):
    """The flags of the published evaluation of DynamiCrafter; its own values are kept too."""
    options = ["--fps=15", "--guidance-rescale=0", "--timestep-spacing=leading"]
    for name, given in (("clip", options), ("own", [])):
        code, _, err = new(tmp_path / f"{name}.webp", *given, base="dynamicrafter")
        assert code == 0, err
    kept = {name: json.loads((tmp_path / f"{name}.json").read_text())["sampling"] for name in ("clip", "own")}
    names = ("fps", "guidance_rescale", "timestep_spacing")
    assert [kept["clip"][name] for name in names] == [15.0, 0.0, "leading"]
    assert [kept["own"][name] for name in names] == [10.0, 0.7, "trailing"]
    assert (tmp_path / "clip.webp").read_bytes() != (tmp_path / "own.webp").read_bytes()
    assert run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")[0] == 0
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()


def test_another_scheduler(new, run, tmp_path):
    """By its class of diffusers: the published one is CogVideoX's default, and settings keep which it was."""
    for name, options in (("own", []), ("ddim", ["--scheduler=CogVideoXDDIMScheduler"])):
        code, _, err = new(tmp_path / f"{name}.webp", "--steps=3", *options, base="cogvideox")
        assert code == 0, err
    kept = [json.loads((tmp_path / f"{name}.json").read_text())["sampling"]["scheduler"] for name in ("own", "ddim")]
    assert kept == ["CogVideoXDPMScheduler", "CogVideoXDDIMScheduler"]
    assert (tmp_path / "own.webp").read_bytes() != (tmp_path / "ddim.webp").read_bytes()
    for name in ("own", "ddim"):
        assert run("--settings", tmp_path / f"{name}.json", "--out", tmp_path / "again.webp")[0] == 0
        assert (tmp_path / "again.webp").read_bytes() == (tmp_path / f"{name}.webp").read_bytes()
        (tmp_path / "again.webp").unlink()
    code, _, err = new(tmp_path / "x.webp", "--scheduler=CogVideoXDMPScheduler", base="cogvideox")
    assert code != 0
    assert "scheduler 'CogVideoXDMPScheduler' does not fit CogVideoXImageToVideoPipeline; did you mean" in err


def test_several_seeds(new, run, tmp_path):
    """A clip of each, the same as alone; models are loaded once."""
    code, out, _ = new(tmp_path / "clip.webp", "--seed", "3", "5")
    assert code == 0
    names = ["clip.seed3.webp", "clip.seed3.json", "clip.seed5.webp", "clip.seed5.json"]
    assert out.split() == [str(tmp_path / name) for name in names]
    assert new(tmp_path / "alone.webp", "--seed=5")[0] == 0
    assert (tmp_path / "alone.webp").read_bytes() == (tmp_path / "clip.seed5.webp").read_bytes()
    assert (tmp_path / "clip.seed3.webp").read_bytes() != (tmp_path / "clip.seed5.webp").read_bytes()


def test_weights_by_model(run, home, tmp_path):
    """--base says which base, --model where it is; settings name the place."""
    fixed = ["--image", home / "image.png", "--prompt", PROMPT, "--steps=1", "--out", tmp_path / "clip.webp"]
    parts = [f"--bundle={home}/svd-bundle", f"--db={home}/svd-db"]
    code, _, err = run(*fixed, *parts, "--base=svd", f"--model={home}/svd-base")
    assert code == 0, err
    assert json.loads((tmp_path / "clip.json").read_text())["base"] == str(home / "svd-base")
    code, _, err = run(*fixed, *parts, f"--base={home}/svd-base", f"--model={home}/svd-base")
    assert (code, err.count("\n")) == (1, 1)
    assert "leave one of them out" in err


def test_another_mode_than_the_settings_is_said(new, run, tmp_path):
    """Someone else's settings, on a machine with less memory."""
    assert new(tmp_path / "clip.webp")[0] == 0
    code, _, err = run("--settings", tmp_path / "clip.json", "--memory=low", "--out", tmp_path / "again.webp")
    assert code == 0
    assert "the clip was made with memory full, here is low: it may differ a little" in err
    assert json.loads((tmp_path / "again.json").read_text())["memory"] == "low"
    assert (tmp_path / "again.webp").read_bytes() != (tmp_path / "clip.webp").read_bytes()


@pytest.mark.parametrize(
    ("base", "arguments", "message"),
    [
        (
            "cogvideox",
            ["--frames=13"],
            "frames=13 must be one more than a multiple of 8 with the base cogvideox, such as 9",
        ),
        ("cogvideox", ["--size=40x33"], "height=33 must be a multiple of 16"),
        ("cogvideox", ["--size=40"], "size '40': write it as WIDTHxHEIGHT"),
        ("cogvideox", ["--size=0x16"], "width=0 must be at least 1"),
        ("cogvideox", ["--fps=0"], "fps=0.0 must be more than 0"),
        ("cogvideox", ["--negative-prompt=blur", "--guidance=1"], "which is off at guidance=1.0"),
        ("svd", ["--negative-prompt=blur"], "the base svd takes no negative prompt"),
        ("svd", ["--guidance-rescale=0"], "the base svd takes no guidance rescale"),
        ("cogvideox", ["--timestep-spacing=leading"], "the base cogvideox takes no timestep spacing"),
        ("dynamicrafter", ["--timestep-spacing=trail"], "no timestep_spacing 'trail'; did you mean 'trailing'?"),
        ("dynamicrafter", ["--guidance-rescale=2"], "guidance_rescale=2.0 must be between 0 and 1"),
        ("svd", ["--frames=1"], "frames=1 must be at least 2 with the base svd"),
        ("svd", ["--size=20x16"], "width=20 must be a multiple of 8"),
        ("tiny", ["--size=32x32"], "this tiny model makes clips of 16x16 alone"),
        ("tiny", ["--size=20x32"], "width=20 must be a multiple of 16"),
        ("cogvideox", ["--memory=lo"], "no memory mode 'lo'; did you mean 'low'?"),
        ("cogvideox", ["--memory=low", "--compile"], "leave out compile, or memory=low"),
        ("cogvideox", ["--quantize=int"], "quantize='int' is no kind of quantised base; did you mean 'int8'?"),
        ("cogvideox", ["--quantize=int8", "--memory=low"], "leave out quantize=int8, or use memory=offload"),
        ("cogvideox", ["--dtype=int8"], "dtype 'int8': use one of float32, bfloat16, float16"),
        ("cogvideox", ["--seed", "1", "1"], "seeds [1, 1] must be at least one, and each another"),
        ("cogvideox", ["--jobs=jobs.jsonl"], "--image is for one clip"),
    ],
)
def test_what_a_base_cannot_do_is_one_line(new, tmp_path, base, arguments, message):
    code, out, err = new(tmp_path / "clip.mp4", *arguments, base=base)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cogvideox", "svd"])
def test_some_rules_hold_before_the_base_is_loaded(run, home, tmp_path, name):
    """The base's weights are nowhere: the message is about the size all the same."""
    fixed = ["--image", home / "image.png", "--prompt", PROMPT, "--out", tmp_path / "clip.mp4", f"--base={name}"]
    parts = [f"--model={tmp_path}/nowhere", f"--bundle={home / name}-bundle", f"--db={home / name}-db"]
    assert "must be a multiple of" in run(*fixed, *parts, "--size=100x100")[2]
    assert "no base model at" in run(*fixed, *parts)[2]


def test_rules_of_the_bases():
    for name in motionrag.registry.BASES:
        assert isinstance(base_spec(name).rules(None), Rules)
    rules = Rules(frames=16, size=(32, 64))
    rules.check("some", {"frames": 16, "height": 32})
    with pytest.raises(motionrag.MotionRAGError, match="clips of 16 frames alone"):
        rules.check("some", {"frames": 8})
    with pytest.raises(motionrag.MotionRAGError, match="clips of 64x32 alone"):
        rules.check("some", {"height": 64, "width": 64})


def test_an_unknown_change_is_refused(rag, home):
    with pytest.raises(
        motionrag.MotionRAGError, match="'frame' is no part of a base's sampling; did you mean 'frames'"
    ):
        rag(home / "image.png", PROMPT, frame=5)


def test_too_little_memory_is_said_plainly():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB.")

    for memory, remedy in (("full", "use memory=offload or low, or a smaller size"), ("low", "use a smaller size")):
        with (
            pytest.raises(motionrag.MotionRAGError, match=f"out of memory while loading: {remedy}"),
            told_plainly("loading", memory),
        ):
            full()
    with pytest.raises(RuntimeError, match="other"), told_plainly("loading", "full"):
        raise RuntimeError("other")


def test_no_float8_is_said_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr("motionrag.pipeline.memory._STORAGE", torch.quint8)  # stands in for a dtype the device lacks
    with pytest.raises(motionrag.MotionRAGError, match=r"which cpu cannot do .*: use memory=offload"):
        check_memory("low", "cpu")


def test_encoders_move(rag):
    """To a device and back: features are the same."""
    image = Image.new("RGB", (20, 20), (200, 30, 90))
    before = rag.encode_images([image])
    for encoder in (rag.retriever.motion, rag.retriever.appearance, rag.retriever.caption):
        encoder.to("cpu")
    assert torch.equal(rag.encode_images([image]), before)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--quantize=int8"], ["--quantize=nf4"]])
def test_compiled(new, run, tmp_path, more):
    """The compiled base makes a clip, quantised or not; its settings repeat it."""
    for option in more:
        pytest.importorskip(QUANTIZERS[option.rpartition("=")[2]].package)
    code, _, err = new(tmp_path / "clip.webp", "--compile", *more)
    assert code == 0, err
    assert json.loads((tmp_path / "clip.json").read_text())["compile"] is True
    assert run("--settings", tmp_path / "clip.json", "--out", tmp_path / "again.webp")[0] == 0
    assert (tmp_path / "again.webp").read_bytes() == (tmp_path / "clip.webp").read_bytes()
