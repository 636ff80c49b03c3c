"""The checks of `tools/gpu_check.py`, each of them on a device that is given."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import steepest
from steepest import maps, norms, polar
from steepest.apps.bench.contenders import LR, Steps
from steepest.apps.bench.measure import gradients, parameters
from steepest.apps.bench.rounds import message
from steepest.apps.bench.sets import Shape, ShapeSet
from steepest.optim.batching import DEVICE_STACK
from steepest.optim.presets import FAMILY
from steepest.polar import Accuracy, PolarMethod, polar_express
from steepest.polar.candidates import ROOM
from steepest.sharding import local, sharded_like

PASSED, FAILED, ELSEWHERE = "passed", "failed", "not on this device"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Quintics for half precision, and what `Auto` takes for a few hundred rows in bfloat16.
HALVES = polar.design_schedule(lower=1e-3, error=0.05, safety=1.02)
LONG = polar.design_schedule(
    lower=1.8e-3, error=0.045, degree=9, **ROOM[torch.bfloat16, 9]._asdict()
)
METHODS: Mapping[str, PolarMethod] = {
    "Svd()": polar.Svd(),
    "GramEigh()": polar.GramEigh(),
    "GramEigh(float32, refine=1)": polar.GramEigh(torch.float32, refine=1),
    "Zolotarev(4, 1e-3)": polar.Zolotarev(4, 1e-3),
    "Zolotarev(3, 1e-3, refine=1)": polar.Zolotarev(3, 1e-3, refine=1),
    "Zolotarev(1, 1e-3, degree=13)": polar.Zolotarev(1, 1e-3, degree=13),
    "NewtonSchulz(polar_express(8))": polar.NewtonSchulz(polar_express(8)),
    "NewtonSchulz(JORDAN, bfloat16)": polar.NewtonSchulz(polar.JORDAN, torch.bfloat16),
    "NewtonSchulz(JORDAN, float16)": polar.NewtonSchulz(polar.JORDAN, torch.float16),
    "GramNewtonSchulz(polar_express(8))": polar.GramNewtonSchulz(polar_express(8)),
    "GramNewtonSchulz(HALVES, float16)": polar.GramNewtonSchulz(HALVES, torch.float16),
    "GramNewtonSchulz(HALVES, bfloat16)": polar.GramNewtonSchulz(HALVES, torch.bfloat16),
    "GramNewtonSchulz(LONG, bfloat16)": polar.GramNewtonSchulz(LONG, torch.bfloat16),
    "GramNewtonSchulz(JORDAN_POLISHED, float16)": polar.GramNewtonSchulz(
        polar.JORDAN_POLISHED, torch.float16
    ),
    "Auto(error=0.05)": polar.Auto(error=0.05),
    "Auto(error=1e-3)": polar.Auto(error=1e-3),
}

Groups = list[dict[str, Any]]
FAST = polar.Auto(error=0.05)
Make = Callable[[Groups, Any], Any]
"""(groups, learning rate) to an optimizer."""


def _successor(name: str, groups: Groups, lr: Any) -> Any:
    """An optimizer of Muon's family."""
    return getattr(steepest, name)(groups, lr=lr, adamw_lr=lr)


OPTIMIZERS: Mapping[str, Make] = {
    "Muon": lambda g, lr: steepest.Muon(g, lr=lr, adamw_lr=lr),
    "Muon, error 1e-3": lambda g, lr: steepest.Muon(g, lr=lr, polar=polar.Auto(error=1e-3)),
    "Muon, bfloat16 momentum": lambda g, lr: steepest.Muon(g, lr=lr, momentum_dtype=torch.bfloat16),
    "Muon, momentum in 8 bits": lambda g, lr: steepest.Muon(g, lr=lr, momentum_dtype=torch.int8),
    "Muon, cautious decay": lambda g, lr: steepest.Muon(g, lr=lr, decay="cautious"),
    "Muon, implicit decay": lambda g, lr: steepest.Muon(g, lr=lr, decay="implicit"),
    "Lion": lambda g, lr: steepest.Lion(g, lr=lr, weight_decay=0.1),
    "Lion, projected": lambda g, lr: steepest.Lion(
        g, lr=lr, weight_decay=0.1, constraint="project"
    ),
    "LionK": lambda g, lr: steepest.LionK(g, lr=lr, K=maps.NuclearMap(polar=FAST)),
    "SGD": lambda g, lr: steepest.SGD(g, lr=lr, momentum=0.9),
    "NormalizedSGD": lambda g, lr: steepest.NormalizedSGD(g, lr=lr),
    "SignSGD": lambda g, lr: steepest.SignSGD(g, lr=lr),
    "SpectralDescent": lambda g, lr: steepest.SpectralDescent(g, lr=lr),
    "PolarGrad": lambda g, lr: steepest.PolarGrad(g, lr=lr),
    "Scion": lambda g, lr: steepest.Scion(g, lr=lr),
    "SteepestDescent, rows": lambda g, lr: steepest.SteepestDescent(g, norms.RowNorm(), lr=lr),
    "SteepestDescent, estimate": lambda g, _: steepest.SteepestDescent(
        g[:1], norms.LInf(), sharpness="estimate"
    ),
    **{
        name: partial(_successor, name)
        for name in FAMILY
        if name != "SOAPMuon"  # its bases are found by looking at numbers
    },
}
"""Optimizers that take a step without looking at a value, by name."""

