"""Settings: YAML and plain dictionaries to validated frozen dataclasses.

An unknown, missing or ill-typed key is an error that names the key, its place and the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import dacite
import yaml

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


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in every other format."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)$"),
    list("-+.0123456789"),
)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file's mapping, with some of its values replaced.

    Args:
        path: The file.
        overrides: `section.key=value` each; the value is YAML.

    Raises:
        MotionRAGError: If it cannot be read, is no mapping, or an override fits nowhere.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MotionRAGError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise MotionRAGError(f"{path}: holds no mapping of keys to settings")
    for text in overrides:
        _override(data, text)
    return data


def _override(data: dict[Any, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise MotionRAGError(f"--set {override}: wants section.key=value")
    *sections, last = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise MotionRAGError(f"--set {override}: {section} is a value, not a section")
    try:
        data[last] = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise MotionRAGError(f"--set {override}: the value is not valid YAML") from error
