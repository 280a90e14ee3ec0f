"""The training loop: what it promises of resuming, stopping, failing and of what it leaves on disk."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file

from motionrag.errors import MotionRAGError
from motionrag.training import loop
from motionrag.training.loop import Stopped, train
from motionrag.training.optim import MovingAverage, lr_share, make_optimizers
from motionrag.training.settings import TrainSettings
from tests.training.toy import ToySettings, ToyTask

SHORT = {"steps": 6, "batch": 8, "accumulate": 2, "optimizer": "muon", "lr": 1e-2, "warmup": 2, "log_every": 1}


def settings(**changes):
    return TrainSettings(**{**SHORT, **changes})


def stop_at(step, number=signal.SIGTERM):
    """A report that asks this process to stop, as a person or a machine would."""
    return lambda progress: os.kill(os.getpid(), number) if progress.step == step else None


def result(out):
    return load_file(out / "final" / "inner" / "weights.safetensors")


def last(out):
    """All tensors of the last checkpoint."""
    folder = sorted((out / "checkpoints").iterdir())[-1]
    tensors = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    return {**tensors, **torch.load(folder / "optimizer.pt", weights_only=True)}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name])
        elif torch.is_tensor(value):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def metrics(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clips_per_s"} for line in lines if "loss" in line]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, precision):
    """Bit for bit: weights, average, both optimizers and metrics, over dropout, noise, buffers and tied weights."""
    wanted = settings(precision=precision)
    train(ToyTask(), wanted, tmp_path / "whole")
    with pytest.raises(Stopped, match=r"stopped at step 3 of 6.*the same command goes on"):
        train(ToyTask(), wanted, tmp_path / "halves", report=stop_at(3))
    train(ToyTask(), wanted, tmp_path / "halves")
    assert_same(last(tmp_path / "whole"), last(tmp_path / "halves"))
    assert_same(result(tmp_path / "whole"), result(tmp_path / "halves"))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "halves")


def test_what_is_random_differs_between_passes_and_seeds(tmp_path):
    """A seed that were the same for every pass would make resuming exact too."""
    seen = []

    class Watched(ToyTask):
        def loss(self, batch, generator):
            seen.append((batch["x"].sum().item(), torch.rand(()).item(), generator.initial_seed()))
            return super().loss(batch, generator)

    for seed in (0, 1):
        train(Watched(), settings(seed=seed), tmp_path / str(seed))
    assert len(seen) == 24
    assert [len({values[i] for values in seen}) for i in range(3)] == [24, 24, 24]


def test_killed_while_a_checkpoint_is_written(tmp_path):
    """kill -9 leaves half a checkpoint under another name; the run goes on from the one before, exactly."""
    wanted = {**SHORT, "steps": 30, "save_every": 1, "optimizer": "adamw", "schedule": "constant"}
    wide = ToySettings(width=900)
    command = [sys.executable, "-m", "tests.training.toy", json.dumps({"width": 900}), str(tmp_path / "killed")]
    process = subprocess.Popen([*command, json.dumps(wanted)])
    checkpoints = tmp_path / "killed" / "checkpoints"

    def writing():
        return any(checkpoints.glob(".*.tmp/optimizer.pt")) and any(checkpoints.glob("step-*"))

    try:
        while True:
            assert process.poll() is None, "done before it was caught writing"
            if writing():
                process.send_signal(signal.SIGSTOP)
                if writing():
                    break  # caught, and it stays so
                process.send_signal(signal.SIGCONT)
            time.sleep(0.0005)
    finally:
        process.kill()
        process.wait()
    assert any(checkpoints.glob(".*.tmp"))
    done = max(int(path.name[5:]) for path in checkpoints.glob("step-*"))
    assert done < 30
    wanted["steps"] = done + 2
    for name in ("whole", "killed"):
        train(ToyTask(wide), TrainSettings(**wanted), tmp_path / name)
    assert_same(last(tmp_path / "whole"), last(tmp_path / "killed"))
    assert [line["step"] for line in metrics(tmp_path / "killed")] == list(range(1, done + 3))
    assert not any(checkpoints.glob(".*.tmp"))


def test_raising_the_steps_goes_on_with_a_finished_run(tmp_path):
    train(ToyTask(), settings(steps=3), tmp_path)
    before = result(tmp_path)
    train(ToyTask(), settings(steps=5, save_every=2, log_every=2, sample_every=4), tmp_path)
    assert any(not torch.equal(value, before[name]) for name, value in result(tmp_path).items())
    assert [line["step"] for line in metrics(tmp_path)] == [1, 2, 3, 4, 5]
    with pytest.raises(MotionRAGError, match=r"5 steps are done, train\.steps is 4; raise it"):
        train(ToyTask(), settings(steps=4), tmp_path)


@pytest.mark.parametrize(
    ("train_changes", "task_changes", "message"),
    [
        ({"lr": 2e-2}, {}, r"train\.lr was 0\.01 in this run and is 0\.02 now"),
        ({"batch": 9}, {}, r"train\.batch was 8 in this run and is 9"),
        ({}, {"dropout": 0.3}, r"dropout was 0\.2 in this run and is 0\.3"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path, train_changes, task_changes, message):
    task_settings = ToySettings()
    with pytest.raises(Stopped):
        train(ToyTask(), settings(), tmp_path, report=stop_at(2), task_settings=task_settings)
    other = replace(task_settings, **task_changes)
    with pytest.raises(MotionRAGError, match=message):
        train(ToyTask(other), settings(**train_changes), tmp_path, task_settings=other)


def test_another_task_is_refused(tmp_path):
    class Other(ToyTask):
        pass

    train(ToyTask(), settings(steps=1), tmp_path)
    with pytest.raises(MotionRAGError, match="task was 'ToyTask' in this run and is 'Other' now"):
        train(Other(), settings(steps=2), tmp_path)


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with FileLock(tmp_path / ".lock"), pytest.raises(MotionRAGError, match="another training writes"):
        train(ToyTask(), settings(), tmp_path)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_it_does_harm(tmp_path, what):
    class Bad(ToyTask):
        def loss(self, batch, generator):
            error, values = super().loss(batch, generator)
            weights = [value for value in self.model.parameters() if value.ndim == 2]
            steps = len(list((tmp_path / "checkpoints").glob("step-*")))
            if steps < 2:
                return error, values
            if what == "loss":
                return error * float("nan"), values
            return error + (weights[0] * 0).abs().pow(0.5).sum(), values  # finite, of infinite slope

    with pytest.raises(MotionRAGError, match=rf"the {what} of step 3 is not finite.*step-000002; try a lower"):
        train(Bad(), settings(save_every=1, keep=3), tmp_path)
    assert all(torch.isfinite(value).all() for value in last(tmp_path)["model"].values())


@pytest.mark.parametrize("share", [0.5, 1.5])
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path, share):
    """No file may grow beyond a share of the weights' size: no room for them, or none for the optimizer's state."""
    wide, wanted = ToySettings(width=64), settings(save_every=1, optimizer="adamw")
    with pytest.raises(Stopped):
        train(ToyTask(wide), wanted, tmp_path, report=stop_at(2))
    size = (tmp_path / "checkpoints" / "step-000002" / "model.safetensors").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), hard))
    try:
        with pytest.raises(MotionRAGError, match=r"step-000003.*the last checkpoint is .*step-000002") as caught:
            train(ToyTask(wide), wanted, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())] == ["step-000001", "step-000002"]
    train(ToyTask(wide), wanted, tmp_path)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("optimizer.pt", 500),
        ("optimizer.pt", 0),
        ("state.json", 9),
        ("ema.safetensors", 100),
        ("model.safetensors", 0),
    ],
)
def test_damage_names_the_checkpoint(tmp_path, name, size):
    train(ToyTask(), settings(steps=2), tmp_path)
    path = tmp_path / "checkpoints" / "step-000002" / name
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(MotionRAGError, match=r"step-000002: damaged .*delete this folder"):
        train(ToyTask(), settings(), tmp_path)


def test_what_a_run_leaves(tmp_path):
    """Checkpoints bounded in number, a line of metrics each interval, samples, the plot, the part itself."""
    told = []
    wanted = settings(steps=20, save_every=3, sample_every=8, log_every=5, keep=2)
    final = train(ToyTask(), wanted, tmp_path, report=told.append)
    assert final == tmp_path / "final"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000018", "step-000020"]
    names = ["step-000008.safetensors", "step-000016.safetensors", "step-000020.safetensors"]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == names
    assert [line["step"] for line in metrics(tmp_path)] == [5, 10, 15, 20]
    assert set(metrics(tmp_path)[0]) == {"step", "loss", "lr", "grad_norm", "root", "one"}
    assert metrics(tmp_path)[0]["one"] == 1.0
    assert [json.loads(line).get("sampled") for line in (tmp_path / "metrics.jsonl").open()].count(20.0) == 1
    assert Image.open(tmp_path / "loss.png").size == (960, 540)
    assert [progress.step for progress in told] == list(range(1, 21))
    assert told[-1].seconds_left == 0 < told[0].seconds_left
    assert {path.name for path in tmp_path.iterdir()} == {
        *("checkpoints", "samples", "final", "metrics.jsonl", "loss.png", ".lock")
    }


def test_the_average_is_what_is_sampled_and_exported(tmp_path):
    """The weights' mean as the formula says, from the start; the weights themselves train on as they were."""
    seen = []

    class Watched(ToyTask):
        def loss(self, batch, generator):
            seen.append(self.state())
            return super().loss(batch, generator)

    task = Watched()
    train(task, settings(accumulate=1, sample_every=2, ema_power=0.5, ema=0.6), tmp_path)
    average = seen[0]
    for step, weights in enumerate([*seen[1:], task.state()], start=1):
        decay = min(0.6, 1 - (1 + step) ** -0.5)
        average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
        if step % 2 == 0:
            sampled = load_file(tmp_path / "samples" / f"step-{step:06d}.safetensors")
            torch.testing.assert_close(sampled, average)
    torch.testing.assert_close(result(tmp_path), average)
    assert not torch.equal(result(tmp_path)["leave.weight"], task.state()["leave.weight"])
    assert_same(task.state(), {name: last(tmp_path)["model"][name] for name in task.state()})


