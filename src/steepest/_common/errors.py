"""Wording of errors that every layer shares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """The reason for which an argument is refused; the command line names its flag instead.

    Args:
        argument: the name of the argument.
        value: its value.
        remedy: the advice.
    """

    argument: str
    value: object
    remedy: str

    def __str__(self) -> str:
        return _worded(self.argument, self.value, self.remedy)


def _worded(argument: str, value: object, remedy: str) -> str:
    return f"{argument}={value!r}: {remedy}"


def invalid(argument: str, value: object, remedy: str) -> ValueError:
    """A `ValueError` in the library's one form: the argument, its value, what to do.

    Examples:
        >>> str(invalid("lr", -1.0, "give a number >= 0"))
        'lr=-1.0: give a number >= 0'
    """
    # torch.compile, where it fails, shows an argument of an error only if it is a text.
    worded = _worded if _is_traced() else Refusal
    return ValueError(worded(argument, value, remedy))


def _is_traced() -> bool:
    """Whether torch.compile traces the caller; torch, which takes a second, is not imported."""
    compiler = getattr(sys.modules.get("torch"), "compiler", None)
    return compiler is not None and bool(compiler.is_compiling())


def refusal(error: BaseException) -> Refusal | None:
    """The parts of an error that `invalid` made; None for any other."""
    return next((part for part in error.args if isinstance(part, Refusal)), None)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it.

    Examples:
        >>> shape_text((64, 3, 7, 7))
        '64×3×7×7'
    """
    return "×".join(str(int(d)) for d in shape) or "scalar"
