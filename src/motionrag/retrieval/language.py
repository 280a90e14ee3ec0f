"""What a caption says of motion: its actions, separated from the things they happen to.

A part-of-speech tagger and a lexicon of motion verbs (`motion_lexicon.yaml`) take a caption apart into actions; each
gives an action text ("put something in something") for the text encoder and values on the lexicon's axes, on which
opposites (open and close, left and right, zoom in and zoom out) have opposite signs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

FULL = 0.8  # an entry of less weight adds to what its verb says alone; another stands for itself
ACTIONS = 4  # of a caption at most: what weighs less is scenery
WORDS = 400  # of a caption at most, and
LETTERS = 24  # of a word at most, so that the time is bounded
WINDOW = 14  # words after a verb in which its particles, object and direction are looked for
RANK_WEIGHT = (1.0, 0.5, 0.33, 0.25)  # of the heaviest action, the second, and so on
DIRECTION_AXES = (
    "left_right",
    "camera_pan",
    "into_out",
    "clockwise",
    "pace",
)  # beside the lexicon's: no verb lies on them

# How much an action weighs by the way it is said: "runs", "running" beside a finite verb, "while running",
# "the running dog", "a run" in a clause with no verb, "is parked".
MAIN, ADJUNCT, SUBORDINATE, MODIFIER, NOMINAL, STATE = 1.0, 0.5, 0.4, 0.25, 0.7, 0.15


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


PARTICLES = _set(
    "in on into onto inside out of off from to toward towards over under through across along around round up "
    "down away back forward forwards backward backwards left right upward upwards downward downwards apart "
    "together ahead behind between against past by at aside open shut closed wide free upside closer nearer "
    "sideways ajar"
)
PREPOSITIONS = _set(
    "of with for at to toward towards from by like into onto in on inside through under over across along around"
)
UNCROSSED = _set("with for at to by like")  # no particle of a verb comes after their nouns
SUBORDINATORS = _set(
    "as while until when where because so before after which who that whose although though if once"
)
NEGATIONS = _set("not never no nothing nobody none neither nor without cannot hardly barely")
ATTRIBUTES = _set("left right open closed shut wide free")
SIDES = _set("side sides half edge end hand border corner margin part")
CAUSATIVES = _set("make let watch see help have")
PLURAL_SUBJECTS = _set("i you we they them people who which that both all")
AUXILIARIES = _set("be have do get will can")
MOVING = PARTICLES - _set(
    "in on of from by past under behind against inside"
)  # begin no scenery after an imperative


@dataclass(frozen=True)
class Action:
    """One thing that happens."""

    verb: str
    """Base form, with its particle: "pick up"."""
    text: str
    """The action with its things left out: "pick up something from something"."""
    axes: Mapping[str, float]
    """Values on the lexicon's axes and on DIRECTION_AXES, each in [-1, 1]; empty for an unknown verb."""
    weight: float = 1.0
    """Share in the caption's motion, in (0, 1]; a caption's actions come heaviest first."""


@dataclass(frozen=True)
class Entry:
    """A way to say a motion: a verb, perhaps its subject, and the words that must follow it in order."""

    subject: str
    """Name of a group of nouns; "" for any."""
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
    def specificity(self) -> int:
        """How much the entry asks for: the most specific of those that fit counts."""
        wildcard = 3 * (self.strength >= FULL) if self.verb == "*" else 1
        return 4 * bool(self.subject) + sum(3 if "<" in word else 2 for word in self.rest) + wildcard


@dataclass(frozen=True)
class Lexicon:
    """The motion verbs: which axes each lies on, and the base form of every inflected form."""

    axes: tuple[str, ...]
    entries: Mapping[str, Sequence[Entry]]
    """By verb, the most specific first."""
    forms: Mapping[str, tuple[str, str]]
    """Inflected form -> base form and kind of form: "base", "s", "ing" or "past"."""
    nouns: Mapping[str, str]
    """Noun of motion -> verb: "laughter" -> "laugh"."""
    completions: frozenset[str]
    """Nouns that say a motion with a light verb only: "gives a wave"."""
    groups: Mapping[str, frozenset[str]]
    stative: frozenset[str]
    light: frozenset[str]
    states: frozenset[str]
    compounds: frozenset[str]
    noun_first: frozenset[str]
    preludes: frozenset[str]


