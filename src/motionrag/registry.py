"""Names of the base models and where each one's spec lives; a spec is imported on first use."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path

from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.types import BaseSpec

EMBEDDED = "tiny"
"""Name of the base, the bundle, the encoders and the database that come with the package."""

BASES = {
    EMBEDDED: "motionrag.bases.cogvideox:TINY",
    "cogvideox": "motionrag.bases.cogvideox:SPEC",
    "svd": "motionrag.bases.svd:SPEC",
    "dynamicrafter": "motionrag.bases.dynamicrafter.spec:SPEC",
}


def base_spec(name: str) -> BaseSpec:
    """The spec of a base model by its short name.

    Raises:
        MotionRAGError: If no base has that name; the message names the nearest one.
    """
    if name not in BASES:
        raise MotionRAGError(f"no base model named {name!r}{did_you_mean(name, BASES)}")
    module, attribute = BASES[name].split(":")
    spec: BaseSpec = getattr(import_module(module), attribute)
    return spec


def embedded(part: str) -> Path:
    """Folder of a part in the package, such as "base", "motion", "appearance", "bundle", "captions" or "database".

    Raises:
        MotionRAGError: If this installation lacks it.
    """
    folder = Path(str(files("motionrag"))) / "assets" / part
    if not folder.is_dir():
        raise MotionRAGError(f"this installation of motionrag lacks its embedded {part}: install it again")
    return folder
