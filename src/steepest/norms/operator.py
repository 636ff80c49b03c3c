"""Induced norms of matrices: how much a linear map stretches, from one vector norm to another."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import widened
from steepest.norms._vectors import Exponent
from steepest.norms.blocks import ColumnNorm, RowNorm, taps
from steepest.norms.lp import Lp
from steepest.norms.norm import Norm
from steepest.norms.scaled import Scaled, ShapeFactor
from steepest.norms.schatten import Spectral
from steepest.polar import PolarMethod

VectorNorm: TypeAlias = float | Literal["rms"]
"""The norm of the input or output of a linear map: an exponent p in [1, ∞] of ℓp, or "rms", the
root mean square."""


def _exponent(name: str, value: object) -> float:
    """The exponent of a vector norm; RMS is ℓ2 with a factor."""
    if value == "rms":
        return 2.0
    if not (isinstance(value, int | float) and value >= 1):
        raise invalid(name, value, 'give an exponent in [1, inf] or "rms"')
    return float(value)


def Operator(a: VectorNorm, b: VectorNorm, *, polar: PolarMethod | None = None) -> Norm:
    """The induced norm a → b, max ‖W·x‖_b over ‖x‖_a ≤ 1, where it has a closed form.

        1 → p      largest ‖column‖_p           `ColumnNorm(p)`
        p → ∞      largest ‖row‖_q, 1/p + 1/q = 1   `RowNorm(q)`
        2 → 2      largest singular value       `Spectral()`

    with "rms" for ‖x‖₂/√d in the place of 2, which is a factor √in or 1/√out. So "rms" → "rms" is
    the norm of a Linear layer, √(in/out)·σ₁, and 1 → "rms" that of an embedding with one column a
    word. The result is one of the norms named above, perhaps `Scaled`: equal norms compare equal.

    Args:
        a: exponent of the norm of the input, in [1, inf], or "rms".
        b: exponent of the norm of the output, or "rms".
        polar: a method of `steepest.polar` for the pair 2 → 2, as in `Spectral`.

    Raises:
        ValueError: p < 1; a pair without closed form, such as ∞ → 1, ∞ → 2 and 2 → 1, which are
            NP-hard: `estimate` bounds those from below.

    Examples:
        >>> import torch
        >>> w = torch.eye(16, 64)
        >>> float(Operator("rms", "rms")(w)), float(Operator(2, "rms")(w))
        (2.0, 0.25)
        >>> Operator(1, "rms").dual.dual == Operator(1, "rms")
        True

    Sources:
        Bernstein & Newhouse, arXiv 2409.20325, section 3, and 2410.21265; Hendrickx & Olshevsky,
        SIAM J. Matrix Anal. Appl. 31 (2010), for what is NP-hard.
    """
    p, q = _exponent("a", a), _exponent("b", b)
    if polar is not None and not p == q == 2:
        raise invalid("polar", polar, f"{a} → {b} has no use for a polar method: leave it out")
    if p == 1:
        norm: Norm = ColumnNorm(q)
    elif q == math.inf:
        norm = RowNorm(Exponent.of(p).q)
    elif p == q == 2:
        norm = Spectral(polar=polar)
    else:
        raise invalid(
            "(a, b)",
            (a, b),
            "this induced norm has no closed form, computing it is NP-hard in general: "
            "norms.estimate(x, a, b) gives a lower bound, and (1, p), (p, inf), (2, 2) and their "
            "rms forms are exact",
        )
    if "rms" not in (a, b):
        return norm
    return Scaled(norm, _rms_factor(a, b), name=f"Operator({a!r}, {b!r})")


def _rms_factor(a: VectorNorm, b: VectorNorm) -> ShapeFactor:
    return ShapeFactor(rows=-0.5 if b == "rms" else 0.0, cols=0.5 if a == "rms" else 0.0)


def estimate(
    x: Inexact[Tensor, "*batch m n"],
    a: VectorNorm,
    b: VectorNorm,
    *,
    steps: int = 100,
    restarts: int = 8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """A lower bound of the induced norm a → b for any a and b, by a generalised power iteration.

        v ← dualize_a(xᴴ·dualize_b*(x·v)),  bound = ‖x·v‖_b

    The bound never falls from step to step, and ends in a local maximum: exact for 1 → p and p → ∞,
    for 2 → 2 in the limit of many steps, often exact elsewhere, with no guarantee for the NP-hard
    pairs.

    Args:
        x: matrices, shape (*batch, m, n).
        a: exponent of the norm of the input, or "rms".
        b: exponent of the norm of the output, or "rms".
        steps: the number of iterations.
        restarts: random starts beside those of the largest column and row: the best counts.
        generator: random number generator of the random starts; None means a fresh one with seed 0.

    Returns:
        One number for each matrix.

    Raises:
        ValueError: p < 1, no matrix, an empty tensor, NaN or inf.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[1.0, 1.0], [1.0, -1.0]])
        >>> round(float(estimate(x, math.inf, 1)), 4)  # Grothendieck: ±1 vectors reach 2
        2.0

    Sources:
        Boyd, Linear Algebra Appl. 9 (1974); Higham, Numer. Math. 62 (1992).
    """
    enter, leave = Lp(_exponent("a", a), dims=-2), Lp(_exponent("b", b), dims=-2)
    Spectral().validate(x, True)
    if steps < 1 or restarts < 1:
        raise invalid("steps, restarts", (steps, restarts), "give positive numbers")
    generator = generator or torch.Generator().manual_seed(0)
    w = x.to(widened(x.dtype))
    v = torch.cat([_own_starts(w, enter, leave), _random_starts(w, enter, restarts, generator)], -1)
    best = leave(w @ v)
    for _ in range(steps):
        v = enter.dualize(w.mH @ leave.dual.dualize(w @ v))
        value = leave(w @ v)
        if bool((value <= best).all()):
            break
        best = torch.maximum(best, value)
    return best.amax(dim=-1) * _rms_factor(a, b).at(Spectral().matrix_shape(x))


def _own_starts(w: Tensor, enter: Lp, leave: Lp) -> Tensor:
    """The unit vector of the largest column and the maximiser of the largest row."""
    # They are the answers for a = 1 and for b = ∞.
    column = leave(w).argmax(dim=-1)
    unit = torch.nn.functional.one_hot(column, w.shape[-1]).to(w).unsqueeze(-1)
    rows = w.mH
    row = enter.dual(rows).argmax(dim=-1)[..., None, None].expand(*rows.shape[:-1], 1)
    return torch.cat([unit, enter.dualize(rows.gather(-1, row))], dim=-1)


def _random_starts(w: Tensor, enter: Lp, count: int, generator: torch.Generator) -> Tensor:
    """The constant vector and random ones, the same for every matrix."""
    n = w.shape[-1]
    start = torch.randn(
        n, count, generator=generator, dtype=torch.float64, device=generator.device
    ).to(w)
    start = torch.cat([torch.ones_like(start[:, :1]), start], dim=-1)
    return enter.dualize(start).expand(*w.shape[:-2], n, count + 1)


def Conv(spatial: int = 2, *, polar: PolarMethod | None = None) -> Scaled:
    """The norm of a convolution kernel: taps times the largest RMS → RMS norm of a tap.

    It bounds how much a convolution with taps k₁ × … × k_d amplifies the RMS over channels. The
    duality map is √(out/in)·U_tap·V_tapᴴ/taps at every tap.

    Args:
        spatial: d: the kernel has shape (*batch, out, in, k₁, …, k_d).
        polar: a method of `steepest.polar` for the matrix of each tap, as in `Spectral`.

    Raises:
        ValueError: fewer than one spatial axis.

    Examples:
        >>> import torch
        >>> float(Conv(2)(torch.ones(1, 1, 3, 3)))
        9.0

    Sources:
        Bernstein & Newhouse, Modular duality, arXiv 2410.21265, section 3 (Conv2D).
    """
    factor = ShapeFactor(rows=-0.5, cols=0.5, taps=1.0)
    return Scaled(taps(Spectral(polar=polar), spatial), factor, name=f"Conv({spatial})")
