"""Feature networks of the metrics, by kind and source: the published ones, one's own, or the bundled stand-ins.

A figure never passes for what it is not: only the published network gives a metric its plain name. Features of the
bundled networks are `tiny-...`, those of any other source carry its name, such as `fvd(i3d_torchscript.pt)`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.registry import EMBEDDED

if TYPE_CHECKING:
    from motionrag.evaluation.networks import Network

Kind = Literal["action", "dino", "clip", "fvd", "fid", "text-video"]
KINDS: tuple[Kind, ...] = get_args(Kind)
PUBLISHED: dict[Kind, str] = {
    "action": "MCG-NJU/videomae-base-finetuned-ssv2",
    "dino": "facebook/dinov2-large",
    "clip": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "fvd": "flateon/FVD-I3D-torchscript",
    "text-video": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
}
"""Hub ids of what the paper's figures are made with; FID's Inception is a TorchScript file, on no hub."""
TINY = f"{EMBEDDED}-"
"""What names of bundled stand-ins begin with."""
BY_FRAME: frozenset[Kind] = frozenset({"dino", "clip", "fid"})
"""Features of each frame rather than of the clip."""
CONDITIONING: frozenset[Kind] = frozenset({"action", "dino"})
"""The published networks that also condition generation, so that they do not judge it from outside."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A network that says what clips are like."""

    name: str
    """Kind, marked where the network is not the published one."""
    kind: Kind
    """What it is for."""
    settings: Mapping[str, Any]
    """Source, revision, fingerprint, and whether it is independent of what conditions generation (None: unknown)."""
    reads: Literal["prompts", "families"] | None
    """What it takes beside the clips: the prompts, or the true motion families."""
    network: Network
    """What it computes."""
    batch_size: int
    """Clips a pass."""

    def __call__(self, video: Tensor, words: Sequence[str] | None = None) -> Tensor:
        """Clips to features.

        Args:
            video: RGB u8 [B,T,3,H,W] in [0, 255].
            words: What it `reads`, one a clip.

        Returns:
            f32 on the CPU: [B,D], [B,T,D] for kinds `BY_FRAME`, or [B] for "text-video".

        Raises:
            MotionRAGError: If clips are of another shape or type, or words are missing.
        """
        if video.ndim != 5 or video.shape[2] != 3 or video.dtype != torch.uint8 or not video.numel():
            raise MotionRAGError(f"clips are {video.dtype} {list(video.shape)}, {self.name} takes uint8 [B,T,3,H,W]")
        if self.reads and (words is None or len(words) != len(video)):
            raise MotionRAGError(f"{self.name} takes {self.reads}, one for each of {len(video)} clips")
        starts = range(0, len(video), self.batch_size)
        with torch.inference_mode():
            parts = [self._pass(video, words, slice(start, start + self.batch_size)) for start in starts]
        return torch.cat(parts)

    def _pass(self, video: Tensor, words: Sequence[str] | None, part: slice) -> Tensor:
        out = self.network(video[part], words[part]) if self.reads and words else self.network(video[part])
        return out.float().cpu()


def load_features(
    kind: str, source: str | None = None, *, revision: str | None = None, device: str = "cpu", batch_size: int = 8
) -> Features:
    """Load a feature network.

    Args:
        kind: One of `KINDS`.
        source: Hub id, local folder or TorchScript file; "tiny" for the bundled stand-in; None as published.
        revision: Branch, tag or commit on the hub.
        device: Where it runs.
        batch_size: Clips a pass.

    Raises:
        MotionRAGError: If there is no such kind, or its network is not there, damaged or of another type.
    """
    from motionrag.encoders.source import checked_device

    if kind not in KINDS:
        raise MotionRAGError(f"no features of kind {kind!r}{did_you_mean(kind, KINDS)}")
    of: Kind = kind
    if batch_size < 1:
        raise MotionRAGError(f"batch_size={batch_size} must be at least 1")
    checked_device(device)
    loaded = _tiny(of, device) if source == EMBEDDED else _given(of, source, revision, device)
    reads: Literal["prompts", "families"] | None = None
    if of == "text-video":
        reads = "families" if source == EMBEDDED else "prompts"
    return Features(**loaded, kind=of, reads=reads, batch_size=batch_size)


