"""The tasks that make the embedded default's VAE and encoders: they learn, and what they export loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from motionrag.bases.tiny import load_vae
from motionrag.bases.warp_vae import warp
from motionrag.encoders import load_appearance_encoder, load_motion_encoder
from motionrag.errors import MotionRAGError
from motionrag.models.resampler import ResamplerConfig
from motionrag.synth import render
from motionrag.training.appearance import AppearanceSettings, AppearanceTask
from motionrag.training.loop import train
from motionrag.training.motion import MotionSettings, MotionTask, difference, in_tokens, places, truth
from motionrag.training.parts import load_resampler
from motionrag.training.settings import TrainSettings
from motionrag.training.vae import VAESettings, VAETask, real_clips, reconstruction_loss
from motionrag.training.vae import truth as flow_truth
from motionrag.video import write_video

RESAMPLER = ResamplerConfig(input_dim=32, width=32, depth=1, heads=2, head_dim=16, queries=16, output_dim=32)
MOTION = MotionSettings(width=32, layers=1, heads=2, resampler=RESAMPLER)


def losses(task: Any, steps: int = 12, lr: float = 3e-3) -> tuple[float, float]:
    """Of one batch, before and after a few steps of AdamW on it."""
    batch = task.batch(8, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=lr)
    found = []
    for _ in range(steps):
        loss, metrics = task.loss(batch, torch.Generator().manual_seed(1))
        assert all(torch.as_tensor(value).isfinite() for value in metrics.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return found[0], found[-1]


@pytest.mark.parametrize(
    "task",
    [
        lambda: VAETask(VAESettings()),
        lambda: VAETask(VAESettings(others=0)),
        lambda: MotionTask(MOTION),
        lambda: AppearanceTask(AppearanceSettings(width=32, layers=1, heads=2)),
    ],
    ids=["vae", "vae of pictures", "motion", "appearance"],
)
def test_loss_falls_and_batches_follow_from_the_seed(task: Any) -> None:
    made = task()
    first, last = losses(made)
    assert last < 0.9 * first
    again, once = (made.batch(4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert again.keys() == once.keys()
    assert all(torch.equal(again[name], once[name]) for name in again)


def test_a_trained_motion_encoder_is_one_for_databases_and_for_stage_1(tmp_path: Path) -> None:
    task = MotionTask(MOTION)
    final = train(task, TrainSettings(steps=2, batch=4, save_minutes=0), tmp_path / "run")
    encoder = load_motion_encoder(str(final))
    video = render(0, range(2)).video
    with torch.no_grad():
        expected = task.model.encoder(video.float() / 127.5 - 1).last_hidden_state
    assert (encoder.encode(video.numpy()) - expected).abs().max() < 0.05  # the average's weights
    assert (encoder.info.length, encoder.info.dimension) == (128, 32)
    assert load_resampler(final / "resampler").config == RESAMPLER
    init = MotionTask(MotionSettings(**{**MOTION.__dict__, "init": str(final)}))
    reloaded = load_motion_encoder(str(final)).encode(video.numpy())
    with torch.no_grad():
        assert torch.allclose(init.model.encoder(video.float() / 127.5 - 1).last_hidden_state, reloaded, atol=1e-5)


def test_a_trained_appearance_encoder_is_one_for_databases(tmp_path: Path) -> None:
    task = AppearanceTask(AppearanceSettings(width=32, layers=1, heads=2))
    final = train(task, TrainSettings(steps=1, batch=4, save_minutes=0), tmp_path / "run")
    encoder = load_appearance_encoder(str(final))
    assert encoder.encode(render(0, range(2)).video[:, :1].numpy()).shape == (2, 65, 32)


def test_the_truth_about_motion_is_relative_and_leaves_out_what_nobody_can_tell() -> None:
    made = render(0, range(64), ["slide", "free"])
    true = truth(made, 64)
    assert true["path"].shape == (64, 16, 5)
    assert true["path"][:, 0, :2].abs().max() == 0
    slid = true["path"][0, -1, :2] * 32
    assert torch.allclose(slid, torch.tensor(made.scenes[0].motion.offset[-1], dtype=torch.float32), atol=1e-4)
    two = torch.tensor([scene.other is not None for scene in made.scenes])
    assert two.any()
    assert torch.equal(true["clear"] == 0, two)
    large = truth(render(0, range(64), ["slide", "free"], size=128), 128)
    assert torch.allclose(large["path"], true["path"], atol=1e-5)


def test_cells_tell_change_in_the_encoders_token_order() -> None:
    video = torch.zeros(1, 16, 3, 64, 64)
    video[0, 5, :, 20, 37] = 1.0  # tubelet 2, second frame; patch row 1, column 2; cell 1, 1 in it
    told = in_tokens(difference(video), 16)
    assert told.shape == (1, 128, 32)
    assert told.nonzero().tolist() == [[0, 2 * 16 + 1 * 4 + 2, 16 + 1 * 4 + 1]]


def test_every_token_shall_say_where_the_object_is_from_it_and_from_its_start() -> None:
    true = truth(made := render(0, range(3), ["slide"]), 64)
    told = places(true, 16).unflatten(1, (8, 4, 4))
    token = told[1, 6, 2, 3]  # tubelet 6, row 2, column 3: frames 12 and 13, its patch's middle at x 56, y 40
    for frame, part in ((12, token[:2]), (13, token[2:4])):
        expected = (made.centers[1, frame] + 0.5 - torch.tensor([56.0, 40.0])) / 32
        assert torch.allclose(part, expected, atol=1e-5)
    assert torch.allclose(token[4:6], true["path"][1, 12, :2])


def test_the_true_flow_leads_each_pixel_of_the_object_back_to_the_first_frame() -> None:
    """Turned and grown as well: a frame's object is the first one's, seen through the flow."""
    made = render(0, range(8), ["tumble", "grow", "boomerang", "slide"], size=64)
    true = flow_truth(made)
    for frame in (7, 15):
        first = made.video[:, 0].float() / 255
        seen = warp(first, true["flow"][:, frame - 1])
        inside = (made.mask[:, frame] > 0.99)[:, None].expand(-1, 3, -1, -1)
        off = (seen - made.video[:, frame].float() / 255).abs()[inside]
        assert off.median() < 0.03  # light does not turn with the object
        still = (first - made.video[:, frame].float() / 255).abs()[inside]
        assert off.mean() < 0.3 * still.mean()


def test_a_part_of_the_vae_may_stay_as_it_is(tmp_path: Path) -> None:
    task = VAETask(VAESettings())
    task.export(tmp_path / "pictures")
    going_on = VAETask(VAESettings(init=str(tmp_path / "pictures"), freeze_pictures=True))
    before = {name: value.clone() for name, value in going_on.model.state_dict().items()}
    losses(going_on, steps=2)
    changed = {
        name.split(".")[0] for name, value in going_on.model.state_dict().items() if (value != before[name]).any()
    }
    assert changed == {"layers", "motions"}


def test_a_trained_vae_makes_standardised_latents(tmp_path: Path) -> None:
    VAETask(VAESettings()).export(tmp_path / "vae")
    video = render(1, range(24)).video.float().transpose(1, 2) / 127.5 - 1
    latents = load_vae(tmp_path / "vae").encode(video).latent_dist.mode()
    assert 0.5 < latents[:, :, 0].std() < 2
    assert 0.3 < latents[:, :, 1:].std() < 2


def test_edges_count_in_reconstruction() -> None:
    true = torch.zeros(1, 3, 8, 8)
    true[..., 4:] = 1.0
    blurred = true.clone()
    blurred[..., 3], blurred[..., 4] = 0.33, 0.66
    flat = true + 0.0825  # the same absolute error
    weight = torch.ones(1, 1, 8, 8)
    assert reconstruction_loss(blurred, true, weight) > reconstruction_loss(flat, true, weight)


def test_videos_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", render(0, range(1)).video[0].numpy(), 8.0)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.warns(UserWarning, match="1 videos cannot be read.*bad.mp4"):
        assert real_clips(str(tmp_path), 64, 4).shape == (1, 4, 3, 64, 64)


def test_a_folder_without_videos_is_named(tmp_path: Path) -> None:
    with pytest.raises(MotionRAGError, match=r"holds no video"):
        real_clips(str(tmp_path), 64, 4)
