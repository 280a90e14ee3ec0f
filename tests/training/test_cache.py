"""Protects the training cache: right values in the right rows, exact resume, and no mixing of what does not fit."""

import json
import shutil

import numpy as np
import pytest
import torch

from motionrag.bases import tiny
from motionrag.errors import MotionRAGError
from motionrag.registry import base_spec
from motionrag.retrieval.sources import read_jobs
from motionrag.training.cache import Cache, Maker, build
from motionrag.training.conditioning import conditioning_of
from motionrag.training.data import DataSettings, open_cache
from motionrag.training.neighbours import neighbours
from motionrag.training.pictures import picture
from motionrag.training.sources import Joined, SourceSettings, SynthSettings, SynthSource, VideoSource, open_sources
from tests.retrieval.corpus import make_corpus
from tests.training import world


def synth(count=10, **more):
    return SynthSource(SynthSettings(count=count, **more), frames=3, size=16)


def brightness(fingerprint="one", calls=None, fails_at=None):
    """Mean of each frame; counts its calls, and may fail at one."""

    def make(clips):
        if calls is not None:
            calls.append(len(clips.rows))
            if len(calls) == fails_at:
                raise KeyboardInterrupt
        return torch.stack([torch.from_numpy(frames).float().mean(dim=(1, 2, 3)) for frames in clips.frames])

    return Maker(name="brightness", fingerprint=fingerprint, make=make, constant=lambda: torch.zeros(1, 3))


def folder_bytes(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_rows_are_found_across_shards(tmp_path):
    cache = build(tmp_path / "c", synth(), [brightness()], shard=4)
    clips = synth().read(0, 10)
    wanted = torch.stack([torch.from_numpy(f).float().mean(dim=(1, 2, 3)) for f in clips.frames]).half()
    assert len(cache) == 10
    assert torch.equal(cache.take("brightness", torch.arange(10)), wanted)
    rows = torch.tensor([[9, 0], [4, 3]])
    assert torch.equal(cache.take("brightness", rows), wanted[rows])
    assert cache.rows == clips.rows
    assert cache.constant("brightness").shape == (1, 3)


def test_an_interrupted_cache_goes_on_and_is_the_same(tmp_path):
    build(tmp_path / "whole", synth(), [brightness()], shard=4)
    calls = []
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", synth(), [brightness(calls=calls, fails_at=2)], shard=4)
    with pytest.raises(MotionRAGError, match="half made"):
        Cache(tmp_path / "cut")
    calls.clear()
    build(tmp_path / "cut", synth(), [brightness(calls=calls)], shard=4)
    assert calls == [4, 2]  # the first shard is not made again
    assert folder_bytes(tmp_path / "cut") == folder_bytes(tmp_path / "whole")


def test_arrays_are_added_later_and_derived(tmp_path):
    build(tmp_path, synth(), [], shard=4)
    calls = []
    cache = build(tmp_path, synth(), [brightness(calls=calls)], shard=4)
    build(tmp_path, synth(), [brightness(calls=calls)], shard=4)
    assert calls == [4, 4, 2]
    cache.derive("double", "brightness", "x", lambda values: values.float() * 2)
    everything = torch.arange(10)
    again = Cache(tmp_path)
    assert torch.equal(again.take("double", everything), cache.take("brightness", everything) * 2)
    again.derive("double", "brightness", "y", lambda values: values.float() * 3)
    assert torch.equal(
        Cache(tmp_path).take("double", everything).float(),
        (again.take("brightness", everything).float() * 3).half().float(),
    )


def test_what_does_not_fit_is_refused(tmp_path):
    build(tmp_path / "c", synth(), [brightness()], shard=4)
    with pytest.raises(MotionRAGError, match="brightness were made by another model"):
        build(tmp_path / "c", synth(), [brightness("two")])
    shutil.rmtree(tmp_path / "c/brightness")  # as the message says
    assert build(tmp_path / "c", synth(), [brightness("two")]).fingerprint("brightness") == "two"
    with pytest.raises(MotionRAGError, match="other clips than these 10"):
        build(tmp_path / "c", synth(seed=2), [brightness()])
    with pytest.raises(MotionRAGError, match="holds no 'latent'; known are brightness"):
        Cache(tmp_path / "c").take("latent", torch.arange(2))
    with pytest.raises(MotionRAGError, match="something else than a training cache"):
        build(tmp_path, synth(), [brightness()])
    with pytest.raises(MotionRAGError, match="no training cache"):
        Cache(tmp_path / "nothing")
    with pytest.raises(MotionRAGError, match="not finite, or too large"):
        build(tmp_path / "d", synth(), [Maker(name="x", fingerprint="x", make=lambda c: torch.full((10, 1), 1e6))])
    with pytest.raises(MotionRAGError, match="one of synth, videos or database"):
        SourceSettings()


def test_a_half_made_array_of_another_maker_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "c", synth(), [brightness("one", calls=[], fails_at=2)], shard=4)
    with pytest.raises(MotionRAGError, match="brightness were made by another model"):
        build(tmp_path / "c", synth(), [brightness("two")], shard=4)


