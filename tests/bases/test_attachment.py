"""The adapter on tiny but real diffusers pipelines: exact when idle, right in every layout of rows."""

import dataclasses

import diffusers
import numpy as np
import pytest
import torch
from packaging import version

import motionrag
from motionrag import MotionRAGError, ScaleRange, testing
from motionrag.models.adapter import AdapterSite, MotionAdapter
from tests.helpers import CLOSE, attached_with_noise, build, denoiser_inputs, denoiser_of, noisy_adapter


def test_a_new_adapter_leaves_the_base_bit_for_bit(runner, motion, null):
    bare = runner()
    attached = motionrag.attach(runner.pipe, motionrag.new_adapter(runner.pipe, runner.base, motion_dim=16))
    with attached.condition(motion, null):
        assert torch.equal(runner(), bare)


def test_scale_zero_is_the_bare_base_bit_for_bit(runner, motion, null):
    bare = runner()
    attached = attached_with_noise(runner)
    with attached.condition(motion, null, scale=0.0):
        assert torch.equal(runner(), bare)
    with attached.condition(motion, null, scale=[ScaleRange(scale=0.0)]):
        assert torch.equal(runner(), bare)
    assert torch.equal(runner(), bare), "outside a block the adapter must be idle"
    with attached.condition(motion, null):
        assert not torch.allclose(runner(), bare, atol=1e-3)


def test_detach_restores_outputs_keys_and_hooks(runner, motion, null):
    denoiser = denoiser_of(runner)
    bare, keys = runner(), list(denoiser.state_dict())

    def hook_count():
        return sum(len(module._forward_pre_hooks) for module in denoiser.modules())

    assert hook_count() == 0
    attached = attached_with_noise(runner)
    assert list(denoiser.state_dict()) == keys
    with attached.condition(motion, null):
        runner()
    attached.detach()
    assert hook_count() == 0
    assert list(denoiser.state_dict()) == keys
    assert torch.equal(runner(), bare)
    with pytest.raises(MotionRAGError, match="was detached"), attached.condition(motion, null):
        pass
    with attached_with_noise(runner):
        assert hook_count() > 0
    assert hook_count() == 0


def test_keys_and_values_are_computed_once_a_run(runner, motion, null, monkeypatch):
    attached = attached_with_noise(runner)
    calls = []
    prepare = AdapterSite.prepare
    monkeypatch.setattr(AdapterSite, "prepare", lambda site, *a: calls.append(site) or prepare(site, *a))
    with attached.condition(motion, null, scale=[ScaleRange(scale=0.2, end_scale=1.0)]):
        runner(steps=4)
        runner(steps=3)
    assert len(calls) == len(attached.adapter.config.sites)


def test_cached_equals_uncached(runner, motion):
    """Under autograd with a trainable adapter keys and values are computed at each call; else kept."""
    adapter = motionrag.new_adapter(runner.pipe, runner.base, motion_dim=16)
    testing.random_weights(adapter)
    denoiser = denoiser_of(runner)
    inputs = denoiser_inputs(runner, batch=1)
    with motionrag.attach(denoiser, adapter) as attached, attached.condition(motion, scale=0.7):
        live = denoiser(**inputs).sample.detach()
        with torch.no_grad():
            first, second = denoiser(**inputs).sample, denoiser(**inputs).sample
    assert torch.equal(first, second)
    torch.testing.assert_close(first, live, atol=1e-6, rtol=1e-5)


class TwoCalls(torch.nn.Module):
    """Guidance as some bases do it: one call of the denoiser without motion, one with it."""

    def __init__(self, denoiser, attached, null, motion):
        super().__init__()
        self.denoiser, self.attached, self.tokens = denoiser, attached, (null, motion)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.denoiser, name)

    def forward(self, *args, **kwargs):
        rows = args[0].shape[0] if args else kwargs["hidden_states"].shape[0]

        def half(value, i):
            whole = isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == rows
            return value.chunk(2)[i] if whole else value

        out = []
        for i, tokens in enumerate(self.tokens):
            with self.attached.condition(tokens):
                call = {key: half(value, i) for key, value in kwargs.items()}
                out.append(self.denoiser(*(half(value, i) for value in args), **call)[0])
        return (torch.cat(out),)


def in_two_calls(runner, adapter, null, motion, **options):
    """A run of the pipeline whose denoiser makes two calls of every guided one."""
    name, denoiser = ("unet" if runner.base == "svd" else "transformer"), denoiser_of(runner)
    with motionrag.attach(denoiser, adapter) as attached:
        setattr(runner.pipe, name, TwoCalls(denoiser, attached, null, motion))
        try:
            return runner(**options)
        finally:
            setattr(runner.pipe, name, denoiser)


