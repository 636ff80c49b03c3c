"""The choice of a polar method, and the library's entry point to them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._types import invalid
from steepest.polar.base import (
    HALF,
    Accuracy,
    PolarMethod,
    check_matrices,
)
from steepest.polar.design import SINGLE_SAFETY, design_schedule
from steepest.polar.exact import GramEigh, Svd
from steepest.polar.iterate import GramNewtonSchulz, segments

Costs = tuple[tuple[int, float], ...]
"""(m, seconds) for one m × m matrix, m ascending; in between, powers are interpolated."""


@dataclass(frozen=True, kw_only=True)
class CostTable:
    """Seconds that the building blocks of the polar methods take on one kind of device.

    Args:
        product: one float32 product of two m × m matrices, within a batch.
        eigh: one float64 `torch.linalg.eigh`; empty where it must not be used (it synchronises
            an accelerator with the host).
        svd: one float32 `torch.linalg.svd`; empty likewise.
        wide: how many times longer a float64 product takes.

    Raises:
        ValueError: a list of costs with a single entry, or not ascending in m.
    """

    product: Costs
    eigh: Costs = ()
    svd: Costs = ()
    wide: float = 2.0

    def __post_init__(self) -> None:
        for name in ("product", "eigh", "svd"):
            sizes = [m for m, _ in getattr(self, name)]
            if len(sizes) == 1 or sizes != sorted(set(sizes)):
                raise invalid(name, getattr(self, name), "give two or more sizes, ascending")


# Measured in torch 2.13 on two x86-64 cores with AVX-512: fastest but one of 7 (products) or 3 runs
# over batches that sum to about 1 000 rows.
CPU = CostTable(
    product=(
        (8, 2.0e-7),
        (32, 7.0e-7),
        (64, 3.4e-6),
        (128, 2.3e-5),
        (256, 1.7e-4),
        (512, 1.3e-3),
        (768, 4.5e-3),
        (1024, 1.2e-2),
    ),
    eigh=(
        (8, 9e-6),
        (32, 9e-5),
        (64, 4e-4),
        (128, 1.6e-3),
        (256, 6e-3),
        (512, 2.9e-2),
        (768, 6.8e-2),
        (1024, 0.15),
    ),
    svd=(
        (8, 1.6e-5),
        (32, 2.3e-4),
        (64, 7.3e-4),
        (128, 2.5e-3),
        (256, 1.1e-2),
        (512, 5e-2),
        (768, 0.14),
        (1024, 0.29),
    ),
)
"""Two CPU cores."""

PRODUCTS_ONLY = CostTable(product=((64, 1e-5), (1024, 4e-5)))
"""Any accelerator: only matrix products, which never wait for the host. Not measured."""


@dataclass(frozen=True, kw_only=True)
class Auto(PolarMethod):
    """The cheapest method that maps every σ ≥ resolution·σ₁ to within `error` of 1.

    The choice is a pure function of shape, dtype and device: it reads no file, no environment and
    no clock. A method is admitted by its own `accuracy`, and its cost is predicted from a table.

    Args:
        error: largest |σ − 1| of the output allowed above the resolution.
        resolution: smallest σ/σ₁ of the input that must be mapped there.
        table: cost of the building blocks; None means the one shipped for the device.

    Raises:
        ValueError: `error` or `resolution` outside (0, 1); on use, when no method reaches them in
            the dtype at hand.

    Example:
        >>> import torch
        >>> type(Auto(error=0.05).choose(128, 512, torch.float32, torch.device("cpu"))).__name__
        'GramNewtonSchulz'
        >>> type(Auto(error=1e-2).choose(768, 768, torch.float32, torch.device("cpu"))).__name__
        'GramEigh'
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
            table = self.table or (CPU if device.type == "cpu" else PRODUCTS_ONLY)
            sizes = min(m, n), max(m, n)
            self._chosen[key] = _choose(self.error, self.resolution, table, *sizes, dtype)
        return self._chosen[key]

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """That of the method chosen for large matrices."""
        return self.choose(1024, 1024, dtype, device).compute_dtype(dtype, device)

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """That of the method chosen on a CPU."""
        return self.choose(m, n, dtype, torch.device("cpu")).accuracy(m, n, dtype)

    def __call__(self, x: Inexact[Tensor, "*batch m n"]) -> Inexact[Tensor, "*batch m n"]:
        """The polar factor of each matrix of `x`; entries must be finite (not checked)."""
        check_matrices(x)
        if x.numel() == 0:
            return torch.zeros_like(x)
        return self.choose(x.shape[-2], x.shape[-1], x.dtype, x.device)(x)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.choose(x.shape[-2], x.shape[-1], dtype, x.device)._factor(x, dtype)


