"""Norms by name, for the command line: `schatten:4`, `operator:rms:rms`, `linf`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from steepest import norms
from steepest._common.errors import invalid
from steepest.norms import Norm
from steepest.polar import Auto

FAST = Auto(error=0.05)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise invalid("norm", text, "give a number, or inf") from None


def _side(text: str) -> norms.VectorNorm:
    return "rms" if text == "rms" else _number(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise invalid("norm", text, "give a whole number of singular values")
    return int(text)


# name: (what follows it, how to make it); matrices first, then norms of entries.
NORMS: Mapping[str, tuple[str, Callable[..., Norm]]] = {
    "spectral": ("", lambda: norms.Spectral(polar=FAST)),
    "nuclear": ("", norms.Nuclear),
    "frobenius": ("", norms.Frobenius),
    "schatten": (":P", lambda p: norms.Schatten(_number(p), polar=FAST)),
    "kyfan": (":K", lambda k: norms.KyFan(_count(k))),
    "operator": (":A:B", lambda a, b: norms.Operator(_side(a), _side(b)).with_polar(FAST)),
    "rows": (":P", lambda p: norms.RowNorm(_number(p))),
    "columns": (":P", lambda p: norms.ColumnNorm(_number(p))),
    "l1": ("", norms.L1),
    "l2": ("", norms.L2),
    "linf": ("", norms.LInf),
    "lp": (":P", lambda p: norms.Lp(_number(p))),
}


# Learning rates of the optimizer `descent` on the default text and model; docs/tuning.md has the
# runs. `lr` is a length in the norm, so another norm needs another one.
TUNED: Mapping[str, float] = {"spectral": 0.04, "schatten:4": 0.04}


def parse_norm(text: str) -> Norm:
    """The norm that a name stands for.

    Raises:
        ValueError: there is no such norm, it wants other numbers, or it refuses them.

    Examples:
        >>> parse_norm("lp:3"), parse_norm("operator:1:rms") == norms.Operator(1, "rms")
        (Lp(3), True)
    """
    name, *given = text.lower().split(":")
    known = ", ".join(f"{key}{wants}" for key, (wants, _) in NORMS.items())
    if name not in NORMS or len(given) != NORMS[name][0].count(":"):
        raise invalid("norm", text, f"choose from {known}")
    return NORMS[name][1](*given)