def _tiny(kind: Kind, device: str) -> dict[str, Any]:
    """The bundled stand-in: the judge of motion families, or for frames the embedded appearance encoder."""
    from motionrag.evaluation import networks

    loaders: dict[Kind, tuple[Callable[[str], tuple[Network, str]], str]] = {
        "action": (networks.judge_features, "family judge, before its last layer"),
        "fvd": (networks.judge_features, "family judge, before its last layer"),
        "dino": (networks.tiny_frames, "embedded appearance encoder, class token"),
        "fid": (networks.tiny_frames, "embedded appearance encoder, class token"),
        "text-video": (networks.judge_probability, "family judge, probability of the true family"),
    }
    if kind not in loaders:
        raise MotionRAGError(
            f"no bundled network stands in for {kind}: name a hub id or folder, or leave the metric out"
        )
    load, what = loaders[kind]
    network, mark = load(device)
    settings = {
        "source": EMBEDDED,
        "revision": None,
        "network": what,
        "fingerprint": mark[:16],
        "independent": load is not networks.tiny_frames,
    }
    return {"name": f"{TINY}{kind}", "network": network, "settings": settings}


def _given(kind: Kind, source: str | None, revision: str | None, device: str) -> dict[str, Any]:
    """The published network, or one's own."""
    from motionrag.evaluation import networks

    model = source if source is not None else PUBLISHED.get(kind)
    if model is None:
        raise MotionRAGError(
            f"{kind} has no network on the hub: name a TorchScript file, such as inception-2015-12-05.pt"
        )
    loaders = {
        "action": networks.videomae_logits,
        "dino": networks.dinov2_frames,
        "clip": networks.clip_frames,
        "text-video": networks.clip_alignment,
    }
    script = kind not in loaders or Path(model).expanduser().is_file()
    if script and kind == "text-video":
        raise MotionRAGError(f"{model}: text-video takes a CLIP model by hub id or folder, not a TorchScript file")
    if script:
        path, at = _script(kind, model, revision)
        network, mark = networks.torchscript(path, device, frames=kind in BY_FRAME)
        what = f"TorchScript {path.name}"
    else:
        network, found, mark = loaders[kind](model, revision, device)
        model, at, what = found.model, found.revision, loaders[kind].__name__
    published = at is not None and model == PUBLISHED.get(kind)
    settings = {
        "source": model if at is not None else Path(model).name,
        "revision": at,
        "network": what,
        "fingerprint": mark[:16],
        "independent": kind not in CONDITIONING if published else None,
    }
    name = kind if published else f"{kind}({Path(model).name})"
    return {"name": name, "network": network, "settings": settings}


def _script(kind: Kind, model: str, revision: str | None) -> tuple[Path, str | None]:
    """The TorchScript file of a source, and the commit if it is from the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from motionrag.encoders.source import one_line, quiet

    path = Path(model).expanduser()
    if path.is_file():
        return path, None
    at = None
    if not path.is_dir():
        try:
            with quiet():
                path = Path(snapshot_download(model, revision=revision, allow_patterns="*.pt"))
        except (HFValidationError, HfHubHTTPError, OSError) as error:
            raise MotionRAGError(
                f"no {kind} network at {model!r}: it is neither a TorchScript file, a folder with one, nor a hub id "
                f"that is cached or can be reached ({one_line(error)}); fetch it while online with "
                f'`hf download {model}`, or take the bundled stand-in, source "{EMBEDDED}"'
            ) from error
        at = path.name
    files = sorted(path.glob("*.pt"))
    if len(files) != 1:
        raise MotionRAGError(f"{model}: holds {len(files)} TorchScript files (*.pt), wanted is one; name the file")
    return files[0], at
