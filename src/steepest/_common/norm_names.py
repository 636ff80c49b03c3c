"""Norms as text, `schatten:4` or `operator:rms:rms`: the names, without what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from math import isnan

from steepest._common.errors import invalid

NORM_NAMES: Mapping[str, str] = {
    "spectral": "",
    "nuclear": "",
    "frobenius": "",
    "schatten": ":P",
    "kyfan": ":K",
    "operator": ":A:B",
    "rows": ":P",
    "columns": ":P",
    "l1": "",
    "l2": "",
    "linf": "",
    "lp": ":P",
}
"""The names, each with what follows it; matrices first, then norms of entries."""

EXAMPLES: Mapping[str, str] = {"": "", ":P": ":4", ":K": ":16", ":A:B": ":rms:rms"}
"""An example of what follows a name."""

KNOWN = tuple(name + follows for name, follows in NORM_NAMES.items())
"""Every norm as a help shows it."""

Word = float | str
"""Part of a text after a name: a number, or "rms"."""


def norm_words(text: str) -> tuple[str, list[Word]]:
    """The name of a norm and what follows it, checked; upper and lower case are alike.

    Raises:
        ValueError: no such name, or not what has to follow it.

    Examples:
        >>> norm_words("Schatten:4"), norm_words("operator:1:rms")
        (('schatten', [4.0]), ('operator', [1.0, 'rms']))
    """
    name, *given = text.strip().lower().split(":")
    if name not in NORM_NAMES:
        near = get_close_matches(name, NORM_NAMES, n=1)
        rest = f"hoose from {', '.join(KNOWN)}"
        raise invalid("norm", text, f"did you mean {near[0]}? C{rest}" if near else f"c{rest}")
    follows = NORM_NAMES[name]
    if len(given) != follows.count(":"):
        wanted = f"write {name}{follows}, as in {name}{EXAMPLES[follows]}" if follows else ""
        raise invalid("norm", text, wanted or f"nothing follows {name}")
    return name, [_word(text, word, follows) for word in given]


def _word(text: str, word: str, follows: str) -> Word:
    """A number, or "rms" for a side of an operator."""
    if follows == ":A:B" and word == "rms":
        return word
    if follows == ":K" and not word.isdecimal():
        raise invalid("norm", text, f"{word!r} is not a whole number of singular values")
    try:
        number = float(word)
    except ValueError:
        number = float("nan")
    if isnan(number):
        other = ', inf or "rms"' if follows == ":A:B" else " or inf"
        raise invalid("norm", text, f"{word!r} is not a number: give one{other}")
    return number