def test_one_call_guidance_equals_two_calls(runner, motion, null):
    with attached_with_noise(runner) as attached, attached.condition(motion, null):
        one = runner(steps=3)
    torch.testing.assert_close(in_two_calls(runner, attached.adapter, null, motion, steps=3), one, **CLOSE)


def test_dynamic_guidance_of_cogvideox(image, motion, null):
    """Its weight moves during the run; the layout of rows must not follow."""
    runner, options = build("cogvideox", image), {"steps": 4, "use_dynamic_cfg": True}
    with attached_with_noise(runner) as attached, attached.condition(motion, null):
        one = runner(**options)
    torch.testing.assert_close(in_two_calls(runner, attached.adapter, null, motion, **options), one, **CLOSE)


@pytest.mark.parametrize("guided", [True, False])
@pytest.mark.parametrize(("frames", "size"), [(None, 16), (5, 32)])
def test_each_prompt_of_a_batch_gets_its_own_motion(runner, null, guided, frames, size):
    motions = testing.random_tensor(3, 5, 16, seed=21)
    options = {"guided": guided, "frames": frames, "size": size}
    attached = attached_with_noise(runner)
    with attached.condition(motions, null):
        together = runner(batch=3, **options)
    for i in range(3):
        with attached.condition(motions[i : i + 1], null):
            alone = runner(seed=1 + i, **options)
        torch.testing.assert_close(together[i], alone[0], **CLOSE)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("guided", [True, False])