def test_videos_and_simulated_clips_mix_and_failures_are_told(tmp_path):
    corpus = make_corpus(tmp_path / "videos", count=3)
    (corpus / "videos/clip_001.mp4").write_bytes(b"no video")
    source = open_sources(
        [SourceSettings(synth=SynthSettings(count=3)), SourceSettings(videos=str(corpus))], frames=3, size=16
    )
    assert isinstance(source, Joined)
    cache = build(tmp_path / "c", source, [brightness()], shard=4)
    assert len(cache) == 5
    assert cache.failures == 1
    failure = json.loads((tmp_path / "c/failures.jsonl").read_text())
    assert failure["video"].endswith("clip_001.mp4")
    assert cache.rows[3]["captions"] == ["Open the drawer of the desk"]
    assert cache.rows[3]["lab"] == "lab0"
    frames = VideoSource(read_jobs(corpus), frames=3).read(0, 1).frames[0]
    assert torch.equal(
        cache.take("brightness", torch.tensor([3])),
        torch.from_numpy(frames).float().mean(dim=(1, 2, 3))[None].half(),
    )
    (corpus / "videos/clip_000.mp4").unlink()
    with pytest.raises(MotionRAGError, match="clip_000"):
        build(
            tmp_path / "c",
            source,
            [brightness(), Maker(name="x", fingerprint="x", make=lambda c: torch.zeros(len(c.rows), 1))],
        )


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    world.save_tiny(folder)
    return tiny.load(folder)


def test_latents_and_prompts_are_the_pipelines(pipe, tmp_path):
    spec = base_spec("tiny")
    data = DataSettings(
        cache=str(tmp_path / "c"), sources=[SourceSettings(synth=SynthSettings(count=3))], captions=2, held_out=1
    )
    cache = open_cache(data, conditioning_of(pipe, spec), spec.sampling(pipe), device="cpu")
    clips = SynthSource(SynthSettings(count=3), frames=4, size=32).read(0, 3)
    image = pipe.video_processor.preprocess(picture(clips.frames[2][0]), 32, 32)
    with torch.no_grad():
        _, wanted = pipe.prepare_latents(
            image, 1, 4, 4, 32, 32, torch.float32, "cpu", latents=torch.zeros(1), generator=torch.Generator()
        )
        mode = pipe.vae.encode(image[:, :, None]).latent_dist.mode()
    got = cache.take("latents", torch.tensor([2])).float()
    assert torch.allclose(got[:, 0], mode[:, :, 0], atol=0.05 * float(mode.std()))
    assert wanted[:, 0].shape == got[:, 0].shape
    prompt, empty = pipe.encode_prompt(clips.rows[2]["captions"][1], "", max_sequence_length=32)
    for own, wanted in (
        (cache.take("prompt", torch.tensor([2]))[0, 1], prompt[0]),
        (cache.constant("prompt")[0], empty[0]),
    ):
        assert (own.float() - wanted).norm() < 0.03 * wanted.norm()  # encoded in bfloat16


def test_references_are_those_a_search_gives(tmp_path):
    captions = [
        "a ball rolls left",
        "a cup rolls left",
        "a box rolls left",
        "a ball rises",
        "a kite rises",
        "a cup rises",
    ]

    class Few:
        fingerprint = "few"

        def __len__(self):
            return 6

        def read(self, first, last):
            clips = synth(6).read(first, last)
            for row, caption, video in zip(clips.rows, captions, "abcdee", strict=True):
                row |= {"captions": [caption], "video": video}
            return clips

    from motionrag.training.data import _search_makers

    cache = build(tmp_path / "c", Few(), _search_makers("cpu"))
    found = neighbours(cache, 2)
    assert [set(row) for row in found.rows[:3].tolist()] == [{1, 2}, {0, 2}, {0, 1}]
    assert 3 in found.rows[4].tolist()
    assert 5 not in found.rows[4].tolist()  # of the same recording
    assert (found.scores.diff(dim=1) <= 0).all()
    assert torch.equal(neighbours(cache, 2).rows, found.rows)
    with pytest.raises(MotionRAGError, match="others to refer to"):
        neighbours(cache, 5)


def test_simulated_captions_take_turns():
    first = [row["captions"][0] for row in synth(60).read(0, 60).rows]
    assert len({*first}) > 50
    assert (
        np.mean([" on " in text or " in " in text for text in first]) < 0.6
    )  # one wording in three names the ground
