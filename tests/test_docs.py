"""What the documents show, works: Python blocks run, commands exist, links lead somewhere."""

import re
from pathlib import Path

import pytest

from motionrag.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(ROOT.glob("docs/*.md")),
    *ROOT.glob("benchmarks/**/*.md"),
]
BLOCK = re.compile(r"^```(\w+)( notest)?\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(document, language):
    found = BLOCK.findall(document.read_text(encoding="utf-8"))
    return [(bool(skipped), code) for name, skipped, code in found if name == language]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    """In order, in one namespace; those marked `notest` need real weights and are compiled only."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for skipped, code in blocks(document, "python"):
        program = compile(code, str(document), "exec")
        if not skipped:
            exec(program, namespace)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for _, code in blocks(document, "sh"):
        for verb in re.findall(r"^motionrag (\w+)", code, re.MULTILINE):
            assert verb in VERBS
        for target in re.findall(r"^make (\w+)", code, re.MULTILINE):
            assert f"\n{target}:" in makefile
        for script in re.findall(r"python (\S+\.py)", code):
            assert (ROOT / script).is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


def test_both_commands_are_named():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make demo" in text
    assert "make test" in text
