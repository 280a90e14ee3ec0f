"""Encoders for the verbs that need them: from options, or as a database says it was made."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motionrag.errors import MotionRAGError
from motionrag.registry import EMBEDDED
from motionrag.types import WHOLE, View

if TYPE_CHECKING:
    from motionrag.encoders import EncoderInfo, VideoEncoder
    from motionrag.models.bundle import MotionBundle
    from motionrag.retrieval.encoding import ClipEncoders, Tokenizer
    from motionrag.retrieval.schema import DatabaseSettings, TokenInfo
    from motionrag.retrieval.vectors import CaptionEncoder


def add_encoder_options(parser: argparse.ArgumentParser) -> None:
    """Options that say what a new database is made with."""
    group = parser.add_argument_group(
        "encoders",
        "what a new database is made with; one that is there goes on with its own. MODEL: hub id or folder",
    )
    group.add_argument(
        "--text",
        metavar="MODEL",
        help="a sentence-transformers model to take part beside the bundled caption encoder (default: none)",
    )
    group.add_argument(
        "--motion", metavar="MODEL", help="motion encoder, such as MCG-NJU/videomae-base-finetuned-ssv2"
    )
    group.add_argument("--appearance", metavar="MODEL", help="appearance encoder, such as facebook/dinov2-large")
    group.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="keep the tokens that this bundle's resamplers make; tiny, the embedded one, brings its encoders along",
    )
    group.add_argument("--features", action="store_true", help="keep the encoders' features too (2.9 MB a clip)")


def add_device_option(parser: argparse._ActionsContainer) -> None:
    """The option that says where encoders run."""
    parser.add_argument("--device", default="cpu", help="where encoders run: cpu, cuda, cuda:1, mps (default: cpu)")


def chosen_encoders(arguments: argparse.Namespace, made: DatabaseSettings | None) -> ClipEncoders:
    """The encoders of a database that is there, or those that the options name.

    Args:
        arguments: With the options of `add_encoder_options`.
        made: Settings of the database that is there, or of the source that is taken over.
    """
    from motionrag.retrieval.encoding import ClipEncoders

    bundle = arguments.bundle or _bundle(made)
    names = {
        kind: (EMBEDDED, None) if bundle == EMBEDDED and option is None else _name(option, made, kind)
        for kind, option in (("motion", arguments.motion), ("appearance", arguments.appearance))
    }
    loaded = _loaded(bundle) if bundle else None
    view = loaded.config.view if loaded is not None else made.view if made is not None else WHOLE
    video: dict[str, VideoEncoder] = {
        kind: load_video_encoder(kind, name, revision, arguments.device, view)
        for kind, (name, revision) in names.items()
        if name is not None
    }
    tokenizers = _tokenizers(loaded, bundle, arguments.device, video) if bundle and loaded else {}
    if bundle and not video:
        raise MotionRAGError("--bundle makes tokens of features: name --motion and --appearance too")
    return ClipEncoders(
        caption=caption_encoder(*_name(arguments.text, made, "text"), arguments.device),
        video=video,
        tokenizers=tokenizers,
        features=arguments.features or (made is not None and made.features),
    )


def caption_encoder(name: str | None, revision: str | None, device: str) -> CaptionEncoder:
    """The encoder of captions and prompts."""
    from motionrag.retrieval.vectors import load_caption_encoder

    return load_caption_encoder(name, revision=revision, device=device)


def load_video_encoder(kind: str, name: str, revision: str | None, device: str, view: View = WHOLE) -> VideoEncoder:
    """The motion or the appearance encoder."""
    from motionrag.encoders import load_appearance_encoder, load_motion_encoder

    load: Any = {"motion": load_motion_encoder, "appearance": load_appearance_encoder}[kind]
    encoder: VideoEncoder = load(name, revision=revision, device=device, view=view)
    return encoder


def _name(option: str | None, made: DatabaseSettings | None, kind: str) -> tuple[str | None, str | None]:
    """Model and revision: an option's, else the database's."""
    info: EncoderInfo | None = getattr(made, kind) if made is not None else None
    if option is not None or info is None:
        return option, None
    return info.model, info.revision


def _bundle(made: DatabaseSettings | None) -> str | None:
    tokens: TokenInfo | None = (made.motion_tokens or made.appearance_tokens) if made is not None else None
    return tokens.bundle if tokens is not None else None


def _loaded(bundle: str) -> MotionBundle:
    from motionrag.pipeline.parts import load_bundle

    return load_bundle(bundle)


def _tokenizers(
    bundle: MotionBundle, name: str, device: str, video: dict[str, VideoEncoder]
) -> dict[str, Tokenizer]:
    """The bundle's resamplers, one for each encoder there is."""
    from motionrag.checkpoint import fingerprint
    from motionrag.retrieval.encoding import Tokenizer
    from motionrag.retrieval.schema import TokenInfo

    made: dict[str, Tokenizer] = {}
    for kind, encoder in video.items():
        resampler = bundle.motion_resampler if kind == "motion" else bundle.appearance_resampler
        config = resampler.config
        if config.input_dim != encoder.info.dimension:
            raise MotionRAGError(
                f"{name}: its {kind} resampler takes features {config.input_dim} wide, {encoder.info.model} makes "
                f"{encoder.info.dimension}; use the encoder that the bundle was trained with"
            )
        where = str(Path(name).resolve()) if name != EMBEDDED and Path(name).exists() else name
        info = TokenInfo(
            bundle=where,
            fingerprint=fingerprint(resampler.state_dict()),
            queries=config.queries,
            width=config.output_dim,
        )
        made[kind] = Tokenizer(resample=resampler.float().to(device), info=info)  # saved in half precision, maybe
    return made
