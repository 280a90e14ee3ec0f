"""The rules of the house: who imports whom, how fast, and how long a file is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import motionrag

SOURCE = Path(motionrag.__file__).parent
LAYERS = [
    {"types", "config", "registry", "checkpoint", "errors", "__init__"},
    {"video", "encoders", "models"},
    {"bases", "retrieval", "synth"},
    {"pipeline", "training", "evaluation", "testing"},
    {"convert", "cli", "__main__", "ui", "comfyui"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
FILES = sorted(SOURCE.rglob("*.py"))


def imports(path):
    """Every module a file imports, but for those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = path.relative_to(SOURCE).with_suffix("").parts[0]
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS"
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "motionrag" and len(parts) > 1 and parts[1] != own:
            assert LEVEL[parts[1]] <= LEVEL[own], f"{own} imports {module} from a higher layer"
        if own == "models":
            assert parts[0] not in {"diffusers", "transformers", "lancedb"}, f"models import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_quick_and_light():
    seconds = [
        float(python("import time; t = time.perf_counter(); import motionrag; print(time.perf_counter() - t)"))
        for _ in range(3)
    ]
    assert min(seconds) < 0.5
    assert python("import sys, motionrag; print('torch' in sys.modules)") == "False"


def test_models_import_neither_diffusers_nor_transformers():
    code = "import sys, motionrag.models.bundle; print({'diffusers', 'transformers'} & set(sys.modules))"
    assert python(code) == "set()"


def test_every_public_name_is_there():
    for name in motionrag.__all__:
        assert getattr(motionrag, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = motionrag.nothing
