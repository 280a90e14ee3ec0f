"""The adapter beside what people use with diffusers: training, compilation, LoRA, offloading, quantisation."""

import copy

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict

import motionrag
from motionrag import MotionRAGError, testing
from tests.bases.test_attachment import CLOSE, attached_with_noise, denoiser_inputs, denoiser_of


def noisy_adapter(denoiser, base):
    adapter = motionrag.new_adapter(denoiser, base, motion_dim=16)
    testing.random_weights(adapter)
    return adapter


def call(denoiser, inputs):
    with torch.no_grad():
        return denoiser(**inputs).sample


# Training


def gradients(runner, motion, *, checkpointing, backward_inside=True):
    denoiser = denoiser_of(runner).requires_grad_(False).train()
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    else:
        denoiser.disable_gradient_checkpointing()
    adapter, motion = noisy_adapter(denoiser, runner.base), motion.clone().requires_grad_()
    with motionrag.attach(denoiser, adapter) as attached:
        with attached.condition(motion, scale=0.5):
            loss = denoiser(**denoiser_inputs(runner, batch=1)).sample.square().mean()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
    return {"motion": motion.grad, **{name: p.grad for name, p in adapter.named_parameters()}}


def test_gradients_reach_every_trainable_and_survive_checkpointing(runner, motion):
    plain = gradients(runner, motion, checkpointing=False)
    assert all(grad is not None and grad.abs().max() > 0 for grad in plain.values())
    assert all(parameter.grad is None for parameter in denoiser_of(runner).parameters())
    for name, grad in gradients(runner, motion, checkpointing=True).items():
        torch.testing.assert_close(grad, plain[name], atol=1e-7, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_backward_of_a_checkpointed_base_outside_the_block_is_refused(runner, motion):
    with pytest.raises(MotionRAGError, match="run the backward pass inside"):
        gradients(runner, motion, checkpointing=True, backward_inside=False)


def test_a_new_adapter_learns(runner, motion):
    """Zero values block no gradient: a few steps bring an untrained adapter nearer to a teacher."""
    denoiser, inputs = denoiser_of(runner).requires_grad_(False), denoiser_inputs(runner, batch=1)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as teacher, teacher.condition(motion):
        wanted = call(denoiser, inputs)
    adapter = motionrag.new_adapter(denoiser, runner.base, motion_dim=16)
    optimizer, losses = torch.optim.Adam(adapter.parameters(), lr=1e-2), []
    with motionrag.attach(denoiser, adapter) as attached:
        for _ in range(30):
            with attached.condition(motion):
                loss = (denoiser(**inputs).sample - wanted).square().mean()
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# Compilation


def test_an_adapted_model_compiles_without_graph_break(runner, motion):
    """fullgraph=True raises at any graph break; new motion or another scale does not compile anew."""
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    bare = call(denoiser, inputs)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        with attached.condition(motion):
            eager = call(denoiser, inputs)
        counter = CompileCounterWithBackend("eager")
        denoiser.compile(fullgraph=True, backend=counter)
        torch.testing.assert_close(call(denoiser, inputs), bare, **CLOSE)
        with attached.condition(motion):
            torch.testing.assert_close(call(denoiser, inputs), eager, **CLOSE)
        compiled = counter.frame_count
        with attached.condition(motion + 1.0, scale=0.3):
            assert not torch.allclose(call(denoiser, inputs), eager, **CLOSE)
        assert counter.frame_count == compiled == 2, "one graph idle, one conditioned"
    torch.testing.assert_close(call(denoiser, inputs), bare, **CLOSE)


def test_an_adapted_block_compiles_without_graph_break(runner, motion):
    torch._dynamo.reset()
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        with attached.condition(motion):
            eager = call(denoiser, inputs)
        for name in attached._adapter.config.sites:
            denoiser.get_submodule(name.rpartition(".")[0]).compile(fullgraph=True, backend="eager")
        with attached.condition(motion):
            torch.testing.assert_close(call(denoiser, inputs), eager, **CLOSE)


def test_a_model_compiled_before_is_refused(runner):
    denoiser = denoiser_of(runner)
    adapter = noisy_adapter(denoiser, runner.base)
    with pytest.raises(MotionRAGError, match="attach the adapter first"):
        motionrag.attach(torch.compile(denoiser, backend="eager"), adapter)
    denoiser.get_submodule(next(iter(adapter.config.sites))).compile(backend="eager")
    with pytest.raises(MotionRAGError, match="attach the adapter first"):
        motionrag.attach(denoiser, adapter)


# LoRA


def give_lora(denoiser):
    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    if hasattr(denoiser, "add_adapter"):
        denoiser.add_adapter(config, adapter_name="lora")
    else:  # diffusers gives SVD's UNet no LoRA methods; users take peft's
        inject_adapter_in_model(config, denoiser, adapter_name="lora")


def test_a_lora_adds_whether_it_comes_before_or_after(runner, motion):
    """Also on `to_out.0` itself, whose input the LoRA must then see with the motion added."""
    denoiser = denoiser_of(runner)
    inputs, adapter = denoiser_inputs(runner, batch=1), noisy_adapter(denoiser, runner.base)
    bare = call(denoiser, inputs)
    with motionrag.attach(denoiser, adapter) as attached:
        with attached.condition(motion):
            motion_alone = call(denoiser, inputs)
        give_lora(denoiser)
        with attached.condition(motion):
            after = call(denoiser, inputs)
        lora_alone = call(denoiser, inputs)
    with motionrag.attach(denoiser, adapter) as attached, attached.condition(motion):
        before = call(denoiser, inputs)
    assert torch.equal(after, before)
    for other in (bare, motion_alone, lora_alone):
        assert not torch.allclose(after, other, atol=1e-3)


def test_a_lora_file_loads_through_the_pipeline(image, motion, null, tmp_path):
    from tests.conftest import build

    runner = build("cogvideox", image)
    give_lora(runner.pipe.transformer)
    runner.pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(runner.pipe.transformer, adapter_name="lora"))
    with_lora = runner()
    runner.pipe.transformer.delete_adapters("lora")
    attached = attached_with_noise(runner)
    with attached.condition(motion, null):
        motion_alone = runner()
    runner.pipe.load_lora_weights(tmp_path)
    assert torch.equal(runner(), with_lora)
    with attached.condition(motion, null):
        both = runner()
        assert not torch.allclose(both, with_lora, atol=1e-3)
        assert not torch.allclose(both, motion_alone, atol=1e-3)
    runner.pipe.unload_lora_weights()
    with attached.condition(motion, null):
        assert torch.equal(runner(), motion_alone)


