"""Wrong use of the adapter is refused with a message that says what to do, and leaves the pipeline idle."""

import copy
import re

import pytest
import torch

import motionrag
from motionrag import MotionRAGError, ScaleRange, testing
from tests.helpers import attached_with_noise, build, denoiser_inputs, denoiser_of, noisy_adapter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"motion": (1, 5, 8)}, "this adapter takes [B,Q,16]"),
        ({"motion": (0, 5, 16)}, "this adapter takes [B,Q,16]"),
        ({"motion": (5, 16)}, "this adapter takes [B,Q,16]"),
        ({"null": (2, 5, 16)}, "wanted are [1,Q,16]"),
        ({"null": (1, 0, 16)}, "wanted are [1,Q,16]"),
        ({"null": (1, 3, 16)}, "5 motion tokens are not a multiple of 3 no-motion tokens"),
        ({"motion": (3, 5, 16)}, "do not divide"),
        ({"null": None}, "pass null=..."),
        ({"scale": ScaleRange(scale=1.0)}, "a number or a list of ScaleRange"),
        ({"scale": []}, "a number or a list of ScaleRange"),
        ({"scale": None}, "a number or a list of ScaleRange"),
        ({"scale": "1.0"}, "a number or a list of ScaleRange"),
        ({"scale": [ScaleRange(scale=1.0, sites="upblocks.*")]}, "no site matches 'upblocks.*'"),
    ],
)
def test_wrong_conditions_are_refused(runner, options, message):
    shapes = {"motion": (1, 5, 16), "null": (1, 5, 16), **options}
    scale = shapes.pop("scale", 1.0)
    tokens = {name: shape and torch.zeros(shape) for name, shape in shapes.items()}
    attached = attached_with_noise(runner)
    with pytest.raises(MotionRAGError, match=re.escape(message)), attached.condition(**tokens, scale=scale):
        runner()
    runner()  # idle again


def test_a_range_must_make_sense():
    with pytest.raises(MotionRAGError, match=r"start=0\.5 and end=0\.5"):
        ScaleRange(scale=1.0, start=0.5, end=0.5)


def test_nested_blocks_are_refused(runner, motion, null):
    attached = attached_with_noise(runner)
    with (
        attached.condition(motion, null),
        pytest.raises(MotionRAGError, match="already open"),
        attached.condition(motion, null),
    ):
        pass
    with attached.condition(motion, null):
        runner()


def test_a_second_adapter_is_refused_until_the_first_is_gone(runner):
    attached = attached_with_noise(runner)
    with pytest.raises(MotionRAGError, match="already attached"):
        attached_with_noise(runner)
    attached.detach()
    attached_with_noise(runner)


def test_another_base_or_size_is_refused(image):
    svd, cog = build("svd", image), build("cogvideox", image)
    adapter = motionrag.new_adapter(svd.pipe, "svd", motion_dim=16)
    with pytest.raises(MotionRAGError, match="made for svd"):
        motionrag.attach(cog.pipe, adapter)
    larger = motionrag.new_adapter(testing.tiny_svd(channels=(64, 64)), "svd", motion_dim=16)
    with pytest.raises(MotionRAGError, match="another size"):
        motionrag.attach(svd.pipe, larger)
    deeper = motionrag.new_adapter(testing.tiny_cogvideox(layers=3), "cogvideox", motion_dim=16)
    with pytest.raises(MotionRAGError, match="no attention layer"):
        motionrag.attach(cog.pipe, deeper)
    with pytest.raises(MotionRAGError, match="did you mean 'cogvideox'"):
        motionrag.new_adapter(cog.pipe, "cogvideo")


def test_ranges_of_steps_need_the_pipeline(runner, motion):
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=1)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached, torch.no_grad():
        with pytest.raises(MotionRAGError, match="attach to the pipeline"):
            attached.condition(motion, scale=[ScaleRange(scale=1.0, end=0.5)]).__enter__()
        with attached.condition(motion, scale=[ScaleRange(scale=0.4)]):
            ranged = denoiser(**inputs).sample
        with attached.condition(motion, scale=0.4):
            assert torch.equal(denoiser(**inputs).sample, ranged)


def test_the_denoiser_called_outside_a_run_is_refused(runner, motion, null):
    """Guidance is the pipeline's to say; what it said in an earlier run must not count."""
    attached, inputs = attached_with_noise(runner), denoiser_inputs(runner, batch=2)
    for _ in range(2):
        with attached.condition(motion, null):
            for _ in range(2):
                with pytest.raises(MotionRAGError, match="outside a run of its pipeline"):
                    denoiser_of(runner)(**inputs)
            runner()


def test_another_denoiser_in_the_pipeline_is_noticed(runner, motion, null):
    attached = attached_with_noise(runner)
    setattr(runner.pipe, "unet" if runner.base == "svd" else "transformer", copy.deepcopy(denoiser_of(runner)))
    with pytest.raises(MotionRAGError, match="has another"), attached.condition(motion, null):
        pass


def test_skipped_rows_are_noticed(runner, motion):
    """A cache that leaves out one half of guidance inside the denoiser would shift motion between rows."""
    denoiser, inputs = denoiser_of(runner), denoiser_inputs(runner, batch=2, frames=1)
    with motionrag.attach(denoiser, noisy_adapter(denoiser, runner.base)) as attached:
        layer = denoiser.get_submodule(next(iter(attached.adapter.config.sites))).to_out[0]
        halve = layer.register_forward_pre_hook(lambda module, args: (args[0][:1],), prepend=True)
        with attached.condition(motion), pytest.raises(MotionRAGError, match="1 rows in a call of 2"):
            denoiser(**inputs)
        halve.remove()
