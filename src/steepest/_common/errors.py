"""Wording of errors that every layer shares."""

from __future__ import annotations

from collections.abc import Sequence


def invalid(argument: str, value: object, remedy: str) -> ValueError:
    """A `ValueError` in the library's one form: the argument, its value, what to do.

    Examples:
        >>> str(invalid("lr", -1.0, "give a number >= 0"))
        'lr=-1.0: give a number >= 0'
    """
    return ValueError(f"{argument}={value!r}: {remedy}")


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it.

    Examples:
        >>> shape_text((64, 3, 7, 7))
        '64×3×7×7'
    """
    return "×".join(str(int(d)) for d in shape) or "scalar"
