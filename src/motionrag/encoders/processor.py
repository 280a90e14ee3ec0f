"""A model's processor configuration to the `Preparation` that does the same, bit for bit, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from motionrag.encoders.source import read_json
from motionrag.errors import MotionRAGError

if TYPE_CHECKING:
    from motionrag.video import Preparation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_FILES = (
    ("processor_config.json", "video_processor"),
    ("processor_config.json", "image_processor"),
    ("video_preprocessor_config.json", None),
    ("preprocessor_config.json", None),
)
"""Where transformers looks, first hit wins: a file, and the key in it under which the settings are nested."""

_RESAMPLE: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters."""


def find_settings(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """The file that holds a model's processor settings, and these; None where there is none."""
    for name, nested in _FILES:
        path = folder / name
        if not path.is_file():
            continue
        document = read_json(path)
        if nested is None:
            return str(path), document
        if isinstance(document.get(nested), dict):
            return str(path), document[nested]
    return None


def to_preparation(
    settings: Mapping[str, Any], *, frames: int, which: Literal["uniform", "first"], where: str
) -> Preparation:
    """Settings of a transformers processor to a preparation.

    Args:
        settings: With `size`, `crop_size`, `resample`, `image_mean` and `image_std`.
        frames: S, how many frames of a clip are taken.
        which: Which of them.
        where: What the settings came from, for the message.

    Raises:
        MotionRAGError: If the processor does something other than resize, centre crop, rescale and normalise.
    """
    from motionrag.video import Preparation

    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if settings.get(step) is False:
            raise MotionRAGError(f"{where}: {step} is false, but frames are always prepared so; remove the line")
    if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise MotionRAGError(f"{where}: rescale_factor is {settings['rescale_factor']}, only 1/255 is supported")
    return Preparation(
        frames=frames,
        which=which,
        shortest_edge=_shortest_edge(settings["size"], where),
        crop=crop_size(settings["crop_size"], where),
        resample=_resample(settings["resample"], where),
        mean=_three(settings["image_mean"], "image_mean", where),
        std=_three(settings["image_std"], "image_std", where),
    )


def crop_size(value: Any, where: str) -> tuple[int, int]:
    """Height and width of the centre crop."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Mapping) and {"height", "width"} <= set(value):
        return int(value["height"]), int(value["width"])
    raise MotionRAGError(f"{where}: crop_size is {value!r}, wanted is a number or height and width")


def _shortest_edge(value: Any, where: str) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping) and {key for key in value if value[key] is not None} == {"shortest_edge"}:
        return int(value["shortest_edge"])
    raise MotionRAGError(f"{where}: size is {value!r}, only a shortest_edge is supported")


def _resample(value: Any, where: str) -> Literal["bilinear", "bicubic"]:
    if value not in _RESAMPLE:
        raise MotionRAGError(f"{where}: resample is {value!r}, supported are 2 (bilinear) and 3 (bicubic)")
    return _RESAMPLE[value]


def _three(value: Any, name: str, where: str) -> tuple[float, float, float]:
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise MotionRAGError(f"{where}: {name} is {value!r}, wanted are 3 numbers")
    red, green, blue = (float(channel) for channel in value)
    return red, green, blue
