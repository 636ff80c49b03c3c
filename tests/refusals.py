"""What a test expects of bad input: one error that names the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def assert_refused(call: Callable[[], object], value: str, remedy: str) -> None:
    """The call raises a ValueError whose text has both."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        call()
    assert value in str(caught.value) and remedy in str(caught.value)


def says(result: object, *parts: str) -> None:
    """One line on stderr with these parts, nothing on stdout, exit code 2."""
    code, out, err = (getattr(result, name) for name in ("exit_code", "stdout", "stderr"))
    assert (code, out) == (2, ""), (out, err)
    assert err.startswith("steepest: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    for part in parts:
        assert part in err
