"""The one exception a person is meant to read: the command line prints its message without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class MotionRAGError(ValueError):
    """Bad input or a wrong combination of parts; the message names the thing and the remedy."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of a message about an unknown name: the nearest known one, else all of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(names)}"
