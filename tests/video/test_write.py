"""Videos and film strips are written whole or not at all."""

import resource

import numpy as np
import pytest
from PIL import Image

from motionrag.errors import MotionRAGError
from motionrag.video import Strip, VideoError, probe, read_clip, sheet, write_video
from tests.video.make import moving, psnr


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".gif", ".webp", ".MP4"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 61)])
def test_what_is_written_reads_back(tmp_path, suffix, height, width):
    clip = moving(10, height, width)
    write_video(tmp_path / f"a{suffix}", clip, 12.5)
    read = read_clip(tmp_path / f"a{suffix}", frames=10).frames
    assert read.shape[2] - height in {0, 1}
    assert psnr(read[:, :, :height, :width], clip) > (23 if suffix in {".gif", ".webp"} else 29)
    assert abs(read.mean((0, 2, 3)) - clip.mean((0, 2, 3))).max() < 3  # colours: matrix and range agree
    assert probe(tmp_path / f"a{suffix}").fps == pytest.approx(12.5, rel=0.03)
    assert [file.name for file in tmp_path.iterdir()] == [f"a{suffix}"]


def test_an_existing_file_is_replaced(tmp_path):
    (tmp_path / "a.mp4").write_text("old")
    write_video(tmp_path / "a.mp4", moving(4), 8)
    assert probe(tmp_path / "a.mp4").frames == 4


@pytest.mark.parametrize(
    ("name", "shape", "fps", "reason"),
    [
        ("a.mpx", (4, 3, 8, 8), 8, r"the suffix '.mpx' names no video format; use one of .mp4, .mov, "),
        ("a", (4, 3, 8, 8), 8, "the suffix '' names no video format"),
        ("none/a.mp4", (4, 3, 8, 8), 8, "there is no folder .*none; create it first"),
        ("folder.mp4", (4, 3, 8, 8), 8, "is a folder"),
        ("a.mp4", (4, 8, 8, 3), 8, r"frames must be u8 \[T, 3, H, W\], got uint8 \[4, 8, 8, 3\]"),
        ("a.mp4", (0, 3, 8, 8), 8, "frames must be u8"),
        ("a.mp4", (4, 3, 8, 8), 0, "cannot play at 0 frames a second"),
        ("a.gif", (4, 3, 8, 8), 60, "cannot play at 60 frames a second"),
    ],
)
def test_impossible_requests(tmp_path, name, shape, fps, reason):
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match=reason):
        write_video(tmp_path / name, np.zeros(shape, np.uint8), fps)
    assert [file.name for file in tmp_path.iterdir()] == ["folder.mp4"]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm", ".gif", ".webp"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_text("old")
    noise = np.random.default_rng(0).integers(0, 256, (8, 3, 64, 64), np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))  # stands in for a full disk
    try:
        with pytest.raises(VideoError, match="cannot be written: file too large"):
            write_video(path, noise, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sheet(tmp_path):
    rows = [
        Strip(frames=moving(16), caption="a square walks to the right", details="rank 1, score 0.93"),
        Strip(frames=moving(3, 90, 30), caption="word " * 200),
        Strip(frames=moving(5, 20, 300), caption="W" * 500, details="x" * 900),
    ]
    page = sheet(rows, tmp_path / "sheet.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), np.asarray(page))
    heights = [sheet(rows[:count]).height for count in (1, 2, 3)]
    assert heights[2] - heights[1] == heights[1] - heights[0]
    assert [file.name for file in tmp_path.iterdir()] == ["sheet.png"]
    margins = np.asarray(page)[:, -10:]
    assert (margins == 255).all(), "text runs over the edge"


def test_sheet_keeps_aspect_ratios():
    clip = np.zeros((1, 3, 60, 30), np.uint8)
    ink = np.asarray(sheet([Strip(frames=clip, caption="")])).min(-1) == 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert np.ptp(rows) + 1 == 2 * (np.ptp(columns) + 1)


def test_sheet_refusals(tmp_path):
    with pytest.raises(MotionRAGError, match="at least one row"):
        sheet([])
    with pytest.raises(MotionRAGError, match="frames must be u8"):
        sheet([Strip(frames=np.zeros((2, 8, 8, 3), np.uint8), caption="")])
    with pytest.raises(VideoError, match="there is no folder"):
        sheet([Strip(frames=moving(2), caption="")], tmp_path / "none" / "a.png")
