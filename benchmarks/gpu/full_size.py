"""What the method adds to a generation at the published settings: seconds by part, and peak memory.

A base at full size with random weights, made on the device in seconds, runs its published sampling (image encoded,
all denoising steps, clip decoded) three ways, in turn within each round:

    bare        the base alone, nothing of ours on the device
    cached      with our adapter, nine references: keys and values computed once a generation
    uncached    the same with keys and values computed again at every step

and, beside it, what comes before: the search of a prompt in a database of a few hundred clips, the appearance
encoder on the target image, the context transformer. What the clips show is noise; what they cost is what real
weights cost. Prompt embeddings are random: the text encoder of a base costs the same with and without us.

    python benchmarks/gpu/full_size.py --base cogvideox --out benchmarks/results/full_size_cogvideox.json

With --steps fewer steps are run, and the seconds of all after the first, which computes keys and values, are scaled
to the published number; the JSON says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from stand_ins import BASES, PROMPT, Parts, make

import motionrag
from motionrag.registry import base_spec
from motionrag.training.conditioning import conditioning_of
from motionrag.types import Sampling

WAYS = ("bare", "cached", "uncached")
K = 9
REPEATS = 5  # of the quick parts


class Watch:
    """Seconds of named parts of a run, with the device's queue empty at both ends."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self._began = device, dict[str, float](), 0.0

    def now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self, *_: Any) -> None:
        self._began = self.now()

    def stop(self) -> None:
        spent = self.now() - self._began
        self.seconds.setdefault("first_step", spent)
        self.seconds["denoise"] = self.seconds.get("denoise", 0.0) + spent

    def timing(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = self.now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began

        return timed

    @contextmanager
    def over(self, pipe: Any, denoiser: torch.nn.Module, before_call: Callable[[], None]) -> Iterator[None]:
        """Inside the block calls of the denoiser and of the VAE are timed; `before_call` is part of the former."""
        with ExitStack() as stack:
            handles = [
                denoiser.register_forward_pre_hook(lambda *_: before_call(), prepend=True),
                denoiser.register_forward_pre_hook(self.start, prepend=True),  # before that one
                denoiser.register_forward_hook(lambda *_: self.stop()),
            ]
            for handle in handles:
                stack.callback(handle.remove)
            for name in ("encode", "decode"):
                setattr(pipe.vae, name, self.timing(f"vae_{name}", getattr(pipe.vae, name)))
                stack.callback(delattr, pipe.vae, name)
            yield


def published(parts: Parts, base: str) -> tuple[Sampling, dict[str, Any]]:
    """The published sampling of a base, and what its pipeline is called with: a grey gradient, random embeddings."""
    spec = base_spec(base)
    pipe, sampling = parts.pipe, spec.sampling(parts.pipe)
    image = Image.linear_gradient("L").resize((sampling.width, sampling.height)).convert("RGB")
    conditioning = conditioning_of(pipe, spec)
    shape = (1, *conditioning.shapes(sampling)["prompt"])
    prompt, dropped = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(2))
    arguments = spec.arguments(pipe, [image], [""], sampling)
    arguments |= {name: None for name in ("prompt", "negative_prompt") if name in arguments}
    return sampling, arguments | conditioning.arguments([image], {"prompt": prompt}, dropped)


@torch.no_grad()
def our_parts(parts: Parts, image: Image.Image, watch: Watch) -> tuple[dict[str, float], Tensor, Tensor]:
    """Median seconds of retrieval, appearance and context; the adapted motion and that of no motion."""
    encoder, bundle = parts.appearance, parts.bundle
    frame = np.moveaxis(np.asarray(image), -1, 0)[None]
    device = next(bundle.parameters()).device

    def retrieve() -> Any:
        return parts.retriever.search(parts.retriever.query(PROMPT), K, tokens=True)

    def looks() -> Tensor:
        return bundle.appearance_resampler(encoder.encode(encoder.preparation(frame)[None]).to(device))

    def adapt() -> Tensor:
        motion, appearance = (
            torch.from_numpy(np.stack([getattr(one, f"{kind}_tokens") for one in found])).to(device).float()[None]
            for kind in ("motion", "appearance")
        )
        return bundle.adapt(motion, appearance, target)

    found, target = retrieve(), looks()
    if len(found) != K:
        raise SystemExit(f"the search found {len(found)} references, not {K}")
    seconds = {}
    for name, function in (("retrieval", retrieve), ("appearance", looks), ("context", adapt)):
        function()  # warm
        times = []
        for _ in range(REPEATS):
            began = watch.now()
            function()
            times.append(watch.now() - began)
        seconds[name] = statistics.median(times)
    width = bundle.config.motion_resampler.input_dim
    null = bundle.motion_resampler(torch.randn(1, 1568, width, device=device))
    return seconds, adapt(), null


def run(
    parts: Parts, base: str, way: str, arguments: dict[str, Any], motion: Tensor, null: Tensor, device: str
) -> tuple[dict[str, float], float | None, Tensor]:
    """One generation: seconds by part, peak memory in GB on CUDA, and the frames on the CPU."""
    parts.to("cpu" if way == "bare" else device)
    denoiser = getattr(parts.pipe, base_spec(base).denoiser)
    on_cuda, watch = device.startswith("cuda"), Watch(device)
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with ExitStack() as stack:
        before_call: Callable[[], None] = lambda: None  # noqa: E731
        if way != "bare":
            attached = stack.enter_context(motionrag.attach(parts.pipe, parts.bundle.adapter))
            stack.enter_context(attached.condition(motion, null))
            if way == "uncached":

                def before_call() -> None:
                    for hook in attached._hooks.values():
                        hook.forget()

        stack.enter_context(watch.over(parts.pipe, denoiser, before_call))
        generator = torch.Generator().manual_seed(0)
        whole = watch.timing("total", parts.pipe)
        frames = whole(**arguments, generator=generator, output_type="pt").frames
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_cuda else None
    return watch.seconds, peak, frames.float().cpu()


