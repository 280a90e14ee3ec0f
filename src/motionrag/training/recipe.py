"""Recipes: one YAML file names a task, its settings and how it is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module, resources
from pathlib import Path
from typing import Any

from motionrag.config import parse, read_yaml
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
    "captions": "motionrag.training.captions:CaptionsTask",
}
"""Task name -> "module:Class"; the class has a `Settings` dataclass and is made by `cls(settings, device=...)`.

One that first computes something of each clip takes `report` too, called with clips done and clips in all.
"""


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
    data = read_yaml(path, overrides)
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
