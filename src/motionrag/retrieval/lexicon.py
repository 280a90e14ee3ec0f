"""What words say of motion: the entries of `motion_lexicon.yaml`, the forms of their verbs, and directions.

An entry gives a verb, perhaps with its subject and the words that follow it, values on axes; opposites (open and
close, zoom in and zoom out) lie on one axis with opposite signs. `language` looks entries up for a caption's verbs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import yaml

FULL = 0.8  # an entry of less weight adds to what its verb says alone; another stands for itself
# Beside the lexicon's, of no verb: which way, and how fast, far, often and faster or slower.
DIRECTION_AXES = ("left_right", "camera_pan", "into_out", "clockwise", "pace", "extent", "count", "quickening")
_SHAPES = (
    "arc",
    "bend",
    "bounce",
    "bow",
    "circle",
    "coil",
    "curve",
    "eight",
    "figure",
    "hop",
    "jump",
    "leap",
    "loop",
    "ring",
    "spiral",
    "square",
    "staircase",
    "stair",
    "step",
    "stride",
    "stroke",
    "sweep",
    "swing",
    "turn",
    "twist",
    "wave",
    "zigzag",
)
SHAPES = frozenset(_SHAPES) | {f"{shape}s" for shape in _SHAPES}
"""Nouns that say what way a motion takes; other things it happens to."""
MANNER = 0.5  # of how far a motion goes, beside a verb's 1
_CONSUMED = {"vertical", "approach", "into_out"}  # by a verb's own particle: "up" of "pick up" is no direction
_CAMERA = {
    "left_right": ("camera_pan", 1.0),
    "vertical": ("camera_tilt", 1.2),
    "approach": ("camera_zoom", 1.2),
}
_WAYS = r"[a-z-]+(?:\|[a-z-]+)*"
_ITEM = re.compile(rf"((?:<\w+> )?(?:{_WAYS}|\*)(?: (?:{_WAYS}|<\w+>|\$))*)(?::(0?\.\d+|1))?")


@dataclass(frozen=True)
class Word:
    """A word of a caption, lower case, with its part of speech (C5 tag set; "," and "." end clause and sentence)."""

    text: str
    tag: str
    base: str = ""
    """Base form of the verb that it can be; "" for none."""
    form: str = ""
    """Kind of verb form: "base", "s", "ing" or "past"."""

    @property
    def noun(self) -> bool:
        """Whether it names a thing."""
        return self.tag.startswith("N") or self.tag in {"PNP", "PNI", "UNC"}

    @property
    def end(self) -> bool:
        """Whether it ends a clause."""
        return self.tag in {",", "."}

    @property
    def determiner(self) -> bool:
        """Whether a noun phrase begins with it."""
        return self.tag in {"AT0", "DPS", "DT0", "CRD"} or self.text.endswith("'s")

    @property
    def opens_object(self) -> bool:
        """Whether it stands where an object begins."""
        return self.determiner or self.tag in {"PNP", "NP0", "PNX"}

    @property
    def adverb(self) -> bool:
        """Whether it says how, or not."""
        return self.tag in {"AV0", "XX0"} or (self.text.endswith("ly") and self.tag != "NN1")

    def among(self, group: frozenset[str]) -> bool:
        """Whether the word or its singular is one of a group."""
        plural = self.text.endswith("s")
        return self.text in group or (plural and (self.text[:-1] in group or self.text[:-2] in group))


END = Word(".", ".")


def transitive(window: Sequence[Word]) -> bool:
    """Whether the words after a verb begin with its object, particles aside."""
    head = next((word for word in window if not word.adverb and word.tag != "AVP"), END)
    return head.noun or head.determiner or head.tag == "AJ0"


@dataclass(frozen=True)
class Entry:
    """A way to say a motion: a verb, perhaps its subject, and the words that must follow it in order."""

    subject: str
    """"<group>" of nouns; "" for any."""
    verb: str
    """Base form; "*" for any verb."""
    rest: tuple[str, ...]
    """Particles, nouns, "<group>" of nouns, "$" for the end of the clause."""
    axes: Mapping[str, float]

    @property
    def strength(self) -> float:
        """The greatest weight of its axes."""
        return max(map(abs, self.axes.values()), default=1.0)

    @property
    def shared(self) -> bool:
        """Whether what is moved may be its subject too: "the lid lowers"."""
        return self.verb != "*" and "$" not in self.rest and "<any>" not in self.rest

    @property
    def adds(self) -> bool:
        """Whether it adds to what the verb says: "in the wind"."""
        return self.verb == "*" and self.strength < FULL

    @property
    def specificity(self) -> int:
        """How much the entry asks for: the most specific of those that fit counts."""
        wildcard = 3 * (self.strength >= FULL) if self.verb == "*" else 1
        asked = sum({"<any>": 1}.get(word, 3 if "<" in word else 2) for word in self.rest)
        return 4 * bool(self.subject) + asked + wildcard


@dataclass(frozen=True)
class Lexicon:
    """The motion verbs: which axes each lies on, and the base form of every inflected form."""

    axes: tuple[str, ...]
    entries: Mapping[str, Sequence[Entry]]
    """By verb."""
    forms: Mapping[str, tuple[str, str]]
    """Inflected form -> base form and kind of form: "base", "s", "ing" or "past"."""
    nouns: Mapping[str, str]
    """Noun of motion -> verb: "laughter" -> "laugh"."""
    groups: Mapping[str, frozenset[str]]
    """Nouns that entries call by one name: "<door>"."""
    lists: Mapping[str, frozenset[str]]
    """The other word lists of the file, by name; "completions" with plurals."""

    def entry(self, base: str, subject: Word, window: Sequence[Word]) -> Entry:
        """The most specific entry for a verb, its subject and the words after it; no axes for an unknown verb."""
        fitting = list(self._fitting(base, subject, window))
        full = [entry for entry in fitting if not entry.adds]
        best = max(full, key=lambda entry: (entry.specificity, entry.strength), default=Entry("", base, (), {}))
        axes = dict(best.axes)
        for entry in fitting:  # "in the wind" adds to what the verb says, and so does "up" in "push up"
            plain = entry.verb == base and not entry.rest and best.strength < FULL and best.axes
            if plain or entry.adds:
                axes = {**entry.axes, **axes}
        return replace(best, verb=base, axes=axes)

    def _fitting(self, base: str, subject: Word, window: Sequence[Word]) -> Iterator[Entry]:
        orders = [list(window)]
        if not transitive(window):
            orders += [[subject, *window], [*window, subject]]  # "the lid lowers" is "lower the lid"
        heard = {word.text for word in (subject, *window)}
        anything = base not in self.lists["stative"] - {"be", "get"}
        for entry in (*self.entries.get(base, ()), *(self.entries["*"] if anything else ())):
            quick = entry.verb != "*" or entry.subject or entry.rest[0][0] == "<" or entry.rest[0] in heard
            if not quick or (entry.subject and not subject.among(self.groups[entry.subject[1:-1]])):
                continue
            fits = any(self._follow(entry.rest, order) for order in (orders if entry.shared else orders[:1]))
            object_next = window[0].tag == "AVP" or any(word.determiner for word in window[1:2]) if window else False
            adverb = window[0].text if object_next else ""
            turned = entry.rest[1:] == (adverb,) and entry.rest[0][0] == "<"
            if fits or (turned and self._follow(entry.rest[:1], window[1:])):  # "pull out the drawer"
                yield entry

    def _follow(self, rest: Sequence[str], sequence: Sequence[Word]) -> bool:
        """Whether the wanted words follow in order; a noun is not looked for beyond a preposition."""
        i = 0
        for wanted in rest:
            if wanted == "$":
                return i >= len(sequence)
            linking = wanted in self.lists["particles"] | self.lists["prepositions"]
            barred = self.lists["uncrossed" if linking else "prepositions"]
            members = self.groups.get(wanted[1:-1], frozenset({wanted}))
            while i < len(sequence) and not (sequence[i].noun if wanted == "<any>" else sequence[i].among(members)):
                if sequence[i].text in barred:
                    return False
                i += 1
            if i >= len(sequence):
                return False
            i += 1
        return True

    def values(self, entry: Entry, subject: Word, phrase: Sequence[Word]) -> dict[str, float]:
        """The values of an entry and of the directions in the words about it; of the camera if it is what moves."""
        said = directions(" ".join(word.text for word in phrase))
        rest = directions(" ".join(word.text for word in phrase if word.text not in entry.rest))
        said = {axis: value for axis, value in said.items() if axis in rest or axis not in _CONSUMED}
        if entry.axes.keys() & self.lists["in_place"] and "left_right" in said:
            said["left_right"] *= 0.4
        filmed = subject.among(self.groups["camera"])
        if not entry.axes and entry.verb in self.lists["stative"] | (self.lists["states"] if filmed else set()):
            return {}
        main = max(entry.axes, key=lambda axis: abs(entry.axes[axis]), default="")
        if filmed or main.startswith("camera"):
            return _camera_values(entry, said)
        vague = set() if entry.axes else {"into_out", "pace"}
        return {**{axis: value for axis, value in said.items() if axis not in vague}, **entry.axes}


@cache
def lexicon() -> Lexicon:
    """The lexicon of the package.

    Raises:
        ValueError: If an entry is not of the form `words` or `words:weight`, or is listed twice on an axis.
    """
    text = files("motionrag.retrieval").joinpath("motion_lexicon.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    groups = {name: frozenset(members) for name, members in document["groups"].items()} | {"any": frozenset()}
    entries: dict[str, list[Entry]] = {}
    for words, axes in _read_axes(document, groups).items():
        subject, verb, rest = re.fullmatch(r"(<\w+>)? ?(\S+) ?(.*)", words).groups("")  # type: ignore[union-attr]
        entries.setdefault(verb, []).append(Entry(subject, verb, tuple(rest.split()), axes))
    lists = {name: frozenset(words) for name, words in document["lists"].items()}
    nouns = {noun: noun for noun in (*lists["nouns"], *lists["completions"])} | document["deverbal"]
    lists["completions"] |= {f"{noun}s" for noun in lists["completions"]}
    verbs = (entries.keys() - {"*"}) | lists["stative"] | lists["light"]
    return Lexicon(
        axes=tuple(document["axes"]),
        entries=entries,
        forms=_forms(verbs, document["irregular"]),
        nouns=nouns | {f"{noun}s": verb for noun, verb in nouns.items() if not noun.endswith("s")},
        groups=groups,
        lists=lists,
    )


def _read_axes(document: Mapping[str, Any], groups: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """The words of every entry -> its axes."""
    found: dict[str, dict[str, float]] = {}
    for item in document["no_motion"]:
        found |= {words: {} for words in read_item(item, groups)[0]}
    for axis, sides in document["axes"].items():
        for side, sign in (("plus", 1.0), ("minus", -1.0)):
            for item in sides.get(side, ()):
                ways, weight = read_item(item, groups)
                for words in ways:
                    if axis in found.setdefault(words, {}):
                        raise ValueError(f'motion lexicon: "{words}" is listed twice on axis {axis}; keep one')
                    found[words][axis] = sign * weight
    return found


def read_item(item: object, groups: Mapping[str, Any]) -> tuple[list[str], float]:
    """An item of the lexicon, "words" or "words:weight", to its ways to say it and its weight in (0, 1].

    Raises:
        ValueError: If it has another form or names a group that there is not.
    """
    match = _ITEM.fullmatch(str(item))
    unknown = [name for name in re.findall(r"<(\w+)>", str(item)) if name not in groups]
    if not match or unknown or match[1] == "*":
        raise ValueError(f'motion lexicon: {item!r} is no "verb particle <group>:weight" with a known group')
    return [" ".join(way) for way in product(*(word.split("|") for word in match[1].split()))], float(match[2] or 1)


def inflections(verb: str) -> dict[str, str]:
    """The regular forms of a verb -> their kind, with and without a doubled consonant."""
    if re.search(r"[^aeiou]y$", verb):
        return {f"{verb[:-1]}ies": "s", f"{verb[:-1]}ied": "past", f"{verb}ing": "ing"}
    if verb.endswith("ie"):
        return {f"{verb}s": "s", f"{verb}d": "past", f"{verb[:-2]}ying": "ing"}
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")) else verb
    third = f"{verb}es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else f"{verb}s"
    forms = {third: "s", f"{verb}d" if verb.endswith("e") else f"{verb}ed": "past", f"{stem}ing": "ing"}
    if re.search(r"(^|[^aeiou])[aeiou][bdfgklmnprtvz]$|[aeiou]l$|qu[aeiou][bdgmnprtz]$", verb):
        forms |= {f"{verb}{verb[-1]}ing": "ing", f"{verb}{verb[-1]}ed": "past"}
    if verb.endswith("c"):
        forms |= {f"{verb}king": "ing", f"{verb}ked": "past"}
    return forms


def _forms(verbs: Iterable[str], irregular: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Inflected form -> base form and kind; irregular forms win over a verb that is spelt the same ("saw")."""
    bases, forms = sorted(verbs), dict[str, tuple[str, str]]()
    for base in bases:
        for form in irregular.get(base, ()):
            forms.setdefault(form, (base, "past"))
    for base in bases:
        forms.setdefault(base, (base, "base"))
    for base in bases:
        for form, kind in inflections(base).items():
            forms.setdefault(form, (base, kind))
    return forms