VECTOR = (8,)
COMPILED = ("Muon", "Lion")

# A last bit of float16 in a direction is 1e-3 of it; what comes of stale memory is all of it.
SAME = 1e-2
"""How far apart two ways of the same steps may be, over how far these have gone."""

# Ours: the average, its copies in the types of the method, and the direction, of one full stack.
STACKS = 8
"""Memory of a step beyond parameters, gradients and state, in stacks of the default size."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Args:
        part: the part of the command that it belongs to.
        name: the thing.
        status: "passed", "failed" or "not on this device".
        reason: the reason of it, in one line.
        numbers: the measurements, by name.
    """

    part: str
    name: str
    status: str
    reason: str
    numbers: Mapping[str, Any]


Finding = tuple[bool, str, dict[str, Any]]
"""Whether it is as it should be, why, and what was measured."""


def checked(part: str, name: str, find: Callable[[], Finding]) -> Check:
    """A check, failed where it raises."""
    try:
        good, reason, numbers = find()
    except Exception as error:
        good, reason, numbers = False, message(error), {}
    status = PASSED if good else FAILED
    return Check(part=part, name=name, status=status, reason=reason, numbers=numbers)


def elsewhere(part: str, names: Iterable[str], needs: str) -> Iterator[Check]:
    """Checks for which the device is the wrong one."""
    for name in names:
        yield Check(part=part, name=name, status=ELSEWHERE, reason=needs, numbers={})


# Accuracy


def _spectra(shape: Shape, dtype: torch.dtype, resolution: float) -> Mapping[str, Tensor]:
    """Matrices with equal singular values, all that are resolved, many below, and one."""
    generator = torch.Generator().manual_seed(0)
    m, n = shape
    k = min(m, n)
    u, v = (
        torch.linalg.qr(torch.randn(r, k, dtype=torch.float64, generator=generator))[0]
        for r in (m, n)
    )
    ends = {"flat": 1.0, "resolved": min(1.0, 1.01 * resolution), "below": 1e-2 * resolution}
    found = {
        name: (u * end ** torch.linspace(0, 1, k, dtype=torch.float64)) @ v.mT
        for name, end in ends.items()
    }
    return {k: x.to(dtype) for k, x in {**found, "rank one": torch.ones(m, n) / n}.items()}


def _used(given: Tensor, q: Tensor, stated: Accuracy) -> tuple[float, float]:
    """The share of the stated error that a factor uses, and its largest |σ − 1| where x resolves.

    Args:
        given: singular values of x, falling.
        q: the factor.
        stated: the promise of its method.
    """
    found = torch.linalg.svdvals(q.double().cpu())
    count = int((given >= stated.resolution * given[0]).sum())
    # A direction at the edge of the resolution may lie on either side of it.
    low = 1 - float(found[count - 1])
    room = stated.error if count == len(found) else stated.upper - 1
    shares = low / stated.error, (float(found[0]) - 1) / room
    return max(*shares, 0.0), max(low, float(found[0]) - 1)


def accuracy(
    method: PolarMethod, dtype: torch.dtype, shapes: Sequence[Shape], device: torch.device
) -> Finding:
    """Singular values of the factors against what the method states, the worst of all matrices."""
    worst, place, size = -1.0, "", 0.0
    for m, n in shapes:
        try:
            concrete = method.choose(m, n, dtype, device)
        except ValueError as error:
            return True, f"refused: {message(error)}", {}
        stated = concrete.accuracy(m, n, dtype)
        for name, x in _spectra((m, n), dtype, stated.resolution).items():
            q = concrete(x.to(device))
            if not bool(torch.isfinite(q).all()):
                return False, f"not finite: {m}×{n}, {name}", {}
            share, off = _used(torch.linalg.svdvals(x.double()), q, stated)
            if share > worst:
                worst, size = share, off
                place = f"off by {off:.2g}, stated {stated.error:.2g}: {m}×{n}, {name}"
    return worst <= 1, place, {"share": worst, "off": size}


# Steps


def groups(device: torch.device, shapes: Iterable[Shape]) -> Groups:
    """Matrices, and a vector for AdamW."""
    generator = torch.Generator().manual_seed(0)

    def make(shape: Sequence[int]) -> nn.Parameter:
        return nn.Parameter(torch.randn(shape, generator=generator).to(device))

    return [{"params": [make(s) for s in shapes]}, {"params": [make(VECTOR)], "adamw": True}]


def members(stepped: Any) -> list[nn.Parameter]:
    """The parameters of an optimizer."""
    return [p for group in stepped.param_groups for p in group["params"]]


def give(stepped: Any, seed: int) -> None:
    """Write gradients into the memory of those before: a graph reads them there."""
    generator = torch.Generator().manual_seed(seed)
    for p in members(stepped):
        g = torch.randn(p.shape, generator=generator).to(local(p))
        if p.grad is None:
            p.grad = sharded_like(g, p)
        else:
            local(p.grad).copy_(g)


