"""The published stages by the packaged recipes on each base: what is trained, exact resuming, the memory."""

import json
from dataclasses import replace

import pytest
import torch

from motionrag import MotionRAGError
from motionrag.bases.full_size import PIPELINES, full_size
from motionrag.cli import main
from motionrag.config import parse
from motionrag.models.bundle import MotionBundle
from motionrag.registry import base_spec
from motionrag.training import estimate as estimates
from motionrag.training.adapter import AdapterSettings
from motionrag.training.base import BaseSettings
from motionrag.training.estimate import estimate
from motionrag.training.loop import Stopped, train
from motionrag.training.recipe import load_recipe
from motionrag.training.saved import Saved
from motionrag.training.settings import TrainSettings
from tests.training import world
from tests.training.test_loop import assert_same, last, metrics, stop_at

PARTS = {
    "stage1": {"adapter", "motion_resampler"},
    "stage2": {"context", "appearance_resampler"},
    "stage3": {"adapter", "motion_resampler", "context", "appearance_resampler"},
}
CASES = [
    pytest.param(base, stage, marks=[pytest.mark.slow] if stage != "stage1" and base != "cogvideox" else [])
    for base in PIPELINES
    for stage in PARTS
]
"""Of the later stages one base by default; that gradients reach their parts alone, `test_stages` shows for all."""
SHORT = ["train.steps=4", "train.batch=4", "train.accumulate=1", "train.lr=3e-3", "train.log_every=1"]


@pytest.fixture(params=PIPELINES)
def base(request, worlds):
    return worlds(request.param)


def overrides(base, stage):
    """What makes a recipe a tiny one: where things are, sizes, and a shorter training with a higher rate."""
    values = {"data": {**base.data, "held_out": 0, "cache": str(base.root / "bf16-cache")}}
    if stage != "stage2":
        values |= {"base.name": base.name, "base.folder": base.folder, "samples.count": 0}
    if stage == "stage1":
        values["bundle"] = world.BUNDLE
    else:
        values |= {"bundle": base.bundle(), "references.most": 3}
    return [*(f"{name}={json.dumps(value)}" for name, value in values.items()), *SHORT]


def over_all_clips(task):
    """The loss over all 20 clips, at fixed noise."""
    batch = task.batch(20, torch.Generator().manual_seed(0))
    with torch.no_grad():
        return task.loss(batch, torch.Generator().manual_seed(0))[0].item()


