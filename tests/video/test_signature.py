"""Copies are near-duplicates, other clips are not, and bands lead to the copies."""

import json
from pathlib import Path

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.video import DUPLICATE_COSINE, probe, read_clip, scene_cuts, signature, write_video
from motionrag.video.signature import BAND_BITS, BANDS, bands
from tests.video.make import encode, moving

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared/data beside the repository")


def of(path):
    return signature(read_clip(path).frames)


def same(one, other):
    return float(one[0] @ other[0]) >= DUPLICATE_COSINE and bool(set(one[1]) & set(other[1]))


def test_form():
    vector, words = signature(moving(16))
    assert (vector.shape, vector.dtype) == ((512,), np.float32)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    assert [word >> BAND_BITS for word in words] == list(range(BANDS))
    assert all(type(word) is int for word in words)


def test_bands_never_change():
    """A database keeps them: other random directions would hide every copy in it."""
    vector = np.linspace(-1, 1, 512, dtype=np.float32)
    assert bands(vector) == KNOWN


KNOWN = [45610, 72796, 180453, 207297, 319441, 352015, 448295, 493474]


def test_any_size_and_length_will_do():
    for shape in [(1, 8, 8), (3, 7, 5), (40, 33, 100)]:
        assert np.isfinite(signature(moving(*shape))[0]).all()
    assert not signature(np.full((4, 3, 16, 16), 90, np.uint8))[0].any()


def test_copies_of_a_clip_are_duplicates(tmp_path):
    clip = moving(64, 96, 128)
    write_video(tmp_path / "whole.mp4", clip, 20)
    whole = of(tmp_path / "whole.mp4")
    copies = {
        "low.mkv": (clip, {"options": {"crf": "36"}}),
        "half.mp4": (clip[:, :, ::2, ::2], {}),
        "slow.mp4": (clip[::2], {"fps": 10}),
        "bright.mp4": (np.clip(clip.astype(int) + 10, 0, 255).astype(np.uint8), {}),
        "cropped.mp4": (clip[:, :, 1:-1, 2:-2], {}),
        "shifted.mp4": (clip[1:], {}),
        "other.avi": (clip, {"codec": "mpeg4"}),
    }
    for name, (frames, settings) in copies.items():
        assert same(whole, of(encode(tmp_path / name, frames, **settings))), name


def test_other_motion_before_the_same_ground_is_none():
    one, other = moving(16, seed=3), moving(16, seed=3)[::-1]
    assert not same(signature(one), signature(np.ascontiguousarray(other)))


def test_static_clips_compare_by_appearance():
    rng = np.random.default_rng(0)
    still = np.repeat(moving(1, 64, 64), 16, 0).astype(int)
    noisy = [np.clip(still + rng.integers(-6, 7, still.shape), 0, 255).astype(np.uint8) for _ in range(2)]
    assert same(signature(noisy[0]), signature(noisy[1]))
    other = np.repeat(moving(1, 64, 64, seed=5), 16, 0)
    assert not same(signature(noisy[0]), signature(other))


def test_refusals():
    with pytest.raises(MotionRAGError, match="frames must be u8"):
        signature(np.zeros((4, 8, 8, 3), np.uint8))


@needs_data
def test_takes_of_one_scene_are_no_duplicates_of_each_other():
    """The most alike of all pairs of 895 real clips: the words no and yes, and twice the same task."""
    for one, other in [
        ("asl/videos/no.mkv", "asl/videos/yes.mkv"),
        ("droid/videos/droid_0546.mp4", "droid/videos/droid_0910.mp4"),
        ("droid/videos/droid_0207.mp4", "droid/videos/droid_0554.mp4"),
    ]:
        assert float(of(DATA / one)[0] @ of(DATA / other)[0]) < DUPLICATE_COSINE


@needs_data
@pytest.mark.parametrize("folder", ["droid", "asl"])
def test_real_clips_read_and_have_no_cuts(folder):
    lines = (DATA / folder / "captions.jsonl").read_text().splitlines()[:3]
    for line in lines:
        path = DATA / folder / json.loads(line)["video"]
        info = probe(path)
        clip = read_clip(path)
        assert clip.frames.shape == (16, 3, info.height, info.width)
        assert clip.end_s == pytest.approx(info.duration_s, abs=0.05)
        assert scene_cuts(path) == []
