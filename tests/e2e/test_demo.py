"""The demo: one page that needs nothing else, in which an unseen motion gets references once its clips are there."""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import av
import pytest
from PIL import Image

import motionrag
from motionrag.retrieval.store import MotionDatabase
from tests.e2e.conftest import PROMPT

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def demo(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import demo

    return demo


def options(home):
    return {part: str(home / f"tiny-{part}") for part in ("base", "bundle", "db")}


def given(home):
    return [f"--{part}={folder}" for part, folder in options(home).items()]


class Sources(HTMLParser):
    """All that a page takes from elsewhere, by tag."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found += [(tag, value) for name, value in attributes if name in ("src", "href", "poster", "srcset")]


def decoded(source):
    return io.BytesIO(base64.b64decode(source.split(",", 1)[1], validate=True))


def check_page(page, place):
    """It needs nothing else, shows the unseen motion's clips as references after only, and names no folder."""
    sources = Sources(page).found
    assert all(source.startswith("data:") for _, source in sources)
    assert not re.search(r"url\(|@import|<script", page)
    videos = [source for tag, source in sources if tag == "video"]
    assert len(videos) == 1 + 3 + 4 + 2  # one in the introduction
    for video in videos:
        with av.open(decoded(video)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert stream.height == 256
            assert len(list(container.decode(stream))) == 4 + 4
    images = [Image.open(decoded(source)) for tag, source in sources if tag == "img"]
    assert sum(getattr(image, "n_frames", 1) > 1 for image in images) == 9 + 2  # references after, and the user's
    before, after = page.split("References before")[1].split("References after")
    assert "No clip of the database is relevant" in before
    assert after.split("Real clips")[0].count('class="new"') == 9
    assert "Open the drawer of the desk" in after.split("Real clips")[1]
    assert "It was trained on" in page
    assert str(place) not in page


def test_it_can_be_run_again_in_its_folder(demo, home, tmp_path):
    """The unseen clips of the first run are not among the references before they are brought in."""
    work = demo.Demo(out=tmp_path, options=options(home))
    rag = work.open()
    for _ in range(2):
        before, after = demo.unseen(work, rag).references
        assert (len(before.clips), len(after.clips), len(after.new)) == (0, 9, 9)


def test_the_excerpts_target_is_not_among_its_references(demo, home, tmp_path):
    """A clip of the database is the truth: it is taken out of a copy, and the database stays as it is."""
    work = demo.Demo(out=tmp_path, options=options(home))
    section = demo.of_excerpt(work, work.open(), home / "tiny-db")
    before, after = MotionDatabase.open(home / "tiny-db"), MotionDatabase.open(tmp_path / "real-database")
    was, now = ({row["caption"] for row in database.rows(["caption"])} for database in (before, after))
    (gone,) = was - now
    assert (before.count(), after.count()) == (12, 11)
    assert section.prompt == gone
    assert gone not in [reference.record.caption for reference in section.references[0].clips]
    assert section.clips[-1].frames.shape == (4, 3, 48, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image=a.png", "--prompt=b"], "--videos is missing"),
        (["--image={home}/image.png", "--prompt=b", "--videos={home}/no"], "no: no such file or folder"),
        (["--image={home}/no.png", "--prompt=b", "--videos={home}/corpus"], "no.png: no such file"),
    ],
)
def test_bad_input_is_one_line(demo, home, tmp_path, capsys, arguments, message):
    filled = [text.format(home=home) for text in arguments]
    assert demo.main([*given(home), f"--out={tmp_path}/out", *filled]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_embedded_default(home, tmp_path):
    """In an installation of its own: without its parts one line, with them the page that `make demo` makes."""
    site, out = tmp_path / "site", tmp_path / "out"
    shutil.copytree(Path(motionrag.__file__).parent, site / "motionrag", ignore=shutil.ignore_patterns("assets"))

    def python(*arguments):
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(site)}, cwd=tmp_path, capture_output=True, text=True
        )

    done = python(EXAMPLES / "demo.py", "--out", out)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "lacks its embedded bundle" in done.stderr
    assert not out.exists()
    assets = site / "motionrag" / "assets"
    folders = {"base": "tiny-base", "bundle": "tiny-bundle", "motion": "videomae", "appearance": "dinov2"}
    for part, folder in folders.items():
        shutil.copytree(home / folder, assets / part)
    database = assets / "database"
    done = python("-m", "motionrag", "ingest", home / "corpus", "--db", database, "--bundle=tiny", "--workers=1")
    assert done.returncode == 0, done.stderr
    own = ["--image", home / "image.png", "--prompt", PROMPT, "--videos", home / "corpus"]
    done = python(EXAMPLES / "demo.py", "--out", out, *own)
    assert done.returncode == 0, done.stderr
    assert str(out / "index.html") in done.stdout
    for name in ("known", "unseen.before", "unseen.after", "real"):
        for suffix in (".mp4", ".json", ".base.mp4", ".compare.png"):
            assert (out / f"{name}{suffix}").is_file()
    check_page((out / "index.html").read_text(encoding="utf-8"), tmp_path)
