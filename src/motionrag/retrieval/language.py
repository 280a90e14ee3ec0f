"""What a caption says of motion: its actions, separated from the things they happen to.

A part-of-speech tagger and the lexicon take a caption apart into actions; each gives an action text ("put something
in something") for the text encoder and values on the lexicon's axes, on which opposites have opposite signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from motionrag.retrieval.lexicon import DIRECTION_AXES, END, SHAPES, Word, lexicon, transitive
from motionrag.retrieval.tagging import words

__all__ = ["ACTIONS", "DIRECTION_AXES", "Action", "Reading", "actions", "lexicon", "words"]

ACTIONS = 4  # of a caption at most: what weighs less is scenery
WINDOW = 14  # words after a verb in which its particles, object and direction are looked for
RANK_WEIGHT = (1.0, 0.5, 0.33, 0.25)  # of the heaviest action, the second, and so on
LISTS = lexicon().lists

# How much an action weighs by the way it is said: "runs", "running" beside a finite verb, "while running",
# "the running dog", "a run" in a clause with no verb, "is parked"; and one that prepares another.
MAIN, ADJUNCT, SUBORDINATE, MODIFIER, NOMINAL, STATE, PRELUDE = 1.0, 0.5, 0.4, 0.25, 0.7, 0.15, 0.4


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

    def verb_at(self, i: int) -> bool:
        """Whether there is a verb at i."""
        return 0 <= i < len(self.words) and self.verbs[i]

    def _is_verb(self, i: int) -> bool:
        """Whether a word is a verb here: its form says what it can be, the words around it decide."""
        word, before, after = self.words[i], self.at(self.before(i)), self.at(i + 1)
        plural = before.text in LISTS["plural_subjects"] or before.tag == "NN2"
        plural = plural or (before.noun and before.text.endswith("s"))
        if not word.base:
            return word.tag.startswith("VV") and word.text.isascii() and not before.determiner
        if word.text in LISTS["particles"]:
            return self._is_verbal_particle(i, before, after, plural)
        if word.form == "ing":
            leads = word.base in LISTS["leading"] and (after.text in LISTS["particles"] or after.tag == "AVP")
            return not (leads and any(self.verbs[self.start(i) : i])) and self._is_participle(before, after)
        if word.text == "like" and self.verb_at(self.before(i)):
            return False  # "hops like a rabbit"
        if word.form == "s":
            return self._is_third_person(i, before, after)
        if (before.determiner and not plural) or before.tag in {"PRP", "PRF"}:
            return word.form == "past" and after.noun  # "the closed door": a modifier
        if before.tag[:2] in {"VM", "VB", "VD", "VH", "TO"} or before.base in {"be", "get", "do", "have"}:
            return True
        if word.form == "past":
            clear = word.tag[0] == "V" or after.opens_object or self._is_telegraphic(i, before, after)
            return clear or (before.tag != "AJ0" and not before.end)
        return self._is_base(i, before, after, plural)

    def _is_verbal_particle(self, i: int, before: Word, after: Word, plural: bool) -> bool:
        """Whether "open", "shut" or "left" is a verb, not the direction of one: "opens wide", "is left on"."""
        if before.determiner or self.verb_at(i - 1):
            linked = before.base in {"be", "get"} and self.words[i].text in {"shut", "left", "closed"}
            return linked and after.text not in LISTS["attributes"]
        if before.text in {"and", "then"} and (self.words[i].text == "shut" or after.text in {"on", "in", "at"}):
            return self.words[i].text in {"shut", "left"}
        bare = self.words[i].text == "open" and not after.noun and (plural or before.tag == ".")
        return after.opens_object or bare or self._is_telegraphic(i, before, after)

    def _is_base(self, i: int, before: Word, after: Word, plural: bool) -> bool:
        """Whether a base form is a verb: an imperative, after a plural, or caused ("makes it fall")."""
        word, tagged = self.words[i], self.words[i].tag.startswith("V")
        if word.base in LISTS["noun_first"] and not (tagged or after.opens_object or plural):
            return False
        if before.end or before.text in {"and", "then", "please", "or", "to"}:  # imperatives
            listed = before.tag == "," or after.form == "ing" or after.end
            moving = before.tag == "." and after.text in LISTS["moving"]
            plain = after.opens_object or (tagged and not (before.end and listed)) or moving
            return plain or self._is_telegraphic(i, before, after)
        follows = after.opens_object or after.tag == "AVP" or after.text in LISTS["particles"] or after.end
        if plural or self._plural_head(i):
            return tagged or follows or after.adverb
        earlier = [self.words[k] for k in range(self.start(i), i) if self.verbs[k]]
        caused = any(verb.base in LISTS["causatives"] for verb in earlier)
        return before.noun and (tagged or follows) and (caused or (tagged and not earlier))

    def _is_telegraphic(self, i: int, before: Word, after: Word) -> bool:
        """Whether a base form begins an order with no articles: "open microwave"."""
        first = before.tag == "." or (before.text in {"and", "then"} and self.verb_at(self.start(i, ".")))
        if not first or not after.noun or self.words[i].text != self.words[i].base:
            return False
        later = self.words[i + 1 : next(k for k in range(i, len(self.words) + 1) if self.at(k).tag == ".")]
        return not any(word.tag[:2] == "VB" or word.form in {"s", "ing"} for word in later)

    def _plural_head(self, i: int) -> bool:
        """Whether the noun phrases before i begin with a plural: "bottles on the belt travel"."""
        k = self.before(i)
        while self.at(k).noun and self.at(self._phrase(k) - 1).tag in {"PRP", "PRF"}:
            k = self._phrase(k) - 2
        return k < self.before(i) and self.at(k).tag == "NN2"

    def _is_participle(self, before: Word, after: Word) -> bool:
        """Whether an -ing form is a verb: not in "a rocking chair" or "the opening of the show"."""
        return after.text not in LISTS["compounds"] and not (before.determiner and not after.noun)

    def _is_third_person(self, i: int, before: Word, after: Word) -> bool:
        """Whether an -s form is a verb, not a plural: "the waves crash", "flames and sparks"."""
        tagged = self.words[i].tag == "VVZ"
        if after.tag[:2] in {"VB", "VM", "VH"} or (before.determiner and before.text != "one"):
            return False
        if self.words[i].base in LISTS["noun_first"] and not (tagged or after.determiner or after.tag == "AVP"):
            return False
        if before.tag in {"AJ0", "PRP", "PRF"}:
            return after.tag == "AT0"
        if before.end or before.text in {"and", "then", "or", "but"}:
            return tagged or after.opens_object or after.tag == "AVP" or after.text in LISTS["particles"]
        return tagged or before.noun or before.adverb or before.text in LISTS["subordinators"]

    def subject(self, i: int) -> Word:
        """The noun that does what the verb at i says; END if none is found."""
        if i not in self._subjects:
            self._subjects[i] = END  # ends the search where verbs would refer to each other
            self._subjects[i] = self._find_subject(i)
        return self._subjects[i]

    def _find_subject(self, i: int) -> Word:
        k, participle = self.before(i), self.words[i].form == "ing"
        if participle and self.at(k).noun and self.at(self._phrase(k) - 1).text in {"of", "with", "a"}:
            return self.words[k]
        while k >= max(0, i - 30) and self.words[k].tag != ".":
            word = self.words[k]
            if word.text in {"who", "which", "that"} and self.at(k - 1).noun:
                return self.words[k - 1]
            if word.text in LISTS["subordinators"]:
                break
            if word.noun:
                first = self._phrase(k)
                shown = self.verb_at(first - 1)
                shown_doing = shown and participle and k == self.before(i)  # "a video shows a robot pouring"
                if shown_doing or not (shown or self.at(first - 1).tag in {"PRP", "PRF", "AVP"}):
                    return word
                k = first
            elif self.verbs[k] and not (word.base in {"be", "have", "get"} and k == self.before(i)):
                return self.subject(k)
            k -= 1
        following = next((k for k in range(i + 1, min(i + 15, len(self.words))) if self.verbs[k]), None)
        return self.subject(following) if following and participle else END

    def _phrase(self, i: int) -> int:
        """Index of the first word of the noun phrase that ends at i."""

        def inside(word: Word, before: Word) -> bool:
            return word.noun or word.tag[:2] in {"AJ", "OR"} or (word.form in {"ing", "past"} and before.determiner)

        while inside(self.at(i - 1), self.at(i - 2)):
            i -= 1
        while self.at(i - 1).determiner:
            i -= 1
        return i

    def window(self, i: int) -> list[Word]:
        """The words after i, up to the end of its clause or the next verb; "the left door" is a place, left out."""
        found: list[Word] = []
        for k in range(i + 1, min(i + 1 + WINDOW, len(self.words))):
            word, after = self.words[k], self.at(k + 1)
            purpose = self.at(k - 1).text == "to" and word.base in {"look", "see", "face"}  # "turns to look"
            modifies = word.form in {"ing", "past"} and after.noun and self.at(k - 1).tag in {"AT0", "AJ0", "DPS"}
            opens = word.text in LISTS["subordinators"] and not (word.text == "once" and self._counts(k))
            if word.end or opens or (self.verbs[k] and not purpose and not modifies):
                break
            which = word.text in LISTS["attributes"] or self.at(k - 1).tag in {"AT0", "DPS"}
            which = which and word.text in LISTS["particles"] and (after.noun or after.tag == "AJ0")
            which = which and after.text not in SHAPES
            if not which or after.text in LISTS["sides"] | LISTS["particles"]:
                found.append(word)
        return found

    def _counts(self, i: int) -> bool:
        """Whether "once" at i says how often: no clause follows it."""
        after = self.at(i + 1)
        return not (after.opens_object or after.noun)

    def resolved(self, i: int) -> list[Word]:
        """The window of the verb at i, with "it" and "them" said as the thing last named before it."""
        return [self._named(i) if word.text in {"it", "them"} else word for word in self.window(i)]

    def _named(self, i: int) -> Word:
        """The last thing before i that is no tool, nor named after a preposition if another is there."""
        things = [k for k in range(i) if self.words[k].tag in {"NN1", "NN2", "NN0"} and not self.at(k + 1).noun]
        things = [k for k in things if not self.words[k].among(LISTS["grippers"] | lexicon().groups["person"])]
        direct = [k for k in things if self.at(self._phrase(k) - 1).tag not in {"PRP", "PRF"}]
        return self.words[(direct or things)[-1]] if things else Word("it", "PNP")

    def weight(self, i: int, telling: bool) -> float:
        """How much the verb at i tells of the caption's motion, in [0, 1]; telling: the lexicon knows what."""
        clause = range(self.start(i), i)
        ends = [k for k in clause if self.verbs[k] and self.words[k].base not in LISTS["auxiliaries"]]
        between = {self.words[k].text for k in clause if k > max(ends, default=-1)}
        if between & LISTS["negations"]:
            return 0.0
        subordinate = SUBORDINATE if between & LISTS["subordinators"] else 1.0
        return subordinate * self._form_weight(i, telling)

    def _form_weight(self, i: int, telling: bool) -> float:
        """How much a verb tells by its form: "runs", "running", "the running dog", "is parked"."""
        word, before, stative = self.words[i], self.at(self.before(i)), LISTS["stative"]
        state, past = word.base in LISTS["states"], word.form == "past"
        if word.base in stative and not telling:
            return STATE
        if past and before.base in {"be", "get"}:
            return STATE if state and before.base == "be" and before.text not in {"being", "been"} else MAIN
        ordered = before.end or before.text in {"and", "then"}
        past = past and not (ordered and word.text == word.base)  # "put" is an order too
        modifies = self.at(i - 1).determiner or before.tag in {"AJ0", "PRP", "PRF", "CJC"}
        if modifies and self.at(i + 1).noun and (past or word.form == "ing"):
            return STATE if past else MODIFIER
        if past and (word.tag == "VVN" or self._reduced(i)) and before.base != "have":
            return STATE if state else ADJUNCT
        if word.form == "ing" and self.chain(i) is None:
            said = [w for w, verb in zip(self.words, self.verbs, strict=True) if verb and w.base not in stative]
            return ADJUNCT if any(w.form in {"s", "past", "base"} for w in said) else MAIN
        return MAIN

    def _reduced(self, i: int) -> bool:
        """Whether a past form is short for a clause: "a cup tipped onto its side rolls off"."""
        for k in range(i + 1, len(self.words)):
            if self.words[k].end or self.words[k].text in LISTS["subordinators"] | {"and", "but", "then"}:
                return False
            if self.verbs[k] and self.words[k].form == "s":
                return True
        return False

    def chain(self, i: int) -> int | None:
        """Index of the verb that an -ing form completes: "starts swaying", "bursts out laughing"."""
        j = self.before(i)
        while self.at(j).tag == "AVP":
            j -= 1
        linked = self.verb_at(j) and self.words[j].base in LISTS["stative"] | LISTS["light"]
        return j if linked and self.words[i].form == "ing" else None

    def governor(self, i: int) -> int | None:
        """Index of the light verb that the noun of motion at i completes: "gives a quick spin"."""
        k = self._phrase(i) - 1
        while self.at(k).adverb or self.at(k).tag == "AVP" or self.at(k).text in {"into", "to", "for"}:
            k -= 1
        k = self._phrase(k) - 1 if k == self._phrase(i) - 1 and self.at(k).noun else k  # "gives it a spin"
        return k if self.verb_at(k) and self.words[k].base in LISTS["light"] else None

    def nominal_weight(self, i: int) -> float:
        """How much the noun of motion at i tells without a verb of its own."""
        first, last = self.start(i), next(k for k in range(i, len(self.words) + 1) if self.at(k).end)
        if {self.words[k].text for k in range(first, i)} & LISTS["negations"]:
            return 0.0
        within = self.at(self._phrase(i) - 1).tag in {"PRP", "PRF"} or any(self.verbs[first:last])
        return NOMINAL / 3 if within else NOMINAL


