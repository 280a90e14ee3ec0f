"""Recipes: one YAML file names a task, its settings and how it is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

import yaml

from motionrag.config import parse
from motionrag.errors import MotionRAGError, did_you_mean
from motionrag.training.settings import TrainSettings

TASKS = {
    "vae": "motionrag.training.vae:VAETask",
    "base": "motionrag.training.base:BaseTask",
    "motion": "motionrag.training.motion:MotionTask",
    "appearance": "motionrag.training.appearance:AppearanceTask",
    "adapter": "motionrag.training.adapter:AdapterTask",
    "context": "motionrag.training.context:ContextTask",
    "joint": "motionrag.training.joint:JointTask",
    "families": "motionrag.training.families:FamiliesTask",
}
"""Task name -> "module:Class"; the class has a `Settings` dataclass and is made by `cls(settings, device=...)`.

One that first computes something of each clip takes `report` too, called with clips done and clips in all.
"""


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


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> tuple[type[Any], Any, TrainSettings]:
    """Read a recipe.

    Args:
        name: A YAML file, or the bare name of a packaged recipe.
        overrides: `section.key=value` each; the value is YAML.

    Returns:
        The task's class, its settings, and those of the loop.

    Raises:
        MotionRAGError: If there is no such recipe or task, or a key is unknown, missing or of the wrong type.
    """
    path = find_recipe(name)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MotionRAGError(f"{path}: cannot be read as a recipe ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise MotionRAGError(f"{path}: a recipe is a mapping with the keys task and train")
    for override in overrides:
        _override(data, override)
    sections = {str(key): value for key, value in data.items()}
    task, train = sections.pop("task", None), sections.pop("train", None)
    if task not in TASKS:
        raise MotionRAGError(f"{path}: no task named {task!r}{did_you_mean(str(task), TASKS)}")
    if not isinstance(train, Mapping):
        raise MotionRAGError(f"{path}: the section train is missing")
    module, attribute = TASKS[task].split(":")
    cls: type[Any] = getattr(import_module(module), attribute)
    return cls, parse(cls.Settings, sections, str(path)), parse(TrainSettings, train, f"{path}: train")


def packaged_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with the package."""
    folder = Path(str(resources.files("motionrag"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """A recipe's file: the packaged one if it is a bare name without a suffix.

    Raises:
        MotionRAGError: If there is none.
    """
    path = Path(name)
    if path.suffix or len(path.parts) > 1:
        if not path.is_file():
            raise MotionRAGError(f"{path}: no such recipe")
        return path
    known = packaged_recipes()
    if str(name) not in known:
        raise MotionRAGError(f"no recipe named {str(name)!r}{did_you_mean(str(name), known)}")
    return known[str(name)]


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
