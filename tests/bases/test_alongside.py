"""The adapter beside what people use with diffusers: training, compilation, LoRA, offloading, quantisation."""

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict

import motionrag
from motionrag import MotionRAGError
from motionrag.pipeline.quantize import quantize
from motionrag.registry import base_spec
from tests.helpers import CLOSE, QUANTISED, attached_with_noise, build, denoiser_inputs, denoiser_of, noisy_adapter


def call(denoiser, inputs):
    with torch.no_grad():
        return denoiser(**inputs).sample


# Training


def gradients(runner, motions, *, checkpointing, inside=True):
    """Gradients of the sum of one conditioned loss a motion, and of an idle one; backward in or after the blocks."""
    denoiser = denoiser_of(runner).requires_grad_(False).train()
    (denoiser.enable_gradient_checkpointing if checkpointing else denoiser.disable_gradient_checkpointing)()
    trained = denoiser.get_submodule("conv_in" if runner.base == "svd" else "patch_embed").requires_grad_(True)
    adapter = noisy_adapter(denoiser, runner.base)
    motions, losses = [motion.clone().requires_grad_() for motion in motions], []
    with motionrag.attach(denoiser, adapter) as attached:
        for i, motion in enumerate(motions):
            with attached.condition(motion, scale=0.5 + 0.3 * i):
                losses.append(denoiser(**denoiser_inputs(runner, batch=1)).sample.square().mean())
                if inside:
                    losses.pop().backward()
        losses.append(denoiser(**denoiser_inputs(runner, batch=1)).sample.square().mean())
        with attached.condition(torch.zeros_like(motions[0])):
            torch.stack(losses).sum().backward()
    parameters = [*adapter.named_parameters(), *trained.named_parameters()]
    named = {f"motion {i}": motion for i, motion in enumerate(motions)} | dict(parameters)
    gradients = {name: tensor.grad for name, tensor in named.items()}
    trained.zero_grad()
    return gradients


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_reach_every_trainable_and_survive_checkpointing(runner, motion, inside):
    """Also when the blocks are computed again after their `condition` block, inside another one."""
    motions = [motion, motion + 1.0]
    plain = gradients(runner, motions, checkpointing=False, inside=inside)
    assert all(grad is not None and grad.abs().max() > 0 for grad in plain.values())
    for name, grad in gradients(runner, motions, checkpointing=True, inside=inside).items():
        torch.testing.assert_close(grad, plain[name], atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_a_frozen_adapter_survives_checkpointing_too(runner, motion):
    """Keys and values that were kept, not computed: the base's own gradients."""
    denoiser, inputs = denoiser_of(runner).train(), denoiser_inputs(runner, batch=1)
    adapter = noisy_adapter(denoiser, runner.base).requires_grad_(False)
    grads = []
    with motionrag.attach(denoiser, adapter) as attached:
        for checkpointing in (False, True):
            (denoiser.enable_gradient_checkpointing if checkpointing else denoiser.disable_gradient_checkpointing)()
            denoiser.zero_grad()
            with attached.condition(motion):
                loss = denoiser(**inputs).sample.square().mean()
            loss.backward()
            grads.append([p.grad.clone() for p in denoiser.parameters() if p.grad is not None])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-5)


def test_a_failed_forward_leaves_checkpointing_as_it_was(runner, motion):
    denoiser = denoiser_of(runner).train()
    denoiser.enable_gradient_checkpointing()

    def functions():
        return [module.__dict__.get("_gradient_checkpointing_func") for module in denoiser.modules()]

    before, inputs = functions(), denoiser_inputs(runner, batch=1) | {"encoder_hidden_states": torch.zeros(1, 1, 3)}
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        with attached.condition(motion), pytest.raises(RuntimeError):
            denoiser(**inputs)
        assert functions() == before


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
        for name in attached.adapter.config.sites:
            denoiser.get_submodule(name.rpartition(".")[0]).compile(fullgraph=True, backend="eager")
        with attached.condition(motion):
            torch.testing.assert_close(call(denoiser, inputs), eager, **CLOSE)


