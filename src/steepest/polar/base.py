"""What every polar method shares: shapes, types and a scale that cannot overflow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid, real_dtype, shape_text
from steepest.sharding.reductions import looked_at

F = TypeVar("F", bound=Callable[..., Any])

HALF = (torch.float16, torch.bfloat16)
"""Types that are too coarse to normalise in and that no LAPACK routine takes."""


class Accuracy(NamedTuple):
    """What a polar method promises for one shape and type.

    Singular values σ ≥ `resolution`·σ₁ of the input become singular values within `error` of 1;
    smaller ones are damped; none becomes larger than `upper`.
    """

    resolution: float
    error: float
    upper: float


class PolarMethod(ABC):
    """A way to compute the polar factor UVᴴ of X = UΣVᴴ.

    Laws, for a method `polar` and an input `x` of shape (*batch, m, n):

        polar(c * x) == polar(x)                  for every c > 0 that leaves c·x representable
        polar(0 * x) == 0
        polar(x.mH) == polar(x).mH
        polar(x)[i] == polar(x[i])                a batch is its members
        accuracy(m, n, dtype).upper >= σ₁(polar(x))

    The output has the dtype and device of the input and never shares its memory. Neither autocast
    nor torch's setting for float32 products changes it. A subclass writes
    `_factor` and `accuracy`; the scale and the transposition are done here.
    """

    @abstractmethod
    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Polar factor of (batch, m, n), m ≤ n, in compute type; `dtype` is the caller's type."""

    @abstractmethod
    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """What the method promises for m × n matrices of this dtype."""

    @abstractmethod
    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type in which an input of `dtype` on `device` is computed."""

    def choose(self, m: int, n: int, dtype: torch.dtype, device: torch.device) -> PolarMethod:
        """The method that runs for m × n matrices of this dtype: this one, if it is no choice."""
        return self

    def __call__(self, x: Inexact[Tensor, "*batch m n"]) -> Inexact[Tensor, "*batch m n"]:
        """The polar factor of each matrix of `x`; entries must be finite (not checked)."""
        return self.factors([x])[0]

    def factors(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """The polar factors of several stacks, each of shape (*batch, m, n) with m and n its own.

        Stacks of one dtype and device whose smaller sides are equal may share work: a method that
        computes with m × m matrices does it once for all of them.
        """
        out = list(xs)
        alike: dict[tuple[object, ...], list[int]] = {}
        for i, x in enumerate(xs):
            check_matrices(x)
            if x.numel():
                alike.setdefault((min(x.shape[-2:]), x.dtype, x.device), []).append(i)
            else:
                out[i] = torch.zeros_like(x)
        for places in alike.values():
            for i, q in zip(places, self._oriented([xs[i] for i in places]), strict=True):
                out[i] = q
        return out

    def _oriented(self, xs: list[Tensor]) -> list[Tensor]:
        """The factors of stacks that are alike, by `_factors` of the wide ones among m ≤ n."""
        dtype, device = xs[0].dtype, xs[0].device
        compute = self.compute_dtype(dtype, device)
        with full_precision(device, compute):
            work = [unit_scale(x).to(compute).reshape(-1, *x.shape[-2:]) for x in xs]
            tall = [x.shape[-2] > x.shape[-1] for x in xs]
            wide = [x.mH if t else x for x, t in zip(work, tall, strict=True)]
            factors = self._factors(wide, dtype)
            turned = [q.mH if t else q for q, t in zip(factors, tall, strict=True)]
        return [
            q.reshape(x.shape).to(dtype).resolve_conj() for q, x in zip(turned, xs, strict=True)
        ]

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """`_factor` of each; a method may do what they have in common once."""
        return [self._factor(x, dtype) for x in xs]


def constant_when_traced(function: F) -> F:
    """Mark a pure function that torch.compile calls while tracing, rather than trace it."""
    # torch.compiler.assume_constant_result does the same, but imports the compiler, which takes
    # seconds; tests/optim/test_compiled.py fails when the mark has another name.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_traced
def product_setting() -> str:
    """torch's setting for float32 products."""
    return torch.get_float32_matmul_precision()


@constant_when_traced  # torch 2.10 cannot trace the call
def has_autocast(device: str) -> bool:
    """Whether torch has autocast for a type of device, such as "cpu"."""
    return torch.amp.is_autocast_available(device)