def test_several_videos_a_prompt_share_its_motion(runner, null, guided):
    """SVD takes them as `num_videos_per_prompt`; CogVideoX's pipeline only as repeated prompts."""
    motions = testing.random_tensor(2, 5, 16, seed=22)
    attached = attached_with_noise(runner)
    with attached.condition(motions, null):
        together = runner(batch=2, videos=2, guided=guided)
    for i in range(4):
        with attached.condition(motions[i // 2 : i // 2 + 1], null):
            alone = runner(seed=1 + i, guided=guided)
        torch.testing.assert_close(together[i], alone[0], **CLOSE)


def test_guidance_may_change_between_runs_of_a_block(runner, motion, null):
    attached = attached_with_noise(runner)
    alone = []
    for guided in (True, False):
        with attached.condition(motion, null):
            alone.append(runner(guided=guided))
    with attached.condition(motion, null):
        assert torch.equal(runner(guided=True), alone[0])
        assert torch.equal(runner(guided=False), alone[1])


def test_fused_tokens_may_be_longer_than_the_null_tokens(runner, null):
    """The concatenation fusion: attending to a repeated null is attending to it once."""
    motion = testing.random_tensor(1, 5, 16, seed=23)
    attached = attached_with_noise(runner)
    with attached.condition(motion, null):
        once = runner()
    with attached.condition(motion.repeat(1, 3, 1), null):
        torch.testing.assert_close(runner(), once, **CLOSE)


def test_scale_by_site(runner, motion, null):
    attached = attached_with_noise(runner)
    first, *others = attached.adapter.config.sites
    with attached.condition(motion, null, scale=[ScaleRange(scale=0.5, sites=first)]):
        one_site = runner()
    for name in others:
        torch.nn.init.zeros_(attached.adapter.site(name).to_v.weight)
    with attached.condition(motion, null, scale=0.5):
        torch.testing.assert_close(one_site, runner(), atol=1e-6, rtol=0)


def test_scale_by_step(runner, motion, null):
    """Covered steps are conditioned, the others are the bare base bit for bit."""
    attached = attached_with_noise(runner)
    denoiser, calls = denoiser_of(runner), []
    record = denoiser.register_forward_hook(
        lambda module, args, kwargs, out: calls.append((args, kwargs, out[0])), with_kwargs=True
    )
    with attached.condition(motion, null, scale=[ScaleRange(scale=1.0, start=0.25, end=0.75)]):
        runner(steps=4)
    record.remove()
    with torch.no_grad():
        same = [torch.equal(denoiser(*args, **kwargs)[0], out) for args, kwargs, out in calls]
    assert same == [True, False, False, True]


def test_an_adapter_for_the_first_steps_ends_with_them(runner, motion, null):
    """A number is the strength of its steps; ranges, and a denoiser without steps, do not know of `until`."""
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    whole = motionrag.new_adapter(runner.pipe, runner.base, motion_dim=16)
    testing.random_weights(whole)
    early = MotionAdapter(dataclasses.replace(whole.config, until=0.5))
    early.load_state_dict(whole.state_dict())
    half = [ScaleRange(scale=0.6, end=0.5)]
    made = {}
    for name, adapter in {"whole": whole, "early": early}.items():
        with motionrag.attach(runner.pipe, adapter) as attached:
            for scale in (0.6, half, [ScaleRange(scale=0.6)]):
                with attached.condition(motion, null, scale=scale):
                    made[name, str(scale)] = runner(steps=4)
        with motionrag.attach(denoiser, adapter) as attached, attached.condition(motion), torch.no_grad():
            made[name, "bare"] = denoiser(**inputs).sample
    assert torch.equal(made["early", "0.6"], made["early", str(half)])
    assert torch.equal(made["early", "0.6"], made["whole", str(half)])
    assert not torch.equal(made["early", "0.6"], made["whole", "0.6"])
    assert torch.equal(made["early", str([ScaleRange(scale=0.6)])], made["whole", "0.6"])
    assert torch.equal(made["early", "bare"], made["whole", "bare"])


def test_whole_range_equals_plain_scale(runner, motion, null):
    attached = attached_with_noise(runner)
    with attached.condition(motion, null, scale=0.6):
        plain = runner(steps=3)
    with attached.condition(motion, null, scale=[ScaleRange(scale=0.6)]):
        assert torch.equal(runner(steps=3), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(runner, motion, dtype):
    """Conditioned results are as near to float32 as the bare base's are."""
    denoiser = denoiser_of(runner)
    adapter = motionrag.new_adapter(denoiser, runner.base, motion_dim=16)
    testing.random_weights(adapter)
    errors = []
    for tokens in (None, motion):
        outputs = []
        for precision in (torch.float32, dtype):
            denoiser.to(precision)
            inputs = denoiser_inputs(runner, batch=1, dtype=precision)
            with torch.no_grad(), motionrag.attach(denoiser, adapter) as attached:
                if tokens is None:
                    outputs.append(denoiser(**inputs).sample)
                else:
                    with attached.condition(tokens):
                        outputs.append(denoiser(**inputs).sample)
        assert outputs[1].dtype == dtype
        errors.append((outputs[1].float() - outputs[0]).abs().max().item() / outputs[0].abs().max().item())
        denoiser.to(torch.float32)
    assert errors[1] < 3 * errors[0] + 1e-3, f"bare {errors[0]:.1e}, conditioned {errors[1]:.1e}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pipeline(runner, motion, null, dtype):
    if (
        runner.base == "svd"
        and dtype == torch.bfloat16
        and version.parse(diffusers.__version__) < version.parse("0.42")
    ):
        pytest.skip("this diffusers' bare SVD pipeline does not run in bfloat16")
    runner.pipe.to(dtype)
    bare = runner()
    with attached_with_noise(runner).condition(motion, null):
        conditioned = runner()
    assert conditioned.isfinite().all()
    assert (conditioned - bare).abs().max() > 0.05


def test_scales_of_numpy_are_numbers(runner, motion, null):
    attached = attached_with_noise(runner)
    with attached.condition(motion, null, scale=np.float32(0.5)):
        halved = runner()
    with attached.condition(motion, null, scale=0.5):
        assert torch.equal(runner(), halved)


@pytest.mark.parametrize("first", [torch.no_grad, torch.inference_mode])
def test_what_is_kept_is_never_stale(runner, motion, first):
    """In one block: an inference call, a training step, and inference again with the new weights."""
    denoiser, inputs = denoiser_of(runner).requires_grad_(False), denoiser_inputs(runner, batch=1)
    adapter, motion = noisy_adapter(denoiser, runner.base), motion.clone().requires_grad_()
    with motionrag.attach(denoiser, adapter) as attached:
        with attached.condition(motion):
            with first():
                before = denoiser(**inputs).sample
            denoiser(**inputs).sample.square().mean().backward()
            assert motion.grad.abs().max() > 0
            with first():
                assert torch.equal(denoiser(**inputs).sample, before)
            with torch.no_grad():
                adapter.site(next(iter(adapter.config.sites))).to_v.weight.mul_(2)
            with first():
                after = denoiser(**inputs).sample
        with attached.condition(motion), torch.no_grad():
            assert torch.equal(denoiser(**inputs).sample, after)
    assert not torch.allclose(after, before, atol=1e-3)


def test_autocast_does_not_outlive_its_block(runner, motion):
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    adapter = noisy_adapter(denoiser, runner.base)
    with motionrag.attach(denoiser, adapter) as attached, torch.no_grad():
        with attached.condition(motion):
            plain = denoiser(**inputs).sample
        with attached.condition(motion):
            with torch.autocast("cpu", torch.bfloat16):
                denoiser(**inputs)
            assert torch.equal(denoiser(**inputs).sample, plain)
