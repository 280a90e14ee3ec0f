"""What comes before the modules: the published window, frame, encoders' crops and video without motion.

Another folder of the same layout is read with MOTIONRAG_GOLDEN=FOLDER, its videos under MOTIONRAG_GOLDEN_VIDEOS.
"""

import json
import os
from pathlib import Path

import av
import pytest
import torch
from safetensors import safe_open

from motionrag.encoders import load_appearance_encoder, load_motion_encoder
from motionrag.types import View
from motionrag.video import read_view
from motionrag.video.prepare import framed
from tests.parity.conftest import ERRORS
from tests.parity.test_golden import GOLDEN

ROOT = Path(__file__).parents[2]
VIDEOS = Path(os.environ.get("MOTIONRAG_GOLDEN_VIDEOS", ROOT.parent / "shared" / "data" / "droid"))
FOLDERS = {"front_path": VIDEOS, "front_path_asl": VIDEOS.parent / "asl"}
ENCODERS = (("motion", load_motion_encoder, "videomae"), ("appearance", load_appearance_encoder, "dinov2"))
FEATURES = 0.05  # relative norm of the difference; the recorder's own second decoder and resizer come to 0.04
SMALL = 0.003  # mean absolute difference of area means, in [0, 1]


def recorded(name):
    path = GOLDEN / name / "front_path.safetensors"
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["config"])["clips"], {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping


def first_frame_s(path):
    """The recorder's seconds are of the file's clock, ours begin with the first frame."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).time


def off(name, actual, expected):
    ERRORS[name] = error = ((actual - expected).norm() / expected.norm()).item()
    return error


CASES = [(name, i) for name in FOLDERS if (GOLDEN / name).is_dir() for i in range(len(recorded(name)[0]))]


@pytest.mark.parametrize(("name", "i"), CASES)
def test_features_of_a_window_and_a_frame(name, i):
    clips, tensors = recorded(name)
    spec, video = clips[i], FOLDERS[name] / clips[i]["video"]
    if not video.is_file():
        pytest.skip(f"{video} is not there")
    fps = spec["frames"] / (spec["end_s"] - spec["start_s"])
    view = View(frames=spec["frames"], fps=fps, height=spec["frame"][0], width=spec["frame"][1])
    clip = read_view(video, view, frames=16, start_s=max(0.0, spec["start_s"] - first_frame_s(video)))
    frame = tuple(spec["frame"])
    pictures = torch.stack(
        [torch.from_numpy(framed(image, frame).copy()) for image in clip.frames.transpose(0, 2, 3, 1)]
    )
    small = torch.nn.functional.interpolate(pictures.permute(0, 3, 1, 2) / 255, size=(12, 16), mode="area")
    expected = tensors[f"{i}.frames_small"]
    ERRORS[f"{name} {i} small"] = error = (small - expected).abs().mean().item()
    assert error <= SMALL
    for kind, load, folder in (
        ("motion", load_motion_encoder, "videomae"),
        ("appearance", load_appearance_encoder, "dinov2"),
    ):
        encoder = load(str(GOLDEN / name / folder), view=view)
        features = encoder.encode(encoder.preparation(clip.frames)[None])[0]
        assert off(f"{name} {i} {kind}", features, tensors[f"{i}.{kind}_features"]) <= FEATURES


@pytest.mark.parametrize("name", [name for name in FOLDERS if (GOLDEN / name).is_dir()])
def test_the_video_without_motion(name):
    _, tensors = recorded(name)
    features = load_motion_encoder(str(GOLDEN / name / "videomae")).no_motion()[0]
    expected = tensors["null.motion_features"]
    ERRORS[f"{name} no motion"] = error = (features - expected).abs().max().item()
    assert error <= 1e-4
