"""`MotionRAG` as a library, with real pipelines, encoders and databases at tiny size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import motionrag
from motionrag import GenerationSettings, MotionRAG, MotionRAGError
from motionrag.cli import main
from motionrag.pipeline.picture import fitted, picture
from motionrag.pipeline.result import SUFFIXES
from motionrag.types import ScaleRange
from motionrag.video import read_clip
from tests.e2e.conftest import PROMPT, UNKNOWN
from tests.retrieval.corpus import write, write_captions

FAST = {"steps": 2, "seed": 3}


def test_a_clip_of_any_base(any_rag, home, tmp_path):
    """The whole method: two clips fit, they change what the base makes, and the clip plays."""
    video = any_rag(home / "image.png", PROMPT, **FAST)
    bare = any_rag.bare(video.settings)
    sampling = any_rag.sampling
    assert video.frames.shape == (sampling.frames, 3, sampling.height, sampling.width)
    assert {reference.record.caption for reference in video.references} == {
        "Open the drawer of the desk",
        "Open the lid of the red box",
    }
    assert np.abs(video.frames.astype(int) - bare.frames).max() > 1
    assert set(video.timings) == {"retrieve", "appearance", "adapt", "generate"}
    assert set(bare.timings) == {"retrieve", "generate"}
    video.save(tmp_path / "clip.mp4")
    assert read_clip(tmp_path / "clip.mp4").frames.shape[1:] == video.frames.shape[1:]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_written_and_read(rag, home, tmp_path, suffix):
    video = rag(home / "image.png", PROMPT, **FAST)
    assert video.save(tmp_path / f"clip{suffix}") == tmp_path / "clip.json"
    if suffix == ".png":
        with Image.open(tmp_path / "clip.png") as page:
            assert page.width > 600
    else:
        assert read_clip(tmp_path / f"clip{suffix}", frames=9).frames.shape == video.frames.shape


def test_the_same_seed_gives_the_same_clip_and_another_does_not(any_rag, home):
    once, again = (any_rag(home / "image.png", PROMPT, **FAST).frames for _ in range(2))
    other = any_rag(home / "image.png", PROMPT, **{**FAST, "seed": 4}).frames
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)


def test_without_relevant_references_the_base_runs_bare(rag, home):
    video = rag(home / "image.png", UNKNOWN, **FAST)
    assert list(video.references) == video.settings.references == []
    plain = rag.generate([home / "image.png"], [UNKNOWN], seeds=[3], sampling=video.settings.sampling)
    assert np.array_equal(video.frames, plain[0])


def test_scale_0_and_a_fade(rag, home):
    """Scale 0 is the bare base bit for bit; ranges over the steps reach the adapter."""
    none = rag(home / "image.png", PROMPT, scale=0.0, **FAST)
    assert np.array_equal(none.frames, rag.bare(none.settings).frames)
    first_half = rag(home / "image.png", PROMPT, scale=[ScaleRange(scale=1.0, end=0.5)], **FAST)
    full = rag(home / "image.png", PROMPT, **FAST)
    assert len({frames.tobytes() for frames in (none.frames, first_half.frames, full.frames)}) == 3


def test_settings_make_the_same_clip_though_the_database_grew(home, grown, rag, tmp_path):
    """Through the file, in a new `MotionRAG`, with a clip that would be the best reference now."""
    parts = {"base": str(home / "cogvideox-base"), "bundle": str(home / "cogvideox-bundle")}
    first = MotionRAG.from_pretrained(**parts, db=str(grown))
    video = first(home / "image.png", PROMPT, scale=[ScaleRange(scale=0.7, end_scale=0.1)], **FAST)
    settings = GenerationSettings.load(video.save(tmp_path / "clip.webp"))
    assert settings == video.settings
    write(tmp_path / "new.mp4", seed=99)
    write_captions(tmp_path, [{"video": "new.mp4", "caption": "Open the box"}])
    assert main(["ingest", str(tmp_path), "--db", str(grown), "--workers", "1"]) == 0
    second = MotionRAG.from_pretrained(**parts, db=str(grown))
    assert len(second.retrieve(PROMPT)) == 3
    assert np.array_equal(second.repeat(settings).frames, video.frames)


def test_own_videos_take_the_place_of_the_search(rag, home):
    """Encoded then; as the database's tokens of the same clips, and refused once a file is another."""
    videos = [home / "corpus/videos/clip_004.mp4", home / "corpus/videos/clip_007.mp4"]
    video = rag(home / "image.png", PROMPT, reference_videos=videos, **FAST)
    assert [reference.record.video for reference in video.references] == [str(path) for path in videos]
    for reference, path in zip(video.references, videos, strict=True):
        (row,) = rag.retriever.database.find(str(path))
        assert row["id"] == reference.record.id
        (kept,) = rag.retriever.database.rows(["motion_tokens"], f"id = '{row['id']}'")
        assert np.abs(np.ravel(reference.motion_tokens) - np.array(kept["motion_tokens"])).max() < 2e-3
    assert np.array_equal(rag.repeat(video.settings).frames, video.frames)
    changed = replace(video.settings.references[0], content_hash="0" * 64)
    with pytest.raises(MotionRAGError, match=r"clip_004.mp4: is not the reference video"):
        rag.repeat(replace(video.settings, references=[changed]))


