"""Thirty files that are no usable videos, each of another kind, and what must be said of each."""

import struct
import zipfile
from pathlib import Path

import av
import numpy as np
from PIL import Image

from motionrag.video import write_video
from tests.video.make import encode, moving, mp4, sound


def make_hostile(folder):
    """Write the files; returns for each name a regular expression that its reason must match."""
    folder = Path(folder)
    reasons = {}
    for maker in (_not_files, _other_things, _cut_short, _damaged, _without_pictures, _impossible):
        reasons |= maker(folder)
    assert len(reasons) == 30
    return reasons


def _not_files(folder):
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to("moved_away.mp4")
    (folder / "empty.mp4").touch()
    return {
        "folder.mp4": "^is a folder$",
        "dangling.mp4": "^is a broken link to moved_away.mp4$",
        "empty.mp4": "^empty file$",
    }


def _other_things(folder):
    (folder / "text.mp4").write_text("Here is where the video was going to be.\n" * 3)
    (folder / "page.mp4").write_text("<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 123456\n"
    (folder / "pointer.mp4").write_text(pointer)
    (folder / "zeros.mp4").write_bytes(bytes(50_000))
    (folder / "noise.mp4").write_bytes(np.random.default_rng(1).bytes(50_000))
    with zipfile.ZipFile(folder / "zip.mp4", "w") as archive:
        archive.writestr("video.mp4", b"0" * 1000)
    Image.radial_gradient("L").save(folder / "still.mp4", format="PNG")
    Image.radial_gradient("L").save(folder / "still.webp")
    return {
        "text.mp4": "^is text, not a video$",
        "page.mp4": r"^is a web page \(HTML\), not a video",
        "pointer.mp4": "^is a git-lfs pointer, not the video; run git lfs pull$",
        "zeros.mp4": "^begins with zeros only, as an unfinished download does",
        "noise.mp4": "^not a video: no known format$",
        "zip.mp4": "^is a zip archive",
        "still.mp4": r"^is a still image \(PNG\), not a video$",
        "still.webp": r"^is a still image \(WebP\), not a video$",
    }


def _cut_short(folder):
    """Files whose last part is missing."""
    clip = moving(20)
    _part(mp4(folder / "no_index.mp4"), 0.5)
    options = {"movflags": "faststart"}
    _part(encode(folder / "no_tail.mp4", clip, container_options=options), 0.7)
    for name in ("tail.mkv", "tail.webm", "tail.gif", "tail.webp", "tail.avi"):
        codec = {"tail.avi": "mpeg4", "tail.mkv": "libx264"}.get(name)
        if codec:
            encode(folder / name, clip, codec=codec)
        else:
            write_video(folder / name, clip, 20)
        _part(folder / name, 0.6)
    return {
        "no_index.mp4": r"^cut short: its index \(moov\), which is written last, is missing",
        "no_tail.mp4": r"^cut short: \d+ of 20 frames could be read",
        "tail.mkv": r"^cut short: [\d,]+ of [\d,]+ bytes are there",
        "tail.webm": r"^cut short: [\d,]+ of [\d,]+ bytes are there",
        "tail.gif": "^cut short: the last block is incomplete",
        "tail.webp": r"^cut short: [\d,]+ of [\d,]+ bytes are there",
        "tail.avi": r"^cut short: [\d,]+ of [\d,]+ bytes are there",
    }


def _damaged(folder):
    """Whole files with wrong bytes in them."""
    path = encode(folder / "flipped.mp4", moving(40, 96, 128) // 2 + _grain(40, 96, 128))
    data = bytearray(path.read_bytes())
    at = data.index(b"mdat")
    for i in range(at + 3000, at + 9000, 40):
        data[i] ^= 0xFF
    path.write_bytes(data)
    path = encode(folder / "header.mkv", moving(10))
    data = bytearray(path.read_bytes())
    data[5:400] = np.random.default_rng(2).bytes(395)
    path.write_bytes(data)
    path = mp4(folder / "index.mp4")
    data = bytearray(path.read_bytes())
    at = data.index(b"moov") + 4
    data[at:] = np.random.default_rng(3).bytes(len(data) - at)
    path.write_bytes(data)
    return {
        "flipped.mp4": r"^damaged: the frame at \d\.\d\d s cannot be decoded",
        "header.mkv": "^damaged: its header cannot be read$",
        "index.mp4": r"^damaged: its index \(moov\) cannot be read$",
    }


def _without_pictures(folder):
    with av.open(str(folder / "sound.mp4"), "w") as container:
        sound(container)()
    with av.open(str(folder / "cover.mp3"), "w", format="mp3") as container:
        write = sound(container, "libmp3lame")
        cover = container.add_stream("mjpeg", 1)
        cover.width = cover.height = 32
        cover.pix_fmt = "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(32, 32, "yuvj420p")))
        write()
    (folder / "subtitles.mp4").write_bytes(b"1\n00:00:00,000 --> 00:00:02,000\nHello\n\xff\n")
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", 20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return {
        "sound.mp4": "^no video stream, only audio$",
        "cover.mp3": "^no video stream, only audio and cover art$",
        "subtitles.mp4": "^no video stream, only subtitle$",
        "no_frames.mp4": r"^no frames: its index \(moov\) lists none$",
    }


def _impossible(folder):
    """Well-formed files that still hold nothing to read a clip from."""
    mp4(folder / "one_frame.mp4", frames=1)
    _timeless(folder / "no_time.mkv")
    for name, old, new in (("drm.mp4", b"avc1", b"encv"), ("codec.mp4", b"avc1", b"zzz1")):
        path = mp4(folder / name)
        data = path.read_bytes()
        at = data.index(b"stsd")
        path.write_bytes(data[:at] + data[at:].replace(old, new, 1))
    return {
        "one_frame.mp4": "^only 1 frame",
        "no_time.mkv": "^lasts 0 s: all of its 5 frames have the same timestamp$",
        "drm.mp4": r"^encrypted \(DRM\)",
        "codec.mp4": "^unsupported codec zzz1$",
        "huge.avi": _huge(folder / "huge.avi"),
    }


def _timeless(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", 20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(5):
            for packet in stream.encode(av.VideoFrame(64, 48, "yuvj420p")):
                packet.pts = packet.dts = 0
                container.mux(packet)


def _huge(path):
    """A header that declares frames of 12000x12000."""
    encode(path, moving(5), codec="rawvideo", pix_fmt="bgr24")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12
    data[at : at + 8] = struct.pack("<ii", 12000, 12000)
    path.write_bytes(data)
    return "^declares frames of 12000x12000, over the accepted 100 megapixels$"


def _grain(frames, height, width):
    """Noise, so that pictures do not compress to almost nothing."""
    return np.random.default_rng(4).integers(0, 60, (frames, 3, height, width), np.uint8)


def _part(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