@contextmanager
def full_precision(device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Products in the type of their factors, whatever autocast or a global setting says.

    The iterations are stable for rounding of the size of eps: with float32 products done in
    bfloat16 or TF32 they diverge.

    Raises:
        ValueError: in a function under torch.compile, which cannot change the setting, where the
            setting is another one and `dtype` is single precision.
    """
    before = product_setting()
    with torch.autocast(device.type, enabled=False) if has_autocast(device.type) else nullcontext():
        if before == "highest" or real_dtype(dtype) != torch.float32:
            yield
            return
        if torch.compiler.is_compiling():
            raise invalid(
                "torch.get_float32_matmul_precision()",
                before,
                "compiled, single precision needs 'highest': set that, or take a method that "
                "computes in half precision",
            )
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def check_matrices(x: object, argument: str = "x") -> None:
    """Raise unless `x` holds real or complex matrices."""
    if not isinstance(x, Tensor):
        raise invalid(argument, type(x).__name__, "give a tensor, such as torch.as_tensor of it")
    if x.ndim < 2 or not (x.is_floating_point() or x.is_complex()):
        raise invalid(
            argument,
            f"{shape_text(x.shape)} {x.dtype}",
            "give floating-point or complex matrices of shape (*batch, m, n)",
        )


def unit_power(x: Tensor) -> Tensor:
    """The first of `unit_powers`, alone: the largest entry may land in [eps/2, 4) at the ends."""
    return unit_powers(x)[0]


def unit_powers(x: Tensor) -> tuple[Tensor, Tensor]:
    """For each matrix two powers of two that bring its largest entry into [1/2, 1).

    A power of two costs no digit. The norm itself is not usable: its square over- or underflows
    for entries of 1e±30 in float32. A power must be a normal number itself, so at the two ends of
    the type one is not enough: the second is 1 elsewhere.

    Returns:
        Real numbers of shape (*batch, 1, 1) in the precision of `x`; 1 for a zero matrix.
    """
    parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    axes = (-2, -1) if parts is x else (-3, -2, -1)
    # Four times faster on a CPU than the absolute values, which would need memory.
    largest = torch.maximum(parts.amax(axes, keepdim=True), -parts.amin(axes, keepdim=True))
    largest = largest if parts is x else largest.squeeze(-1)
    exponent = torch.frexp(largest.float() if x.dtype in HALF else largest).exponent
    # The power must itself be a normal number of the type: 2^149 is no float32.
    limit = math.frexp(torch.finfo(parts.dtype).max)[1] - 2
    first = (-exponent).clamp(-limit, limit)
    one = torch.ones_like(largest)
    return torch.ldexp(one, first), torch.ldexp(one, -exponent - first)


def unit_scale(x: Tensor) -> Tensor:
    """Each matrix times its `unit_powers`; zero stays zero."""
    power, rest = unit_powers(x)
    x = times(x, power)
    # Hardly ever is there a rest: where looking costs nothing, no pass over the matrix is made.
    known = not torch.compiler.is_compiling() and type(x) is Tensor and x.device.type == "cpu"
    return x if known and looked_at((rest == 1).all()) else times(x, rest)


def times(x: Tensor, factor: Tensor) -> Tensor:
    """A matrix times a real number."""
    if not x.is_complex():
        return x * factor
    return torch.view_as_complex(torch.view_as_real(x.resolve_conj()) * factor.unsqueeze(-1))


def applied(a: Tensor, x: Tensor) -> Tensor:
    """The product a·x in the memory order of x: columns are dense where those of x are.

    A tall matrix comes as its transpose. A factor in another order than the parameter it belongs to
    is four to twenty times as slow to add to it on a CPU.
    """
    return a @ x if x.stride(-1) == 1 else (x.mH @ a.mH).mH


def has_long_rows(x: Tensor) -> bool:
    """Whether `gram_matrix` cuts the rows of (…, m, n)."""
    # Products of half precision are added up in float32 and rounded once.
    return x.shape[-1] >= 2 * _piece(x) and x.dtype not in HALF


def _piece(x: Tensor) -> int:
    return max(LONG_ROW, LONG_ROWS * x.shape[-2])


def gram_matrix(x: Tensor) -> Tensor:
    """XXᴴ of (batch, m, n), the products of long rows added up in pieces."""
    if not has_long_rows(x):
        return torch.bmm(x, x.mH)
    length = _piece(x)
    batch, _, n = x.shape
    count = n // length
    pieces = x[..., : count * length].unflatten(-1, (count, length)).movedim(-2, 1).flatten(0, 1)
    whole = torch.bmm(pieces, pieces.mH).unflatten(0, (batch, count)).sum(dim=1)
    rest = x[..., count * length :]
    return torch.baddbmm(whole, rest, rest.mH) if rest.shape[-1] else whole


def safe_divisor(norm: Tensor) -> Tensor:
    """The norm where it is positive, 1 where it is zero, so that zero is divided to zero."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))


# Measured: the eigenvalues of a Gram matrix formed in floating point are off by about 3·eps·λ₁,
# whatever its size (2 to 4096; log-spaced spectra of condition number 1e4). Bounds use this margin.
GRAM_NOISE = 8.0

# Rows so many times as long as there are rows, and of this length at least, are cut: a product of
# few long rows is added up entry by entry. Measured for 1 to 8 rows in float32: 6·eps·λ₁ at a
# length of 512, 20 at 4096, 210 at 100 000, where small singular values are noise.
LONG_ROWS, LONG_ROW = 64, 512

# Half precision adds up in float32 and rounds the sum: at most eps/2 of each entry, and eps/2 more
# when it is rescaled. Measured: eigenvalues off by 0.66·eps·λ₁ at most (size 4 to 1024; flat,
# log-spaced, rank-one, diagonal, spiky).
HALF_NOISE = 1.0


def gram_noise(eps: float) -> float:
    """How far the eigenvalues of a Gram matrix are off, over the largest, in a type of this eps."""
    return eps * (HALF_NOISE if eps > epsilon(torch.float32) else GRAM_NOISE)


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, any other type itself."""
    return torch.float32 if dtype in HALF else dtype


def in_double(x: Tensor) -> Tensor:
    """`x` in double precision, real or complex as it is."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def epsilon(dtype: torch.dtype) -> float:
    """Machine epsilon of a real or complex type."""
    return float(torch.finfo(real_dtype(dtype)).eps)


def storage_error(dtype: torch.dtype) -> float:
    """Largest change of a singular value that rounding the entries of a factor to `dtype` makes."""
    # Errors of eps/2 relative to entries of size 1/√n are independent: their norm is below 2·eps.
    return 2 * epsilon(dtype) if dtype in HALF else 0.0


def product_rounding(m: int, n: int, dtype: torch.dtype) -> float:
    """Bound on |σ − 1| that a product of orthogonal factors leaves, stored in `dtype`."""
    return 4 * math.sqrt(max(m, n)) * epsilon(widened(dtype)) + storage_error(dtype)


def factor_rounding(m: int, n: int, dtype: torch.dtype, work: torch.dtype) -> float:
    """Bound on |σ − 1| that rounding leaves of a factor computed in `work` and stored in `dtype`.

    Half precision adds up in float32; what it rounds besides belongs to the method.
    """
    # Errors of long sums of one sign add up. Measured for 1 × 100 000 equal entries: 0.09·n·eps.
    growth = max(4 * math.sqrt(max(m, n)), max(m, n) / 8)
    fine, stored = epsilon(widened(work)), epsilon(dtype)
    return growth * fine + (2 * stored if stored > fine else 0.0)


def refine(q: Tensor, steps: int) -> Tensor:
    """Steps of the classical quintic X ← ⅛(15·X − 10·XXᴴX + 3·(XXᴴ)²X) on (batch, m, n), m ≤ n.

    Singular values near 1 converge cubically to it, those that are 0 stay 0.
    """
    for _ in range(steps):
        square = gram_matrix(q)
        polynomial = torch.baddbmm(square, square, square, beta=-10 / 8, alpha=3 / 8)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(15 / 8)
        q = applied(polynomial, q)
    return q


def refined_error(error: float, steps: int) -> float:
    """Largest |σ − 1| after `refine`, where it was `error` before."""
    for _ in range(steps):
        error = max(abs((15 * s - 10 * s**3 + 3 * s**5) / 8 - 1) for s in (1 - error, 1 + error))
    return error
