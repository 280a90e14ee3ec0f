"""A caption's words with their parts of speech, as the tagger has them and the lexicon corrects them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from motionrag.retrieval.lexicon import END, Word, lexicon

WORDS = 400  # of a caption at most, and
LETTERS = 24  # of a word at most, so that the time is bounded


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


_CONTRACTIONS = [
    (re.compile(r"\b(he|she|it|that|there|who|what|here)'s\b"), r"\1 is"),
    (re.compile(r"n't\b"), " not"),
    (re.compile(r"'(re|ll|ve)\b|\ball the way\b"), ""),
]
_MARKS = re.compile(r"([.!?\n;]+)|[,:()\[\]\"|/]+|\s[-\u2013\u2014]+\s|\u2014")
_TOKEN = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")


def _parts(token: str) -> list[str]:
    """A hyphenated verb and particle in two: "dolly-out"; other words as they are."""
    verb, _, particle = token.rpartition("-")
    if len(token) > LETTERS:
        return []
    known = verb in lexicon().forms and particle in lexicon().lists["particles"] and token not in lexicon().nouns
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
                found.append(_word(token, tag, found[-1] if found else END))
            found.append(END if mark is None or mark[1] else Word(",", ","))
        elif found and mark is not None and mark[1]:
            found[-1] = END
        start = mark.end() if mark else end
    return found[:WORDS] + [END] * (len(found) > WORDS)


def _word(token: str, tag: str, before: Word) -> Word:
    """A tagged word; what the tagger takes for a verb after "a" or "his" is a noun."""
    base, form = lexicon().forms.get(token, ("", ""))
    if token.endswith(("'s", "s'")):
        tag = "DPS"
    elif tag.startswith("V") and form in {"base", "s"} and before.determiner and before.tag != "DT0":
        tag = "NN1"
    elif token.endswith("clockwise"):
        tag = "AV0"
    return Word(token, tag, base, form)
