"""The parts of a step: products of the polar factor, what is around them, and plain steps.

    python tools/step_cost.py [SET ...]

For each set of `steepest bench`, gpt-128 if none is named, and one thread, it prints the shares of
a `steepest.Muon` step: matrix products and factorisations, other work of the polar factor, the
update of the weights, and momentum, the look at the gradients and all else; and steps of gradient
and sign descent in multiples of the same steps by torch's foreach functions, all in turns.
`ONEDNN_MAX_CPU_ISA` shows another kind of processor, as in `tools/muon_ratio.py`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.profiler import ProfilerActivity, profile

import steepest
from steepest.apps._machine import cpu_name
from steepest.apps.bench.sets import chosen
from steepest.polar import Accuracy, PolarMethod

ROUNDS, WARMUP = 31, 5
UPDATES = ("aten::_fused_sgd_",)
PRODUCTS = (
    "aten::bmm",
    "aten::baddbmm",
    "aten::baddbmm_",
    "aten::mm",
    "aten::linalg_cholesky_ex",
    "aten::linalg_solve_triangular",
)


class Nothing(PolarMethod):
    """No polar factor at all: what is left of a step is the rest of it."""

    def factors(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """The matrices as they are."""
        return list(xs)

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x

    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """No promise."""
        return Accuracy(1.0, 1.0, 1.0)

    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type as it is."""
        return dtype


class ForeachLion(Optimizer):
    """Lion without decay in four calls."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter."""
        params = self.param_groups[0]["params"]
        grads = [p.grad for p in params]
        for p in params:
            if not self.state[p]:
                self.state[p]["average"] = torch.zeros_like(p)
        averages = [self.state[p]["average"] for p in params]
        u = torch._foreach_lerp(averages, grads, 0.1)
        torch._foreach_lerp_(averages, grads, 0.01)
        torch._foreach_sign_(u)
        torch._foreach_add_(params, u, alpha=-1e-3)


MAKE: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "Muon": lambda ps: steepest.Muon(ps, lr=1e-3),
    "without": lambda ps: steepest.Muon(ps, lr=1e-3, polar=Nothing()),
    "SGD": lambda ps: steepest.SGD(ps, lr=1e-3, momentum=0.9),
    "torch SGD": lambda ps: SGD(ps, lr=1e-3, momentum=0.9, foreach=True),
    "Lion": lambda ps: steepest.Lion(ps, lr=1e-3),
    "torch Lion": ForeachLion,
}


def times(shapes: Sequence[tuple[int, int]]) -> tuple[dict[str, list[float]], dict[str, Optimizer]]:
    """Seconds of this thread in each step, of which waiting for other programs is not a part."""
    params = {name: [nn.Parameter(torch.randn(s)) for s in shapes] for name in MAKE}
    optimizers = {name: make(params[name]) for name, make in MAKE.items()}
    found: dict[str, list[float]] = {name: [] for name in MAKE}
    for _ in range(WARMUP + ROUNDS):
        grads = [torch.randn(s) for s in shapes]
        for name, optimizer in optimizers.items():
            for p, grad in zip(params[name], grads, strict=True):
                p.grad = grad.clone()
            start = time.thread_time()
            optimizer.step()
            found[name].append(time.thread_time() - start)
    return {name: each[WARMUP:] for name, each in found.items()}, optimizers


def share_of(kernels: Sequence[str], optimizer: Optimizer) -> float:
    """The share of a step that some kernels take, as torch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(WARMUP):
            optimizer.step()
    events = seen.key_averages()
    whole = sum(e.self_cpu_time_total for e in events)
    return float(sum(e.self_cpu_time_total for e in events if e.key in kernels) / whole)


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # As in a run, whose activations have been freed: then the allocator keeps its pages.
    torch.ones(2**23 - 2**18).sum()
    print(cpu_name())
    print(
        "| set | Muon, ms | products, % | polar, else, % | update, % | rest, % | SGD, × | Lion, × |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for each in chosen(sys.argv[1:] or ["gpt-128"]):
        found, optimizers = times(each.shapes)

        def ratio(a: str, b: str, found: dict[str, list[float]] = found) -> float:
            return statistics.median(x / y for x, y in zip(found[a], found[b], strict=True))

        share, rest = share_of(PRODUCTS, optimizers["Muon"]), ratio("without", "Muon")
        update = rest * share_of(UPDATES, optimizers["without"])
        print(
            f"| {each.name} | {1e3 * statistics.median(found['Muon']):.1f} | {100 * share:.0f} "
            f"| {100 * (1 - share - rest):.0f} | {100 * update:.0f} | {100 * (rest - update):.0f} "
            f"| {ratio('SGD', 'torch SGD'):.2f} | {ratio('Lion', 'torch Lion'):.2f} |"
        )


if __name__ == "__main__":
    main()