@contextmanager
def sync_is_an_error() -> Iterator[None]:
    """Let torch raise where the host would wait for the GPU."""
    with warnings.catch_warnings():
        # That the mode does not see everything.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits_for_nothing(make: Make, device: torch.device, shapes: Sequence[Shape]) -> Finding:
    """A step after the first ones under torch's guard against synchronisation."""
    stepped = make(groups(device, shapes), 0.1)
    for seed in range(3):
        give(stepped, seed)
        if seed < 2:
            stepped.step()
    with sync_is_an_error():
        stepped.step()
    return True, "the third step", {}


class Captured:
    """An optimizer whose steps after the first ones are replays of a CUDA graph.

    Args:
        stepped: the optimizer. Its gradients have to stay where they are.
        first: the number of steps before the capture: they make the state, and warm up libraries.
    """

    def __init__(self, stepped: Steps, first: int = 2) -> None:
        self._optimizer, self._left = stepped, first
        self._graph: torch.cuda.CUDAGraph | None = None

    def step(self) -> None:
        """Take a step: outside a graph, or by the graph, which is made when it is needed."""
        if self._left:
            self._left -= 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._optimizer.step()
            torch.cuda.current_stream().wait_stream(side)
            return
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._optimizer.step()
        self._graph.replay()


def same_steps(
    make: Make,
    wrap: Callable[[Any], Callable[[], Any]],
    device: torch.device,
    shapes: Sequence[Shape],
) -> Finding:
    """Steps taken another way against those as they are, over a learning rate that changes.

    Args:
        make: makes the optimizer, of a learning rate on the device.
        wrap: an optimizer to a function that takes its steps.
        device: the device.
        shapes: those of the matrices.
    """
    pair = [make(groups(device, shapes), torch.tensor(0.1, device=device)) for _ in range(2)]
    return compared(pair, [pair[0].step, wrap(pair[1])])


def compared(pair: Sequence[Any], takes: Sequence[Callable[[], Any]]) -> Finding:
    """Six steps of two optimizers with the same weights, over a learning rate that changes.

    Args:
        pair: the optimizers.
        takes: the functions that take their steps.
    """
    start = [local(p.detach()).clone() for p in members(pair[0])]
    for seed in range(6):
        for stepped, take in zip(pair, takes, strict=True):
            for group in stepped.param_groups:
                if seed == 4 and isinstance(group.get("lr"), Tensor):
                    group["lr"].fill_(0.03)
            give(stepped, seed)
            take()
    apart, equal = 0.0, True
    ends = ([local(p.detach()) for p in members(stepped)] for stepped in pair)
    for p, q, before in zip(*ends, start, strict=True):
        far = float((p - before).norm())
        apart = max(apart, float((p - q).norm()) / (far or 1.0))
        equal = equal and torch.equal(p, q)
    text = "bit for bit" if equal else f"apart by {apart:.1g} of the way, {SAME:g} allowed"
    return apart <= SAME, text, {"apart": apart}


def compiled(stepped: Any, device: torch.device) -> Callable[[], Any]:
    """The step under torch.compile, by inductor on a GPU."""
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    function: Callable[[], Any] = torch.compile(stepped.step, fullgraph=True, backend=backend)
    return function


# Memory

ADAMW = "torch.optim.AdamW"
RIVALS: Mapping[str, Callable[[list[nn.Parameter]], Any]] = {
    "steepest.Muon": lambda p: steepest.Muon(p, lr=LR),
    "torch.optim.Muon": lambda p: torch.optim.Muon(p, lr=LR),
    ADAMW: lambda p: torch.optim.AdamW(p, lr=LR, fused=True),
    f"{ADAMW}, foreach": lambda p: torch.optim.AdamW(p, lr=LR, foreach=True),
}


def memory(name: str, shapes: ShapeSet, device: torch.device) -> Finding:
    """The peak of a step against what is there before it."""
    torch.cuda.empty_cache()
    params = parameters(shapes, str(device))
    for p, g in zip(params, gradients(shapes, torch.Generator(device)), strict=True):
        p.grad = g
    stepped = RIVALS[name](params)
    stepped.step()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    stepped.step()
    torch.cuda.synchronize(device)
    beyond = torch.cuda.max_memory_allocated(device) - before
    tensors = [t for s in stepped.state.values() for t in s.values() if isinstance(t, Tensor)]
    kept, state = sum(p.nbytes for p in params), sum(t.nbytes for t in tensors)
    largest = max(p.nbytes for p in params)
    numbers = {"parameters": kept, "state": state, "beyond": beyond}
    text = ", ".join(f"{key} {value / 2**20:.0f} MiB" for key, value in numbers.items())
    text += f"; peak {(2 * kept + state + beyond) / (2 * kept + state):.2f} × what is kept"
    ours = name.startswith("steepest.")
    return not ours or beyond <= STACKS * max(DEVICE_STACK, largest), text, numbers
