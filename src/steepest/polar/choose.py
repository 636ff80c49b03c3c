"""The choice of a polar method, and the library's entry point to them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.checks import check_object
from steepest._common.errors import invalid
from steepest._common.numerics import looked_at
from steepest._common.text import table
from steepest.polar.candidates import candidates
from steepest.polar.costs import CostTable
from steepest.polar.exact import Svd
from steepest.polar.method import Accuracy, PolarMethod, check_matrices
from steepest.polar.processors import processor_class, shipped_table


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
        processor: the class of the processor that the times are for; "" if the costs were given.
        source: the origin of the costs.
    """

    predictions: tuple[Prediction, ...]
    processor: str = ""
    source: str = ""

    def __str__(self) -> str:
        shown = self._shown()
        cells = [
            (
                f"{1e3 * p.seconds:.3g}",
                f"{p.accuracy.error:.2g}",
                f"{p.accuracy.resolution:.2g}",
                f"{_short(p.method)}{'' if p.admitted else '  (not accurate enough)'}",
            )
            for p in shown
        ]
        more = len(self.predictions) - len(shown)
        lines = [
            table(("milliseconds", "error", "resolution", "method"), cells, left={"method"}),
            *([f"and {more} more in `predictions`"] if more else []),
            f"processor: {self.processor or 'the one of the given table'}",
            *textwrap.wrap(f"costs: {self.source or 'no source is given'}", 100),
        ]
        return "\n".join(lines)

    def _shown(self) -> list[Prediction]:
        """The fastest, and the fastest of each class that is not among them."""
        kinds = dict[tuple[type, bool], Prediction]()
        for p in self.predictions:
            kinds.setdefault((type(p.method), p.admitted), p)
        first = [p for p in self.predictions if p.admitted][:FASTEST]
        return [p for p in self.predictions if p in first or p in kinds.values()]


FASTEST = 6
"""Rows of a printed ranking beside those that show a class of methods."""


def _short(method: PolarMethod) -> str:
    """A method as a table names it: three digits of each number, a schedule by its name."""
    written = re.sub(r"\d+\.\d{3,}(?:e-?\d+)?", lambda n: f"{float(n[0]):.3g}", repr(method))
    written = re.sub(r"schedule=(?:polar\.|Schedule\(')(\w+)(?:'.*?#\w+\))?", r"\1", written)
    return written.replace("torch.", "")


# Ours. A pair of singular vectors at the resolution may turn by half a radian.
LARGEST_TURN = 0.5


@dataclass(frozen=True, kw_only=True, repr=False)
class Auto(PolarMethod):
    """The cheapest method that maps every σ ≥ resolution·σ₁ to within `error` of 1.

    A method is admitted by its own `accuracy`, and its cost is predicted from a table. The shipped
    ones are told apart by what the processor can do, by the kernels that the environment allows it
    when the process first asks, and by whether one thread computes or several. There is no clock:
    the same shape, dtype, processor and environment give the same method on every run.

    Where the table has products in bfloat16 or float16 that are faster than those in float32,
    `GramNewtonSchulz` computes in them, as long as that keeps `error`, and the `backward` that it
    states is at most half of `resolution`: see there what it does to directions. Elsewhere
    half-precision input is computed in float32.

    Args:
        error: largest |σ − 1| of the output allowed above the resolution.
        resolution: smallest σ/σ₁ of the input that must be mapped there.
        table: cost of the building blocks; None means the one shipped for the processor.

    Raises:
        ValueError: `error` or `resolution` outside (0, 1); on use, when no method reaches them in
            the dtype at hand.

    Examples:
        >>> import torch
        >>> products = CostTable(product=((64, 3e-6), (1024, 1e-2)))
        >>> auto, host = Auto(error=0.05, table=products), torch.device("cpu")
        >>> type(auto.choose(64, 64, torch.float32, host)).__name__
        'GramNewtonSchulz'
    """

    _shown = ("error",)
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
        table = self.table or shipped_table(device)
        pairs = candidates(self.error, self.resolution, table, min(m, n), max(m, n), dtype)
        best = 1.0
        for _, method in sorted(pairs, key=lambda pair: pair[0]):
            stated = method.accuracy(m, n, dtype)
            if self._admits(stated):
                return method
            if self._resolves(stated):
                best = min(best, stated.error)
        raise invalid(
            "error",
            self.error,
            f"no method reaches it for {m}×{n} matrices of {dtype} at resolution "
            f"{self.resolution:g}; the best reaches {best:.1g}: ask for that, or convert the input "
            "to a wider type",
        )

    def _resolves(self, stated: Accuracy) -> bool:
        """Whether singular values, and the directions that go with them, are resolved."""
        # Dividing by a power of m and multiplying by it again may end one bit higher.
        fine = stated.resolution <= self.resolution * (1 + 1e-12)
        return fine and stated.backward <= LARGEST_TURN * self.resolution

    def _admits(self, stated: Accuracy) -> bool:
        return self._resolves(stated) and stated.error <= self.error

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
            >>> print(Auto().explain((16, 128, 512)))  # doctest: +ELLIPSIS +NORMALIZE_WHITESPACE
            milliseconds     error  resolution  method
            ...
        """
        if len(shape) < 2 or any(size < 1 for size in shape):
            raise invalid("shape", tuple(shape), "give (*batch, m, n), each axis at least 1")
        *batch, m, n = shape
        device = torch.device(device)
        table = self.table or shipped_table(device)
        pairs = candidates(self.error, self.resolution, table, min(m, n), max(m, n), dtype)
        predictions = []
        # Several shares of the error may lead to the same schedule.
        for method, seconds in {method: seconds for seconds, method in pairs}.items():
            stated, total = method.accuracy(m, n, dtype), seconds * math.prod(batch)
            predictions.append(Prediction(method, total, stated, self._admits(stated)))
        ranked = tuple(sorted(predictions, key=lambda p: (not p.admitted, p.seconds)))
        return Ranking(ranked, "" if self.table else processor_class(device), table.source)

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The compute type of the method chosen for large matrices."""
        return self.choose(1024, 1024, dtype, device).compute_dtype(dtype, device)

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The accuracy of the method chosen on a CPU."""
        return self.choose(m, n, dtype, torch.device("cpu")).accuracy(m, n, dtype)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.choose(x.shape[-2], x.shape[-1], dtype, x.device)._factor(x, dtype)


def polar_factor(
    x: Inexact[Tensor, "*batch m n"], *, method: PolarMethod | None = None
) -> Inexact[Tensor, "*batch m n"]:
    """The polar factor UVᴴ of each matrix X = UΣVᴴ: its nearest partial isometry.

        U, _, Vᴴ = svd(x);  polar_factor(x) = U @ Vᴴ

    Papers on Muon call it the matrix sign, msign(X), or the orthogonalisation of X, and write
    (XXᴴ)^(−1/2)·X for it where X has full rank.

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
    if method is not None:
        remedy = "give a method object such as steepest.polar.Svd()"
        check_object("method", method, PolarMethod, remedy)
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