def _action(base: str, subject: Word, window: Sequence[Word], around: Sequence[Word]) -> Action:
    """One verb, the words after it and the words around it to an action."""
    entry, kept = lexicon().entry(base, subject, window), [base]
    for word, after, later in zip(window, [*window[1:], END], [*window[2:], END, END], strict=False):
        shaped = not word.determiner and any(near.text in SHAPES for near in (word, after, later)) and not word.end
        if word.text in LISTS["particles"] or word.tag in {"PRP", "AVP", "AV0"} or shaped:
            kept.append(word.text)
        elif word.noun and kept[-1] != "something":
            kept.append("something")
    axes = lexicon().values(entry, subject, [*around, Word(";", ","), *window])
    verb = " ".join((base, *(word for word in entry.rest if word[0] not in "<$")))
    return Action(verb, " ".join(kept), axes)


def _prepares(action: Action, subject: Word, window: Sequence[Word]) -> bool:
    """Whether an action only prepares another: a gripper's way to a thing, a grip."""
    travels = subject.among(LISTS["grippers"]) and action.axes.keys() & LISTS["travels"]
    return bool(travels and not transitive(window)) or action.verb in LISTS["preludes"]


def _nouns(reading: Reading) -> Iterator[tuple[int, int | None, Action]]:
    """The actions said by nouns, with the noun's index and its light verb's."""
    lex = lexicon()
    for i, word in enumerate(reading.words):
        after, governor = reading.at(i + 1), reading.governor(i)
        attributive = after.noun and after.text not in LISTS["particles"]
        bare = governor is None and word.text in LISTS["completions"]
        if word.text not in lex.nouns or reading.verbs[i] or attributive or bare:
            continue
        around = reading.words[max(reading.start(i), i - 4) : i]
        if governor is None:
            subject, weight = next((w for w in reversed(around) if w.noun), END), reading.nominal_weight(i)
        else:
            subject, weight = reading.subject(governor), NOMINAL * reading.weight(governor, True)
        verb, *particles = lex.nouns[word.text].split()
        window = [*(Word(particle, "AVP") for particle in particles), *reading.window(i)]
        yield i, governor, replace(_action(verb, subject, window, around), weight=weight)


def actions(caption: str) -> list[Action]:
    """The actions of a caption, heaviest first, at most ACTIONS of them; none if it names none."""
    reading = Reading(words(caption))
    said = list(_nouns(reading))
    found = {i: action for i, _, action in said}
    verbs = [i for i, verb in enumerate(reading.verbs) if verb]
    light = {governor for _, governor, _ in said} | {reading.chain(i) for i in verbs}
    for i in sorted(set(verbs) - light):
        around = reading.words[reading.before(i) + 1 : i]
        subject, window = reading.subject(i), reading.resolved(i)
        action = _action(reading.words[i].base or reading.words[i].text, subject, window, around)
        weight = reading.weight(i, bool(action.axes))
        found[i] = replace(action, weight=weight * (PRELUDE if _prepares(action, subject, window) else 1))
    telling = [found[i] for i in sorted(found) if found[i].weight > 0]
    return _ranked([action for action in telling if action.axes] or telling)


def _ranked(found: list[Action]) -> list[Action]:
    """Heaviest first, each weighing by its rank too."""
    found = sorted(found, key=lambda action: -action.weight)
    return [replace(action, weight=action.weight * rank) for action, rank in zip(found, RANK_WEIGHT, strict=False)]
