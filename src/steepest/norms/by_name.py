"""Norms from text, as on the command line: `schatten:4`, `operator:rms:rms`, `linf`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from steepest._common.errors import invalid
from steepest._common.norm_names import norm_words
from steepest.norms.blocks import ColumnNorm, RowNorm
from steepest.norms.kyfan import KyFan
from steepest.norms.lp import L1, L2, LInf, Lp
from steepest.norms.norm import Norm
from steepest.norms.operator import Operator, VectorNorm
from steepest.norms.schatten import Frobenius, Nuclear, Schatten, Spectral
from steepest.polar import Auto

FAST = Auto(error=0.05)

MAKERS: Mapping[str, Callable[..., Norm]] = {
    "spectral": lambda: Spectral(polar=FAST),
    "nuclear": Nuclear,
    "frobenius": Frobenius,
    "schatten": lambda p: Schatten(p, polar=FAST),
    "kyfan": lambda k: KyFan(int(k)),
    "operator": lambda a, b: Operator(cast(VectorNorm, a), cast(VectorNorm, b)).with_polar(FAST),
    "rows": RowNorm,
    "columns": ColumnNorm,
    "l1": L1,
    "l2": L2,
    "linf": LInf,
    "lp": Lp,
}


def parse_norm(text: str) -> Norm:
    """The norm that a text stands for: a name, and after colons the numbers that it takes.

        spectral, nuclear, frobenius, schatten:P, kyfan:K, operator:A:B, rows:P, columns:P;
        l1, l2, linf, lp:P

    Singular values and vectors are those of the polar method `Auto(error=0.05)` where one is of
    use, as in `Muon`. Optimizers take such a text for `norm`, and `steepest train` for `--norm`.

    Args:
        text: The name, in upper or lower case.

    Raises:
        ValueError: there is no such norm, it takes other numbers, or it refuses them.

    Examples:
        >>> parse_norm("lp:3"), parse_norm("operator:1:rms") == Operator(1, "rms")
        (Lp(3), True)
    """
    name, words = norm_words(text)
    try:
        return MAKERS[name](*words)
    except ValueError as error:
        raise invalid("norm", text, str(error)) from None
