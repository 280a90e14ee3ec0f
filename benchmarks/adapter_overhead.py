"""What the attached adapter adds to one denoising step: time and memory, as ratios to the bare base.

For each size a real diffusers denoiser with random weights runs one guided step (two rows) four ways, in turn
within the same process, so that drift of the machine touches all alike:

    bare        the base alone
    cached      our adapter; keys and values computed once, as in a generation
    uncached    our adapter; keys and values computed again at every step
    published   the same adapter computed in the published manner: queries, keys and values projected at every
                step, motion rows repeated for every hidden row

Two figures for the added time. The seconds spent in the adapter's own operations over those of the rest of the
very same step (on CPU, where operations are not queued): other load on the machine touches both alike. And the
median ratio of whole steps, the better of two in a row, to the bare step of the same round: noisier, but it takes
in what the first might miss.

Peak memory is measured in a process of its own for each way. Example:

    python benchmarks/adapter_overhead.py --sizes cogvideox-s svd-s --rounds 5
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import nn

import motionrag
from motionrag.bases.site_hook import SiteHook

WAYS = ["bare", "cached", "uncached", "published"]
QUERIES, MOTION_DIM = 25, 1024


def cogvideox(layers, heads, frames, height, width):
    """A transformer and the arguments of one guided call.

    Args:
        layers: How many.
        heads: Of 64.
        frames: Of the latents; text is 226 tokens.
        height: Of the latents.
        width: Likewise.
    """
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        num_layers=layers,
        in_channels=32,
        sample_height=height,
        sample_width=width,
        sample_frames=4 * frames - 3,
        use_rotary_positional_embeddings=True,
    )
    angle = torch.randn(frames * height * width // 4, 64)
    return model, {
        "hidden_states": torch.randn(2, frames, 32, height, width),
        "encoder_hidden_states": torch.randn(2, 226, 4096),
        "timestep": torch.tensor([500, 500]),
        "image_rotary_emb": (angle.cos(), angle.sin()),
        "return_dict": False,
    }


def svd(channels, layers, frames, height, width):
    """A UNet and the arguments of one guided call.

    Args:
        channels: Of each level; heads of 64.
        layers: Of each block.
        frames: Of the clip.
        height: Of the latents.
        width: Likewise.
    """
    from diffusers import UNetSpatioTemporalConditionModel

    model = UNetSpatioTemporalConditionModel(
        block_out_channels=channels,
        layers_per_block=layers,
        num_attention_heads=tuple(c // 64 for c in channels),
        num_frames=frames,
    )
    return model, {
        "sample": torch.randn(2, frames, 8, height, width),
        "timestep": torch.tensor(1.0),
        "encoder_hidden_states": torch.randn(2, 1, 1024),
        "added_time_ids": torch.tensor([[6.0, 127.0, 0.02]] * 2),
        "return_dict": False,
    }


def dynamicrafter(channels, layers, frames, height, width):
    """A UNet and the arguments of one guided call: 77 tokens of text, 16 of the image a frame.

    Args:
        channels: Of the first level; the next ones have 2, 4 and 4 times as many, heads of 64.
        layers: Residual blocks of each level.
        frames: Of the clip.
        height: Of the latents.
        width: Likewise.
    """
    from motionrag.bases.dynamicrafter.unet import DynamiCrafterUNet

    model = DynamiCrafterUNet(model_channels=channels, num_res_blocks=layers, num_frames=frames)
    return model, {
        "sample": torch.randn(2, 8, frames, height, width),
        "timestep": torch.tensor(500),
        "encoder_hidden_states": torch.randn(2, 77, 1024),
        "image_embeds": torch.randn(2, 16 * frames, 1024),
        "return_dict": False,
    }


# Each base: what makes it, and the sizes it is measured at. Those named tiny are to test this script.
BASES = {
    "cogvideox": (
        cogvideox,
        {
            "tiny": (1, 2, 2, 4, 4),
            "xs": (2, 4, 4, 16, 16),
            "s": (4, 8, 5, 32, 32),
            "m": (4, 16, 5, 32, 48),
            "l": (1, 48, 5, 32, 48),  # the 5B model's width
            "xl": (1, 48, 5, 60, 90),  # one layer of the 5B model at 480x720x17
            "5b": (42, 48, 5, 60, 90),  # the published setting; needs a GPU
        },
    ),
    "svd": (
        svd,
        {
            "tiny": ((64, 64, 64, 64), 1, 2, 8, 8),
            "xs": ((64, 128, 256, 256), 1, 4, 16, 16),
            "s": ((128, 256, 512, 512), 2, 8, 16, 16),
            "m": ((320, 640, 1280, 1280), 1, 8, 16, 16),
            "l": ((320, 640, 1280, 1280), 2, 8, 32, 32),  # the full model at 256x256
            "full": ((320, 640, 1280, 1280), 2, 16, 72, 128),  # the published setting; needs a GPU
        },
    ),
    "dynamicrafter": (
        dynamicrafter,
        {
            "tiny": (64, 1, 2, 8, 8),
            "xs": (64, 1, 4, 16, 16),
            "s": (128, 2, 8, 16, 16),
            "m": (320, 1, 8, 16, 16),
            "l": (320, 2, 8, 32, 32),  # the full model at 256x256
            "full": (320, 2, 16, 72, 128),  # the published setting; needs a GPU
        },
    ),
}
SIZES = [f"{base}-{size}" for base, (_, sizes) in BASES.items() for size in sizes]


def build(size, device, dtype):
    """The base's name, its denoiser and the arguments of one guided step."""
    base, _, size = size.partition("-")
    make, sizes = BASES[base]
    torch.manual_seed(0)
    with torch.device(device):
        torch.set_default_dtype(dtype)
        model, arguments = make(*sizes[size])
        torch.set_default_dtype(torch.float32)
    return base, model.eval(), arguments


