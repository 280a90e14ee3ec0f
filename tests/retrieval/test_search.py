"""Search: motion before objects, never the query's own clip, no copies, nothing where nothing fits."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.retrieval.schema import array_of
from motionrag.retrieval.search import Retriever
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import CaptionEncoder, motion_code
from motionrag.video import read_clip, write_video
from tests.retrieval.corpus import CAPTIONS, frames, read_captions, write, write_captions
from tests.retrieval.test_store import OtherText


@pytest.fixture(scope="module")
def retriever(full, encoders):
    return Retriever(full, encoders.caption, **encoders.video)


def captions(references):
    return [reference.record.caption for reference in references]


def test_motion_is_matched_before_objects(retriever):
    found = captions(retriever.search(retriever.query("a robot opens the blue cupboard"), 2))
    assert set(found) == {"Open the drawer of the desk", "Open the lid of the red box"}
    found = captions(retriever.search(retriever.query("The red box is being closed"), 2))
    assert set(found) == {"Close the drawer of the desk", "Close the lid of the red box"}


def test_the_opposite_is_never_relevant(retriever):
    found = captions(retriever.search(retriever.query("Open the lid of the red box"), 9))
    assert found[0] == "Open the lid of the red box"
    assert not any(caption.startswith("Close") for caption in found)


def test_scores_fall_and_ranks_rise(retriever):
    found = retriever.search(retriever.query("put the cup on the table"), 9, floor=-1)
    assert [reference.rank for reference in found] == list(range(9))
    scores = [reference.score for reference in found]
    assert scores == sorted(scores, reverse=True)
    assert len({reference.record.id for reference in found}) == 9


def test_nothing_relevant_gives_nothing(retriever):
    for prompt in ("a volcano erupts over the sea", "asdf qwer zxcv", "the stock market crashed in 1929"):
        assert retriever.search(retriever.query(prompt)) == [], prompt


def test_filters_on_any_column(retriever):
    found = retriever.search(retriever.query("open the box"), where="lab = 'lab2' AND take < 6", floor=-1)
    assert {reference.record.metadata["lab"] for reference in found} == {"lab2"}
    assert len(found) == 2
    with pytest.raises(MotionRAGError, match="no column 'labb'; did you mean 'lab'"):
        retriever.search(retriever.query("open"), where="labb = 'x'")
    with pytest.raises(MotionRAGError, match="is no condition"):
        retriever.search(retriever.query("open"), where="lab = ")


def test_a_clip_as_the_query_leaves_out_itself_and_its_copies(corpus, bring, encoders, tmp_path):
    copy = read_clip(corpus / "videos/clip_005.mp4", frames=12)
    write_video(corpus / "videos/copy.mkv", copy.frames, 12)
    write_captions(corpus, [*read_captions(corpus), {"video": "videos/copy.mkv", "caption": "a copy"}])
    database, _ = bring(corpus, encoders)
    retriever = Retriever(database, encoders.caption, **encoders.video)
    query = retriever.query(clip=read_clip(corpus / "videos/clip_005.mp4"))
    found = retriever.search(query, 9, floor=-1)
    assert len(found) == 9
    assert not {"Pull the cup to the right", "a copy"} & set(captions(found))


def test_motion_ranks_by_the_motion_vector(retriever, full, encoders):
    clip = read_clip(full.find("clip_003.mp4")[0]["video"])
    motion = encoders.video["motion"]
    wanted = motion.pool(motion.encode(motion.preparation(clip.frames)[None]))[0].numpy()
    table = full.nearest("motion_vector", wanted, 12, columns=["caption"])
    expected = [caption for caption in table.column("caption").to_pylist() if caption != CAPTIONS[3]]
    found = retriever.search(retriever.query(clip=clip), 11, floor=-1)
    assert sorted(captions(found)) == sorted(expected)
    assert captions(found)[0] == expected[0]


def test_an_image_ranks_what_looks_like_it_higher(retriever, full):
    row = full.find("clip_009.mp4")[0]
    image = read_clip(row["video"]).frames[0]
    plain = retriever.search(retriever.query("something happens"), 12, floor=-1)
    ranked = retriever.search(retriever.query("something happens", image=image), 12, floor=-1)
    place = {
        name: [r.record.id for r in found].index(row["id"]) for name, found in (("plain", plain), ("image", ranked))
    }
    assert place["image"] <= place["plain"]
    assert sorted(captions(plain)) == sorted(captions(ranked))
    assert [r.score for r in ranked] != [r.score for r in plain]


def test_exclusion_by_id_and_path_takes_copies_along(retriever, full):
    query = retriever.query("open the box")
    best = retriever.search(query, 1)[0].record
    assert retriever.search(query, 9, exclude=[best.id])[0].record.id != best.id
    assert retriever.search(query, 9, exclude=[best.video])[0].record.id != best.id


def test_copies_count_once_and_a_recording_few_times(bring, encoders, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    lines = []
    first = write(source / "one.mp4", seed=1)
    for i in range(4):
        write_video(source / f"copy{i}.mkv", read_clip(first, frames=12).frames[:, :, : 48 - 2 * i], 12)
        lines.append({"video": f"copy{i}.mkv", "caption": "open the box"})
    write_video(source / "long.mp4", np.concatenate([frames(20 + i, 12) for i in range(6)]), 12)
    lines += [{"video": "long.mp4", "caption": "open the box", "start": i, "end": i + 1} for i in range(6)]
    write_captions(source, [{"video": "one.mp4", "caption": "open the box"}, *lines])
    database, report = bring(source, encoders)
    retriever = Retriever(database, encoders.caption)
    found = retriever.search(retriever.query("open the box"), 9)
    videos = [reference.record.video.rsplit("/", 1)[-1] for reference in found]
    assert report.duplicates >= 2
    assert len(videos) == 6 + 5 - report.duplicates  # there is nothing else, so the recording gives all it has
    few = retriever.search(retriever.query("open the box"), 4)
    assert sum(reference.record.video.endswith("long.mp4") for reference in few) <= 3


def test_tokens_come_with_the_references(retriever, full):
    found = retriever.search(retriever.query("open the box"), 2, tokens=True)
    for reference in found:
        part = next(full.scan(["motion_tokens", "appearance_tokens"], f"id = '{reference.record.id}'"))
        assert np.array_equal(reference.motion_tokens, array_of(part, "motion_tokens", (4, 16))[0])
        assert np.array_equal(reference.appearance_tokens, array_of(part, "appearance_tokens", (4, 16))[0])
        assert np.abs(reference.motion_tokens).max() > 0


def test_a_database_without_tokens_or_vectors_says_how_to_get_them(corpus, bring, captions_only):
    database, _ = bring(corpus, captions_only)
    retriever = Retriever(database, captions_only.caption)
    with pytest.raises(MotionRAGError, match=r"keeps no tokens; .* --bundle BUNDLE"):
        retriever.search(retriever.query("open the box"), tokens=True)
    with pytest.raises(MotionRAGError, match=r"keeps no motion vectors; .* --motion MODEL"):
        retriever.query(clip=read_clip(corpus / "videos/clip_000.mp4"))
    with pytest.raises(MotionRAGError, match="keeps no appearance vectors"):
        retriever.query("open", image=np.zeros((3, 8, 8), np.uint8))


def test_encoders_of_another_make_are_refused(full, caption, encoders):
    with pytest.raises(MotionRAGError, match=r"its captions were encoded by minilm .* the query by other"):
        Retriever(full, CaptionEncoder(OtherText(caption.text)))
    with pytest.raises(MotionRAGError, match=r"its motion vectors are of .*videomae, the query's of .*dinov2"):
        Retriever(full, caption, motion=encoders.video["appearance"])


@pytest.mark.parametrize(("options", "message"), [({"k": 0}, "k=0 must be at least 1")])
def test_bad_requests(retriever, options, message):
    with pytest.raises(MotionRAGError, match=message):
        retriever.search(retriever.query("open"), **options)
    for arguments in ({}, {"prompt": "a", "clip": object()}):
        with pytest.raises(MotionRAGError, match="either a prompt or a clip"):
            retriever.query(**arguments)
    with pytest.raises(MotionRAGError, match="the prompt is empty"):
        retriever.query("  ")


def test_vectors_have_length_one_and_opposites_point_apart(caption):
    vectors = caption.encode(["open the box", "close the box", "an unknown zorbing", "open the box"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[3] == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.1
    assert not motion_code([]).any()
    assert caption.encode([]).shape == (0, caption.width)
    with pytest.raises(MotionRAGError, match="empty"):
        caption.encode([""])


def test_exact_search_agrees_where_there_is_no_index(retriever):
    query = retriever.query("wipe the table")
    one, other = (retriever.search(query, floor=-1, exact=exact) for exact in (False, True))
    assert [reference.record.id for reference in one] == [reference.record.id for reference in other]


def test_videos_named_by_a_relative_path_lie_in_the_databases_folder(
    corpus, bring, captions_only, caption, tmp_path
):
    """A database that is handed on with its videos: copied elsewhere, it finds them there."""
    database, _ = bring(corpus, captions_only)
    shutil.copytree(corpus, Path(database.uri) / "clips")
    rows = list(database.rows(["id", "video"]))
    names = [f"clips/{Path(row['video']).relative_to(corpus)}" for row in rows]
    database.update([row["id"] for row in rows], {"video": names}, {})
    shutil.rmtree(corpus)
    moved = shutil.move(database.uri, tmp_path / "elsewhere")
    retriever = Retriever(MotionDatabase.open(moved), caption)
    for reference in retriever.search(retriever.query("Open the lid of the red box"), 3, floor=-1):
        assert Path(reference.record.video).is_file()
        assert Path(reference.record.video).is_relative_to(moved)
