"""Preparation resizes bit for bit as transformers' image processors do, and crops as torchvision does."""

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.video import Preparation, pick

transformers = pytest.importorskip("transformers")


def processor(name, **settings):
    module = {"VideoMAE": "videomae", "Bit": "bit"}[name]
    path = f"transformers.models.{module}.image_processing_pil_{module}"
    try:
        made = getattr(__import__(path, fromlist=["x"]), f"{name}ImageProcessorPil")
    except ModuleNotFoundError:  # transformers 4: one class
        made = getattr(transformers, f"{name}ImageProcessor")
    return made(do_rescale=False, do_normalize=False, **settings)


def prepared(name, clip, edge, crop):
    """Resized by transformers; cropped by torchvision's rule, and by transformers where it pads."""
    resize = processor(name, size={"shortest_edge": edge}, do_center_crop=False)
    wanted = resize(list(clip), return_tensors="np", input_data_format="channels_first")["pixel_values"]
    wanted = wanted.reshape(-1, *wanted.shape[-3:])
    for axis, size in zip((2, 3), crop, strict=True):
        if (spare := wanted.shape[axis] - size) > 0:
            wanted = wanted.take(range(round(spare / 2), round(spare / 2) + size), axis=axis)
    pad = processor(name, crop_size={"height": crop[0], "width": crop[1]}, do_resize=False, do_center_crop=True)
    done = pad(list(wanted), return_tensors="np", input_data_format="channels_first")["pixel_values"]
    return done.reshape(-1, *done.shape[-3:])


def frames(height, width, count=5):
    return np.random.default_rng(height * width).integers(0, 256, (count, 3, height, width), np.uint8)


SIZES = [(180, 320), (320, 180), (224, 224), (100, 101), (257, 333), (33, 400), (7, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("crop", [(224, 224), (224, 225), (112, 160)])
def test_videomae(height, width, crop):
    clip = frames(height, width)
    ours = Preparation(frames=5, shortest_edge=224, crop=crop, resample="bilinear")(clip)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, prepared("VideoMAE", clip, 224, crop))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_dinov2(height, width):
    clip = frames(height, width)
    ours = Preparation(frames=5, shortest_edge=256, crop=(224, 224), resample="bicubic")(clip)
    assert np.array_equal(ours, prepared("Bit", clip, 256, (224, 224)))


@pytest.mark.parametrize("edge", [64, 97, 128])
def test_crops_larger_than_the_picture_are_padded_alike(edge):
    clip = frames(90, 131)
    ours = Preparation(frames=5, shortest_edge=edge, crop=(150, 121), resample="bicubic")(clip)
    assert np.array_equal(ours, prepared("Bit", clip, edge, (150, 121)))


@pytest.mark.parametrize(("width", "first"), [(10, 1), (11, 2), (12, 2), (13, 2), (15, 4)])
def test_half_a_pixel_is_rounded_to_the_even_one(width, first):
    clip = np.broadcast_to(np.arange(width, dtype=np.uint8), (1, 3, 8, width))
    ours = Preparation(frames=1, shortest_edge=8, crop=(8, 8))(clip)
    assert ours[0, 0, 0].tolist() == list(range(first, first + 8))


def test_which_frames():
    clip = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 8, 8), np.uint8)
    settings = {"shortest_edge": 8, "crop": (8, 8)}
    assert Preparation(frames=5, **settings)(clip)[:, 0, 0, 0].tolist() == pick(16, 5).tolist()
    assert Preparation(frames=32, **settings)(clip)[:, 0, 0, 0].tolist() == pick(16, 32).tolist()
    assert Preparation(frames=3, which="first", **settings)(clip)[:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(MotionRAGError, match="the first 17 frames are wanted, but the clip has 16"):
        Preparation(frames=17, which="first", **settings)(clip)


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"shortest_edge": 0}, {"crop": (0, 8)}, {"resample": "nearest"}, {"which": "last"}]
)
def test_impossible_settings(wrong):
    with pytest.raises(MotionRAGError, match=f"Preparation: .*{next(iter(wrong))}="):
        Preparation(**{"frames": 1, "shortest_edge": 8, "crop": (8, 8)} | wrong)


def test_other_shapes_are_refused():
    with pytest.raises(MotionRAGError, match=r"frames must be u8 \[T, 3, H, W\], got uint8 \[2, 8, 8, 3\]"):
        Preparation(frames=1, shortest_edge=8, crop=(8, 8))(np.zeros((2, 8, 8, 3), np.uint8))
