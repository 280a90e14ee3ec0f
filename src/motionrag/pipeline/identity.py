"""What a clip was made with, in short: fingerprints and versions."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from typing import Any

from PIL import Image

from motionrag import __version__, checkpoint
from motionrag.retrieval.schema import DatabaseSettings
from motionrag.types import BaseSpec


def fingerprints(pipe: Any, spec: BaseSpec, database: DatabaseSettings) -> dict[str, str]:
    """SHA-256, 64 hex digits, of base and encoders; the base's text encoder is left out, being huge."""
    state = {
        f"{part}.{name}": tensor
        for part in (spec.denoiser, "vae")
        for name, tensor in getattr(pipe, part).state_dict().items()
    }
    scheduler = {key: str(value) for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    found = {"base": checkpoint.fingerprint(state, {"scheduler": type(pipe.scheduler).__name__, **scheduler})}
    for kind in ("motion", "appearance"):
        info = getattr(database, kind)
        found[f"{kind} encoder"] = info.fingerprint if info is not None else ""
    return found


def versions() -> dict[str, str]:
    """Of motionrag and what it runs on."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "transformers")}
    return {"motionrag": __version__, "python": platform.python_version(), **libraries}


def image_hash(image: Image.Image) -> str:
    """SHA-256, 64 hex digits, over an image's size and pixels."""
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