def test_accumulation_equals_a_larger_batch(tmp_path):
    """Gradients of passes are averaged, not added: without dropout, noise and batch norm the step is the same."""
    whole = ToyTask().batch(8, torch.Generator().manual_seed(0))
    halves = [
        {"x": whole["x"][rows], "of": tuple(part[rows] for part in whole["of"])}
        for rows in (slice(0, 4), slice(4, 8))
    ]

    class Served(ToyTask):
        def __init__(self, parts):
            super().__init__(ToySettings(dropout=0.0, noise=0.0))
            self.model.norm = torch.nn.Identity()
            self.parts = iter(parts)

        def batch(self, size, generator):
            return next(self.parts)

    def gradient_norm(parts):
        task, out = Served(parts), tmp_path / str(len(parts))
        train(task, settings(steps=1, accumulate=len(parts), clip=0.0), out)
        return task.state(), metrics(out)[0]["grad_norm"]

    (one, norm), (other, same) = gradient_norm([whole]), gradient_norm(halves)
    assert norm == pytest.approx(same, rel=1e-3)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_it_learns(tmp_path):
    wanted = TrainSettings(steps=250, batch=64, lr=1e-2, warmup=10, optimizer="muon", log_every=25)
    train(ToyTask(ToySettings(dropout=0.0, noise=0.0)), wanted, tmp_path)
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert losses[-1] < 0.15 * losses[0]
    picture = np.asarray(Image.open(tmp_path / "loss.png").convert("RGB"))
    down, across = np.nonzero((picture[45:475, 95:935] == (31, 95, 168)).all(axis=-1))  # the smoothed curve's colour
    assert down[across > 700].mean() > down[across < 100].mean() + 200