def check(frames: dict[str, Tensor]) -> dict[str, float | bool]:
    """Refuse to compare what is not one computation; how far the two ways of ours are apart."""
    if torch.equal(frames["bare"].nan_to_num(), frames["cached"].nan_to_num()):
        raise SystemExit("the adapter did nothing")
    finite = all(bool(values.isfinite().all()) for values in frames.values())
    apart = (frames["cached"] - frames["uncached"]).abs().nan_to_num().max().item()
    if apart > 0.1:
        raise SystemExit(f"cached and uncached differ by {apart:.2f} in frames of [0, 1]: not the same adapter")
    return {"finite": finite, "cached_to_uncached": apart}


def measure(base: str, size: str, device: str, dtype: torch.dtype, rounds: int, steps: int | None) -> dict[str, Any]:
    """All figures of a base."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        parts = make(base, size, device, dtype, Path(folder) / "database")
        made_s = time.perf_counter() - began
        sampling, arguments = published(parts, base)
        seconds, motion, null = our_parts(parts, arguments["image"][0], Watch(device))
    given = (parts, base)
    warm = arguments | {"num_inference_steps": 2}
    for way in WAYS:
        run(*given, way, warm, motion, null, device)
    arguments["num_inference_steps"] = steps or sampling.steps
    ran: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    peaks: dict[str, float | None] = {}
    frames: dict[str, Tensor] = {}
    for i in range(rounds):
        for way in WAYS if i % 2 == 0 else WAYS[::-1]:
            spent, peaks[way], frames[way] = run(*given, way, arguments, motion, null, device)
            ran[way].append(spent)
            print(f"{base}, round {i + 1}, {way}: {spent['total']:.1f} s", file=sys.stderr, flush=True)
    return {
        "base": base,
        "size": size,
        "sampling": vars(sampling),
        "steps_run": arguments["num_inference_steps"],
        "scaled_to_published_steps": arguments["num_inference_steps"] != sampling.steps,
        "rounds": rounds,
        "made_s": made_s,
        "before": seconds,
        "ways": {way: summary(ran[way], arguments["num_inference_steps"], sampling.steps) for way in WAYS},
        "peak_gb": peaks,
        "check": check(frames),
    }


def summary(ran: list[dict[str, float]], steps: int, published: int) -> dict[str, float]:
    """Medians over the rounds; denoising after the first step scaled to the published number of steps."""
    found = {name: statistics.median(one[name] for one in ran) for name in ran[0]}
    found["other"] = found["total"] - sum(found[name] for name in ("denoise", "vae_encode", "vae_decode"))
    rest = found["denoise"] - found["first_step"]
    scaled = found["denoise"] if steps == published else found["first_step"] + rest * (published - 1) / (steps - 1)
    return found | {"total": found["total"] - found["denoise"] + scaled, "denoise": scaled}


def table(row: dict[str, Any]) -> str:
    """The figures for benchmarks/README.md: seconds of a generation, what is added by part, peak memory."""
    before, ways, peaks = row["before"], row["ways"], row["peak_gb"]
    adapter = {way: ways[way]["denoise"] - ways["bare"]["denoise"] for way in WAYS[1:]}
    heads = ["base", "bare", "of it VAE", "retrieval", "appearance", "context", "adapter", "added in all", "share"]
    heads += ["adapter, uncached", *(f"memory, {way}" for way in WAYS)]
    added = sum(before.values()) + adapter["cached"]
    bare = ways["bare"]["total"]
    cells = [
        row["base"],
        f"{bare:.2f} s",
        f"{ways['bare']['vae_encode'] + ways['bare']['vae_decode']:.2f} s",
        *(f"{before[name]:.3f} s" for name in ("retrieval", "appearance", "context")),
        f"{adapter['cached']:.2f} s",
        f"{added:.2f} s",
        f"{100 * added / bare:.1f}%",
        f"{adapter['uncached']:.2f} s",
        *("-" if peaks[way] is None else f"{peaks[way]:.1f} GB" for way in WAYS),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), cells))


def main() -> None:
    """Measure, print the table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=BASES, required=True)
    parser.add_argument("--size", choices=["tiny", "full"], default="full", help="tiny is to try the script")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, help="denoising steps (default: as published)")
    parser.add_argument("--out", type=Path, required=True, help="the figures as JSON")
    given = parser.parse_args()
    if given.steps is not None and given.steps < 2:
        parser.error(f"--steps {given.steps}: at least 2, the first of which is not scaled")
    row = measure(given.base, given.size, given.device, getattr(torch, given.dtype), given.rounds, given.steps)
    on_cuda = given.device.startswith("cuda")
    about = {
        "device": torch.cuda.get_device_name() if on_cuda else platform.processor() or "cpu",
        "dtype": given.dtype,
        "torch": torch.__version__,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps({"about": about, **row}, indent=2) + "\n", encoding="utf-8")
    print(table(row))


if __name__ == "__main__":
    main()
