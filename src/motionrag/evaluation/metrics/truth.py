"""What only simulated clips allow: how far an object is from its true path, its looks, its kind of motion."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from motionrag import checkpoint
from motionrag.errors import MotionRAGError
from motionrag.evaluation.families import FamilyClassifier
from motionrag.evaluation.metrics.base import Direction, Rows, ScoreMetric, Seen, Targets, scores
from motionrag.evaluation.tracking import Track, centroids, path_error, track

if TYPE_CHECKING:
    from motionrag.synth import SynthBatch


class PathError(ScoreMetric):
    """Mean distance of the tracked object to its true path, in units of its true displacement.

    NaN for motions that have no predictable path.
    """

    direction: ClassVar[Direction] = "lower"
    partial: ClassVar[bool] = True

    def __init__(self) -> None:
        super().__init__("path-error", ["scenes"], {"unit": "of the true displacement", "tracker": "colours"})

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        true = _scenes(generated, targets, self.name)
        found = _tracked(generated, true)
        pathless = torch.tensor([not (s.family.moves and s.family.predictable) for s in true.scenes])
        return scores(path_error(found.centers, centroids(true.mask)).masked_fill(pathless, torch.nan))


class Likeness(ScoreMetric):
    """How much the object looks as in its first frame, mean over frames, over the same of the true clip."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self) -> None:
        super().__init__("likeness", ["scenes"], {"unit": "of the true clip's", "tracker": "colours"})

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        true = _scenes(generated, targets, self.name)
        own, whole = (
            _tracked(clips, true).similarity.double().mean(dim=1) for clips in (generated, targets.rendered)
        )
        return scores(own / whole.clamp(min=1e-6))


class FamilyAccuracy(ScoreMetric):
    """Share of clips whose motion family the embedded judge finds; it shares no weights with the encoders."""

    direction: ClassVar[Direction] = "higher"

    def __init__(self, classifier: FamilyClassifier | None = None) -> None:
        self._classifier = classifier or FamilyClassifier.from_pretrained()
        settings = {
            "judge": "embedded" if classifier is None else "own",
            "families": len(self._classifier.config.families),
            "fingerprint": checkpoint.fingerprint(self._classifier.state_dict())[:16],
        }
        super().__init__("family-accuracy", ["scenes"], settings)

    def _measure(self, generated: Seen, targets: Targets) -> Rows:
        assert targets.scenes is not None
        said = self._classifier.classify(generated.video)
        right = [a == b for a, b in zip(said, targets.scenes.family, strict=True)]
        return scores(torch.tensor(right, dtype=torch.float64))


def _tracked(clips: Seen, true: SynthBatch) -> Track:
    """Where the object of the scenes is in clips."""
    return clips.take((track, true), lambda video: track(video, true.background, true.mask[:, 0]))


def _scenes(generated: Seen, targets: Targets, name: str) -> SynthBatch:
    """The scenes of clips that are as they were rendered."""
    true = targets.scenes
    assert true is not None
    if generated.video.shape != true.video.shape:
        raise MotionRAGError(
            f"{name}: clips are {list(generated.video.shape)}, the scenes were rendered as "
            f"{list(true.video.shape)}; render them in the clips' size"
        )
    return true
