"""The judge: the same answers after a round trip over disk, small, and trained by a recipe like every other part."""

import json

import pytest
import torch

from motionrag.errors import MotionRAGError
from motionrag.evaluation.families import ClassifierConfig, FamilyClassifier, prepared
from motionrag.synth import families, render
from motionrag.training.families import FamiliesTask, FamilySettings, worsened
from motionrag.training.loop import train
from motionrag.training.recipe import load_recipe
from motionrag.training.settings import TrainSettings


@pytest.fixture(scope="module")
def clips():
    return render(32, range(8))


def test_a_saved_classifier_says_the_same_and_is_small(clips, tmp_path):
    names = list(families())
    classifier = FamilyClassifier(ClassifierConfig(families=names)).eval()
    classifier.save_pretrained(tmp_path)
    again = FamilyClassifier.from_pretrained(tmp_path)
    assert again.config == classifier.config
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 2**20
    video = prepared(clips.video)
    assert torch.allclose(again(video), classifier(video), atol=2e-2)
    assert again.classify(clips.video) == [names[i] for i in again(video).argmax(dim=1).tolist()]


def test_clips_of_another_size_and_length_can_be_judged(clips):
    classifier = FamilyClassifier(ClassifierConfig(families=["a", "b"])).eval()
    assert len(classifier.classify(clips.video[:, ::2, :, ::2, ::2])) == 8


def test_a_damaged_classifier_is_refused(tmp_path):
    FamilyClassifier(ClassifierConfig(families=["a", "b"])).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"families": ["b", "a"]}))
    with pytest.raises(MotionRAGError, match="do not belong together"):
        FamilyClassifier.from_pretrained(tmp_path)


def test_worsened_clips_differ_and_still_show_the_motion(clips):
    """They are what makes the judge hold on generated clips: worse, but mostly as they were, or mirrored."""
    made = worsened(clips, torch.Generator().manual_seed(0))
    assert made.shape == clips.video.shape
    assert 0 <= made.min() < made.max() <= 1
    moving = (made - made[:, :1]).abs().flatten(2).mean(dim=2)[:, -1]
    assert (moving > 0.002).all()
    assert (made - clips.video.float() / 255).abs().flatten(1).mean(dim=1).min() > 0.001


def test_the_recipe_trains_it_on_all_predictable_families_and_it_learns(tmp_path):
    cls, settings, _ = load_recipe("families")
    assert cls is FamiliesTask
    task = cls(settings)
    assert task.names == [name for name, family in families().items() if family.predictable]
    fixed = task.batch(16, torch.Generator().manual_seed(0))
    task.batch = lambda size, generator: fixed
    task.sample = lambda folder, step: None
    loop = TrainSettings(steps=12, batch=16, lr=2e-3, warmup=1, log_every=1, ema=0)
    train(task, loop, tmp_path, task_settings=settings)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.3
    assert FamilyClassifier.from_pretrained(tmp_path / "final").config.families == task.names


def test_a_batch_is_views_of_the_same_clips_with_their_families():
    task = FamiliesTask(FamilySettings(views=2))
    one, again = (task.batch(6, torch.Generator().manual_seed(1)) for _ in range(2))
    assert one["video"].shape == (6, 16, 3, 32, 32)
    assert torch.equal(one["video"], again["video"])
    assert torch.equal(one["label"][:3], one["label"][3:])
