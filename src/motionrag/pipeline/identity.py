"""What a clip was made with, in short: fingerprints and versions."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import Any

from PIL import Image

from motionrag import __version__, checkpoint
from motionrag.pipeline.quantize import QUANTIZERS
from motionrag.retrieval.schema import DatabaseSettings
from motionrag.types import BaseSpec


def base_fingerprint(pipe: Any, spec: BaseSpec) -> str:
    """SHA-256, 64 hex digits, of denoiser, VAE and scheduler; the base's text encoder is left out, being huge."""
    state = {
        f"{part}.{name}": tensor
        for part in (spec.denoiser, "vae")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    scheduler = {key: str(value) for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    return checkpoint.fingerprint(state, {"scheduler": type(pipe.scheduler).__name__, **scheduler})


def encoder_fingerprints(database: DatabaseSettings) -> dict[str, str]:
    """Likewise, of the motion and the appearance encoder that a database's tokens are of."""
    infos = {kind: getattr(database, kind) for kind in ("motion", "appearance")}
    return {f"{kind} encoder": info.fingerprint if info is not None else "" for kind, info in infos.items()}


def versions(quantized: str | None = None) -> dict[str, str]:
    """Of motionrag and what it runs on, and of what quantised the base, if it is."""
    packages = ["torch", "diffusers", "transformers"]
    if quantized is not None:
        packages.append(QUANTIZERS[quantized].package)
    libraries = {name: version(name) for name in packages}
    return {"motionrag": __version__, "python": platform.python_version(), **libraries}


def image_hash(image: Image.Image) -> str:
    """SHA-256, 64 hex digits, over an image's size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
