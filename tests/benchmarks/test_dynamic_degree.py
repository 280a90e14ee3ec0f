"""What the script says of static noise: all pixels are halted by it, the fastest hardly."""

import runpy
from pathlib import Path

from motionrag.evaluation.held_out import held_out

script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "dynamic_degree.py"))


def test_static_noise_halts_all_pixels_and_not_the_fastest():
    video = held_out("unseen", 16, 5).clips.video
    (whole, fastest), (halted, same) = (script["degrees"](video, noise) for noise in (0, 4))
    assert halted < 0.9 * whole
    assert same > 0.9 * fastest
    assert same / fastest > halted / whole + 0.05
