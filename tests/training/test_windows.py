"""Training sees windows of clips where its data ask for them: at a random place, and the same one each time."""

import numpy as np
import pytest

from motionrag.retrieval.sources import Job
from motionrag.training.sources import VideoSource
from motionrag.types import View
from motionrag.video import read_view
from tests.video.make import encode, moving

VIEW = View(frames=8, fps=8.0)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """60 frames, 3 s."""
    return str(encode(tmp_path_factory.mktemp("windows") / "v.mp4", moving(60)))


def test_windows_of_longer_clips_are_at_random_places_inside(video):
    jobs = [Job(video=video, caption=f"clip {i}", start_s=0.5, end_s=2.5) for i in range(12)]
    source = VideoSource(jobs, frames=8, view=VIEW)
    starts = [source._start(job) for job in jobs]
    assert all(0.5 <= start <= 1.5 for start in starts)
    assert max(starts) - min(starts) > 0.3
    assert starts == [VideoSource(jobs, frames=8, view=VIEW)._start(job) for job in jobs]
    frames = source.read(3, 4).frames[0]
    assert np.array_equal(frames, read_view(video, VIEW, frames=8, start_s=starts[3], end_s=2.5).frames)


def test_shorter_clips_and_whole_ones_begin_where_they_do(video):
    short = Job(video=video, caption="a", start_s=1.25, end_s=2.0)
    assert VideoSource([short], frames=8, view=VIEW)._start(short) == 1.25
    assert VideoSource([short], frames=8)._start(short) == 1.25
    whole = Job(video=video, caption="a")
    assert 0 < VideoSource([whole], frames=8, view=VIEW)._start(whole) < 2


def test_a_cache_of_windows_is_another(video):
    job = Job(video=video, caption="a")
    assert VideoSource([job], frames=8, view=VIEW).fingerprint != VideoSource([job], frames=8).fingerprint