# Below every error that `GramNewtonSchulz` states, and above what the safety factors leave.
SCHEDULE_FLOOR = 1e-6


def _candidates(
    error: float, resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> Iterator[tuple[float, PolarMethod]]:
    """(predicted seconds a matrix, method) for an m × n matrix, m ≤ n."""
    wide = 1.0 if dtype in HALF or dtype in (torch.float32, torch.complex64) else table.wide
    product = _seconds(table.product, m)
    # Products that touch n: they cost n/m square ones.
    thin = product * n / m
    safety = 1.02 if dtype in HALF else SINGLE_SAFETY
    # Rounding takes its share of the error, so a tighter schedule may pass where this one does not.
    for share in (1.0, 0.9, 0.5, 0.1):
        lower = min(0.5, resolution / m**0.125)
        schedule = design_schedule(
            lower=lower, error=max(share * error, SCHEDULE_FLOOR), safety=safety
        )
        restarts = len(segments(schedule, 1.2e-7))
        seconds = wide * (4 * schedule.steps * product + 2 * restarts * thin)
        yield seconds, GramNewtonSchulz(schedule)
    if table.eigh:
        yield _seconds(table.eigh, m) + table.wide * (product + 2 * thin), GramEigh()
    if table.svd:
        yield wide * (_seconds(table.svd, m) + 3 * thin), Svd()


@lru_cache(maxsize=4096)
def _choose(
    error: float, resolution: float, table: CostTable, m: int, n: int, dtype: torch.dtype
) -> PolarMethod:
    best = 1.0
    admitted: list[tuple[float, PolarMethod]] = []
    for seconds, method in _candidates(error, resolution, table, m, n, dtype):
        accuracy = method.accuracy(m, n, dtype)
        if accuracy.resolution <= resolution:
            best = min(best, accuracy.error)
            if accuracy.error <= error:
                admitted.append((seconds, method))
    if not admitted:
        raise invalid(
            "error",
            error,
            f"no method reaches it for {m}×{n} matrices of {dtype} at resolution {resolution:g}; "
            f"the best reaches {best:.1g}: ask for that, or convert the input to a wider type",
        )
    return min(admitted, key=lambda pair: pair[0])[1]


def _seconds(costs: Costs, m: int) -> float:
    """Cost at m: a power law through the two nearest entries."""
    right = next((k for k, (size, _) in enumerate(costs) if size >= m), len(costs) - 1)
    right = max(1, right)
    (x0, y0), (x1, y1) = costs[right - 1], costs[right]
    return float(y0 * (m / x0) ** (math.log(y1 / y0) / math.log(x1 / x0)))


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
            finite. This check waits for an accelerator; calling the method object does not.

    Example:
        >>> import torch
        >>> q = polar_factor(torch.tensor([[2.0, 0.0], [0.0, 1e-3]]))
        >>> bool(torch.allclose(q, torch.eye(2)))
        True

    Sources:
        Higham, Functions of Matrices (SIAM, 2008), chapter 8.
    """
    if not bool(torch.isfinite(x).all()):
        raise invalid(
            "x",
            "non-finite entries",
            "a polar factor needs finite numbers: remove NaN and inf first",
        )
    return (method or Svd())(x)
