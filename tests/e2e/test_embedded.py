"""What comes with the package: one command, with no more than image and prompt, to a clip that moves."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import motionrag
from motionrag import MotionRAG
from motionrag.cli import main
from motionrag.evaluation.held_out import held_out
from motionrag.evaluation.metrics import Targets, load_metrics
from motionrag.evaluation.suite import System, load_suite
from motionrag.pipeline.picture import fitted, pixels
from motionrag.pipeline.systems import Systems
from motionrag.registry import embedded
from motionrag.video import read_clip

PARTS = ("base", "motion", "appearance", "bundle", "captions", "families", "database", "excerpt")
PROMPT = "it leaps to the right in one steep arc"


@pytest.fixture(scope="module")
def rag():
    return MotionRAG.from_pretrained()


def psnr(a, b):
    return -10 * math.log10(np.square((a.astype(float) - b) / 255).mean() + 1e-12)


def test_the_weights_are_small():
    """60 MB at most, all parts together."""
    assert all(embedded(part).is_dir() for part in PARTS)
    weights = list(embedded("base").parent.rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in weights) <= 60e6


def test_one_command_makes_clip_and_comparison(tmp_path, capsys):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((300, 200)).save(tmp_path / "a.jpg")
    command = ["generate", "--image", str(tmp_path / "a.jpg"), "--prompt", PROMPT, "--steps=4", "--compare"]
    assert main([*command, "--out", str(tmp_path / "a.mp4")]) == 0
    settings = json.loads((tmp_path / "a.json").read_text())
    assert [settings[part] for part in ("base", "bundle", "database")] == ["tiny"] * 3
    assert len(settings["references"]) == 9
    assert len(read_clip(tmp_path / "a.mp4", frames=16).frames) == 16
    assert (tmp_path / "a.compare.png").is_file()


def test_a_picture_of_anything_keeps_its_first_frame(rag):
    """A photo, a gradient and a flat grey: no crash, and the first frame is the picture."""
    photo = read_clip(next(iter(sorted((embedded("excerpt") / "clips").glob("*.mp4")))), frames=1).frames[0]
    ramp = np.broadcast_to(np.linspace(0, 255, 96).astype(np.uint8), (3, 64, 96))
    grey = np.full((3, 40, 90), 128, dtype=np.uint8)
    images = [np.ascontiguousarray(image) for image in (photo, ramp, grey)]
    looks, found = rag.encode_images(images), rag.retrieve(PROMPT)
    motion = torch.cat([rag.adapt(found, look[None]) for look in looks])
    made = rag.generate(images, [PROMPT] * 3, motion, seeds=[0, 1, 2])
    size = rag.sampling
    for image, clip in zip(images, made, strict=True):
        wanted = pixels(fitted(Image.fromarray(np.moveaxis(image, 0, -1)), size.height, size.width))
        assert psnr(clip[0], wanted) > 22


def test_a_clip_is_not_taken_for_that_of_an_adapter_of_more_steps(rag, monkeypatch):
    systems = Systems(rag, {}, load_suite("unseen").smaller(1))
    motion = torch.zeros(1, 16, 192)
    key = systems.key(System(), 0, motion, "asked")
    assert rag.bundle.adapter.config.until == 0.5
    assert key == Systems(rag, {}, systems.suite).key(System(), 0, motion, "asked")
    monkeypatch.setattr(rag.bundle.adapter, "config", replace(rag.bundle.adapter.config, until=1.0))
    assert key != Systems(rag, {}, systems.suite).key(System(), 0, motion, "asked")


def test_it_moves_as_its_own_motion_says(rag):
    """A few unseen clips under their own motion tokens, against the bare base: nearer to the true path."""
    clips = held_out("unseen", 8, 90_000)
    motion = rag.encode_motion(list(clips.clips.video.numpy()))
    made = {
        name: torch.from_numpy(rag.generate(list(clips.images), clips.prompts, tokens, seeds=range(8)))
        for name, tokens in (("bare", None), ("oracle", motion))
    }
    targets = Targets(scenes=clips.clips)
    measures = load_metrics(["path-error", "family-accuracy", "likeness"])
    bare, own = ([one.reduce(one.measure(video, targets)) for one in measures] for video in made.values())
    assert own[0] < 0.6 * bare[0]
    assert own[1] > bare[1]
    assert own[2] > 0.9


def test_databases_name_no_folder_of_the_machine_they_were_made_on():
    for part in ("database", "excerpt"):
        database = motionrag.MotionDatabase.open(embedded(part))
        videos = [row["video"] for row in database.rows(["video"])]
        assert videos
        assert all(not Path(video).is_absolute() for video in videos)
        assert all((embedded(part) / video).is_file() for video in videos)


def test_its_databases_clips_are_found_from_another_database(tmp_path):
    """What is taken over names its videos where they are."""
    assert main(["ingest", str(embedded("excerpt")), "--db", str(tmp_path / "db")]) == 0
    videos = [row["video"] for row in motionrag.MotionDatabase.open(tmp_path / "db").rows(["video"])]
    assert len(videos) == 120
    assert all(Path(video).is_file() for video in videos)