def inflections(verb: str) -> dict[str, str]:
    """The regular forms of a verb -> their kind, with and without a doubled consonant."""
    if re.search(r"[^aeiou]y$", verb):
        return {f"{verb[:-1]}ies": "s", f"{verb[:-1]}ied": "past", f"{verb}ing": "ing"}
    if verb.endswith("ie"):
        return {f"{verb}s": "s", f"{verb}d": "past", f"{verb[:-2]}ying": "ing"}
    past = f"{verb}d" if verb.endswith("e") else f"{verb}ed"
    stem = verb[:-1] if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")) else verb
    forms = {
        f"{verb}es" if re.search(r"(s|x|z|ch|sh|o)$", verb) else f"{verb}s": "s",
        past: "past",
        f"{stem}ing": "ing",
    }
    if re.search(r"(^|[^aeiou])[aeiou][bdfgklmnprtvz]$|[aeiou]l$|qu[aeiou][bdgmnprtz]$", verb):
        forms |= {f"{verb}{verb[-1]}ing": "ing", f"{verb}{verb[-1]}ed": "past"}
    if verb.endswith("c"):
        forms |= {f"{verb}king": "ing", f"{verb}ked": "past"}
    return forms


@cache
def lexicon() -> Lexicon:
    """The lexicon of the package.

    Raises:
        ValueError: If an entry is not of the form `words` or `words:weight`, or is listed twice on an axis.
    """
    document: dict[str, Any] = yaml.load(
        files("motionrag.retrieval").joinpath("motion_lexicon.yaml").read_text(encoding="utf-8"),
        getattr(yaml, "CSafeLoader", yaml.SafeLoader),
    )
    groups = {name: frozenset(members) for name, members in document["groups"].items()}
    values: dict[str, dict[str, float]] = {_read_item(item, groups)[0]: {} for item in document["no_motion"]}
    for axis, sides in document["axes"].items():
        for side, sign in (("plus", 1.0), ("minus", -1.0)):
            for item in sides.get(side, ()):
                words, weight = _read_item(item, groups)
                if axis in values.setdefault(words, {}):
                    raise ValueError(f'motion lexicon: "{words}" is listed twice on axis {axis}; keep one')
                values[words][axis] = sign * weight
    entries: dict[str, list[Entry]] = {}
    for words, axes in values.items():
        subject, tokens = ("", words.split())
        if tokens[0].startswith("<"):
            subject, tokens = tokens[0], tokens[1:]
        entries.setdefault(tokens[0], []).append(Entry(subject, tokens[0], tuple(tokens[1:]), axes))
    nouns = {noun: noun for noun in (*document["nouns"], *document["completions"])} | document["deverbal"]
    stative, light = frozenset(document["stative"]), frozenset(document["light"])
    return Lexicon(
        axes=tuple(document["axes"]),
        entries={verb: sorted(found, key=lambda entry: -entry.specificity) for verb, found in entries.items()},
        forms=_forms((entries.keys() - {"*"}) | stative | light, document["irregular"]),
        nouns=nouns | {f"{noun}s": verb for noun, verb in nouns.items() if not noun.endswith("s")},
        completions=frozenset(form for noun in document["completions"] for form in (noun, f"{noun}s")),
        groups=groups,
        stative=stative,
        light=light,
        states=frozenset(document["states"]),
        compounds=frozenset(document["compounds"]),
        noun_first=frozenset(document["noun_first"]),
        preludes=frozenset(document["preludes"]),
    )


def _read_item(item: object, groups: Mapping[str, frozenset[str]]) -> tuple[str, float]:
    """An item of the lexicon, "words" or "words:weight", to its words and its weight in (0, 1]."""
    match = re.fullmatch(r"((?:<\w+> )?(?:[a-z-]+|\*)(?: (?:[a-z-]+|<\w+>|\$))*)(?::(0?\.\d+|1))?", str(item))
    unknown = [name for name in re.findall(r"<\w+>", str(item)) if name[1:-1] not in groups]
    if not match or unknown or match[1] == "*":
        raise ValueError(f'motion lexicon: {item!r} is no "verb particle <group>:weight" with a known group')
    return match[1], float(match[2] or 1)