def test_repeat_refuses_what_is_not_what_it_was(rag, home):
    video = rag(home / "image.png", PROMPT, **FAST)
    with pytest.raises(MotionRAGError, match="another bundle"):
        rag.repeat(replace(video.settings, fingerprints={**video.settings.fingerprints, "bundle": "0" * 64}))
    with pytest.raises(MotionRAGError, match="is not the target image"):
        rag.repeat(video.settings, np.zeros((3, 9, 9), np.uint8))
    with pytest.raises(MotionRAGError, match="was in memory"):
        rag.repeat(replace(video.settings, image=None))
    gone = replace(video.settings.references[0], id="0" * 32)
    with pytest.raises(MotionRAGError, match="lacks the clip 0000"):
        rag.repeat(replace(video.settings, references=[gone]))


def test_many_clips_in_one_run(any_rag, home):
    """Bare, ours, oracle and fusions in batches; each clip has its own motion and noise."""
    images = [home / "image.png", np.zeros((3, 20, 30), np.uint8)]
    sampling = replace(any_rag.sampling, steps=2)
    found = [any_rag.retrieve(prompt) for prompt in (PROMPT, "push the cup")]
    looks = any_rag.encode_images(images)
    ours = torch.cat([any_rag.adapt(one, look[None]) for one, look in zip(found, looks, strict=True)])
    oracle = any_rag.encode_motion([read_clip(home / f"corpus/videos/clip_00{i}.mp4").frames for i in (2, 3)])
    fused = {name: torch.cat([any_rag.adapt(one, looks[:1], name) for one in found]) for name in ("mean", "top1")}
    doubted = [replace(one, score=one.score - one.rank) for one in found[0]]  # a share kept is weighed by scores
    assert not torch.allclose(any_rag.adapt(doubted, looks[:1]), ours[:1], atol=1e-3)
    systems = {"bare": None, "ours": ours, "oracle": oracle, **fused}
    clips = {
        name: any_rag.generate(images, [PROMPT, "push the cup"], motion, seeds=[5, 6], sampling=sampling)
        for name, motion in systems.items()
    }
    assert len({clip.tobytes() for clip in clips.values()}) == len(systems)
    alone = any_rag.generate(images[1:], ["push the cup"], ours[1:], seeds=[6], sampling=sampling)[0]
    assert np.abs(clips["ours"][1].astype(int) - alone).max() <= 1
    with pytest.raises(MotionRAGError, match="as many images as prompts"):
        any_rag.generate(images, [PROMPT], seeds=[0])


def test_guidance_sets_the_motion_against_none(rag, home):
    """The null tokens are of a mid-grey clip, and matter where guidance is on."""
    encoder = rag.retriever.motion
    frames = np.full((16, 3, *encoder.preparation.crop), 128, np.uint8)
    assert (rag.encode_motion([frames]) - rag.null).abs().max() < 0.05 < rag.null.abs().max()
    video = rag(home / "image.png", PROMPT, guidance=4.0, **FAST)
    null, rag.null = rag.null, rag.null + 1
    try:
        other = rag.repeat(video.settings)
    finally:
        rag.null = null
    assert not np.array_equal(video.frames, other.frames)


