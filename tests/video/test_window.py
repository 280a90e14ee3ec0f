"""Windows: the published code's frames of a clip, at any rate of the video; and views that make sense."""

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.types import WHOLE, View
from motionrag.video import VideoError, read_clip, read_view
from tests.video.make import encode, moving
from tests.video.test_read import plain

RATE = 20


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """60 frames, 3 s."""
    return encode(tmp_path_factory.mktemp("window") / "v.mp4", moving(60), options={"g": "12", "bf": "3"})


def nearest(start, end, frames):
    times = np.arange(60) / RATE
    return [int(np.abs(times - wanted).argmin()) for wanted in np.linspace(start, end - 1 / RATE, frames)]


@pytest.mark.parametrize(
    ("start", "frames", "fps"), [(0.0, 16, 8), (0.5, 16, 8), (0.35, 8, 10), (1.02, 8, 8), (0.98, 5, 8), (0, 3, 50)]
)
def test_frames_are_those_nearest_to_evenly_spaced_times(video, start, frames, fps):
    clip = read_view(video, View(frames=frames, fps=fps), frames=1, start_s=start)
    assert np.array_equal(clip.frames, plain(video)[nearest(start, start + frames / fps, frames)])
    assert (clip.start_s, clip.fps) == (start, fps)


@pytest.mark.parametrize(("start", "end"), [(2.0, None), (1.0, 1.6)])
def test_the_end_of_the_video_or_the_stretch_ends_the_window(video, start, end):
    clip = read_view(video, View(frames=16, fps=8.0), frames=1, start_s=start, end_s=end)
    assert clip.end_s == pytest.approx(end or 3.0)
    assert np.array_equal(clip.frames, plain(video)[nearest(start, end or 3.0, 16)])


def test_a_view_of_whole_clips_reads_as_ever(video):
    clip = read_view(video, WHOLE, frames=7, start_s=0.5, end_s=2)
    assert np.array_equal(clip.frames, read_clip(video, frames=7, start_s=0.5, end_s=2).frames)
    windowed = read_view(video, View(frames=9, fps=8, height=8, width=8), frames=7, start_s=0.5, end_s=2)
    assert np.array_equal(windowed.frames, plain(video)[nearest(0.5, 0.5 + 9 / 8, 9)])


def test_stretches_that_lie_outside_are_refused_as_ever(video):
    with pytest.raises(VideoError, match=r"lies outside the video"):
        read_view(video, View(frames=16, fps=8.0), frames=1, start_s=9)
    with pytest.raises(VideoError, match=r"reaches past the end of the video"):
        read_view(video, View(frames=32, fps=8.0), frames=1, start_s=1, end_s=4.5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"frames": 17}, "frames=17 and fps=None go together"),
        ({"height": 480}, "height=480 and width=None go together"),
        ({"frames": 0, "fps": 8.0}, "must be above 0"),
        ({"frames": 16, "fps": float("nan")}, "must be above 0"),
    ],
)
def test_views_that_contradict_themselves(wrong, message):
    with pytest.raises(MotionRAGError, match=message):
        View(**wrong)


def test_a_view_in_words_and_in_other_numbers_of_frames():
    view = View(frames=16, fps=8.0, height=576, width=1024)
    assert str(view) == "windows of 16 frames at 8 fps, 1024x576"
    assert str(WHOLE) == "whole clips"
    assert view.over(32) == View(frames=32, fps=16.0, height=576, width=1024)
    assert WHOLE.over(32) == WHOLE
