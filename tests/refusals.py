"""What a test expects of bad input: one error that names the value and the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def assert_refused(call: Callable[[], object], value: str, remedy: str) -> None:
    """The call raises a ValueError whose text has both."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is looked at below
        call()
    assert value in str(caught.value) and remedy in str(caught.value)
