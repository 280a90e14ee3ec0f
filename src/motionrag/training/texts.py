"""Training text of the caption encoder: motions, each described in many ways, and the batches made of it.

A text file holds groups, one motion each:

    # name of the motion
    motion: label that groups of the same motion share (the name, if left out)
    kind: the broader sort of movement (the motion, if left out)
    opposite: name of the group that moves the other way
    scenes: name of a set; the n-th pairs of its groups are set in the same scene
    - a short text
    > a short prompt
    = the long caption of the clip that the prompt asks for
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch

from motionrag.errors import MotionRAGError

SCENERY = "scenery.list"
"""Sentences in which nothing moves that counts, one a line, in the folder of the texts."""
AXES = "axes.tsv"
"""What moves how in the short texts and prompts, in the folder of the texts: a line has the first 12 hex digits of a
text's SHA-1, and its values on axes of motion, as in `open_close=-1.00`; opposites differ in sign. Those of a text
have length 1; one without values tells of nothing that the axes have."""
LARGE = 14
"""Groups with more short texts than this give two more per batch, and their pairs less often."""
LABELS = ("motion:", "kind:", "opposite:", "scenes:")


@dataclass(eq=False)
class Group:
    """One motion."""

    name: str
    """As its author calls it."""
    author: str
    """Stem of the file."""
    motion: str = ""
    """Groups of one label tell the same motion."""
    kind: str = ""
    """Motions of one kind look alike in how they move."""
    opposite: str = ""
    """Name of the group that moves the other way, if there is one."""
    scenes: str = ""
    """Groups of one set are set in the same scenes."""
    shorts: list[str] = field(default_factory=list)
    """Short texts."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """(prompt, long caption) of one clip."""


@dataclass(frozen=True)
class Sample:
    """A text of a batch."""

    text: str
    group: Group
    clip: tuple[int, str, int]
    """Texts with the same value tell of the same clip."""
    short: str
    """What tells its motion in short: itself, its prompt, or what was wrapped in scenery."""


def read_texts(folder: Path) -> tuple[list[Group], list[str]]:
    """The groups of a folder's .txt files, and its scenery sentences.

    Raises:
        MotionRAGError: If there is no such folder, it holds none, or a line cannot be understood.
    """
    groups = [group for path in sorted(folder.glob("*.txt")) for group in _groups(path)]
    if not groups:
        raise MotionRAGError(f"{folder}: holds no training text (files *.txt, as in recipes/captions/texts)")
    scenery = folder / SCENERY
    lines = scenery.read_text(encoding="utf-8").splitlines() if scenery.is_file() else []
    return groups, [line.strip() for line in lines if line.strip()]


def read_axes(folder: Path) -> tuple[list[str], dict[str, dict[str, float]]]:
    """The axes' names, and `text_key` of a text -> its values on them; empty if the folder has no such file.

    Raises:
        MotionRAGError: If a line cannot be understood.
    """
    found: dict[str, dict[str, float]] = {}
    path = folder / AXES
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], start=1):
        key, _, values = line.partition("\t")
        try:
            found[key] = {name: float(value) for name, value in (item.split("=") for item in values.split())}
        except ValueError:
            raise MotionRAGError(f"{path}: line {number} does not hold values on axes: {line[:60]!r}") from None
    return sorted({name for values in found.values() for name in values}), found


def text_key(text: str) -> str:
    """By which a text is named among the values on axes."""
    return hashlib.sha1(text.encode()).hexdigest()[:12]


def _groups(path: Path) -> list[Group]:
    groups: list[Group] = []
    prompt = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        mark, _, text = line.strip().partition(" ")
        text = text.strip()
        last = groups[-1] if groups else None
        if not mark:
            continue
        if (prompt != "") != (mark == "=") or not text or (last is None and mark != "#"):
            raise MotionRAGError(f"{path}: line {number} is out of place or empty: {line.strip()[:40]!r}")
        if mark == "#":
            groups.append(Group(name=text, author=path.stem))
        elif last is not None and mark == "-":
            last.shorts.append(text)
        elif last is not None and mark == "=":
            last.pairs.append((prompt, text))
            prompt = ""
        elif mark == ">":
            prompt = text
        elif last is not None and mark in LABELS and not getattr(last, mark[:-1]):
            setattr(last, mark[:-1], text)
        else:
            raise MotionRAGError(
                f"{path}: line {number} begins with {mark!r}, which is no mark or comes a second time"
            )
    if prompt:
        raise MotionRAGError(f"{path}: its last prompt, {prompt[:40]!r}, has no caption")
    for group in groups:
        if not group.shorts:
            raise MotionRAGError(f"{path}: the motion {group.name!r} has no short texts")
        group.motion = group.motion or group.name
        group.kind = group.kind or group.motion
    return groups


def held_out(groups: Sequence[Group]) -> tuple[list[Group], list[Group]]:
    """(for training, held out): a tenth of the motions with long captions, a motion and its opposite together."""
    turned = opposites(groups)
    joined: dict[str, str] = {group.motion: group.motion for group in groups}

    def root(motion: str) -> str:
        while joined[motion] != motion:
            motion = joined[motion]
        return motion

    for group in groups:
        if (other := turned.get(id(group))) is not None:
            first, second = sorted((root(group.motion), root(other.motion)))
            joined[second] = first
    long = {root(group.motion) for group in groups if group.pairs}
    out = {name for name in long if int(hashlib.md5(name.encode()).hexdigest(), 16) % 10 == 0}
    return [g for g in groups if root(g.motion) not in out], [g for g in groups if root(g.motion) in out and g.pairs]


def opposites(groups: Sequence[Group]) -> dict[int, Group]:
    """Id of a group -> its opposite among the groups, its own author's if there are several."""
    named: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        named[group.name].append(group)
    found: dict[int, Group] = {}
    for group in groups:
        others = named.get(group.opposite, [])
        if others:
            found[id(group)] = next((other for other in others if other.author == group.author), others[0])
    return found


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """What a batch of texts is made of."""

    groups: int = 48
    """Groups picked, company counted in; the last one's comes on top."""
    shorts: int = 4
    """Short texts of each group."""
    company: bool = True
    """Whether each brings along its opposite, two of its scenes and one of its kind, as far as there are any."""
    pairs: float = 0.0
    """How often a group gives a prompt with its long caption, in [0, 1]; else, every other time, just the prompt."""
    second: float = 0.7
    """How often it then gives a second one, which tells its motion of other things."""
    wrapped: float = 0.1
    """How often one of its short texts is given among scenery too, in [0, 1]."""