class Stopwatch:
    """Sums up the seconds spent in the adapter's own operations."""

    def __init__(self):
        self.seconds = 0.0

    def timing(self, function):
        """The same function, on the watch."""

        def timed(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return timed


WATCH = Stopwatch()


class PublishedProjection(nn.Module):
    """Stands in for a layer's output projection: adds the motion attention before it as the published code does."""

    def __init__(self, project, site, heads, motion):
        super().__init__()
        self.project, self.heads, self.motion = project, heads, motion
        weight = project.weight
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(linear.in_features, linear.out_features, bias=False).to(weight.device, weight.dtype)
            for linear in (site.to_q, site.to_k, site.to_v)
        )
        for mine, linear in ((self.to_q, site.to_q), (self.to_k, site.to_k), (self.to_v, site.to_v)):
            mine.load_state_dict(linear.state_dict())

    def forward(self, hidden):
        """The attention output to the layer's answer."""
        return self.project(WATCH.timing(self.add_motion)(hidden))

    def add_motion(self, hidden):
        """The attention output with the motion attention added."""
        repeats = len(hidden) // len(self.motion)
        k = self.to_k(self.motion).repeat_interleave(repeats, dim=0)
        v = self.to_v(self.motion).repeat_interleave(repeats, dim=0)
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.to_q(hidden), k, v))
        return hidden + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@contextmanager
def prepared(way, model, arguments, motion, adapter):
    """A function that runs one step this way, once warmed up."""
    if way == "published":
        layers = {name: model.get_submodule(name) for name in adapter.config.sites}
        projections = {name: layer.to_out[0] for name, layer in layers.items()}
        for name, layer in layers.items():
            layer.to_out[0] = PublishedProjection(projections[name], adapter.site(name), layer.heads, motion)
        try:
            yield lambda arguments: model(**arguments)[0]
        finally:
            for name, layer in layers.items():
                layer.to_out[0] = projections[name]
    elif way == "bare":
        yield lambda arguments: model(**arguments)[0]
    else:
        with motionrag.attach(model, adapter) as attached:
            if way == "cached":
                with attached.condition(motion):
                    attached._before_call(model, (), arguments)  # fills the cache: a generation does it once
                    yield lambda arguments: model(**arguments)[0]
            else:

                def uncached(arguments):
                    with attached.condition(motion):
                        return model(**arguments)[0]

                yield uncached


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
@patch.object(SiteHook, "__call__", WATCH.timing(SiteHook.__call__))
@patch.object(SiteHook, "prepare", WATCH.timing(SiteHook.prepare))
def measure_time(size, device, dtype, rounds):
    """Milliseconds of each way, whole steps and the adapter's own, one entry a round; the outputs are compared."""
    base, model, arguments = build(size, device, dtype)
    adapter = make_adapter(base, model, device)
    motion = torch.randn(2, QUERIES, MOTION_DIM, device=device, dtype=dtype)
    times, own, outputs = {way: [] for way in WAYS}, {way: [] for way in WAYS}, {}
    order = random.Random(0)
    for _ in range(rounds):
        for way in order.sample(WAYS, len(WAYS)):  # no way always follows the same one
            with prepared(way, model, arguments, motion, adapter) as step:
                runs = [timed_step(step, arguments, device) for _ in range(2)]
            seconds, spent, outputs[way] = min(runs, key=lambda run: run[0])  # the first is slowed by the change
            times[way].append(seconds * 1000)
            own[way].append(spent * 1000)
    check_same(outputs)
    return times, own


