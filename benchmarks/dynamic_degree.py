"""Why the dynamic degree is of the fastest 5% of pixels: true clips under static noise, by both measures.

    python benchmarks/dynamic_degree.py

Motion is the same in each row; what is added is the same in all frames of a clip and grey.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from motionrag.evaluation.held_out import held_out
from motionrag.evaluation.metrics import DynamicDegree, Seen
from motionrag.evaluation.metrics.flow import speed

NOISE = (0, 1, 2, 4)
"""Standard deviations, in grey levels of 255."""


def degrees(video: Tensor, noise: float) -> tuple[float, float]:
    """Mean flow of all pixels and of the fastest 5%, percent of the diagonal, of u8 [B,T,3,H,W] under noise."""
    B, _, _, H, W = video.shape
    added = noise * torch.randn(B, 1, 1, H, W, generator=torch.Generator().manual_seed(0))
    clips = Seen((video + added).round().clamp(0, 255).to(torch.uint8))
    whole = 100 * speed(clips).double().mean() / (H**2 + W**2) ** 0.5
    return float(whole), float(DynamicDegree().measure(clips.video).mean())


def main() -> None:
    """Print a row for each noise."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=208, help="of unseen motions, as the suite `unseen` has (208)")
    video = held_out("unseen", parser.parse_args().clips, 20_002).clips.video
    print("| noise, grey levels | all pixels | fastest 5% |\n|---|---|---|")
    for noise in NOISE:
        whole, fastest = degrees(video, noise)
        print(f"| {noise} | {whole:.3f} | {fastest:.2f} |")


if __name__ == "__main__":
    main()
