"""The metrics, by name: each one class, measured batch by batch, its figure had of all clips or of some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.evaluation.features import KINDS, TINY, Features, Kind, load_features
from motionrag.evaluation.metrics.base import Direction, Metric, MetricResult, ScoreMetric, Seen, SetMetric, Targets
from motionrag.evaluation.metrics.frechet import FID, FVD, frechet_distance
from motionrag.evaluation.metrics.motion import DynamicDegree, MotionKL, TemporalFlicker
from motionrag.evaluation.metrics.picture import FirstFramePSNR, FirstFrameSimilarity, FirstFrameSSIM
from motionrag.evaluation.metrics.similarity import ActionScore, FrameSimilarity, TextVideoAlignment
from motionrag.evaluation.metrics.truth import FamilyAccuracy, Likeness, PathError
from motionrag.registry import EMBEDDED

__all__ = [
    "FEATURED",
    "FID",
    "FVD",
    "PLAIN",
    "ActionScore",
    "Direction",
    "DynamicDegree",
    "FamilyAccuracy",
    "FirstFramePSNR",
    "FirstFrameSSIM",
    "FirstFrameSimilarity",
    "FrameSimilarity",
    "Likeness",
    "Metric",
    "MetricResult",
    "MotionKL",
    "PathError",
    "ScoreMetric",
    "Seen",
    "SetMetric",
    "Targets",
    "TemporalFlicker",
    "TextVideoAlignment",
    "frechet_distance",
    "load_metrics",
]

FEATURED: dict[str, tuple[Kind, Callable[[Features], Metric]]] = {
    "action": ("action", ActionScore),
    "dino": ("dino", FrameSimilarity),
    "clip": ("clip", FrameSimilarity),
    "fvd": ("fvd", FVD),
    "fid": ("fid", FID),
    "text-video": ("text-video", TextVideoAlignment),
    "first-frame-dino": ("dino", FirstFrameSimilarity),
}
"""What is asked for -> the kind of its features, and its class; with "tiny-" before it, on bundled networks."""
PLAIN: dict[str, Callable[[], Metric]] = {
    "motion-kl": MotionKL,
    "dynamic-degree": DynamicDegree,
    "flicker": TemporalFlicker,
    "first-frame": FirstFramePSNR,
    "first-frame-ssim": FirstFrameSSIM,
    "path-error": PathError,
    "likeness": Likeness,
    "family-accuracy": FamilyAccuracy,
}
"""Those without a network to choose."""


def load_metrics(
    names: Iterable[str],
    sources: Mapping[str, str] | None = None,
    *,
    device: str = "cpu",
    batch_size: int = 8,
) -> list[Metric]:
    """Make metrics; a network that several of them use is loaded once.

    Args:
        names: Of `FEATURED`, with or without "tiny-", and of `PLAIN`.
        sources: Kind of features -> hub id, folder, TorchScript file or "tiny"; others are the published ones.
        device: Where networks run.
        batch_size: Clips a pass.

    Returns:
        In the order of the names. A metric's own name differs from the one asked for where `sources` say so.

    Raises:
        MotionRAGError: If there is no such metric, or a network is missing.
    """
    sources = sources or {}
    for kind in sources:
        if kind not in KINDS:
            raise MotionRAGError(f"sources: no features of kind {kind!r}{did_you_mean(kind, KINDS)}")
    known = [*FEATURED, *(TINY + name for name in FEATURED), *PLAIN]
    loaded: dict[tuple[str, str | None], Features] = {}
    made: list[Metric] = []
    for name in names:
        if name not in known:
            raise MotionRAGError(f"no metric named {name!r}{did_you_mean(name, known)}")
        if name in PLAIN:
            made.append(PLAIN[name]())
            continue
        kind, cls = FEATURED[name.removeprefix(TINY)]
        source = EMBEDDED if name.startswith(TINY) else sources.get(kind)
        if (kind, source) not in loaded:
            loaded[kind, source] = load_features(kind, source, device=device, batch_size=batch_size)
        made.append(cls(loaded[kind, source]))
    return made
