"""Clips come out exactly: the right frames, upright, of every format people have."""

import subprocess
import sys
from fractions import Fraction

import av
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from motionrag.video import VideoError, pick, probe, read_clip, write_video
from motionrag.video.source import opened
from motionrag.video.timeline import scan
from tests.video.make import encode, moving, mp4, psnr, sound

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def plain(path):
    """Every frame as FFmpeg decodes it, u8 [T, 3, H, W]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).transpose(
            0, 3, 1, 2
        )


@pytest.fixture(scope="module")
def gops(tmp_path_factory):
    """60 frames, a key frame every 12, with B-frames."""
    path = tmp_path_factory.mktemp("gops") / "gops.mp4"
    return encode(path, moving(60), options={"g": "12", "bf": "3", "keyint_min": "12"})


def test_pick_is_the_published_rule():
    assert pick(20, 5).tolist() == [0, 5, 10, 14, 19]
    assert pick(3, 8).tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert pick(1, 4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("frames", [1, 2, 7, 16, 60, 90])
@pytest.mark.parametrize("threads", [1, 2])
def test_frames_are_those_of_a_plain_decode(gops, frames, threads):
    clip = read_clip(gops, frames=frames, threads=threads)
    assert np.array_equal(clip.frames, plain(gops)[pick(60, frames)])
    assert clip.frames.dtype == np.uint8
    assert (clip.start_s, clip.source) == (0.0, str(gops))
    assert clip.end_s == pytest.approx(3.0)
    assert clip.fps == pytest.approx((frames - 1) / (59 / 20))


@pytest.mark.parametrize(
    ("start", "end"), [(0.0, 0.5), (0.5, 1.5), (0.6, 0.75), (1.05, None), (2.5, 3.0), (2.95, 3.2)]
)
def test_a_stretch_holds_the_frames_from_start_up_to_end(gops, start, end):
    times = np.arange(60) / 20
    inside = np.flatnonzero((times >= start - 1e-6) & (times < (end or 9) - 1e-6))
    clip = read_clip(gops, frames=5, start_s=start, end_s=end, min_frames=1)
    assert np.array_equal(clip.frames, plain(gops)[inside][pick(len(inside), 5)])
    assert (clip.start_s, clip.end_s) == (start, pytest.approx(end or 3.0))


def test_stretches_of_a_split_share_no_frame(gops):
    clips = [read_clip(gops, frames=20, start_s=i, end_s=i + 1).frames for i in range(3)]
    assert np.array_equal(np.concatenate(clips), plain(gops))


def test_far_stretches_are_reached_by_seeking(tmp_path):
    path = encode(tmp_path / "long.mp4", moving(200), options={"g": "20"})
    clip = read_clip(path, frames=4, start_s=8.0, end_s=9.0)
    assert np.array_equal(clip.frames, plain(path)[160:180][pick(20, 4)])
    with opened(path) as source:
        line = scan(source, 8.0, 9.0)
    assert len(line.times) <= 44  # the second asked for, and one group of pictures before
    assert line.skipped <= 2


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options", "least"),
    [
        ("a.mp4", "libx264", "yuv420p", {}, 30),
        ("a.mov", "prores_ks", "yuv422p10le", {}, 30),
        ("a.mkv", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}, 28),
        ("a.webm", "libvpx-vp9", "yuv420p", {}, 28),
        ("b.webm", "libvpx", "yuv420p", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "500k"}, 24),
        ("a.avi", "mpeg4", "yuv420p", {"bf": "2", "q": "3"}, 25),
        ("b.avi", "mjpeg", "yuvj420p", {}, 24),
        ("a.ts", "libx264", "yuv420p", {}, 30),
        ("a.mpg", "mpeg2video", "yuv420p", {"bf": "2"}, 24),
        ("c.mkv", "ffv1", "yuv444p", {}, 40),
        ("d.mkv", "libx264", "gray", {}, 15),
        ("av1.mp4", "libsvtav1", "yuv420p", {"preset": "12"}, 28),
    ],
)
def test_codecs_and_containers(tmp_path, name, codec, pix_fmt, options, least):
    clip = moving(20, 64, 96)
    path = encode(tmp_path / name, clip, fps=25, codec=codec, pix_fmt=pix_fmt, options=options)
    read = read_clip(path, frames=20)
    assert read.frames.shape == clip.shape
    wanted = clip if pix_fmt != "gray" else np.repeat(clip.mean(1, keepdims=True), 3, 1)
    assert psnr(read.frames, wanted) > least
    assert read.fps == pytest.approx(25, rel=0.02)
    info = probe(path)
    assert (info.frames, info.width, info.height) == (20, 96, 64)
    assert info.duration_s == pytest.approx(0.8, abs=0.03)
    part = read_clip(path, frames=4, start_s=0.4, end_s=0.6)
    assert np.array_equal(part.frames, read.frames[10:15][pick(5, 4)])


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mkv", "libx264", {"bf": "3"}),
        ("a.webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "300k"}),
        ("b.webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
        ("a.avi", "mpeg4", {"bf": "2"}),
        ("b.avi", "libx264", {"bf": "2"}),
        ("a.ts", "libx264", {"bf": "3"}),
        ("b.ts", "libx264", {"x264-params": "open-gop=1:bframes=3"}),
        ("c.ts", "libx265", {"x265-params": "log-level=none:open-gop=1:bframes=3"}),
        ("a.mpg", "mpeg2video", {"bf": "2"}),
    ],
)
def test_any_stretch_of_any_container(tmp_path, name, codec, options):
    path = tmp_path / name
    encode(path, moving(120), codec=codec, options={"g": "15", "keyint_min": "15", **options}, fps=25)
    shown = plain(path)
    assert np.array_equal(read_clip(path, frames=120).frames, shown)
    for start in (0.4, 1.0, 2.2, 3.9):
        first = round(start * 25)
        assert np.array_equal(
            read_clip(path, frames=8, start_s=start, end_s=start + 0.32).frames, shown[first : first + 8]
        )


def test_fragmented_files(tmp_path):
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    path = encode(tmp_path / "a.mp4", moving(60), options={"g": "12"}, container_options=options)
    assert np.array_equal(read_clip(path, frames=9).frames, plain(path)[pick(60, 9)])
    assert np.array_equal(read_clip(path, frames=4, start_s=2.0, end_s=2.2).frames, plain(path)[40:44])
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match="cut short"):
        read_clip(path)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations(tmp_path, suffix):
    clip = moving(42)
    write_video(tmp_path / f"a{suffix}", clip, 10)
    read = read_clip(tmp_path / f"a{suffix}", frames=42)
    assert read.frames.shape == clip.shape
    assert psnr(read.frames, clip) > 24
    assert read.fps == pytest.approx(10)
    for start in (3, 36):
        part = read_clip(tmp_path / f"a{suffix}", frames=3, start_s=start / 10, end_s=start / 10 + 0.3)
        assert np.array_equal(part.frames, read.frames[start : start + 3])
    with pytest.raises(VideoError, match="lies outside the video"):
        read_clip(tmp_path / f"a{suffix}", start_s=7.0)


def test_transparency_lies_over_white(tmp_path):
    images = [Image.new("RGBA", (32, 32), (200, 0, 0, 0)) for _ in range(4)]
    for i, image in enumerate(images):
        image.paste((0, 0, 250, 255), (i * 8, 0, i * 8 + 8, 32))
    for name in ("a.webp", "a.gif"):
        images[0].save(
            tmp_path / name, save_all=True, append_images=images[1:], duration=100, disposal=2, lossless=True
        )
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("qtrle", 10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "argb"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.asarray(image), "rgba").reformat(format="argb")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    for name in ("a.webp", "a.gif", "a.mov"):
        frames = read_clip(tmp_path / name, frames=4).frames
        for i, frame in enumerate(frames):
            assert np.abs(frame[:, 16, i * 8 + 4] - np.array([0, 0, 250.0])).max() < 8, name
            assert frame[:, 16, (i * 8 + 20) % 32].min() > 247, name


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_flags_are_applied(tmp_path, degrees, mirror):
    clip = moving(4)
    clip[:, :, :24, :32] = np.array([250, 10, 10])[:, None, None]  # marks the top left

    def turn(stream):
        stream.set_display_rotation(degrees, hflip=mirror)

    path = encode(tmp_path / "turned.mp4", clip, setup=turn)
    shape = (4, 3, 64, 48) if degrees % 180 else (4, 3, 48, 64)
    out = subprocess.run(
        [FFMPEG, "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True,
        check=True,
    ).stdout
    wanted = np.frombuffer(out, np.uint8).reshape(shape[0], *shape[2:], 3).transpose(0, 3, 1, 2)
    read = read_clip(path, frames=4)
    assert read.frames.shape == shape
    assert psnr(read.frames, wanted) > 30
    info = probe(path)
    assert (info.height, info.width) == shape[2:]
    if not mirror:
        assert info.rotation == degrees


def test_pixels_become_square(tmp_path):
    def wide(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)

    path = encode(tmp_path / "wide.mp4", moving(5, 48, 60), setup=wide)
    assert read_clip(path, frames=5).frames.shape == (5, 3, 48, 80)
    assert (probe(path).width, probe(path).height) == (80, 48)


def test_odd_sizes(tmp_path):
    clip = moving(6, 47, 61)
    path = encode(tmp_path / "odd.mkv", clip, codec="ffv1", pix_fmt="yuv444p")
    assert psnr(read_clip(path, frames=6).frames, clip) > 40
    path = encode(tmp_path / "odd.webm", clip, codec="libvpx-vp9")
    assert read_clip(path, frames=6).frames.shape == clip.shape


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_frame_rate(tmp_path, name):
    times = [0, 40, 80, 500, 540, 1000, 1040, 1080, 2000, 2500]
    path = encode(tmp_path / name, moving(10), codec="libx264", times=times)
    info = probe(path)
    assert info.timestamps == pytest.approx(np.array(times) / 1000, abs=2e-3)
    assert info.fps == pytest.approx(9 / 2.5, rel=0.01)
    clip = read_clip(path, frames=4, start_s=0.5, end_s=1.08)
    assert np.array_equal(clip.frames, plain(path)[[3, 4, 5, 6]])


def test_a_late_first_frame_counts_as_second_zero(tmp_path):
    path = encode(tmp_path / "late.mkv", moving(10), times=[5000 + 50 * i for i in range(10)])
    info = probe(path)
    assert (info.timestamps[0], info.duration_s) == (0.0, pytest.approx(0.5, abs=0.01))
    assert np.array_equal(read_clip(path, frames=2, start_s=0.2, end_s=0.3).frames, plain(path)[4:6])


def test_an_edit_list_hides_the_frames_before_its_start(tmp_path, gops):
    path = tmp_path / "edited.mp4"
    copy = [FFMPEG, "-v", "error", "-ss", "0.85", "-i", gops, "-c", "copy", path]
    subprocess.run(copy, check=True)
    shown = plain(path)
    info = probe(path)
    assert info.frames == len(shown) < 60
    assert info.timestamps[0] == 0
    assert np.array_equal(read_clip(path, frames=9).frames, shown[pick(len(shown), 9)])


def test_frames_without_their_references_at_the_start_are_left_out(tmp_path):
    whole = encode(
        tmp_path / "whole.ts", moving(60), options={"x264-params": "open-gop=1:bframes=3:keyint=15:min-keyint=15"}
    )
    data = whole.read_bytes()
    with av.open(str(whole)) as container:
        keys = [packet.pos for packet in container.demux(video=0) if packet.is_keyframe]
    (tmp_path / "part.ts").write_bytes(data[: 188 * 2] + data[keys[1] :])
    shown = plain(tmp_path / "part.ts")
    clip = read_clip(tmp_path / "part.ts", frames=16)
    assert np.array_equal(clip.frames[-1], shown[-1])
    assert 40 <= len(shown) <= 50


def test_the_picture_stream_is_found_behind_others(tmp_path):
    clip = moving(10)
    with av.open(str(tmp_path / "many.mkv"), "w") as container:
        write = sound(container)
        stream = container.add_stream("libx264", 20)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        write()
        for image in clip.transpose(0, 2, 3, 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")))
        container.mux(stream.encode(None))
    assert psnr(read_clip(tmp_path / "many.mkv", frames=10).frames, clip) > 28
    assert probe(tmp_path / "many.mkv").frames == 10


def test_raw_streams_without_timestamps(tmp_path):
    path = encode(tmp_path / "raw.h264", moving(20), options={"bf": "2"}, format="h264")
    assert np.array_equal(read_clip(path, frames=7).frames, plain(path)[pick(20, 7)])
    assert probe(path).frames == 20


@pytest.mark.parametrize("name", ["späße 录像.mp4", "take:2.mp4", "100%03d.mp4", "with space.mp4"])
def test_any_file_name(tmp_path, name):
    write_video(tmp_path / name, moving(5), 20)
    assert read_clip(tmp_path / name, frames=2).frames.shape[0] == 2


def test_short_clips_repeat_frames_and_too_short_ones_are_refused(tmp_path):
    path = mp4(tmp_path / "short.mp4", frames=3)
    assert np.array_equal(read_clip(path).frames, plain(path)[pick(3, 16)])
    with pytest.raises(VideoError, match=r"short\.mp4: only 3 frames in it, at least 4 are needed"):
        read_clip(path, min_frames=4)
    mp4(tmp_path / "one.mp4", frames=1)
    assert read_clip(tmp_path / "one.mp4", min_frames=1).fps == 0


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"start_s": 5.0, "end_s": 9.0}, r"span 5.0-9.0 s lies outside the video \(3.0 s\)"),
        ({"start_s": 3.0}, r"span 3.0- s lies outside the video \(3.0 s\)"),
        ({"start_s": 2.0, "end_s": 9.0}, r"span 2.0-9.0 s reaches past the end of the video \(3.0 s\)"),
        ({"end_s": 9.0}, r"span 0.0-9.0 s reaches past the end of the video \(3.0 s\)"),
        ({"start_s": 2.0, "end_s": 1.0}, "end before start: the span 2.0-1.0 s holds nothing"),
        ({"start_s": -1.0}, "start -1.0 s is not a second of a video"),
        ({"start_s": float("nan")}, "start nan s is not a second of a video"),
        ({"start_s": 1.0, "end_s": 1.05}, "only 1 frame in it, at least 2 are needed"),
        ({"frames": 0}, "frames=0, at least 1 is needed"),
    ],
)
def test_impossible_requests(gops, request_, reason):
    with pytest.raises(VideoError, match=reason):
        read_clip(gops, **request_)


def test_packets_beyond_the_memory_limit_are_read_again(gops, monkeypatch):
    monkeypatch.setattr("motionrag.video.timeline.KEPT_BYTES", 500)
    assert np.array_equal(read_clip(gops, frames=9).frames, plain(gops)[pick(60, 9)])
    part = read_clip(gops, frames=4, start_s=2.0, end_s=2.5).frames
    assert np.array_equal(part, plain(gops)[40:50][pick(10, 4)])


def test_workers_start_without_torch():
    code = "import sys, motionrag.video; print({'torch', 'transformers', 'scipy'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
    )