# Memory


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["sequential", "group"])
def test_cpu_offload(runner, motion, kind, when):
    """Weights that live elsewhere between calls: accelerate's hooks and diffusers' group offloading."""
    from accelerate import cpu_offload

    def offload():
        if kind == "sequential":
            cpu_offload(denoiser, execution_device="cpu")
        else:
            denoiser.enable_group_offload(
                onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
            )

    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    adapter = noisy_adapter(denoiser, runner.base)
    with motionrag.attach(denoiser, adapter) as attached, attached.condition(motion):
        expected = call(denoiser, inputs)
    if when == "before":
        offload()
    with motionrag.attach(denoiser, adapter) as attached:
        if when == "after":
            offload()
        with attached.condition(motion):
            assert torch.equal(call(denoiser, inputs), expected)


def test_layerwise_float8_storage(runner, motion):
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    bare = call(denoiser, inputs)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        with attached.condition(motion, scale=0.0):
            assert torch.equal(call(denoiser, inputs), bare)
        with attached.condition(motion):
            assert not torch.allclose(call(denoiser, inputs), bare, atol=1e-3)


def test_quantised_linear_layers(runner, motion):
    """int8 weights through quanto, put in before or after: the motion's share stays what it was."""
    from optimum.quanto import freeze, qint8, quantize

    def quantised(model):
        quantize(model, weights=qint8)
        freeze(model)
        return model

    plain, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    adapter = noisy_adapter(plain, runner.base)
    denoiser = quantised(copy.deepcopy(plain))
    bare = call(denoiser, inputs)
    with motionrag.attach(denoiser, adapter) as attached, attached.condition(motion):
        before = call(denoiser, inputs)
    with motionrag.attach(plain, adapter) as attached:
        with attached.condition(motion):
            exact = call(plain, inputs)
        quantised(plain)
        with attached.condition(motion):
            after = call(plain, inputs)
    assert torch.equal(before, after)
    assert not torch.allclose(before, bare, atol=1e-3)
    assert (before - exact).abs().max() < 0.1 * (before - bare).abs().max()
