"""The networks behind features: transformers models, TorchScript files, and the bundled ones that stand in for them.

Each function here loads one and returns what it computes: clips u8 [B,T,3,H,W] to features f32, [B,D] of a clip or
[B,T,D] of its frames; and the fingerprint of all that decides them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor, nn

from motionrag import checkpoint
from motionrag.encoders import load_appearance_encoder
from motionrag.encoders.identity import fingerprint, model_settings
from motionrag.encoders.loading import load_network
from motionrag.encoders.processor import find_settings, to_preparation
from motionrag.encoders.source import Source, one_line, quiet, read_json, resolve
from motionrag.encoders.videomae import VideoMAEEncoder
from motionrag.errors import MotionRAGError
from motionrag.evaluation.families import FamilyClassifier, prepared
from motionrag.registry import EMBEDDED
from motionrag.video import content_hash

if TYPE_CHECKING:
    from motionrag.video import Preparation

Network = Callable[..., Tensor]
"""Clips u8 [B,T,3,H,W], and for alignment a text of each, to features or scores f32."""
FRAMES_A_PASS = 32
CLIP_SETTINGS = {
    "size": 224,
    "crop_size": 224,
    "resample": 3,
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
"""What the processor of transformers takes for CLIP where its file says nothing."""


def videomae_logits(model: str, revision: str | None, device: str) -> tuple[Network, Source, str]:
    """A fine-tuned VideoMAE to its class scores [B,D]: what the published Action score compares."""
    source = _resolved(model, revision, "videomae")
    network = _pretrained(source, "VideoMAEForVideoClassification", device)
    where, given = find_settings(source.folder) or (source.model, None)
    settings = VideoMAEEncoder.published(network.config) if given is None else VideoMAEEncoder.settle(given, where)
    preparation = to_preparation(settings, frames=network.config.num_frames, which="uniform", where=where)

    def run(video: Tensor) -> Tensor:
        frames = torch.stack([_prepared(clip, preparation) for clip in video])
        scores: Tensor = network(pixel_values=_pixels(frames, preparation, device)).logits
        return scores

    return run, source, _fingerprint(network, preparation)


def dinov2_frames(model: str, revision: str | None, device: str) -> tuple[Network, Source, str]:
    """DINOv2 to the class token of each frame [B,T,D]; "tiny" is the embedded appearance encoder."""
    encoder = load_appearance_encoder(model, revision=revision, device=device)

    def run(frames: Tensor) -> Tensor:
        ready = torch.stack([_prepared(frame[None], encoder.preparation) for frame in frames])
        return encoder.encode(ready)[:, 0]

    info = encoder.info
    source = Source(model=info.model, revision=info.revision, folder=Path(), cache="")
    return _by_frame(run), source, info.fingerprint


def clip_frames(model: str, revision: str | None, device: str) -> tuple[Network, Source, str]:
    """CLIP to the projected embedding of each frame [B,T,D]."""
    images, _, source, mark = _clip(model, revision, device)
    return images, source, mark


def clip_alignment(model: str, revision: str | None, device: str) -> tuple[Network, Source, str]:
    """CLIP to 100 x the mean cosine of frames and prompt [B]; prompts are cut to the length that CLIP reads."""
    images, network, source, mark = _clip(model, revision, device)
    tokenizer = _tokenizer(source)
    length = network.config.text_config.max_position_embeddings

    def run(video: Tensor, prompts: Sequence[str]) -> Tensor:
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=length, return_tensors="pt")
        text = network.text_projection(network.text_model(**tokens.to(device)).pooler_output)
        return 100 * torch.cosine_similarity(images(video), text[:, None], dim=-1).mean(dim=1)

    return run, source, mark


def torchscript(path: Path, device: str, *, frames: bool) -> tuple[Network, str]:
    """A TorchScript file, such as the I3D of FVD or the Inception of FID.

    It takes f32 [B,3,T,H,W], of frames [N,3,H,W], in [0, 255] and gives [B,D]. The published files resize and scale
    by themselves where their flags `rescale`, `resize` and `return_features` say so, which are set if it has them.

    Raises:
        MotionRAGError: If it is no TorchScript file.
    """
    try:
        module = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise MotionRAGError(f"{path}: no TorchScript file ({one_line(error)}); fetch it again") from error
    known = {argument.name for argument in module.forward.schema.arguments}
    flags = {name: True for name in ("rescale", "resize", "return_features") if name in known}

    def run(video: Tensor) -> Tensor:
        pixels = video.to(device).float()
        try:
            out: Tensor = module(pixels if frames else rearrange(pixels, "b t c h w -> b c t h w"), **flags)
        except RuntimeError as error:
            raise MotionRAGError(
                f"{path}: does not take clips of {list(video.shape)} ({one_line(error)})"
            ) from error
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(video):
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise MotionRAGError(f"{path}: gives {got} for {len(video)} inputs, wanted are features [B,D]")
        return out

    return _by_frame(run) if frames else run, content_hash(path)


def judge_features(device: str) -> tuple[Network, str]:
    """The embedded judge of motion families up to its last layer [B,576]; it shares nothing with the encoders."""
    judge, mark = _judge(device)
    judge.time[-1] = nn.Identity()
    return lambda video: judge(prepared(video.to(device))), mark


def judge_probability(device: str) -> tuple[Network, str]:
    """The probability [B] that the embedded judge gives to each clip's family.

    Raises:
        MotionRAGError: As it runs, if the judge does not know a family.
    """
    judge, mark = _judge(device)
    known = judge.config.families

    def run(video: Tensor, names: Sequence[str]) -> Tensor:
        for name in names:
            if name not in known:
                raise MotionRAGError(f"the embedded judge does not know the motion family {name!r}")
        index = torch.tensor([known.index(name) for name in names], device=device)
        return judge(prepared(video.to(device))).softmax(dim=1).gather(1, index[:, None])[:, 0]

    return run, mark


def tiny_frames(device: str) -> tuple[Network, str]:
    """The embedded appearance encoder; it also conditions the embedded context transformer."""
    run, _, mark = dinov2_frames(EMBEDDED, None, device)
    return run, mark


def _judge(device: str) -> tuple[FamilyClassifier, str]:
    judge = FamilyClassifier.from_pretrained()
    return judge.to(device).requires_grad_(False), checkpoint.fingerprint(judge.state_dict())


def _resolved(model: str, revision: str | None, wanted: str) -> Source:
    source = resolve(model, revision)
    found = read_json(source.folder / "config.json").get("model_type")
    if found != wanted:
        raise MotionRAGError(f"{model}: is a model of type {found!r}, wanted is {wanted!r}; give another source")
    return source


def _pretrained(source: Source, name: str, device: str) -> Any:
    """A transformers model with all of its weights, to measure with."""
    return load_network(source, name, torch.float32).eval().to(device).requires_grad_(False)


def _tokenizer(source: Source) -> Any:
    from transformers import AutoTokenizer

    try:
        with quiet():
            return AutoTokenizer.from_pretrained(str(source.folder))
    except Exception as error:  # readers of tokenizers raise all kinds
        raise MotionRAGError(
            f"{source.model}: its tokenizer cannot be loaded ({one_line(error)}); fetch or save the model again"
        ) from error


def _clip(model: str, revision: str | None, device: str) -> tuple[Network, Any, Source, str]:
    """What embeds frames, the network it is of, where that is, and the fingerprint."""
    source = _resolved(model, revision, "clip")
    network = _pretrained(source, "CLIPModel", device)
    where, settings = find_settings(source.folder) or (source.model, {})
    given = {key: value for key, value in settings.items() if value is not None}
    preparation = to_preparation({**CLIP_SETTINGS, **given}, frames=1, which="first", where=where)

    def run(frames: Tensor) -> Tensor:
        ready = torch.stack([_prepared(frame[None], preparation)[0] for frame in frames])
        pooled = network.vision_model(pixel_values=_pixels(ready, preparation, device)).pooler_output
        embedded: Tensor = network.visual_projection(pooled)
        return embedded

    return _by_frame(run), network, source, _fingerprint(network, preparation)


def _prepared(clip: Tensor, preparation: Preparation) -> Tensor:
    """One clip u8 [T,3,H,W] to [S,3,h,w]."""
    return torch.from_numpy(preparation(clip.cpu().numpy()))


def _pixels(frames: Tensor, preparation: Preparation, device: str) -> Tensor:
    """u8 [...,3,h,w] to normalised pixels on the device."""
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (preparation.mean, preparation.std))
    return (frames.to(device).float() / 255 - mean) / std


def _by_frame(run: Network) -> Network:
    """What takes frames [N,3,H,W] as one that takes clips [B,T,3,H,W]."""

    def clips(video: Tensor) -> Tensor:
        frames = rearrange(video, "b t c h w -> (b t) c h w")
        features = torch.cat([run(part) for part in frames.split(FRAMES_A_PASS)])
        return rearrange(features, "(b t) d -> b t d", b=len(video))

    return clips


def _fingerprint(network: Any, preparation: Preparation) -> str:
    settings = {"model": model_settings(network.config), "preparation": dataclasses.asdict(preparation)}
    return fingerprint(network, settings)
