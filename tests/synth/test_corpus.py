"""The simulated corpus: always the same clips, whose truth is true, with motion and appearance independent."""

import hashlib
import time
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from motionrag import MotionRAGError
from motionrag.synth import chosen, draw, families, render, scenes, truth
from motionrag.synth.kin import ALIKE, KIN
from motionrag.synth.motions import Draw
from motionrag.synth.raster import place, sprites
from motionrag.training.recipe import load_recipe, packaged_recipes

ORDER = [
    *(
        "slide",
        "bounce",
        "swing",
        "spin",
        "orbit",
        "zigzag",
        "hop",
        "wave",
        "grow",
        "shrink",
        "pulse",
        "shake",
        "rock",
    ),
    *("drop", "float", "cross", "home", "flee", "roll", "pace", "collide", "leap", "stutter", "curve"),
    *("wander", "free"),
    *("spiral", "eight", "stairs", "boomerang", "ricochet", "tumble", "square", "loop"),
]
EVERY = len(ORDER)  # with all families in turn, so many clips have one of each
SYMMETRIC = {"ball", "square", "star", "cross", "ring", "hexagon", "pill", "diamond"}
JUDGES = {"families"}  # recipes of what only measures: it has to know all families
TENSORS = ("video", "background", "mask", "centers", "angles", "scales", "radii")


@pytest.fixture(scope="module")
def batch():
    """Three clips of each family."""
    return render(77, range(3 * EVERY))


def test_the_corpus_is_the_one_that_trainings_saw():
    """Clips are named by seed and number: trained models, caches and databases are of these and no others."""
    drawn = scenes(0, range(4 * EVERY))
    said = "\n".join(caption for scene in drawn for caption in scene.captions)
    assert hashlib.sha256(said.encode()).hexdigest()[:16] == "02253ce8e516de2d"
    centers = truth(drawn)["centers"].double()
    assert [round(float(value), 2) for value in (centers.mean(), centers.std(), centers[-1, -1, 0])] == [
        30.51,
        11.11,
        35.71,
    ]


def test_families_keep_their_order():
    """A clip's family is its number modulo their count: with other families all clips would be others."""
    assert list(families()) == ORDER
    assert sum(family.known for family in families().values()) >= 24
    assert sum(not family.known for family in families().values()) >= 6
    assert [family.known for family in families().values()] == [True] * 26 + [False] * 8


def test_a_clip_does_not_depend_on_those_beside_it(batch):
    for indices in ([7], [70, 3, 21], range(40, 60)):
        other = render(77, indices)
        assert other.captions == [batch.captions[i] for i in indices]
        for name in TENSORS:
            assert torch.equal(getattr(other, name), getattr(batch, name)[list(indices)]), name
    assert not torch.equal(render(78, [7]).video, batch.video[7:8])


def test_drawn_once_and_again_is_the_same(batch):
    again = draw(batch.scenes)
    assert all(torch.equal(getattr(again, name), getattr(batch, name)) for name in TENSORS)


def test_looks_do_not_depend_on_the_family():
    """The same clip of two families has the same object on the same background: looks tell nothing of motion."""
    first, *others = [scenes(5, range(6), [name]) for name in ORDER]
    for drawn in others:
        for one, other in zip(first, drawn, strict=True):
            for part in ("look", "ground"):
                assert _values(getattr(one, part)) == _values(getattr(other, part))


def _values(thing):
    return {f.name: np.asarray(getattr(thing, f.name)).tolist() for f in fields(thing)}


@pytest.mark.parametrize("name", [f.name for f in families().values() if f.predictable])
def test_motion_does_not_depend_on_the_size(name):
    """Even the largest object has room for every motion, so that none is drawn anew until it fits."""
    for seed in range(100):
        motion = families()[name].program(Draw(np.random.default_rng(seed), 16, radius := 11 * 1.06))
        reach = radius * (1.0 if motion.scale is None else motion.scale.max())
        assert (np.ptp(motion.offset, axis=0) + 2 * reach <= 63).all()


def test_ten_clips_of_kin_share_a_motion_that_others_do_not():
    drawn = scenes(9, range(200), ["kin"])
    paths = np.stack([scene.motion.offset for scene in drawn]).reshape(20, KIN, 16, 2)
    extent = np.ptp(paths, axis=2).max(axis=-1)[:, :ALIKE].mean(axis=1)
    alike = np.abs(paths[:, :ALIKE] - paths[:, :1]).max(axis=(1, 2, 3))
    other = np.abs(paths - np.roll(paths, 1, axis=0)).max(axis=(2, 3)).mean(axis=1)
    moving = extent > 5
    assert (alike[moving] < 0.45 * extent[moving]).all()
    assert np.median(alike[moving] / other[moving]) < 0.3
    changed = np.abs(paths[:, ALIKE:] - paths[:, :1]).max(axis=(1, 2, 3))
    assert np.median(changed[moving] / extent[moving]) > 0.8
    again = scenes(9, [37], ["kin"])[0]
    assert (again.motion.offset == drawn[37].motion.offset).all()
    assert "kin" not in {family.name for family in chosen(None)}