def test_batches_are_made_ahead_in_another_thread_and_their_errors_surface(tmp_path):
    events = []

    class Slow(ToyTask):
        def batch(self, size, generator):
            events.append(("made", threading.current_thread() is threading.main_thread()))
            if len([event for event in events if event[0] == "made"]) == 4:
                raise MotionRAGError("clip 7 cannot be read")
            return super().batch(size, generator)

        def loss(self, batch, generator):
            time.sleep(0.05)  # long enough for the next batch
            events.append(("used", True))
            return super().loss(batch, generator)

    with pytest.raises(MotionRAGError, match="clip 7 cannot be read"):
        train(Slow(), settings(accumulate=1), tmp_path)
    assert [name for name, _ in events] == ["made", "made", "used", "made", "used", "made", "used"]
    assert not any(main for name, main in events if name == "made")


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    """Over gloo: the same first weights, averaged gradients, one writer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    wanted = {"steps": 40, "batch": 2, "lr": 0.5, "warmup": 1, "ema": 0.0, "weight_decay": 0.0, "log_every": 40}
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}
    command = [sys.executable, "-m", "tests.training.toy", "rank", str(tmp_path), json.dumps(wanted)]
    ranks = [{**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"} for rank in "01"]
    processes = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for env in ranks]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    values = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in "01"]
    assert [first for _, first, _ in values] == [5.0, 5.0]  # the main process's
    assert values[0][2] == values[1][2] == json.loads((tmp_path / "final" / "weight.json").read_text())
    assert 0.3 < values[0][2] < 0.7  # between 0 and 1, where the processes pull
    assert [line["step"] for line in metrics(tmp_path)] == [40]


def test_muon_has_the_matrices_inside_blocks_only():
    model = ToyTask().model
    names = {id(value): name for name, value in model.named_parameters()}

    def of(**options):
        made = make_optimizers(model, settings(), **options)
        return {
            kind: {names[id(value)] for group in optimizer.param_groups for value in group["params"]}
            for kind, optimizer in made.items()
        }

    assert of()["muon"] == {"blocks.0.weight", "blocks.1.weight"}
    assert of(adamw_only=(r"blocks\.1",))["muon"] == {"blocks.0.weight"}
    assert of()["adamw"] | of()["muon"] == set(names.values())
    model.blocks.requires_grad_(False)
    assert "muon" not in of()
    assert not any(name.startswith("blocks") for name in MovingAverage(model, settings()).values)


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("wsd", [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]),
        ("constant", [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ("cosine", [0.5, 1, 1, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381]),
    ],
)
def test_schedules(schedule, shares):
    wanted = settings(steps=10, warmup=2, cooldown=0.4, schedule=schedule)
    assert [lr_share(wanted, step) for step in range(10)] == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, r"train\.steps is 0, at least 1"),
        ({"cooldown": 1.5}, r"train\.cooldown is 1\.5, at most 1"),
        ({"lr": -1.0}, r"train\.lr is -1\.0, at least 0"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(MotionRAGError, match=message):
        settings(**changes)


def test_an_overflow_of_half_precision_skips_the_step(tmp_path, monkeypatch):
    """Of all optimizers, or the ones that saw no overflow would step by what clipping made of it: not a number.

    The scaler is a real one, on the CPU, where fp16 itself is refused.
    """

    def scaled(*arguments):
        accelerator = make(*arguments)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        return accelerator

    class Overflowing(ToyTask):
        def loss(self, batch, generator):
            error, values = super().loss(batch, generator)
            slope = (self.model.table.weight * 0).abs().pow(0.5).sum()  # 0, of infinite slope
            return error + slope, values

    make = loop._accelerator
    monkeypatch.setattr(loop, "_accelerator", scaled)
    task = Overflowing()
    before = task.state()
    train(task, settings(steps=2), tmp_path / "over")
    assert_same(task.state(), before)
    assert last(tmp_path / "over")["scaler"]["scale"] == 256.0
    monkeypatch.setattr(loop, "_accelerator", make)
    train(ToyTask(), settings(), tmp_path / "plain")
    monkeypatch.setattr(loop, "_accelerator", scaled)
    train(ToyTask(), settings(), tmp_path / "scaled")
    torch.testing.assert_close(result(tmp_path / "plain"), result(tmp_path / "scaled"))


def test_half_precision_wants_a_gpu(tmp_path):
    with pytest.raises(MotionRAGError, match=r"fp16 needs a GPU; bf16 works"):
        train(ToyTask(), settings(precision="fp16"), tmp_path)