_WHOSE = r"(?:(?:the|its|his|her|your|their|frame|screen|camera|stage|far|very|extreme) )*"
_SIDE = (
    r"(?:to|towards?|onto) " + _WHOSE + r"{side}(?:-hand)?\b|"
    r"(?:^|; )(?:\w+ly |screen |stage |frame |camera )*{side}\b|"
    r"\b{side}wards?\b|\bfrom " + _WHOSE + r"{other}\b(?! of)(?!.* to )|"
    r"\bfrom\b.*\b{other}\b.*\bto\b.*\b{side}\b|\b(?:off|out|away)\b.*\b(?:on|at|to) the {side}\b"
)
_ALONG = r" (?:the|a|an) (?:\w+ )?(?:road|street|path|aisle|hall\w*|corridor|lane|track|alley|beach)"
_FORTH = r"\b(?:forwards?|closer|nearer|ahead)\b|towards? (?:the )?(?:camera|viewer|lens|us|you)\b"
_TURN = rf"(?:\w+ )?(?:{'|'.join(SHAPES)})\b"
_AMPLY = (
    r"\b(?:far|widely|high|tall|a lot|lots|strongly|violently|hard|wildly|vigorously|powerfully|fully|completely|"
    rf"greatly|deeply|steeply)\b|\b(?:big|large|huge|wide|long|steep|deep|broad|giant) {_TURN}"
)
_SCANTLY = (
    r"\b(?:slightly|gently|softly|weakly|barely|briefly|low|lightly|subtly|faintly|narrowly|tightly)\b|"
    rf"\ba (?:little|bit|touch)\b|\b(?:small|little|tiny|short|tight|flat|gentle|slight|narrow|shallow) {_TURN}"
)
_DIRECTIONS = [
    (axis, value, re.compile(pattern))
    for axis, value, pattern in (
        ("left_right", -1.0, _SIDE.format(side="left", other="right")),
        ("left_right", 1.0, _SIDE.format(side="right", other="left")),
        ("vertical", 0.6, rf"\b(?:upwards?|skywards?|uphill)\b|\bup\b(?! and down| to|{_ALONG})"),
        ("vertical", -0.6, rf"\b(?:downwards?|downhill)\b|(?<!up and )\bdown\b(?!{_ALONG})"),
        ("approach", 0.5, _FORTH),
        ("approach", -0.5, r"\b(?:backwards?|away|farther|further)\b|into the distance"),
        ("into_out", 0.4, r"\b(?:into|inside|onto|in|on)\b"),
        ("into_out", -0.4, r"\b(?:out|from|off)\b"),
        ("clockwise", 0.5, r"(?<!anti)(?<!anti-)(?<!counter)(?<!counter-)\bclockwise\b"),
        ("clockwise", -0.5, r"\b(?:anti|counter)-?clockwise\b"),
        ("pace", 0.2, r"\b(?:quick|rapid|swift|brisk|violent|sudden)(?:ly)?\b|\bfast\b"),
        ("pace", -0.2, r"\b(?:slow|gradual|soft|calm)(?:ly)?\b|\b(?:gentle|gently|lazy|lazily)\b"),
        ("extent", -MANNER, _SCANTLY),
        ("extent", MANNER, _AMPLY),
        ("count", -0.6, r"\b(?:half|quarter)\b"),
        ("count", -0.25, r"\bonce\b|\bone (?:time|turn)\b|\bsingle\b"),
        ("count", 0.25, r"\btwice\b|\btwo (?:times|turns)\b"),
        ("count", 0.6, r"\b(?:three|four|five|several|many) (?:times|turns)|\bthrice\b|\brepeatedly\b"),
        ("quickening", MANNER, r"\bfaster and faster\b|\b(?:accelerat\w+|speeding up)\b"),
        ("quickening", -MANNER, r"\bslower and slower\b|\b(?:decelerat\w+|slowing down)\b"),
    )
]


def directions(text: str) -> dict[str, float]:
    """Values on axes that the words about a verb say; places ("the left door") say none."""
    found: dict[str, float] = {}
    for axis, value, pattern in _DIRECTIONS:
        if axis not in found and pattern.search(text):
            found[axis] = value
    return found


def _camera_values(entry: Entry, said: Mapping[str, float]) -> dict[str, float]:
    """The camera's own axes: of the entry, or of the directions that it moves in."""
    axes = {axis: value for axis, value in entry.axes.items() if axis.startswith("camera")} or {"camera_moves": 0.4}
    for axis, (camera_axis, scale) in _CAMERA.items():
        value = entry.axes.get(axis, 0.0) or said.get(axis, 0.0)
        if value and camera_axis not in axes:
            axes[camera_axis] = max(-1.0, min(1.0, scale * value))
    return axes