def test_progress_is_told_after_each_step(any_rag, home):
    told = []
    any_rag(home / "image.png", PROMPT, steps=3, report=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]
    if any_rag.spec.name == "dynamicrafter":  # 0, 142, ... 994 of a thousand
        told.clear()
        changes = {"steps": 7, "timestep_spacing": "leading"}
        any_rag(home / "image.png", PROMPT, report=lambda *step: told.append(step), **changes)
        assert told == [(i, 8) for i in range(1, 9)]


def test_pictures_of_every_kind(tmp_path):
    """The same picture whatever the format; upright; of animations the first frame; sixteen bits are not cut."""
    grey = np.linspace(0, 255, 48 * 32).reshape(32, 48)
    plain = Image.fromarray(grey.round().astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    saved = {
        "plain.png": (plain, {}),
        "colour.jpg": (plain.convert("RGB"), {"quality": 95}),
        "cmyk.jpg": (plain.convert("CMYK"), {"quality": 95}),
        "palette.gif": (plain.convert("P"), {"save_all": True, "append_images": [Image.new("P", (48, 32))]}),
        "alpha.png": (plain.convert("LA"), {}),
        "turned.jpg": (plain.transpose(Image.Transpose.ROTATE_90), {"exif": turned, "quality": 95}),
        "deep.png": (Image.fromarray((grey * 257).astype(np.uint16)), {}),
        "deep.tif": (Image.fromarray((grey * 257).astype(np.int32)), {}),
        "float.tif": (Image.fromarray((grey / 255).astype(np.float32)), {}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / name, **options)
        for source in (tmp_path / name, Image.open(tmp_path / name)):
            found = picture(source)
            assert (found.mode, found.size) == ("RGB", (48, 32)), name
            assert np.abs(np.asarray(found).mean(-1) - grey).max() < 9, name
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert np.asarray(picture(clear)).min() == 255
    assert np.array_equal(np.asarray(picture(np.moveaxis(np.asarray(plain.convert("RGB")), -1, 0)))[..., 0], plain)
    with pytest.raises(MotionRAGError, match=r"u8 \[3, H, W\]"):
        picture(np.zeros((32, 48, 3), np.uint8))


@pytest.mark.parametrize("size", [(1, 1), (3000, 7), (33, 64), (64, 64)])
def test_images_cover_the_clip(size):
    """Cropped around the centre, never distorted or padded."""
    image = Image.new("RGB", size, (250, 10, 10))
    assert fitted(image, 24, 40).size == (40, 24)
    assert np.asarray(fitted(image, 24, 40)).reshape(-1, 3).min(0).tolist() == [250, 10, 10]


def test_parts_that_do_not_belong_together(home):
    """Refused with the remedy, before the base is loaded."""

    def load(base, bundle, db):
        MotionRAG.from_pretrained(base=base, bundle=str(home / bundle), db=db and str(home / db))

    for parts, message in {
        ("svd", "cogvideox-bundle", "cogvideox-db"): "is made for the base cogvideox, not for svd",
        (str(home / "svd-base"), "cogvideox-bundle", "cogvideox-db"): "the base is StableVideoDiffusionPipeline",
        (None, "other-bundle", "cogvideox-db"): "ingest .* --db NEW --bundle .*other-bundle",
        (None, "cogvideox-bundle", "plain-db"): "keeps no motion tokens",
        (None, "cogvideox-bundle", None): "needs a database of its tokens",
        (str(home / "nothing"), "cogvideox-bundle", "cogvideox-db"): "no base model at",
    }.items():
        with pytest.raises(MotionRAGError, match=message):
            load(*parts)


def test_text_to_video_pipelines_are_refused(rag, home):
    """They have the same transformer, but take no image."""
    from diffusers import CogVideoXPipeline

    parts = {name: rag.pipe.components[name] for name in ("tokenizer", "text_encoder", "vae", "transformer")}
    pipe = CogVideoXPipeline(**parts, scheduler=rag.pipe.scheduler)
    bundle = motionrag.MotionBundle.from_pretrained(home / "cogvideox-bundle")
    with pytest.raises(MotionRAGError, match="the base is CogVideoXPipeline"):
        MotionRAG(pipe, bundle, rag.retriever)