def timed_step(step, arguments, device):
    """Seconds of the step, seconds of it in the adapter, and what came out."""
    synchronise(device)
    start, WATCH.seconds = time.perf_counter(), 0.0
    output = step(arguments)
    synchronise(device)
    return time.perf_counter() - start, WATCH.seconds, output


def make_adapter(base, model, device):
    adapter = motionrag.new_adapter(model, base, MOTION_DIM).to(device)
    for name in adapter.config.sites:
        nn.init.normal_(adapter.site(name).to_v.weight, std=0.02)
    return adapter


def check_same(outputs):
    """The three ways with an adapter must be one computation, another than the bare base's."""
    published, scale = outputs["published"], outputs["published"].float().abs().max()
    for way in ("cached", "uncached"):
        error = (outputs[way] - published).float().abs().max() / scale
        if not error < (1e-3 if published.dtype == torch.float32 else 5e-2):
            raise SystemExit(f"{way} differs from published by {error:.1e}: not the same adapter")
    if torch.equal(outputs["bare"], published):
        raise SystemExit("the adapter did nothing")


@torch.no_grad()
def measure_memory(size, way, device, dtype):
    """Peak memory in MB during one step, weights included: resident set on Linux CPUs, allocated on CUDA."""
    base, model, arguments = build(size, device, dtype)
    adapter = None if way == "bare" else make_adapter(base, model, device)
    motion = torch.randn(2, QUERIES, MOTION_DIM, device=device, dtype=dtype)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building the model
    with prepared(way, model, arguments, motion, adapter) as step:
        step(arguments)
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def memory_in_own_process(size, way, arguments):
    command = [sys.executable, __file__, "--memory-of", way, "--sizes", size]
    command += ["--device", arguments.device, "--dtype", arguments.dtype]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def summarise(size, times, own, memory):
    """Medians over the rounds, and quartiles where whole steps are compared."""
    row = {"size": size, "rounds": len(times["bare"]), "bare_ms": statistics.median(times["bare"])}
    row["bare_mb"] = memory["bare"]
    for way in WAYS[1:]:
        shares = [100 * spent / (step - spent) for spent, step in zip(own[way], times[way], strict=True)]
        ratios = [100 * (step / bare - 1) for step, bare in zip(times[way], times["bare"], strict=True)]
        row[way] = {
            "own_percent": statistics.median(shares),
            "whole_step_percent": statistics.median(ratios),
            "whole_step_percent_quartiles": statistics.quantiles(ratios, n=4)[::2],
            "added_mb": memory[way] - memory["bare"],
        }
    return row


def markdown(rows):
    """The table for benchmarks/README.md."""
    header = ["size", "bare step", *WAYS[1:], *(f"{way}, whole steps" for way in WAYS[1:])]
    header += ["bare memory", *(f"{way}, memory" for way in WAYS[1:])]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        ways = [row[way] for way in WAYS[1:]]
        cells = [row["size"], f"{row['bare_ms']:,.0f} ms"]
        cells += [f"{way['own_percent']:.1f}%" for way in ways]
        cells += [
            "{:+.0f}% ({:+.0f} to {:+.0f})".format(way["whole_step_percent"], *way["whole_step_percent_quartiles"])
            for way in ways
        ]
        cells += [f"{row['bare_mb']:,.0f} MB", *(f"{way['added_mb']:+,.0f} MB" for way in ways)]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def cpu_name():
    """The processor as Linux names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main():
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    quick = [f"{base}-{size}" for base in BASES for size in ("xs", "s")]
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=quick)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    if arguments.memory_of:
        print(measure_memory(arguments.sizes[0], arguments.memory_of, arguments.device, dtype))
        return
    rows = []
    for size in arguments.sizes:
        started = time.perf_counter()
        memory = {way: memory_in_own_process(size, way, arguments) for way in WAYS}
        rows.append(summarise(size, *measure_time(size, arguments.device, dtype, arguments.rounds), memory))
        print(f"{size}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        if arguments.out:
            machine = {"torch": torch.__version__, "cpu": cpu_name(), "threads": torch.get_num_threads()}
            about = {"device": arguments.device, "dtype": arguments.dtype, **machine}
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