def _forms(bases: Iterable[str], irregular: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, str]]:
    """Inflected form -> base form and kind; irregular forms win over a verb that is spelt the same ("saw")."""
    bases, forms = sorted(bases), dict[str, tuple[str, str]]()
    for base in bases:
        for form in irregular.get(base, ()):
            forms.setdefault(form, (base, "past"))
    for base in bases:
        forms.setdefault(base, (base, "base"))
    for base in bases:
        for form, kind in inflections(base).items():
            forms.setdefault(form, (base, kind))
    return forms


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


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
    def adverb(self) -> bool:
        """Whether it says how, or not."""
        return self.tag in {"AV0", "XX0"} or (self.text.endswith("ly") and self.tag != "NN1")

    def among(self, group: frozenset[str]) -> bool:
        """Whether the word or its singular is one of a group."""
        return self.text in group or (
            self.text.endswith("s") and (self.text[:-1] in group or self.text[:-2] in group)
        )


END = Word(".", ".")
_CONTRACTIONS = [
    (re.compile(r"\b(he|she|it|that|there|who|what|here)'s\b"), r"\1 is"),
    (re.compile(r"\b(ca|wo)n't\b"), "can not"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'re\b"), " are"),
    (re.compile(r"'ll\b"), " will"),
    (re.compile(r"'ve\b"), " have"),
]
_MARKS = re.compile(r"([.!?\n;]+)|[,:()\[\]\"|/]+|\s[-\u2013\u2014]+\s|\u2014")


_TOKEN = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


def _parts(token: str) -> list[str]:
    """A hyphenated verb and particle in two: "dolly-out"; other words as they are."""
    verb, _, particle = token.rpartition("-")
    if len(token) > LETTERS:
        return []
    known = verb in lexicon().forms and particle in PARTICLES and token not in lexicon().nouns
    return [verb, particle] if known and verb != "close" else [token]


def words(caption: str) -> list[Word]:
    """Tag a caption's words; the ends of clauses become words tagged "," and of sentences words tagged "."."""
    text = caption[: 12 * WORDS].lower().replace("\u2019", "'")
    for pattern, plain in _CONTRACTIONS:
        text = pattern.sub(plain, text)
    found: list[Word] = []
    start = 0
    for end, mark in [*((m.start(), m) for m in _MARKS.finditer(text)), (len(text), None)]:
        tokens = [part for token in _TOKEN.findall(text[start:end]) for part in _parts(token)]
        if tokens:
            for token, _, tag in _tagger().tag_sent(tokens):
                base, form = lexicon().forms.get(token, ("", ""))
                noun = (
                    tag.startswith("V")
                    and form in {"base", "s"}
                    and found
                    and found[-1].determiner
                    and not found[-1].end
                )
                tag = "DPS" if token.endswith(("'s", "s'")) else "NN1" if noun and found[-1].tag != "DT0" else tag
                found.append(Word(token, tag, base, form))
            found.append(END if mark is None or mark[1] else Word(",", ","))
        elif found and mark is not None and mark[1]:
            found[-1] = END
        start = mark.end() if mark else end
    return found[:WORDS] + [END] * (len(found) > WORDS)


class Reading:
    """One caption taken apart: which words say a motion, of what, and how much they weigh."""

    def __init__(self, sentence: list[Word]) -> None:
        self.words = sentence
        self.verbs = [False] * len(sentence)
        for i in range(len(sentence)):  # in order: a verb is told by the verbs before it
            self.verbs[i] = self._is_verb(i)
        self._subjects: dict[int, Word] = {}

    def at(self, i: int) -> Word:
        """The word at i, an END outside."""
        return self.words[i] if 0 <= i < len(self.words) else END

    def before(self, i: int) -> int:
        """Index of the word before i, adverbs skipped."""
        i -= 1
        while self.at(i).adverb and not self.at(i).base:
            i -= 1
        return i

    def start(self, i: int, marks: str = ",.") -> int:
        """Index of the first word of the clause, or with marks "." of the sentence, that i is in."""
        while i > 0 and self.words[i - 1].tag not in marks:
            i -= 1
        return i

    def _is_verb(self, i: int) -> bool:
        """Whether a word is a verb here: its form says what it can be, the words around it decide."""
        word, before, after = self.words[i], self.at(self.before(i)), self.at(i + 1)
        tagged, object_next = word.tag.startswith("V"), after.determiner or after.tag in {"PNP", "NP0", "PNX"}
        plural = before.text in PLURAL_SUBJECTS or before.tag == "NN2" or (before.noun and before.text.endswith("s"))
        if not word.base:
            return word.tag.startswith("VV") and word.text.isascii() and not before.determiner
        if word.text in PARTICLES:  # "left", "open" and "closed" after a verb are its directions
            eyes_open = word.text == "open" and plural and not after.noun
            opening = word.text == "open" and before.tag == "." and not after.noun
            return (object_next or eyes_open or opening) and not before.determiner and not (i and self.verbs[i - 1])
        if word.form == "ing":
            return self._is_participle(word, before, after)
        if word.form == "s":
            return self._is_third_person(i, before, after)
        if (before.determiner and not plural) or before.tag in {"PRP", "PRF"}:
            return word.form == "past" and after.noun  # "the closed door": a modifier
        if before.tag[:2] in {"VM", "VB", "VD", "VH", "TO"} or before.base in {"be", "get", "do", "have"}:
            return True
        if word.form == "past":
            return tagged or object_next or (before.tag != "AJ0" and not before.end)
        if word.base in lexicon().noun_first and not (tagged or object_next or plural):
            return False
        open_next = object_next or after.tag == "AVP" or after.text in PARTICLES
        if before.end or before.text in {"and", "then", "please", "or", "to"}:  # imperatives
            listed = before.tag == "," or after.form == "ing" or after.end
            return (
                object_next
                or (tagged and not (before.end and listed))
                or (before.tag == "." and after.text in MOVING)
            )
        if plural or self._plural_head(i):
            return tagged or open_next or after.end or after.adverb
        earlier = [self.words[k] for k in range(self.start(i), i) if self.verbs[k]]
        caused = any(verb.base in CAUSATIVES for verb in earlier)
        return before.noun and (tagged or open_next or after.end) and (caused or (tagged and not earlier))

    def _plural_head(self, i: int) -> bool:
        """Whether the noun phrases before i begin with a plural: "bottles on the belt travel"."""
        k = self.before(i)
        while self.at(k).noun and self.at(self._phrase(k) - 1).tag in {"PRP", "PRF"}:
            k = self._phrase(k) - 2
        return k < self.before(i) and self.at(k).tag == "NN2"

    def _is_participle(self, word: Word, before: Word, after: Word) -> bool:
        """Whether an -ing form is a verb: not in "a rocking chair" or "the opening of the show"."""
        if after.text in lexicon().compounds or (before.determiner and not after.noun):
            return False
        return not (word.tag == "NN1" and before.tag == "AJ0" and (after.end or after.text == "of"))

    def _is_third_person(self, i: int, before: Word, after: Word) -> bool:
        """Whether an -s form is a verb, not a plural: "the waves crash", "flames and sparks"."""
        tagged = self.words[i].tag == "VVZ"
        if self.words[i].base in lexicon().noun_first and not (tagged or after.determiner or after.tag == "AVP"):
            return False
        if after.tag[:2] in {"VB", "VM", "VH"} or (
            after.tag.startswith("V") and after.form == "base" and not tagged
        ):
            return False
        if before.determiner and before.text != "one":
            return False
        if before.tag in {"AJ0", "PRP", "PRF"}:
            first = self._phrase(self.before(i))
            known = tagged and not after.end and before.tag == "AJ0" and not (first and self.verbs[first - 1])
            return known or after.tag == "AT0" or (before.tag == "AJ0" and after.text in MOVING)
        if before.end:
            return not after.end and (tagged or after.text in PARTICLES or after.determiner)
        if before.text in {"and", "then", "or", "but"}:
            return tagged or (
                any(self.verbs[self.start(i) : i]) and (after.determiner or after.tag in {"AVP", "PNX", "PNP"})
            )
        return tagged or before.noun or before.adverb or before.text in SUBORDINATORS

    def subject(self, i: int) -> Word:
        """The noun that does what the verb at i says; END if none is found."""
        if i not in self._subjects:
            self._subjects[i] = END  # ends the search where verbs would refer to each other
            self._subjects[i] = self._find_subject(i)
        return self._subjects[i]

    def _find_subject(self, i: int) -> Word:
        k = self.before(i)
        if (
            self.at(k).noun
            and self.words[i].form == "ing"
            and self.at(self._phrase(k) - 1).text in {"of", "with", "a"}
        ):
            return self.words[k]
        while k >= max(0, i - 30) and self.words[k].tag != ".":
            word = self.words[k]
            if word.text in {"who", "which", "that"} and self.at(k - 1).noun:
                return self.words[k - 1]
            if word.text in SUBORDINATORS:
                break
            if word.noun:
                first = self._phrase(k)
                if self.at(first - 1).tag not in {"PRP", "PRF", "AVP"} and not (first and self.verbs[first - 1]):
                    return word
                shown = first and self.verbs[first - 1] and self.words[i].form == "ing" and k == self.before(i)
                if shown:  # "a video shows a robot pouring"
                    return word
                k = first
            elif self.verbs[k] and not (word.base in {"be", "have", "get"} and k == self.before(i)):
                return self.subject(k)
            k -= 1
        following = next((k for k in range(i + 1, min(i + 15, len(self.words))) if self.verbs[k]), None)
        return self.subject(following) if following and self.words[i].form == "ing" else END

    def _phrase(self, i: int) -> int:
        """Index of the first word of the noun phrase that ends at i."""
        while (
            self.at(i - 1).noun
            or self.at(i - 1).tag[:2] in {"AJ", "OR"}
            or (self.at(i - 1).form in {"ing", "past"} and self.at(i - 2).determiner)
        ):
            i -= 1
        while self.at(i - 1).determiner:
            i -= 1
        return i

    def window(self, i: int) -> list[Word]:
        """The words after i, up to the end of its clause or the next verb."""
        found: list[Word] = []
        for k in range(i + 1, min(i + 1 + WINDOW, len(self.words))):
            if self.words[k].end or self.words[k].text in SUBORDINATORS or self._ends_window(k):
                break
            attributive = self.words[k].text in ATTRIBUTES and (self.at(k + 1).noun or self.at(k + 1).tag == "AJ0")
            if not attributive or self.at(k + 1).text in SIDES or self.at(k + 1).text in PARTICLES:
                found.append(self.words[k])  # "the left door" is a place
        return found

    def _ends_window(self, k: int) -> bool:
        """Whether a verb at k begins another action; not in "turns to look"."""
        return self.verbs[k] and not (self.at(k - 1).text == "to" and self.words[k].base in {"look", "see", "face"})

    def weight(self, i: int, telling: bool) -> float:
        """How much the verb at i tells of the caption's motion, in [0, 1]; telling: the lexicon knows what."""
        lex, word, j = lexicon(), self.words[i], self.before(i)
        before, after = self.at(j), self.at(i + 1)
        ends = [
            k + 1 for k in range(self.start(i), j + 1) if self.verbs[k] and self.words[k].base not in AUXILIARIES
        ]
        between = {self.words[k].text for k in range(max([self.start(i), *ends]), i)}
        if between & NEGATIONS:
            return 0.0
        weight = MAIN
        if word.base in lex.stative and not telling:
            weight = STATE
        elif (
            after.noun
            and (self.at(i - 1).determiner or before.tag in {"AJ0", "PRP", "PRF", "CJC"})
            and word.form in {"ing", "past"}
        ):
            weight = MODIFIER if word.form == "ing" else STATE
        elif word.form == "past" and before.base in {"be", "get"}:
            weight = (
                STATE
                if word.base in lex.states and before.text not in {"being", "been"} and before.base == "be"
                else MAIN
            )
        elif word.form == "past" and (word.tag == "VVN" or self._reduced(i)) and before.base != "have":
            weight = STATE if word.base in lex.states else ADJUNCT
        elif word.form == "ing" and self.chain(i) is None:
            finite = any(
                self.verbs[k] and self._finite(k) for k in range(self.start(i, "."), len(self.words)) if k != i
            )
            weight = ADJUNCT if finite else MAIN
        return weight * (SUBORDINATE if between & SUBORDINATORS else 1.0)

    def _reduced(self, i: int) -> bool:
        """Whether a past form is short for a clause: "a cup tipped onto its side rolls off"."""
        for k in range(i + 1, len(self.words)):
            if self.words[k].end or self.words[k].text in SUBORDINATORS | {"and", "but", "then"}:
                return False
            if self.verbs[k] and self.words[k].form == "s":
                return True
        return False

    def chain(self, i: int) -> int | None:
        """Index of the verb that an -ing form completes: "starts swaying", "bursts out laughing"."""
        j = self.before(i)
        while self.at(j).tag == "AVP":
            j -= 1
        linked = j >= 0 and self.verbs[j] and self.words[j].base in lexicon().stative | lexicon().light
        return j if linked and self.words[i].form == "ing" else None

    def _finite(self, i: int) -> bool:
        """Whether the verb at i is a main verb that tells a motion."""
        return self.words[i].form in {"s", "past", "base"} and self.words[i].base not in lexicon().stative | {""}

    def governor(self, i: int) -> int | None:
        """Index of the light verb that the noun of motion at i completes: "gives a quick spin"."""
        first = self._phrase(i)
        if self.at(first - 1).text == "of" and self.at(first - 2).noun:
            first = self._phrase(first - 2)
        first -= self.at(first - 1).text in {"into", "to", "for"}
        while self.at(first - 1).adverb or self.at(first - 1).tag == "AVP":
            first -= 1
        return (
            first - 1 if first and self.verbs[first - 1] and self.words[first - 1].base in lexicon().light else None
        )

    def nominal_weight(self, i: int) -> float:
        """How much the noun of motion at i tells without a verb of its own."""
        first, last, phrase = self.start(i), i, self._phrase(i)
        while not self.at(last).end:
            last += 1
        named = self.at(phrase).text in {"the", "his", "her", "its"} and self.at(phrase - 1).tag in {"PRP", "PRF"}
        if named or {self.words[k].text for k in range(first, i)} & NEGATIONS:
            return 0.0
        governed = self.at(phrase - 1).tag in {"PRP", "PRF"} or any(self.verbs[first:last])
        return NOMINAL / 3 if governed else NOMINAL


def _match(rest: Sequence[str], sequence: Sequence[Word]) -> bool:
    """Whether the wanted words follow in order; a noun is not looked for beyond a preposition."""
    i = 0
    for wanted in rest:
        if wanted == "$":
            return i >= len(sequence)
        members = lexicon().groups.get(wanted[1:-1], frozenset({wanted}))
        while i < len(sequence) and not sequence[i].among(members):
            barred = UNCROSSED if wanted in PARTICLES else PREPOSITIONS
            if sequence[i].text in barred:
                return False
            i += 1
        if i >= len(sequence):
            return False
        i += 1
    return True


def _entry(base: str, subject: Word, window: Sequence[Word]) -> Entry:
    """The lexicon's most specific entry for a verb; one without axes for an unknown verb."""
    lex = lexicon()
    head = next((word for word in window if not word.adverb and word.tag != "AVP"), END)
    transitive = head.noun or head.determiner or head.tag == "AJ0"
    sequences = [window] if transitive else [window, [subject, *window], [*window, subject]]  # "the lid lowers"
    heard = {word.text for word in (subject, *window)}
    fitting = [
        entry
        for verb in ((base,) if base in lex.stative - {"be", "get"} else (base, "*"))
        for entry in lex.entries.get(verb, ())
        if entry.verb != "*" or entry.subject or entry.rest[0][0] == "<" or entry.rest[0] in heard
        if not entry.subject or subject.among(lex.groups[entry.subject[1:-1]])
        if any(_match(entry.rest, sequence) for sequence in (sequences if "$" not in entry.rest else [window]))
    ]
    full = [entry for entry in fitting if entry.verb != "*" or entry.strength >= FULL]
    best = max(full, key=lambda entry: (entry.specificity, entry.strength), default=Entry("", base, (), {}))
    axes = dict(best.axes)
    for entry in fitting:  # "in the wind" adds to what the verb says, and so does "up" in "push up"
        plain = entry.verb == base and not entry.rest and best.strength < FULL and best.axes
        if plain or (entry.verb == "*" and entry.strength < FULL):
            axes = {**entry.axes, **axes}
    return replace(best, verb=base, axes=axes)


_WHOSE = r"(?:(?:the|its|his|her|your|their|frame|screen|camera|stage|far|very|extreme) )*"
_SIDE = (
    r"(?:to|towards?|onto) " + _WHOSE + r"{side}(?:-hand)?\b|"
    r"(?:^|; )(?:\w+ly |screen |stage |frame |camera )*{side}\b|"
    r"\b{side}wards?\b|\bfrom " + _WHOSE + r"{other}\b(?! of)(?!.* to )|"
    r"\bfrom\b.*\b{other}\b.*\bto\b.*\b{side}\b|\b(?:off|out|away)\b.*\b(?:on|at|to) the {side}\b"
)
_ALONG = r" (?:the|a|an) (?:\w+ )?(?:road|street|path|aisle|hall\w*|corridor|lane|track|alley|beach)"
DIRECTIONS = [
    (axis, value, re.compile(pattern))
    for axis, value, pattern in (
        ("left_right", -1.0, _SIDE.format(side="left", other="right")),
        ("left_right", 1.0, _SIDE.format(side="right", other="left")),
        ("vertical", 0.6, rf"\b(?:upwards?|skywards?|uphill)\b|\bup\b(?! and down| to|{_ALONG})"),
        ("vertical", -0.6, rf"\b(?:downwards?|downhill)\b|(?<!up and )\bdown\b(?!{_ALONG})"),
        (
            "approach",
            0.5,
            r"\b(?:forwards?|closer|nearer|ahead)\b|towards? (?:the )?(?:camera|viewer|lens|us|you)\b",
        ),
        ("approach", -0.5, r"\b(?:backwards?|away|farther|further)\b|into the distance"),
        ("into_out", 0.4, r"\b(?:into|inside|onto|in|on)\b"),
        ("into_out", -0.4, r"\b(?:out|from|off)\b"),
        ("clockwise", 0.5, r"(?<!anti)(?<!anti-)(?<!counter)(?<!counter-)\bclockwise\b"),
        ("clockwise", -0.5, r"\b(?:anti|counter)-?clockwise\b"),
        ("pace", 0.2, r"\b(?:quick|rapid|swift|brisk|violent|sudden)(?:ly)?\b|\bfast\b"),
        (
            "pace",
            -0.2,
            r"\b(?:slow|gradual|soft|calm)(?:ly)?\b|\b(?:gentle|gently|lazy|lazily)\b",
        ),
    )
]
IN_PLACE = frozenset({"rotate", "head_turn", "place", "grasp", "extract", "open_close", "switch"})  # go nowhere
CONSUMED = frozenset({"vertical", "approach", "into_out"})
CAMERA_DIRECTIONS = {
    "left_right": ("camera_pan", 1.0),
    "vertical": ("camera_tilt", 1.2),
    "approach": ("camera_zoom", 1.2),
}


def _directions(text: str) -> dict[str, float]:
    """Values on axes that the words about a verb say; places ("the left door") say none."""
    found: dict[str, float] = {}
    for axis, value, pattern in DIRECTIONS:
        if axis not in found and pattern.search(text):
            found[axis] = value
    return found


def _axes(entry: Entry, subject: Word, phrase: Sequence[Word]) -> dict[str, float]:
    """The values of an entry and of the directions in the words about it; of the camera if it is what moves."""
    directions = _directions(" ".join(word.text for word in phrase))
    rest = _directions(" ".join(word.text for word in phrase if word.text not in entry.rest))
    for axis in CONSUMED & directions.keys() - rest.keys():  # "up" of "pick up" is no direction
        del directions[axis]
    camera = [axis for axis in entry.axes if axis.startswith("camera")]
    if entry.axes.keys() & IN_PLACE and "left_right" in directions:
        directions["left_right"] *= 0.4
    if not camera and not subject.among(lexicon().groups["camera"]):
        if entry.verb in lexicon().stative and not entry.axes:
            return {}
        if not entry.axes:
            directions.pop("into_out", 0.0)
            directions.pop("pace", 0.0)
        return {**directions, **entry.axes}
    if not entry.axes and entry.verb in lexicon().stative | lexicon().states:
        return {}
    axes = {axis: entry.axes[axis] for axis in camera} or {"camera_moves": 0.4}
    for axis, (camera_axis, scale) in CAMERA_DIRECTIONS.items():
        value = entry.axes.get(axis, 0.0) or directions.get(axis, 0.0)
        if value and camera_axis not in axes:
            axes[camera_axis] = max(-1.0, min(1.0, scale * value))
    return axes


def _action_text(verb: str, window: Sequence[Word]) -> str:
    """The verb with prepositions and adverbs kept and every thing replaced by "something"."""
    kept = [verb]
    for word in window:
        if word.text in PARTICLES or word.tag in {"PRP", "AVP", "AV0"}:
            kept.append(word.text)
        elif word.noun and kept[-1] != "something":
            kept.append("something")
    return " ".join(kept)


def actions(caption: str) -> list[Action]:
    """The actions of a caption, heaviest first, at most ACTIONS of them; none if it names none."""
    reading, lex = Reading(words(caption)), lexicon()
    found: dict[int, Action] = {}
    light: set[int] = set()
    for i, word in enumerate(reading.words):
        if reading.verbs[i] and reading.chain(i) is not None:
            light.add(reading.chain(i) or 0)
        attributive = reading.at(i + 1).noun and reading.at(i + 1).text not in PARTICLES
        if reading.verbs[i] or word.text not in lex.nouns or attributive:
            continue
        governor = reading.governor(i)
        if governor is None and word.text in lex.completions:
            continue
        verb, *particles = lex.nouns[word.text].split()
        around = reading.words[max(reading.start(i), i - 4) : i]
        if governor is None:
            subject, weight = next((w for w in reversed(around) if w.noun), END), reading.nominal_weight(i)
        else:
            light.add(governor)
            subject, weight = reading.subject(governor), NOMINAL * reading.weight(governor, True)
        window = [*(Word(particle, "AVP") for particle in particles), *reading.window(i)]
        found[i] = _action(_entry(verb, subject, window), subject, window, around, weight)
    for i, word in enumerate(reading.words):
        if reading.verbs[i] and i not in light:
            subject, window = reading.subject(i), reading.window(i)
            entry = _entry(word.base or word.text, subject, window)
            around = reading.words[reading.before(i) + 1 : i]
            found[i] = _action(entry, subject, window, around, reading.weight(i, bool(entry.axes)))
    telling = [found[i] for i in sorted(found) if found[i].weight > 0]
    telling = [action for action in telling if action.axes] or telling
    if any(action.verb not in lex.preludes for action in telling):
        telling = [replace(a, weight=a.weight * (SUBORDINATE if a.verb in lex.preludes else 1)) for a in telling]
    telling.sort(key=lambda action: -action.weight)
    return [replace(action, weight=action.weight * rank) for action, rank in zip(telling, RANK_WEIGHT, strict=False)]


def _action(entry: Entry, subject: Word, window: Sequence[Word], around: Sequence[Word], weight: float) -> Action:
    verb = " ".join((entry.verb, *(word for word in entry.rest if word in PARTICLES)))
    return Action(
        verb,
        _action_text(entry.verb, window),
        _axes(entry, subject, [*around, Word(";", ","), *window]),
        weight,
    )
