"""The method's core at work, on a tiny CogVideoX pipeline with random weights.

Nothing here was trained, so the clips show noise, not motion; what they show is that the parts fit: nine
references adapted to a target by the Motion Context Transformer, the result injected into an unmodified
diffusers pipeline, and the bare base left bit for bit as it was whenever the scale is 0.

    python examples/core_demo.py [--out outputs/core_demo.png]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

import motionrag
from motionrag import BundleConfig, ContextConfig, MotionBundle, ResamplerConfig, ScaleRange, testing

SIZE, FRAMES, STEPS, K = 64, 9, 6, 9


def random_bundle(pipe: object) -> MotionBundle:
    """A bundle that fits the pipeline, with random weights throughout."""
    sizes = {"width": 32, "depth": 2, "heads": 4, "head_dim": 8, "queries": 5, "output_dim": 16}
    bundle = MotionBundle(
        BundleConfig(
            adapter=motionrag.new_adapter(pipe, "cogvideox", motion_dim=16).config,
            motion_resampler=ResamplerConfig(input_dim=24, **sizes),
            appearance_resampler=ResamplerConfig(input_dim=24, **sizes),
            context=ContextConfig(width=16, queries=5, layers=2, heads=4, feed_forward=64),
        )
    )
    testing.random_weights(bundle.adapter, std=0.5)
    return bundle.eval()


def adapted_motion(bundle: MotionBundle) -> tuple[torch.Tensor, torch.Tensor]:
    """Motion tokens for the target from nine references, and the no-motion tokens."""
    motion = bundle.motion_resampler(testing.random_tensor(1, K, 40, 24, seed=1))
    appearance = bundle.appearance_resampler(testing.random_tensor(1, K, 20, 24, seed=2))
    target = bundle.appearance_resampler(testing.random_tensor(1, 20, 24, seed=3))
    null = bundle.motion_resampler(torch.zeros(1, 40, 24))
    return bundle.adapt(motion, appearance, target), null


def sheet(rows: dict[str, torch.Tensor]) -> Image.Image:
    """Film strips with their names."""
    height = SIZE + 16
    page = Image.new("RGB", (FRAMES * SIZE, height * len(rows)), "white")
    for index, (name, frames) in enumerate(rows.items()):
        ImageDraw.Draw(page).text((4, index * height + 2), name, fill="black")
        for column, frame in enumerate(frames):
            pixels = (frame.permute(1, 2, 0) * 255).round().byte().numpy()
            page.paste(Image.fromarray(pixels), (column * SIZE, index * height + 16))
    return page


@torch.no_grad()
def main() -> None:
    """Run the four ways and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/core_demo.png"))
    out = parser.parse_args().out
    pipe = testing.tiny_cogvideox()
    image = Image.radial_gradient("L").resize((SIZE, SIZE)).convert("RGB")

    def clip() -> torch.Tensor:
        """Frames [T,3,H,W] in [0, 1], always from the same noise."""
        return pipe(
            image,
            prompt_embeds=testing.random_tensor(1, 6, 12, seed=4),
            negative_prompt_embeds=torch.zeros(1, 6, 12),
            height=SIZE,
            width=SIZE,
            num_frames=FRAMES,
            num_inference_steps=STEPS,
            guidance_scale=3.0,
            generator=torch.Generator().manual_seed(0),
            max_sequence_length=6,
            output_type="pt",
        ).frames[0]

    print("A tiny CogVideoX pipeline with random, untrained weights: this shows the machinery, not motion.")
    bundle = random_bundle(pipe)
    motion, null = adapted_motion(bundle)
    rows = {"bare base": clip()}
    fade = [ScaleRange(scale=1.0, end_scale=0.0, end=0.5)]
    ways = {"adapter, scale 0": 0.0, "adapter, scale 1": 1.0, "adapter, faded out over half the steps": fade}
    with motionrag.attach(pipe, bundle.adapter) as attached:
        for name, scale in ways.items():
            start = time.perf_counter()
            with attached.condition(motion, null, scale):
                rows[name] = clip()
            same = torch.equal(rows[name], rows["bare base"])
            if same != (scale == 0.0):
                raise SystemExit(f"{name}: the adapter must act exactly where its scale is not 0")
            verdict = "bit for bit equal to" if same else "differs from"
            print(f"{name}: {time.perf_counter() - start:.2f} s, {verdict} the bare base")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet(rows).save(out)
    print(f"Film strips: {out.resolve()}")


if __name__ == "__main__":
    main()
