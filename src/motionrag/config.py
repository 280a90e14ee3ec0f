"""Settings: plain dictionaries to validated frozen dataclasses, and back.

An unknown, missing or ill-typed key is an error that names the key, its place and the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

import dacite

from motionrag.errors import MotionRAGError, did_you_mean

T = TypeVar("T")


def parse(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """A dataclass (nested ones too) from a dictionary.

    Args:
        cls: The dataclass to make.
        data: Its fields; those with defaults may be missing.
        where: What the data came from, for the message.

    Raises:
        MotionRAGError: If a key is unknown, missing or of the wrong type.
    """
    _refuse_unknown(cls, data, where)
    try:
        return dacite.from_dict(cls, data, dacite.Config(strict=True))
    except dacite.DaciteError as error:
        raise MotionRAGError(f"{where}: {error}") from error


def _refuse_unknown(cls: type[Any], data: Mapping[str, Any], where: str) -> None:
    known = {field.name for field in fields(cls)}
    for key, value in data.items():
        if key not in known:
            raise MotionRAGError(f"{where}: unknown key {key!r}{did_you_mean(key, known)}")
        inner = get_type_hints(cls)[key]
        if is_dataclass(inner) and isinstance(inner, type) and isinstance(value, Mapping):
            _refuse_unknown(inner, value, f"{where}: {key}")