def test_objects_stay_in_the_picture(batch):
    """At most a corner touches the edge: beside the same object with ample room around, hardly anything is gone."""
    stands = torch.tensor([scene.look.angle for scene in batch.scenes], dtype=torch.float32)[:, None]
    sprite = sprites([scene.look for scene in batch.scenes])
    radii = batch.radii[:, None] * batch.scales
    _, roomy = place(sprite, batch.centers + 32, batch.angles + stands, radii, 128)
    whole, seen = roomy.sum(dim=(2, 3, 4)), batch.mask.sum(dim=(2, 3))
    assert (seen / whole).min() > 0.95


def test_the_path_is_the_true_one(batch):
    """Where the object is drawn is where the truth says, to a fifth of a pixel."""
    rows = [i for i, scene in enumerate(batch.scenes) if scene.look.shape in SYMMETRIC]
    mask, line = batch.mask[rows], torch.arange(64.0)
    area = mask.sum(dim=(2, 3))
    x, y = (mask * line).sum(dim=(2, 3)) / area, (mask * line[:, None]).sum(dim=(2, 3)) / area
    inside = (batch.centers[rows] - 31.5).abs().amax(dim=(1, 2)) + (
        batch.radii[rows] * batch.scales[rows].amax(1)
    ) < 31
    error = (torch.stack([x, y], dim=-1) - batch.centers[rows]).norm(dim=-1).amax(dim=1)
    assert inside.sum() > EVERY
    assert error[inside].max() < 0.2


def test_the_size_is_the_true_one():
    made = render(3, range(12), ["grow", "shrink", "pulse"])
    area = made.mask.sum(dim=(2, 3))
    torch.testing.assert_close(area / area[:, :1], made.scales**2, atol=0, rtol=0.06)


def test_the_turn_is_the_true_one():
    """Clockwise, as the long axis of a pill shows, whose moments know nothing of how it was drawn."""
    turning = scenes(3, range(200), ["spin", "tumble", "rock", "swing"])
    made = draw([scene for scene in turning if scene.look.shape == "pill"])
    line, mask = torch.arange(64.0), made.mask.double()
    x = line - made.centers[..., 0, None]
    y = line - made.centers[..., 1, None]
    xx, yy = (mask.sum(2) * x**2).sum(-1), (mask.sum(3) * y**2).sum(-1)
    xy = torch.einsum("bthw,btw,bth->bt", mask, x.double(), y.double())
    axis = 0.5 * torch.atan2(2 * xy, xx - yy)  # towards x right, y down: clockwise
    off = axis - axis[:, :1] - made.angles  # of which half turns do not show
    assert len(off) >= 8
    assert (off - torch.pi * (off / torch.pi).round()).abs().max() < 0.06


def test_motion_begins_at_rest_position(batch):
    """Turn 0 and size 1 in the first frame, which is all that a base sees of the object."""
    assert batch.angles[:, 0].abs().max() == 0
    assert (batch.scales[:, 0] == 1).all()


def test_only_the_objects_differ_from_the_background(batch):
    alone = [i for i, scene in enumerate(batch.scenes) if scene.other is None]
    empty = batch.mask[alone] == 0
    shown = batch.video[alone] == batch.background[alone, None]
    assert shown.all(dim=2)[empty].all()
    covered = (batch.video[alone].float() - batch.background[alone, None].float()).abs().amax(dim=2)
    assert covered[batch.mask[alone] > 0.99].mean() > 40, "objects must stand out"


def test_a_larger_picture_shows_the_same():
    small, large = render(9, range(EVERY)), render(9, range(EVERY), size=128)
    assert small.captions == large.captions
    torch.testing.assert_close((large.centers + 0.5) / 2 - 0.5, small.centers)
    halved = torch.nn.functional.avg_pool2d(large.video.flatten(0, 1).float(), 2).reshape(small.video.shape)
    assert (halved - small.video.float()).abs().mean() < 4


def test_more_frames_show_the_same_motion():
    """Motion spans the clip, so that the ends of 9 and of 17 frames are alike, and so is the middle."""
    short, long = [scenes(4, range(EVERY), None, frames) for frames in (9, 17)]
    for few, many in zip(short, long, strict=True):
        if few.family.name not in ("wander", "free", "stutter"):
            np.testing.assert_allclose(few.motion.offset, many.motion.offset[::2], atol=1e-6)


def test_families_by_name():
    assert [family.name for family in chosen(["known", "unseen"])] == ORDER
    assert [family.name for family in chosen(["spin", "free", "free"])] == ["spin", "free", "free"]
    with pytest.raises(MotionRAGError, match="no motion family named 'zigzg'; did you mean 'zigzag'"):
        chosen(["zigzg"])
    with pytest.raises(MotionRAGError, match="no motion family is named"):
        chosen([])


@pytest.mark.parametrize("name", sorted(packaged_recipes().keys() - JUDGES))
def test_no_recipe_trains_on_unseen_families(name):
    """They exist to be added to a database; a recipe that shows one to a training makes the claim void."""
    _, settings, _ = load_recipe(name)
    for names in _families(settings):
        assert all(family.known for family in chosen(names)), names


def _families(settings):
    """Every list of families in settings, nested ones too."""
    if isinstance(settings, list):
        yield from (found for part in settings for found in _families(part))
    elif is_dataclass(settings):
        for field in fields(settings):
            value = getattr(settings, field.name)
            if field.name == "families":
                yield value
            else:
                yield from _families(value)


def test_it_is_quick():
    """Trainings draw their clips as they go: at least 50 a second of one core."""
    render(1, range(8))
    start = time.process_time()
    render(1, range(64))
    assert 64 / (time.process_time() - start) > 50
