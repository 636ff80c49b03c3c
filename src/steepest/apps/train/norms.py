"""Norms by name, for the command line: `schatten:4`, `operator:rms:rms`, `linf`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import steepest
from steepest._common.errors import invalid
from steepest.apps._flags import choose

if TYPE_CHECKING:
    from steepest.norms import Norm, VectorNorm
    from steepest.polar import Auto


@cache
def fast() -> Auto:
    """The polar method of norms that need one."""
    return steepest.polar.Auto(error=0.05)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise invalid("norm", text, "give a number, or inf") from None


def _side(text: str) -> VectorNorm:
    return "rms" if text == "rms" else _number(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise invalid("norm", text, "give a whole number of singular values")
    return int(text)


def _plain(name: str) -> Callable[..., Norm]:
    """A class of `steepest.norms`, looked up when a norm is made."""
    return lambda *numbers: getattr(steepest.norms, name)(*numbers)  # noqa: PLW0108 - imports torch


class Row(NamedTuple):
    """A norm of the command line.

    Args:
        make: the norm of the numbers that follow its name.
        wants: these numbers in words.
        reads: a function for the text of each.
        example: the norm as it is written.
    """

    make: Callable[..., Norm]
    wants: str = ""
    reads: tuple[Callable[[str], Any], ...] = ()
    example: str = ""


# Matrices first, then norms of entries. Until a norm is made, `steepest` has not imported torch.
NORMS: Mapping[str, Row] = {
    "spectral": Row(lambda: steepest.norms.Spectral(polar=fast())),
    "nuclear": Row(_plain("Nuclear")),
    "frobenius": Row(_plain("Frobenius")),
    "schatten": Row(
        lambda p: steepest.norms.Schatten(p, polar=fast()), ":P", (_number,), "schatten:4"
    ),
    "kyfan": Row(_plain("KyFan"), ":K", (_count,), "kyfan:8"),
    "operator": Row(
        lambda a, b: steepest.norms.Operator(a, b).with_polar(fast()),
        ":A:B",
        (_side, _side),
        "operator:rms:rms",
    ),
    "rows": Row(_plain("RowNorm"), ":P", (_number,), "rows:2"),
    "columns": Row(_plain("ColumnNorm"), ":P", (_number,), "columns:2"),
    "l1": Row(_plain("L1")),
    "l2": Row(_plain("L2")),
    "linf": Row(_plain("LInf")),
    "lp": Row(_plain("Lp"), ":P", (_number,), "lp:3"),
}
KNOWN = tuple(name + row.wants for name, row in NORMS.items())
"""Every norm as the help shows it."""


# Learning rates of the optimizer `descent` on the default text and model; docs/tuning.md has the
# runs. `lr` is a length in the norm, so another norm needs another one.
TUNED: Mapping[str, float] = {"spectral": 0.04, "schatten:4": 0.04}


def check_norm(text: str) -> tuple[str, tuple[Any, ...]]:
    """The name and the numbers of a norm.

    Raises:
        ValueError: there is no such norm, or it wants other numbers.

    Examples:
        >>> check_norm("operator:1:rms")
        ('operator', (1.0, 'rms'))
    """
    name, *given = text.lower().split(":")
    if name not in NORMS:
        # What was meant is looked for among the names alone: `spectral` and not `operator:A:B`.
        raise invalid("norm", text, choose(name, NORMS, known=KNOWN))
    row = NORMS[name]
    if len(given) != len(row.reads):
        wants = f"write {name}{row.wants}, such as {row.example}" if row.reads else f"write {name}"
        raise invalid("norm", text, wants)
    return name, tuple(read(part) for read, part in zip(row.reads, given, strict=True))


def parse_norm(text: str) -> Norm:
    """The norm that a name stands for.

    Raises:
        ValueError: there is no such norm, it wants other numbers, or it refuses them.

    Examples:
        >>> parse_norm("lp:3"), parse_norm("operator:1:rms") == steepest.norms.Operator(1, "rms")
        (Lp(3), True)
    """
    name, numbers = check_norm(text)
    try:
        return NORMS[name].make(*numbers)
    except ValueError as error:
        raise invalid("norm", text, str(error)) from None
