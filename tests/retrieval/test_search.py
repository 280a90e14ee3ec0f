"""Search: motion before objects, never the query's own clip, no copies, nothing where nothing fits."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motionrag.errors import MotionRAGError
from motionrag.retrieval.ingest import ingest
from motionrag.retrieval.schema import array_of
from motionrag.retrieval.search import IMAGE_SHARE, WORDS_SHARE, Query, Retriever
from motionrag.retrieval.sources import read_jobs
from motionrag.retrieval.store import MotionDatabase
from motionrag.retrieval.vectors import LIFTED, OPPOSED, OWN_SHARE, CaptionEncoder, load_caption_encoder
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
    table = full.take(full.nearest("motion_vector", wanted, 12), ["caption", "motion_vector"])
    cosines = array_of(table, "motion_vector", wanted.shape) @ wanted
    assert cosines.tolist() == sorted(cosines, reverse=True)
    near = table.column("caption").to_pylist()
    expected = [caption for caption in near if caption != CAPTIONS[3]]
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


def test_an_explanation_beside_an_image_is_of_its_share_of_the_score(retriever, full):
    row = full.find("clip_009.mp4")[0]
    image = read_clip(row["video"]).frames[0]
    (alone,) = retriever.search(retriever.query("put the cup"), 1, where="caption LIKE 'Put%'", floor=-1)
    (ranked,) = retriever.search(
        retriever.query("put the cup", image=image), 1, where="caption LIKE 'Put%'", floor=-1
    )
    assert ranked.words == pytest.approx((1 - IMAGE_SHARE) * alone.words, abs=1e-5)
    ((one,), (other,)) = (retriever.explain("put the cup", [alone], image=image) for image in (False, True))
    parts = one.sentences[0].score + one.lifted + one.opposed + alone.words
    assert parts == pytest.approx(alone.score, abs=2e-3)
    assert other.sentences[0].score == pytest.approx((1 - IMAGE_SHARE) * one.sentences[0].score)


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
        Retriever(full, CaptionEncoder(OtherText(caption.motion)))
    with pytest.raises(MotionRAGError, match=r"its motion vectors are of .*videomae .*, the query's of .*dinov2"):
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
    vectors = caption.encode(["open the box", "close the box", "open the box"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[2] == pytest.approx(1, abs=1e-5)
    assert vectors[0] @ vectors[1] < 0.5
    assert caption.encode([]).shape == (0, caption.width)
    with pytest.raises(MotionRAGError, match="empty"):
        caption.encode([""])


def test_a_users_own_encoder_takes_part(caption):
    both = CaptionEncoder(OtherText(caption.motion), motion=caption.motion)
    texts = ["open the box", "close the box", "a dog runs"]
    vectors = both.encode(texts)
    assert (vectors.dtype, vectors.shape, both.info.model) == (np.float32, (3, both.width), "other")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    alone, own = caption.encode_prompts(texts) @ caption.encode(texts).T, both.own.encode(texts)
    expected = OWN_SHARE * own @ own.T + (1 - OWN_SHARE) * alone
    np.testing.assert_allclose(both.encode_prompts(texts) @ vectors.T, expected, atol=1e-5)
    for encoder, prompts in ((both, both.encode_prompts(texts)), (caption, caption.encode_prompts(texts))):
        relevance = encoder.relevance(prompts[0], encoder.encode(texts))
        lost = relevance - encoder.encode(texts) @ prompts[0]
        assert lost[0] > 0 > -0.3 > lost[1] >= -OPPOSED
        assert lost[0] < LIFTED / 10
        assert lost[2] > -0.1
    (why,) = both.explain(["open the box"], "a dog runs")
    assert sum(part.score for part in why.sentences) == pytest.approx((1 - OWN_SHARE) * float(alone[2, 0]), abs=1e-4)


def test_shared_words_decide_between_captions_of_like_motion(corpus, bring, captions_only, caption):
    """A rare word that prompt and caption share counts; so do its other forms."""
    rows = read_captions(corpus)
    rows[0]["caption"], rows[1]["caption"] = "Open the drawer of Zorbel", "Open the drawer of Quinlax"
    write_captions(corpus, rows)
    database, _ = bring(corpus, captions_only)
    retriever = Retriever(database, caption)
    for name in ("Zorbel", "Quinlax"):
        best, other = retriever.search(retriever.query(f"{name} opening the drawer"), 2)
        assert name in best.record.caption
        assert best.words > other.words > 0
        assert best.score > other.score
        asked = caption.encode_prompts([f"{name} opening the drawer"])[0]
        relevance = float(caption.relevance(asked, caption.encode([best.record.caption]))[0])
        assert best.score == pytest.approx((1 - WORDS_SHARE) * relevance + best.words, abs=2e-3)
    found = retriever.search(retriever.query("Zorbel opening the drawer"), where="caption NOT LIKE '%Zorbel%'")
    assert not any("Zorbel" in reference.record.caption for reference in found)
    assert retriever.search(Query(text=retriever.query("open the drawer").text))[0].words == 0


def test_words_count_once_and_by_their_stems_from_the_first_clip_on(captions_only, corpus, tmp_path):
    """Before any index is extended too, with and without a condition."""
    database = MotionDatabase.create(tmp_path / "db", captions_only.settings)
    ingest(read_jobs(corpus), database, captions_only)
    assert "caption" in database.indices()
    all_rows = database.sharing_words("opening drawers", 12)
    assert len(all_rows) >= 3  # open the drawer, close the drawer, open the lid
    assert database.sharing_words("Drawers, drawers; opening?", 12) == pytest.approx(all_rows)
    some = database.sharing_words("opening drawers", 12, where="caption LIKE '%drawer%'")
    assert some == pytest.approx({row: points for row, points in all_rows.items() if row in some})
    assert len(some) == 2
    assert database.sharing_words("?! 球", 12) == {}


def test_words_find_what_vectors_do_not(retriever, monkeypatch):
    """A caption that shares rare words is compared too, however many are nearer by their vectors."""
    asked, other = retriever.query("Close the lid of the red box"), retriever.query("wipe the desk")
    for words, there in ((asked.words, True), ("", False)):
        found, _ = retriever._candidates(replace(other, words=words), 3, None, -1.0, False)
        ids = ", ".join(f"'{item.row['id']}'" for item in found)
        texts = {row["caption"] for row in retriever.database.rows(["caption"], f"id IN ({ids})")}
        assert ("Close the lid of the red box" in texts) == there


def test_the_bundled_encoder_has_no_revision(caption):
    assert load_caption_encoder("minilm").info == load_caption_encoder().info == caption.info
    with pytest.raises(MotionRAGError, match="has no revision 'main'"):
        load_caption_encoder("minilm", revision="main")


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