class Batches:
    """Batches of texts in which the motion is what tells them apart.

    Args:
        groups: Of the training.
        scenery: Sentences to wrap short texts in.
        settings: Of a batch.
    """

    def __init__(self, groups: Sequence[Group], scenery: Sequence[str], settings: BatchSettings) -> None:
        self.groups, self.scenery, self.settings = groups, scenery, settings
        self.opposites = opposites(groups)
        self._kinds: defaultdict[str, list[Group]] = defaultdict(list)
        self._scenes: defaultdict[str, list[Group]] = defaultdict(list)
        for group in groups:
            self._kinds[group.kind].append(group)
            self._scenes[group.scenes].append(group)

    def __call__(self, generator: torch.Generator) -> list[Sample]:
        """One batch."""
        random = Random(int(torch.randint(2**62, (), generator=generator)))
        picked: dict[int, tuple[Group, int]] = {}  # a group, and the number by which its texts are chosen
        for group in random.sample(self.groups, len(self.groups)):
            if len(picked) >= self.settings.groups:
                break
            if id(group) not in picked:
                number = random.getrandbits(30)
                picked[id(group)] = group, number
                company = self._company(group, random) if self.settings.company else ()
                for other, near in company:  # of the same number, in the same scenes
                    picked.setdefault(id(other), (other, number if near else random.getrandbits(30)))
        return [sample for group, number in picked.values() for sample in self._samples(group, number, random)]

    def _company(self, group: Group, random: Random) -> Iterator[tuple[Group, bool]]:
        """What a group is compared with: its opposite, its scenes, its kind; and whether in the same scenes."""
        if (opposite := self.opposites.get(id(group))) is not None:
            yield opposite, random.random() < 0.7
        if group.scenes:
            others = [other for other in self._scenes[group.scenes] if other is not group]
            yield from ((other, True) for other in random.sample(others, min(len(others), 2)))
        kind = [other for other in self._kinds[group.kind] if other is not group]
        yield from ((other, False) for other in random.sample(kind, min(len(kind), 1)))

    def _samples(self, group: Group, number: int, random: Random) -> Iterator[Sample]:
        settings, large = self.settings, len(group.shorts) > LARGE
        if group.pairs:
            place = number % len(group.pairs)
            places = [place] if random.random() < settings.pairs * (0.4 if large else 1) else []
            if places and len(group.pairs) > 1 and random.random() < settings.second:
                places.append((place + 1 + random.randrange(len(group.pairs) - 1)) % len(group.pairs))
            if not places and random.random() < 0.5:
                yield Sample(group.pairs[place][0], group, (id(group), "clip", place), group.pairs[place][0])
            for k in places:
                yield from (Sample(one, group, (id(group), "clip", k), group.pairs[k][0]) for one in group.pairs[k])
        count = min(settings.shorts + 2 * large, len(group.shorts))
        chosen = Random(number).sample(range(len(group.shorts)), count)
        for k in chosen:
            yield Sample(group.shorts[k], group, (id(group), "short", k), group.shorts[k])
        if self.scenery and random.random() < settings.wrapped:
            k = random.choice(chosen)
            yield Sample(self._wrapped(group.shorts[k], random), group, (id(group), "short", k), group.shorts[k])

    def _wrapped(self, text: str, random: Random) -> str:
        """A short text among one to four sentences of scenery."""
        around = random.sample(self.scenery, min(len(self.scenery), random.choice((1, 1, 2, 2, 3, 4))))
        text = text[0].upper() + text[1:]
        around.insert(random.randrange(len(around) + 1), text if text[-1] in ".!?" else text + ".")
        return " ".join(around)
