"""Checks of arguments that several parts of the library make."""

from __future__ import annotations

import inspect
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


def not_negative(argument: str, value: object) -> float:
    """The value, if it is a finite number of at least 0.

    Raises:
        ValueError: it is something else.
    """
    if value == 0 and not isinstance(value, bool):
        return 0.0
    return positive(argument, value, "give a finite number >= 0")


def weight(argument: str, value: object) -> float:
    """The value, if it is the weight of the past in an average: a number in [0, 1).

    Raises:
        ValueError: it is something else.
    """
    if not_negative(argument, value) >= 1:
        raise invalid(argument, value, "give the weight of the past, in [0, 1)")
    return float(value)  # type: ignore[arg-type]


def check_object(argument: str, value: object, kinds: type | tuple[type, ...], remedy: str) -> None:
    """Raise unless a value is an object of the library of these classes.

    A class or a function of the library in its place is answered with the call that makes one.

    Args:
        argument: the argument's name, for the error.
        value: the value to check.
        kinds: the classes.
        remedy: the advice at the end of the error.

    Raises:
        ValueError: it is something else.

    Examples:
        >>> from steepest import norms
        >>> check_object("norm", norms.Spectral, norms.Norm, "give a norm")
        Traceback (most recent call last):
        ValueError: norm='norms.Spectral': call it: norms.Spectral()
    """
    if isinstance(value, kinds):
        return
    home, name = getattr(value, "__module__", ""), getattr(value, "__name__", "")
    if callable(value) and name and str(home).startswith("steepest."):
        path = f"{home.split('.')[1]}.{name}"
        wanted = [
            p.name
            for p in inspect.signature(value).parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        raise invalid(argument, path, f"call it: {path}({', '.join(wanted)})")
    raise invalid(argument, value, remedy)
