"""The contenders: polar methods, optimizers, and the floor beneath them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

import steepest
from steepest import polar
from steepest.apps.bench.rounds import Runner

BASELINE = "torch.optim.Muon"
TORCH_ITERATION = "NewtonSchulz(JORDAN, bfloat16)"
FLOOR = "floor"
FLOOR_TYPES = (torch.float32, torch.bfloat16)

# Defaults of torch.optim.Muon; its momentum, 0.95 with Nesterov, is every package's here.
LR, WEIGHT_DECAY = 1e-3, 0.1


class AbsentError(Exception):
    """A contender that does not take part; the message says why."""


Start = Callable[[list[nn.Parameter], float, float], Runner]
"""(parameters, lr, weight decay) to a contender at work; polar methods use the shapes only."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of a bench.

    Args:
        name: the name in tables.
        note: a word on how it finds the polar factor.
        start: the function that prepares it for the parameters of a set. It raises `AbsentError`
            where it cannot take part.
        compiles: its first step compiles, so that this step says nothing of the others.
    """

    name: str
    note: str
    start: Start
    compiles: bool = False


class Stacks:
    """Matrices in stacks of one shape each, the tall ones transposed."""

    def __init__(self, matrices: Sequence[Tensor]) -> None:
        self._places: dict[tuple[int, int], list[int]] = {}
        for i, x in enumerate(matrices):
            self._places.setdefault((min(x.shape), max(x.shape)), []).append(i)
        self._tall = [x.shape[0] > x.shape[1] for x in matrices]
        self.shapes = [(len(places), *shape) for shape, places in self._places.items()]

    def pack(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """Stacks of shape (count, m, n) with m ≤ n."""
        return [
            torch.stack([matrices[i].mT if self._tall[i] else matrices[i] for i in places])
            for places in self._places.values()
        ]

    def unpack(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """The matrices again, in their order and orientation."""
        out = {
            i: x.mT if self._tall[i] else x
            for places, stack in zip(self._places.values(), stacks, strict=True)
            for i, x in zip(places, stack, strict=True)
        }
        return [out[i] for i in range(len(out))]


class MethodRunner:
    """A function of a stack, applied to all matrices of a set.

    Args:
        function: (batch, m, n), m ≤ n, to the same shape.
        parameters: the parameters whose shapes the stacks have.
        dtype: the type in which it gets them; the conversion is not timed.
    """

    def __init__(
        self,
        function: Callable[[Tensor], Tensor],
        parameters: Sequence[nn.Parameter],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._function, self._dtype = function, dtype
        self._stacks = Stacks(parameters)
        self._in: list[Tensor] = []
        self._out: list[Tensor] = []

    def load(self, matrices: Sequence[Tensor]) -> None:
        """Stack the matrices."""
        self._out = []
        self._in = [x.to(self._dtype) for x in self._stacks.pack(matrices)]

    def run(self) -> None:
        """Apply the function to each stack."""
        self._out = [self._function(x) for x in self._in]

    def factors(self) -> list[Tensor]:
        """The factor that the function has made of each matrix."""
        return self._stacks.unpack(self._out)


@runtime_checkable
class Steps(Protocol):
    """An optimizer, as far as a bench is concerned."""

    def step(self) -> Any:
        """Take a step."""


class StepRunner:
    """A step of an optimizer on the parameters that all contenders share.

    Args:
        optimizer: an optimizer of these parameters.
        parameters: matrices.
        lr: its learning rate.
    """

    def __init__(self, optimizer: Steps, parameters: Sequence[nn.Parameter], lr: float) -> None:
        self._optimizer, self._parameters, self._lr = optimizer, parameters, lr

    def load(self, matrices: Sequence[Tensor]) -> None:
        """Copy the gradients: a contender may write into its own."""
        for p, g in zip(self._parameters, matrices, strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(g)

    def run(self) -> None:
        """Take the step."""
        self._optimizer.step()

    def factors(self) -> list[Tensor]:
        """The polar factors in a step from zero: −W over lr·√max(1, out/in)."""
        return [
            p.detach() / (-self._lr * max(1.0, p.shape[0] / p.shape[1]) ** 0.5)
            for p in self._parameters
        ]


def optimizer(
    name: str,
    note: str,
    build: Callable[[list[nn.Parameter], float, float], Steps],
    *,
    compiles: bool = False,
) -> Contender:
    """A contender that steps, given (parameters, lr, weight decay) to its optimizer."""

    def start(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Runner:
        return StepRunner(build(parameters, lr, weight_decay), parameters, lr)

    return Contender(name=name, note=note, start=start, compiles=compiles)


def method(name: str, function: Callable[[Tensor], Tensor], note: str, largest: int) -> Contender:
    """A contender that maps stacks, up to matrices with `largest` rows."""

    def start(parameters: list[nn.Parameter], *_: float) -> Runner:
        if max(min(p.shape) for p in parameters) > largest:
            raise AbsentError(f"left out above {largest} rows, where it takes minutes")
        return MethodRunner(function, parameters)

    return Contender(name=name, note=note, start=start)


ANY = 2**62


def methods(table: polar.CostTable | None) -> list[Contender]:
    """The polar methods, the baseline first; `Auto` chooses by this table of costs."""
    rows: Mapping[str, tuple[polar.PolarMethod, str, int]] = {
        TORCH_ITERATION: (
            polar.NewtonSchulz(polar.JORDAN, torch.bfloat16),
            "the iteration of torch.optim.Muon, stacked",
            ANY,
        ),
        "NewtonSchulz()": (polar.NewtonSchulz(), "Polar Express ×5", ANY),
        "GramNewtonSchulz()": (polar.GramNewtonSchulz(), "Polar Express ×5, Gram form", ANY),
        "GramNewtonSchulz(polar_express(8))": (
            polar.GramNewtonSchulz(polar.polar_express(8)),
            "Polar Express ×8, Gram form",
            ANY,
        ),
        "Zolotarev(4, 1e-3)": (polar.Zolotarev(4, 1e-3), "two inverses of XXᵀ", ANY),
        "Zolotarev(1, 1e-3, degree=13)": (
            polar.Zolotarev(1, 1e-3, degree=13),
            "one inverse of XXᵀ and a polynomial",
            ANY,
        ),
        "GramEigh()": (polar.GramEigh(), "eigenvalues of XXᵀ", ANY),
        "Svd()": (polar.Svd(), "singular value decomposition", 1024),
        "Auto(error=0.05)": (polar.Auto(error=0.05, table=table), "its choice", ANY),
        "Auto(error=1e-3)": (polar.Auto(error=1e-3, table=table), "its choice", ANY),
    }
    return [method(name, f, note, largest) for name, (f, note, largest) in rows.items()]


def optimizers(table: polar.CostTable | None, peers: Iterable[Contender]) -> list[Contender]:
    """The optimizers, the baseline first."""
    fast, fine = (polar.Auto(error=error, table=table) for error in (0.05, 1e-3))
    return [
        optimizer(
            BASELINE,
            "Jordan ×5 in bfloat16, one matrix at a time",
            lambda p, lr, decay: torch.optim.Muon(p, lr=lr, weight_decay=decay),
        ),
        optimizer(
            "steepest.Muon",
            "Auto(error=0.05), the default",
            lambda p, lr, decay: steepest.Muon(p, lr=lr, weight_decay=decay, polar=fast),
        ),
        optimizer(
            "steepest.Muon, error 1e-3",
            "Auto(error=1e-3)",
            lambda p, lr, decay: steepest.Muon(p, lr=lr, weight_decay=decay, polar=fine),
        ),
        *peers,
    ]
