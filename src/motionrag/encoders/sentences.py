"""Where the sentences of a text are."""

from __future__ import annotations

import re

_END = re.compile(r"(?<![.!?])[.!?]+[\"')\]\u201d\u2019]*(?=\s|$)|[\u3002\uff01\uff1f]+|\n+")
_NO_END = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|vs|approx|e\.g|i\.e)|(?:^|\s)[a-z])\.$|^\s*\d{1,2}\.$", re.IGNORECASE)
_BEFORE = 10
"""Characters before a full stop that tell whether it ends an abbreviation."""


def sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of each sentence; together they are the whole text, and none is blank unless all of it is."""
    spans, start = list[tuple[int, int]](), 0
    for mark in _END.finditer(text):
        end = mark.end()
        abbreviated = mark[0] == "." and end < len(text) and _NO_END.search(text[max(start, end - _BEFORE) : end])
        if abbreviated or text[start : mark.start() + 1].isspace():
            continue
        spans.append((start, end))
        start = end
    if start < len(text) and (not spans or not text[start:].isspace()):
        return [*spans, (start, len(text))]
    return [*spans[:-1], (spans[-1][0], len(text))]