@pytest.mark.parametrize(("name", "stage"), CASES)
def test_a_published_stage_trains_its_parts_alone_and_resumes_exactly(name, stage, worlds, tmp_path):
    base = worlds(name)
    cls, settings, loop = load_recipe(stage, overrides(base, stage))
    task, halves = cls(settings), cls(settings)
    bundle = task.bundle if stage == "stage2" else task.adapted.bundle
    before = {name: value.detach().clone() for name, value in bundle.named_parameters()}
    loss = over_all_clips(task)
    train(task, loop, tmp_path / "whole")
    assert over_all_clips(task) < loss
    changed = {name for name, value in bundle.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.split(".")[0] in PARTS[stage]}
    if stage != "stage2":
        denoiser = task.adapted.base.denoiser
        assert {value.dtype for value in denoiser.parameters()} == {torch.bfloat16}
        assert not any(value.requires_grad or value.grad is not None for value in denoiser.parameters())
    with pytest.raises(Stopped):
        train(halves, loop, tmp_path / "halves", report=stop_at(2))
    train(cls(settings), loop, tmp_path / "halves")
    assert_same(last(tmp_path / "whole"), last(tmp_path / "halves"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")
    made = [MotionBundle.from_pretrained(tmp_path / run / "final").fingerprint() for run in ("whole", "halves")]
    assert made[0] == made[1]


def test_recipes_are_the_published_settings():
    (_, one, first), (_, two, second), (_, three, third) = (load_recipe(stage) for stage in PARTS)
    for loop, steps, lr, clip in (
        (first, 200_000, 5e-5, 0.5),
        (second, 50_000, 1e-4, 0.25),
        (third, 200_000, 5e-5, 0.5),
    ):
        assert (loop.steps, loop.lr, loop.clip) == (steps, lr, clip)
        assert (loop.optimizer, loop.schedule, loop.warmup, loop.ema) == ("adamw", "constant", 0, 0)
        assert (loop.beta1, loop.beta2, loop.weight_decay) == (0.9, 0.999, 0.01)
    assert (one.drop_prompt, one.drop_motion, three.drop_prompt, three.drop_motion) == (0.15,) * 4
    assert two.references.most == three.references.most == 9
    assert (first.batch * first.accumulate, second.batch * second.accumulate) == (8, 64)


@pytest.mark.parametrize(
    ("name", "size"), [("cogvideox", (480, 720, 17)), ("svd", (576, 1024, 16)), ("dynamicrafter", (576, 1024, 16))]
)
def test_bases_of_full_size_are_the_published_ones(name, size):
    """By the parameters of the released weights, and the clips that recipes train on where they say nothing."""
    pipe, spec = full_size(name), base_spec(name)
    made = {part: getattr(pipe, part) for part in spec.parameters if part != "text_encoder"}
    assert {part: sum(value.numel() for value in module.parameters()) for part, module in made.items()} == {
        part: count for part, count in spec.parameters.items() if part != "text_encoder"
    }
    sampling = parse(AdapterSettings, {"data": {"cache": "c"}}, "test").data.sized(spec.sampling(pipe))
    assert (sampling.height, sampling.width, sampling.frames) == size


# -- memory


def test_shapes_are_those_of_the_cache(base):
    adapted = base.adapter().adapted.base
    shapes = adapted.conditioning.shapes(adapted.sampling)
    batch = adapted.batch(torch.arange(2), 0.0, torch.Generator())
    assert {name: tuple(batch[name].shape[1:]) for name in batch} == shapes


@pytest.mark.parametrize("again", [False, True])
def test_what_is_counted_without_weights_is_what_a_training_saves(base, again, monkeypatch):
    """The same count over the stage's own loss, on real tensors."""
    task = base.adapter(base={**base.base, "gradient_checkpointing": again}, drop_motion=0.0)
    batch = task.batch(2, torch.Generator().manual_seed(0))
    adapted, bundle = task.adapted, task.adapted.bundle
    modules = [part for part in adapted.base.pipe.components.values() if isinstance(part, torch.nn.Module)]
    with Saved([*modules, bundle]) as real:
        loss, _ = task.loss(batch, torch.Generator().manual_seed(0))
        assert loss.requires_grad  # and holds what was saved
    adapted._attached.detach()
    monkeypatch.setitem(estimates.LENGTHS, "motion", batch["motion"].shape[1])
    for module in [*modules, bundle]:
        module.to("meta")
    loop = TrainSettings(steps=1, batch=2)
    counted = estimates.denoising_pass(adapted.base.pipe, bundle, adapted.base.sampling, loop)
    assert counted.kept == pytest.approx(real.kept, rel=0.1)
    assert (counted.block > 0) == again
    assert counted.block == pytest.approx(real.block, rel=0.1)


def test_estimates(capsys):
    assert main(["train", "stage1", "--set", "base.name=dynamicrafter", "--estimate"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][-5:] == ["stage1", "on", "dynamicrafter,", "batch", "1"]
    figures = {line[0]: tuple(map(float, line[1:])) for line in lines[2:]}
    assert figures["activations"][0] < 0.3 * figures["activations"][1]
    assert figures["frozen"][0] == pytest.approx(2 * 2.2, rel=0.15)  # 2.2 billion weights in bfloat16
    _, settings, loop = load_recipe("stage2")
    found = estimate(settings, loop)
    assert found.optimizer == 2 * found.gradients == 2 * found.average
    twice = estimate(settings, TrainSettings(steps=1, batch=16, precision="bf16"))
    assert twice.activations == pytest.approx(2 * found.activations, rel=0.01)
    _, settings, loop = load_recipe("stage3", ["base.name=svd"])
    whole = estimate(settings, loop)
    frozen = estimate(replace(settings, freeze_resampler=True), loop)
    assert frozen.frozen - whole.frozen == whole.gradients - frozen.gradients > 0
    assert frozen.total < whole.total
    with pytest.raises(MotionRAGError, match="of the stages: tasks adapter, context and joint"):
        estimate(parse(BaseSettings, {"data": {"cache": "c"}, "vae": "v"}, "test"), loop)
    assert main(["train", "adapter", "--estimate"]) == 1
    assert "no base of full size named 'tiny'" in capsys.readouterr().err