def test_a_compiled_model_in_the_pipeline(runner, motion, null):
    torch._dynamo.reset()
    name = "unet" if runner.base == "svd" else "transformer"
    attached = attached_with_noise(runner)
    with attached.condition(motion, null):
        eager = runner()
    setattr(runner.pipe, name, torch.compile(denoiser_of(runner), fullgraph=True, backend="eager"))
    with attached.condition(motion, null):
        torch.testing.assert_close(runner(), eager, **CLOSE)


def test_a_model_compiled_before_is_refused(runner):
    denoiser = denoiser_of(runner)
    adapter = noisy_adapter(denoiser, runner.base)
    with pytest.raises(MotionRAGError, match="attach the adapter first"):
        motionrag.attach(torch.compile(denoiser, backend="eager"), adapter)
    block = next(iter(adapter.config.sites)).rpartition(".")[0]
    parent, _, child = block.rpartition(".")
    plain = denoiser.get_submodule(block)
    denoiser.get_submodule(parent)[int(child)] = torch.compile(plain, backend="eager")
    with pytest.raises(MotionRAGError, match="attach the adapter first"):
        motionrag.attach(denoiser, adapter)
    denoiser.get_submodule(parent)[int(child)] = plain
    plain.compile(backend="eager")
    with pytest.raises(MotionRAGError, match="attach the adapter first"):
        motionrag.attach(denoiser, adapter)


# LoRA


def give_lora(denoiser):
    torch.manual_seed(3)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False)
    if hasattr(denoiser, "add_adapter"):
        denoiser.add_adapter(config, adapter_name="extra")
    else:  # diffusers gives SVD's UNet no LoRA methods; users take peft's
        inject_adapter_in_model(config, denoiser, adapter_name="extra")


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
    runner = build("cogvideox", image)
    give_lora(runner.pipe.transformer)
    runner.pipe.save_lora_weights(tmp_path, get_peft_model_state_dict(runner.pipe.transformer, adapter_name="extra"))
    with_lora = runner()
    runner.pipe.transformer.delete_adapters("extra")
    attached = attached_with_noise(runner)
    with attached.condition(motion, null):
        motion_alone = runner()
    runner.pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
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


def test_model_cpu_offload(runner, motion, null):
    with attached_with_noise(runner) as attached, attached.condition(motion, null):
        expected = runner()
    runner.pipe.enable_model_cpu_offload(device="cpu")
    with motionrag.attach(runner.pipe, attached.adapter) as attached, attached.condition(motion, null):
        assert torch.equal(runner(), expected)


def test_layerwise_float8_storage(runner, motion):
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    denoiser.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    bare = call(denoiser, inputs)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        with attached.condition(motion, scale=0.0):
            assert torch.equal(call(denoiser, inputs), bare)
        with attached.condition(motion):
            assert not torch.allclose(call(denoiser, inputs), bare, atol=1e-3)


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_linear_layers(runner, motion, image, kind):
    """Put in before or after the adapter: the motion's share stays nearly what it was."""
    cpu, inputs = torch.device("cpu"), denoiser_inputs(runner, batch=1)
    given = {"spec": base_spec(runner.base), "kind": kind, "on": cpu, "home": cpu}
    plain = denoiser_of(runner)
    adapter, other = noisy_adapter(plain, runner.base), build(runner.base, image)
    quantize(other.pipe, **given)
    bare = call(denoiser_of(other), inputs)
    with motionrag.attach(denoiser_of(other), adapter) as attached, attached.condition(motion):
        before = call(denoiser_of(other), inputs)
    exact_bare = call(plain, inputs)
    with motionrag.attach(plain, adapter) as attached:
        with attached.condition(motion):
            exact = call(plain, inputs)
        quantize(runner.pipe, **given)
        with attached.condition(motion):
            after = call(plain, inputs)
    assert torch.equal(before, after)
    assert not torch.allclose(before, bare, atol=1e-3)
    apart = ((before - bare) - (exact - exact_bare)).abs().max() / (exact - exact_bare).abs().max()
    assert apart < {"int8": 0.05, "nf4": 0.5}[kind], apart
