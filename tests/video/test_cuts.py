"""Cuts are found where scenes change, and nowhere else; splitting respects them."""

from itertools import pairwise

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.video import probe, scene_cuts, split, write_video
from tests.video.make import encode, moving


def scene(seed, frames=30):
    tint = np.random.default_rng(seed + 50).integers(-60, 60, (1, 3, 1, 1))
    return np.clip(moving(frames, 72, 96, seed=seed) + tint, 0, 255).astype(np.uint8)


def pan(frames, step):
    """A camera that moves `step` pixels a frame over a detailed ground."""
    rng = np.random.default_rng(9)
    ground = np.kron(rng.integers(0, 256, (3, 9, 120)), np.ones((1, 8, 8))).astype(np.uint8)
    return np.stack([ground[:, :, i * step : i * step + 96] for i in range(frames)])


def test_cuts_between_scenes(tmp_path):
    clip = np.concatenate([scene(1, 30), scene(2, 25), scene(3, 40), scene(1, 30)])
    write_video(tmp_path / "a.mp4", clip, 20)
    assert scene_cuts(tmp_path / "a.mp4") == pytest.approx([1.5, 2.75, 4.75], abs=0.01)


@pytest.mark.parametrize("suffix", [".webm", ".gif", ".webp"])
def test_other_formats(tmp_path, suffix):
    write_video(tmp_path / f"a{suffix}", np.concatenate([scene(1), scene(2)]), 20)
    assert scene_cuts(tmp_path / f"a{suffix}") == pytest.approx([1.5], abs=0.01)


@pytest.mark.parametrize("rate", [5, 60])
def test_slow_and_fast_rates(tmp_path, rate):
    write_video(tmp_path / "a.mp4", np.concatenate([scene(1, 50), scene(2, 50)]), rate)
    assert scene_cuts(tmp_path / "a.mp4") == pytest.approx([50 / rate], abs=0.01)


def test_repeated_frames_are_no_cuts(tmp_path):
    """12 frames a second shown at 60: most changes are nil."""
    clip = np.repeat(np.concatenate([pan(24, 2), scene(2, 24)]), 5, 0)
    write_video(tmp_path / "a.mp4", clip, 60)
    assert scene_cuts(tmp_path / "a.mp4") == pytest.approx([2.0], abs=0.01)


@pytest.mark.parametrize("step", [1, 4, 9])
def test_steady_motion_is_no_cut(tmp_path, step):
    write_video(tmp_path / "a.mp4", pan(60, step), 20)
    assert scene_cuts(tmp_path / "a.mp4") == []


def test_motion_that_sets_in_is_no_cut(tmp_path):
    still, moves = np.repeat(pan(1, 1), 30, 0), pan(40, 9)
    write_video(tmp_path / "a.mp4", np.concatenate([still, moves]), 20)
    assert scene_cuts(tmp_path / "a.mp4") == []


def test_fades_are_no_cuts(tmp_path):
    weight = np.linspace(0, 1, 40)[:, None, None, None]
    one, other = scene(1), scene(2)
    clip = np.concatenate([one, ((1 - weight) * one[-1] + weight * other[0]).astype(np.uint8), other])
    write_video(tmp_path / "a.mp4", clip, 20)
    assert scene_cuts(tmp_path / "a.mp4") == []


@pytest.mark.parametrize("length", [1, 2, 4])
def test_flashes_are_no_cuts(tmp_path, length):
    clip = scene(1, 60)
    clip[30 : 30 + length] = 250
    write_video(tmp_path / "a.mp4", clip, 20)
    assert scene_cuts(tmp_path / "a.mp4") == []


def test_scenes_have_a_least_length(tmp_path):
    clip = np.concatenate([scene(1, 30), scene(2, 10), scene(3, 30)])
    write_video(tmp_path / "a.mp4", clip, 20)
    assert scene_cuts(tmp_path / "a.mp4", min_scene_s=0.4) == pytest.approx([1.5, 2.0], abs=0.01)
    assert scene_cuts(tmp_path / "a.mp4", min_scene_s=0.6) == pytest.approx([1.5], abs=0.01)


def test_variable_frame_rate_gives_true_seconds(tmp_path):
    times = [*range(0, 1000, 50), *range(1000, 5000, 200)]
    path = encode(tmp_path / "a.mkv", np.concatenate([scene(1, 30), scene(2, 10)]), times=times)
    assert scene_cuts(path) == pytest.approx([3.0], abs=0.01)


@pytest.mark.parametrize("length", [0.5, 1.7, 4.0, 100.0])
@pytest.mark.parametrize("cuts", [[], [3.0], [0.1, 3.0, 7.77], [9.0, 2.0, 2.0, 40.0, 0.0]])
def test_split(length, cuts):
    clips = split(10.0, length_s=length, cuts=cuts)
    edges = [0.0, *sorted({cut for cut in cuts if 0 < cut < 10}), 10.0]
    assert clips[0][0] == 0
    assert clips[-1][1] == 10
    assert all(one[1] == other[0] for one, other in pairwise(clips))
    starts = {start for start, _ in clips}
    assert starts >= set(edges[:-1])
    for start, end in clips:
        scene = next(b - a for a, b in pairwise(edges) if a <= start < b)
        assert end - start <= 1.5 * length + 1e-9
        assert end - start >= min(scene, length / 2) - 1e-9


def test_split_takes_the_facts_of_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", scene(1, 60), 20)
    assert split(probe(tmp_path / "a.mp4"), length_s=1.0) == [(0, 1), (1, 2), (2, pytest.approx(3))]


@pytest.mark.parametrize(("duration", "length"), [(0, 1), (5, 0), (5, -1), (float("nan"), 1)])
def test_split_refusals(duration, length):
    with pytest.raises(MotionRAGError, match="must be positive"):
        split(duration, length_s=length)
