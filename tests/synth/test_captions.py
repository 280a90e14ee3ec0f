"""Captions say what moves how: all that is chosen, in words that no other motion has, so that the path is fixed."""

import re
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from motionrag.encoders.text import minilm_folder
from motionrag.synth import families, scenes
from motionrag.synth.motions import CORNERS
from tests.synth.test_corpus import EVERY

LEEWAY = 0.15
FREE_START = [
    f.name for f in families().values() if f.predictable and scenes(0, [0], [f.name])[0].motion.start is None
]
GIVEN_START = [f.name for f in families().values() if f.predictable and f.name not in FREE_START]


@pytest.fixture(scope="module")
def corpus():
    return scenes(2, range(60 * EVERY))


def moves(scene, caption):
    """What a caption says of the motion, without the object before it and the background after it."""
    _, _, rest = caption.partition(f" {scene.look.shape} ")
    return rest.removesuffix(f" {scene.ground.words}")


def test_words_tell_family_and_choices(corpus):
    """No two families share a wording, and no two choices of one: what is chosen can be read off every caption."""
    meant = {}
    for scene in corpus:
        choices = (scene.family.name, *sorted(scene.motion.choices.items()))
        for caption in scene.captions:
            assert meant.setdefault(moves(scene, caption), choices) == choices


def test_captions_have_synonyms(corpus):
    """Every family is told in at least three ways, and a clip's three captions are three sentences."""
    verbs = defaultdict(set)
    for scene in corpus:
        assert len(scene.captions) == 3
        assert len(set(scene.captions)) >= 2
        for caption in scene.captions:
            assert caption.startswith("an " if caption.split()[1][0] in "aeiou" else "a ")
            assert f"{scene.look.color} " in caption
            verbs[scene.family.name].add(tuple(moves(scene, caption).split()[:2]))
        assert scene.ground.words in scene.captions[0]
        assert scene.look.words in scene.captions[0]
    assert all(len(found) >= 3 for found in verbs.values())


def test_captions_fit_the_text_encoder(corpus):
    """The tiny base reads 32 tokens; a caption that is cut would lose its end, where qualifiers stand."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    captions = [caption for scene in corpus for caption in scene.captions]
    assert max(len(tokens) for tokens in tokenizer(captions)["input_ids"]) <= 32


@pytest.mark.parametrize("name", FREE_START)
def test_captions_fix_the_motion(name):
    """Two clips that say the same move the same way to within 15% of how far they move, turn and grow."""
    alike = defaultdict(list)
    for scene in scenes(31, range(120), [name]):
        alike[tuple(sorted(scene.motion.choices.items()))].append(scene)
    pairs = [pair for group in alike.values() for pair in combinations(group[:4], 2)]
    assert pairs
    for one, other in pairs:
        assert apart(one.motion.offset, other.motion.offset) <= LEEWAY
        if one.motion.scale is not None:
            assert np.abs(one.motion.scale / other.motion.scale - 1).max() <= LEEWAY
        if one.motion.angle is not None:
            # A wheel turns by its way over its radius, which is there to see.
            radii = (one.look.radius, other.look.radius) if name == "roll" else (1.0, 1.0)
            turns = [(scene.motion.angle * r)[:, None] for scene, r in zip((one, other), radii, strict=True)]
            assert apart(*turns) <= LEEWAY


def apart(one, other):
    """Mean distance of two paths [T,D], in units of the larger displacement."""
    reach = max(np.linalg.norm(path, axis=1).max() for path in (one, other))
    return np.linalg.norm(one - other, axis=1).mean() / reach if reach else 0.0


@pytest.mark.parametrize("name", GIVEN_START)
def test_the_start_fixes_the_rest(name):
    """Where the way depends on the place, the caption says the goal and the first frame the start."""
    for scene in scenes(31, range(60), [name]):
        path = np.array(scene.start) + scene.motion.offset
        told = expected(scene, np.linspace(0, 1, 16))
        assert apart(path - path[0], told - path[0]) <= LEEWAY
        assert name == "ricochet" or np.abs(path[-1] - told[-1]).max() < 0.01


def expected(scene, u):
    """The way [T,2] that caption, start and size of the object say."""
    start, radius, ease = np.array(scene.start), scene.look.radius, (u * u * (3 - 2 * u))[:, None]
    floor, top = 62 - radius, radius + 2
    way = {
        "home": lambda: start + ease * (31.5 - start),
        "cross": lambda: start + ease * [2 * (31.5 - start[0]), 0],
        "float": lambda: start + ease * [0, top - start[1]],
        "drop": lambda: np.stack([start[0] + 0 * u, np.minimum(start[1] + 62 * u**2, floor)], axis=1),
        "flee": lambda: start + (u**1.5)[:, None] * outward(start, radius),
        "ricochet": lambda: folded(start, 46 * u, CORNERS.get(scene.motion.choices.get("direction")), radius),
    }
    return way[scene.family.name]()


def outward(start, radius):
    """From the start straight on to the edge."""
    away = start - 31.5
    return away / np.abs(away).max() * (30 - radius) - away


def folded(start, travelled, direction, radius):
    """Straight on, mirrored at the walls."""
    low, high = radius + 1, 62 - radius
    path = start + np.sign(direction) * travelled[:, None]
    path = np.where(path < low, 2 * low - path, path)
    return np.where(path > high, 2 * high - path, path)


def test_unseen_families_are_other_motions(corpus):
    """Not known ones in other words: no known path is as near as two clips that say the same are."""
    seen = np.stack([course(s) for s in corpus if s.family.known and s.family.predictable and s.family.moves])
    for scene in (s for s in corpus if not s.family.known):
        mine = course(scene)
        reach = np.maximum(np.linalg.norm(seen, axis=2).max(axis=1), np.linalg.norm(mine, axis=1).max())
        nearest = (np.linalg.norm(seen - mine, axis=2).mean(axis=1) / reach).min()
        assert nearest > 0.05, scene.captions[1]


def course(scene):
    """Path and turn [T,3], the turn as the way of a point 5 pixels from the centre."""
    angle = scene.motion.angle if scene.motion.angle is not None else np.zeros(len(scene.motion.offset))
    return np.column_stack([scene.motion.offset, 5 * angle])


def test_the_document_lists_every_family():
    """In order, under known or unseen, with each captioned choice by name."""
    text = (Path(__file__).parents[2] / "docs" / "synth.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| .+? \|(.*)\|$", text[text.index("**Known**") :], re.MULTILINE)
    rows = [(name, choices) for name, choices in rows if name != "family"]
    assert [name for name, _ in rows] == list(families())
    for name, told in rows:
        choices = scenes(0, [0], [name])[0].motion.choices
        assert re.findall(r"(\w+) \(", told) == list(choices), name
    seen, unseen = text[text.index("**Known**") :].split("**Unseen**")
    assert all(f"| {family.name} |" in (seen if family.known else unseen) for family in families().values())
