"""Clips to measure with: all predictable families of a group; true ones pass every measure, stills fail."""

import numpy as np
import pytest

from motionrag.evaluation.held_out import held_out
from motionrag.evaluation.metrics import Targets, load_metrics
from motionrag.synth import families


def measured(group, count, video=None):
    clips = held_out(group, count, 40)
    targets = Targets(true=clips.clips.video, first=clips.clips.video[:, 0], scenes=clips.clips)
    made = clips.clips.video if video is None else video(clips.clips.video)
    metrics = load_metrics(["path-error", "likeness", "family-accuracy"])
    return clips, [metric.measure(made, targets)[:, 0] for metric in metrics]


def test_they_are_of_all_predictable_families_of_a_group():
    clips = held_out("unseen", 16, 40)
    unseen = [name for name, family in families().items() if not family.known]
    assert clips.clips.family == unseen * (16 // len(unseen))
    assert (clips.images == clips.clips.video[:, 0].numpy()).all()
    assert all(prompt in said for prompt, said in zip(clips.prompts, clips.clips.captions, strict=True))


def test_true_clips_pass_and_stills_fail():
    _, (path, likeness, right) = measured("unseen", 16)
    assert path.max() < 0.1
    assert likeness == pytest.approx(1.0)
    assert right.mean() > 0.9
    _, (path, _, right) = measured("unseen", 16, lambda video: video[:, :1].expand_as(video))
    assert path.min() > 0.2
    assert right.mean() < 0.3


def test_families_without_a_path_have_no_path_error():
    clips, (path, _, _) = measured("known", 24)
    standing = [not families()[name].moves for name in clips.clips.family]
    assert np.isnan(path).tolist() == standing
