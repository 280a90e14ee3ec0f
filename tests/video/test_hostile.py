"""What is no usable video is refused, each with its own reason; damage never passes for pictures."""

import hashlib
import os
import pickle
import re

import numpy as np
import pytest

from motionrag.video import VideoError, content_hash, probe, read_clip, scene_cuts, write_video
from tests.video.hostile import make_hostile
from tests.video.make import encode, moving, mp4


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    return folder, make_hostile(folder)


def test_every_hostile_file_is_refused_for_its_own_reason(hostile):
    folder, reasons = hostile
    for name, reason in reasons.items():
        with pytest.raises(VideoError) as caught:
            read_clip(folder / name)
        assert re.search(reason, caught.value.reason), f"{name}: {caught.value.reason}"
        assert str(caught.value) == f"{folder / name}: {caught.value.reason}"


def test_reasons_differ(hostile):
    _, reasons = hostile
    assert len(set(reasons.values())) >= 24


def test_what_holds_no_video_is_refused_by_probe_and_cuts_too(hostile):
    folder, reasons = hostile
    for name in set(reasons) - {"one_frame.mp4", "flipped.mp4"}:
        for reader in (probe, scene_cuts):
            with pytest.raises(VideoError):
                reader(folder / name)


def test_the_error_crosses_process_boundaries():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "empty file")))
    assert (str(error), error.path, error.reason) == ("a.mp4: empty file", "a.mp4", "empty file")


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoError, match="is not a regular file"):
        read_clip(tmp_path / "pipe.mp4")


def test_playlists_open_nothing(tmp_path):
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://localhost:9/a.ts\n")
    with pytest.raises(VideoError, match="is text, not a video"):
        read_clip(tmp_path / "list.mp4")


def test_forbidden_files_say_so(tmp_path):
    path = mp4(tmp_path / "a.mp4")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(VideoError, match="permission denied"):
        read_clip(path)


def test_properly_encrypted_files_are_named(tmp_path):
    options = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "ab" * 16, "encryption_kid": "cd" * 16}
    path = encode(tmp_path / "drm.mp4", moving(10), container_options=options)
    with pytest.raises(VideoError, match="encrypted"):
        read_clip(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.gif", "a.webp", "a.avi"])
def test_a_file_cut_anywhere_never_reads_as_whole(tmp_path, name):
    codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
    if name in {"a.gif", "a.webp"}:
        write_video(tmp_path / name, moving(20), 20)
    else:
        options = {"movflags": "faststart"} if name == "a.mp4" else {}
        encode(tmp_path / name, moving(20), codec=codec, container_options=options)
    data = (tmp_path / name).read_bytes()
    for share in np.linspace(0.02, 0.98, 25):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        with pytest.raises(VideoError):
            read_clip(tmp_path / name)


@pytest.mark.parametrize("threads", [1, 2])
def test_damage_in_h264_is_noticed(tmp_path, threads):
    rng = np.random.default_rng(0)
    clip = np.clip(moving(30, 96, 128) + rng.integers(0, 40, (30, 3, 96, 128)), 0, 255).astype(np.uint8)
    path = encode(tmp_path / "a.mp4", clip, options={"g": "15"})
    data, reasons = path.read_bytes(), set()
    at, end = data.index(b"mdat") + 4, data.index(b"moov")
    harmless = 0
    for _ in range(25):
        bad = bytearray(data)
        for i in rng.integers(at + 800, end - 8, 12):
            bad[i] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            read_clip(path, threads=threads)
        except VideoError as error:
            reasons.add(error.reason.split(":")[0])
        else:
            harmless += 1
    assert harmless <= 1
    assert reasons <= {"damaged", "cut short"}


def test_content_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert content_hash(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    with pytest.raises(VideoError, match="no such file"):
        content_hash(tmp_path / "b")
