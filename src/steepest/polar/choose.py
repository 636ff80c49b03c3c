"""The choice of a polar method, and the library's entry point to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import HALF, epsilon, looked_at, real_dtype
from steepest.polar._blocks import HALVED
from steepest.polar.costs import CPU, PRODUCTS_ONLY, CostTable, seconds_at
from steepest.polar.design import SINGLE_SAFETY, design_schedule
from steepest.polar.exact import GramEigh, Svd
from steepest.polar.iterate import GramNewtonSchulz, segments
from steepest.polar.method import Accuracy, PolarMethod, check_matrices
from steepest.polar.rational import Zolotarev, overestimate


class Prediction(NamedTuple):
    """The time and the accuracy that `Auto` expects of one method for one shape.

    Attributes:
        method: the method.
        seconds: predicted time for all matrices of the shape.
        accuracy: the accuracy that the method promises.
        admitted: whether that is as accurate as was asked for.
    """

    method: PolarMethod
    seconds: float
    accuracy: Accuracy
    admitted: bool


@dataclass(frozen=True)
class Ranking:
    """The methods for one shape, the one that is taken first, printed as a table.

    Args:
        predictions: the admitted ones by time, then the others by time.
    """

    predictions: tuple[Prediction, ...]

    def __str__(self) -> str:
        rows = [
            f"{'milliseconds':>12}  {'error':>8}  {'resolution':>10}  method",
            *(
                f"{1e3 * p.seconds:12.4g}  {p.accuracy.error:8.2g}  {p.accuracy.resolution:10.2g}  "
                f"{_short(p.method)}{'' if p.admitted else '  (not accurate enough)'}"
                for p in self.predictions
            ),
        ]
        return "\n".join(rows)


def _short(method: PolarMethod) -> str:
    """A method as a table names it: a schedule by its name."""
    if not isinstance(method, GramNewtonSchulz):
        return repr(method)
    dtype = f", {method.dtype}" if method.dtype else ""
    return f"{type(method).__name__}({method.schedule.name}{dtype})"


@dataclass(frozen=True, kw_only=True)
class Auto(PolarMethod):
    """The cheapest method that maps every σ ≥ resolution·σ₁ to within `error` of 1.

    The choice is a pure function of shape, dtype and device: it reads no file, no environment and
    no clock. A method is admitted by its own `accuracy`, and its cost is predicted from a table.

    On a CPU half-precision input is computed in float32. On an accelerator float32 and
    half-precision input are computed in float16 by `GramNewtonSchulz`, as long as that keeps
    `error` and `resolution`: see there what it does to directions.

    Args:
        error: largest |σ − 1| of the output allowed above the resolution.
        resolution: smallest σ/σ₁ of the input that must be mapped there.
        table: cost of the building blocks; None means the one shipped for the device.

    Raises:
        ValueError: `error` or `resolution` outside (0, 1); on use, when no method reaches them in
            the dtype at hand.

    Examples:
        >>> import torch
        >>> type(Auto(error=0.05).choose(128, 512, torch.float32, torch.device("cpu"))).__name__
        'Zolotarev'
        >>> type(Auto(error=0.05).choose(64, 64, torch.float32, torch.device("cpu"))).__name__
        'GramNewtonSchulz'
    """

    error: float = 0.05
    resolution: float = 3e-3
    table: CostTable | None = None
    _chosen: dict[tuple[int, int, torch.dtype, str], PolarMethod] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("error", "resolution"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise invalid(name, value, "give a number in (0, 1)")

    def choose(self, m: int, n: int, dtype: torch.dtype, device: torch.device) -> PolarMethod:
        """The method that this device runs for m × n matrices of this dtype.

        Raises:
            ValueError: no method reaches `error` and `resolution` in this dtype.
        """
        # torch.compile cannot follow the choice, but it can look up one that was made before.
        key = (m, n, dtype, device.type)
        if key not in self._chosen:
            method = self._choose(m, n, dtype, device)
            # One object for equal methods: stacks that share it may share work.
            same = (other for other in self._chosen.values() if other == method)
            self._chosen[key] = next(same, method)
        return self._chosen[key]

    def _choose(self, m: int, n: int, dtype: torch.dtype, device: torch.device) -> PolarMethod:
        ranking = self.explain((m, n), dtype, device).predictions
        if ranking[0].admitted:
            return ranking[0].method
        fine = [p for p in ranking if p.accuracy.resolution <= self.resolution]
        best = min((p.accuracy.error for p in fine), default=1.0)
        raise invalid(
            "error",
            self.error,
            f"no method reaches it for {m}×{n} matrices of {dtype} at resolution "
            f"{self.resolution:g}; the best reaches {best:.1g}: ask for that, or convert the input "
            "to a wider type",
        )

    def explain(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Ranking:
        """The methods it chooses from, with predicted times and promised errors.

        Args:
            shape: (*batch, m, n) of the input.
            dtype: the type of the input.
            device: the device of the input; nothing is allocated there.

        Raises:
            ValueError: fewer than two axes, or one without length.

        Examples:
            >>> print(Auto().explain((16, 128, 512)))  # doctest: +ELLIPSIS
            milliseconds     error  resolution  method
            ...
        """
        if len(shape) < 2 or any(size < 1 for size in shape):
            raise invalid("shape", tuple(shape), "give (*batch, m, n), each axis at least 1")
        *batch, m, n = shape
        table = self.table or (CPU if torch.device(device).type == "cpu" else PRODUCTS_ONLY)
        pairs = _candidates(self.error, self.resolution, table, min(m, n), max(m, n), dtype)
        predictions = []
        # Several shares of the error may lead to the same schedule.
        for method, seconds in {method: seconds for seconds, method in pairs}.items():
            stated = method.accuracy(m, n, dtype)
            # Dividing by a power of m and multiplying by it again may end one bit higher.
            fine = stated.resolution <= self.resolution * (1 + 1e-12)
            admitted = fine and stated.error <= self.error
            predictions.append(Prediction(method, seconds * math.prod(batch), stated, admitted))
        return Ranking(tuple(sorted(predictions, key=lambda p: (not p.admitted, p.seconds))))

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The compute type of the method chosen for large matrices."""
        return self.choose(1024, 1024, dtype, device).compute_dtype(dtype, device)

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The accuracy of the method chosen on a CPU."""
        return self.choose(m, n, dtype, torch.device("cpu")).accuracy(m, n, dtype)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.choose(x.shape[-2], x.shape[-1], dtype, x.device)._factor(x, dtype)


# Below every error that `GramNewtonSchulz` states, and above what the safety factors leave.
SCHEDULE_FLOOR = 1e-6


HOST = torch.device("cpu")

# (order, degree) with few inverses: 1, 1, 3, 1 + 1, 1 + 2 and 1 + 1 + 1.
FUNCTIONS = ((1, 9), (1, 13), (3, 0), (4, 0), (7, 0), (13, 0))

# Room above the interval for the Gram matrices of float16 (simulated in polar/iterate.py).
HALF_SAFETY = 1.05
HALF_EPS = epsilon(torch.float16)

# Products that the polynomial of each degree takes, with those of the step to it.
POLYNOMIAL = {0: 0, 5: 3, 9: 4, 13: 5}

# Measured: a Hermitian product by quarters takes this share of the time of a full one.
HERMITIAN = 0.8


def _candidates(
    error: float, resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> Iterator[tuple[float, PolarMethod]]:
    """(predicted seconds a matrix, method) for an m × n matrix, m ≤ n."""
    wide = 1.0 if dtype in HALF or dtype in (torch.float32, torch.complex64) else table.wide
    product = seconds_at(table.product, m)
    # Products that touch n: they cost n/m square ones.
    thin = product * n / m
    types: list[tuple[float, torch.dtype | None]] = [(wide, None)]
    if table.half < 1 and dtype in (*HALF, torch.float32) and resolution > HALF_EPS < error:
        types.append((table.half, torch.float16))
    for factor, half in types:
        safety = HALF_SAFETY if half else 1.02 if dtype in HALF else SINGLE_SAFETY
        lower = (resolution - HALF_EPS if half else resolution) / m**0.125
        # Rounding takes its share of the error: a tighter schedule may pass where this one fails.
        for share in (1.0, 0.9, 0.5, 0.1):
            schedule = design_schedule(
                lower=min(0.5, lower), error=max(share * error, SCHEDULE_FLOOR), safety=safety
            )
            parts = segments(schedule, HALF_EPS if half else epsilon(torch.float32))
            products = sum(4 * len(part) - 3 for part in parts)
            cost = products * product + 2 * len(parts) * thin
            yield factor * cost, GramNewtonSchulz(schedule, half)
    if table.inverse:
        inverse = seconds_at(table.inverse, m)
        share = HERMITIAN if m >= HALVED else 1.0
        for function, refine, tight in itertools.product(FUNCTIONS, (0, 1, 2), (False, True)):
            # The smallest σ/√ρ that must be resolved; orders 1 and 3 go no further down.
            lower = max(5e-5, resolution / overestimate(m, tight=tight))
            method = Zolotarev(function[0], lower, refine, tight, function[1])
            inverses = sum(len(stage.shifts) for stage in method.stages)
            # Two for each step to another stage; a polynomial takes three, four or five in all.
            products = 2 * (len(method.stages) - 1) + tight + POLYNOMIAL[method.degree]
            seconds = inverses * inverse + (share * products + refine) * product
            seconds += (1 + share + 2 * refine) * thin
            # A small `lower` is computed in float64 whatever the input is.
            double = real_dtype(method.compute_dtype(dtype, HOST)) == torch.float64
            yield (table.wide if double else 1.0) * seconds, method
    if table.eigh:
        eigh = seconds_at(table.eigh, m)
        yield eigh + table.wide * (product + 2 * thin), GramEigh()
        if wide == 1.0:
            single = eigh / table.wide + 2 * product + 5 * thin
            yield single, GramEigh(torch.float32, refine=1)
    if table.svd:
        yield wide * (seconds_at(table.svd, m) + 3 * thin), Svd()


def polar_factor(
    x: Inexact[Tensor, "*batch m n"], *, method: PolarMethod | None = None
) -> Inexact[Tensor, "*batch m n"]:
    """The polar factor UVᴴ of each matrix X = UΣVᴴ: its nearest partial isometry.

        U, _, Vᴴ = svd(x);  polar_factor(x) = U @ Vᴴ

    Scale-free: polar_factor(c·x) = polar_factor(x) for every c > 0 that leaves c·x representable.
    A zero matrix gives zero, a rank-deficient one a partial isometry of the same rank. Autograd
    goes through every method, but the gradient of `Svd` and `GramEigh` is not finite where singular
    values are equal or zero: there use an iteration.

    Args:
        x: real or complex matrices, shape (*batch, m, n).
        method: how to compute it, an object of `steepest.polar`; None means `Svd()`, exact to the
            dtype.

    Returns:
        A new tensor with the shape, dtype and device of `x`.

    Raises:
        ValueError: `x` has fewer than two axes, holds integers, or has an entry that is not
            finite. This check waits for an accelerator; calling the method object does not, unless
            it is `Svd` or `GramEigh`: torch's decompositions wait for a CUDA device.

    Examples:
        >>> import torch
        >>> q = polar_factor(torch.tensor([[2.0, 0.0], [0.0, 1e-3]]))
        >>> bool(torch.allclose(q, torch.eye(2)))
        True

    Sources:
        Higham, Functions of Matrices (SIAM, 2008), chapter 8.
    """
    check_matrices(x)
    if not isinstance(method, PolarMethod | None):
        raise invalid("method", method, "give a method object such as steepest.polar.Svd()")
    finite = looked_at(torch.isfinite(x).all())
    if finite is None:
        raise invalid(
            "x",
            "values that cannot be looked at",
            "under torch.func.vmap call the method object, steepest.polar.Svd()(x), or give the "
            "whole batch, which is one call",
        )
    if not finite:
        raise invalid(
            "x",
            "non-finite entries",
            "a polar factor needs finite numbers: remove NaN and inf first",
        )
    return (method or Svd())(x)
