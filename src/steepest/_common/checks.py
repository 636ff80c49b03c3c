"""Checks of arguments that several parts of the library make."""

from __future__ import annotations

import math

from steepest._common.errors import invalid


def is_positive(value: object) -> bool:
    """Whether it is a positive finite number; a boolean is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf  # type: ignore[operator]


def positive(argument: str, value: object, remedy: str = "give a positive number") -> float:
    """The value, if it is a positive finite number.

    Args:
        argument: the argument's name, for the error.
        value: the value to check.
        remedy: the advice at the end of the error.

    Raises:
        ValueError: it is something else.
    """
    if not is_positive(value):
        raise invalid(argument, value, remedy)
    return float(value)  # type: ignore[arg-type]
