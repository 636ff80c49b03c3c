"""The effect of one step on each parameter, in the terms of the theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.files import Record
from steepest._common.numerics import epsilon, in_double, safe_divisor, widened
from steepest._common.records import number
from steepest.diagnostics.constraint._ball_sizes import unscaled
from steepest.diagnostics.monitor.parameters import MonitoredParam
from steepest.diagnostics.spectra._batched import RANKS, Decomposed, decompose
from steepest.norms import Spectral
from steepest.norms.norm import inner
from steepest.polar.method import Accuracy

KEPT = 64
"""The most singular values of a layer that go into a record, evenly spaced in their order."""

KINDS = ("weight", "grad", "momentum", "update")


@dataclass(eq=False)
class StepSnapshot:
    """One parameter in one step, in double precision.

    Args:
        of: the parameter.
        tensors: `weight` before the step; `update`, what was added to it; `step`, what was
            subtracted beside decay, unless that is all; `grad`; and `average`, the u that the step
            followed, unless that is the gradient. Missing is what there is not, or is not known, or
            is not finite.
        bad: the number of entries of the gradient that are not finite.
    """

    of: MonitoredParam
    tensors: dict[str, Tensor]
    bad: int

    spectra: dict[str, list[Decomposed]] = field(default_factory=dict)
    """The decomposed matrices of each of these tensors."""
    quantities: Record = field(default_factory=dict)
    """The quantities that go into the record."""
    resolved: tuple[float, float] | None = None
    """The polar error among what the method resolves, and what it promises there."""

    @property
    def digits(self) -> float:
        """Rounding of the parameter's type, in which the optimizer works at least in float32."""
        return epsilon(widened(self.of.param.dtype))

    @property
    def gram(self) -> bool:
        """Whether a Gram matrix in double precision has all its digits."""
        return self.of.param.dtype not in (torch.float64, torch.complex128)

    @property
    def factored(self) -> str:
        """The tensor whose polar factor is wanted; empty without one."""
        return self.source("average") if self.of.on_muon else ""

    @property
    def step(self) -> Tensor | None:
        """The change that was subtracted beside decay."""
        update = self.tensors.get("update")
        return self.tensors.get("step") if self.of.decays or update is None else -update

    def source(self, kind: str) -> str:
        """The tensor that stands for a kind: without momentum and decay two kinds are one."""
        if kind in self.tensors:
            return kind
        same = {"step": "update", "average": "grad" if self.of.follows_gradient else ""}
        return "average" if kind == "momentum" else same.get(kind, "")


def snapshot(w: MonitoredParam, before: Tensor, past: Tensor | None) -> StepSnapshot:
    """Take what a step did to a parameter.

    Args:
        w: the parameter, after the step.
        before: its value before the step.
        past: the momentum before it, where the average weighs that.
    """
    weight, tensors, bad = in_double(before), {}, 0
    tensors["weight"], tensors["update"] = weight, in_double(w.param.detach()) - weight
    if w.decays:
        tensors["step"] = w.descended(weight)
    if w.param.grad is not None:
        grad = in_double(w.param.grad.detach().to_dense())
        bad = grad.numel() - int(torch.isfinite(grad).sum())
        tensors["grad"] = grad
        known = w.follows_gradient and not w.group.get("maximize")
        average = None if bad or known else w.average(grad, past)
        if average is not None:
            tensors["average"] = average
    finite = {k: x for k, x in tensors.items() if bool(torch.isfinite(x).all())}
    return StepSnapshot(w, finite, bad)


@torch.no_grad()
def measure(snapshots: Sequence[StepSnapshot]) -> None:
    """Fill in the quantities of every parameter; equal shapes share their decompositions."""
    # Kind by kind, so that only one of them is in memory as stacks.
    for kind in ("weight", "grad", "average", "update", "step"):
        some = [s for s in snapshots if kind in s.tensors]
        for gram in (True, False):
            for vectors in (True, False):
                _decompose(
                    [s for s in some if (s.gram, s.factored == kind) == (gram, vectors)],
                    kind,
                    gram=gram,
                    vectors=vectors,
                )
    for s in snapshots:
        s.quantities = _quantities(s)


def _decompose(some: Sequence[StepSnapshot], kind: str, *, gram: bool, vectors: bool) -> None:
    jobs = [(s, _wide(x)) for s in some for x in s.of.matrices(s.tensors[kind])]
    found = decompose([x for _, x in jobs], vectors=vectors, gram=gram)
    for (s, _), one in zip(jobs, found, strict=True):
        s.spectra.setdefault(kind, []).append(one)


def _wide(x: Tensor) -> Tensor:
    """Matrices with a batch axis, transposed where they are tall."""
    x = x.reshape(-1, *x.shape[-2:])
    return x if x.shape[-2] <= x.shape[-1] else x.mT


def _sizes(s: StepSnapshot, kind: str) -> tuple[float, float]:
    """The norm of a tensor, the largest of its parts, and its dual norm, their sum."""
    norm, source = s.of.norm, s.source(kind)
    parts = s.of.measured(s.tensors[source])
    if unscaled(norm)[0] == Spectral():
        pairs = zip(parts, s.spectra[source], strict=True)
        found = [(unscaled(norm, part)[1], one) for part, one in pairs]
        size = max(factor * float(one.top.amax()) for factor, one in found)
        return size, sum(float(one.total.sum()) / factor for factor, one in found)
    size = max(float(norm(part, check=False).amax()) for part in parts)
    return size, sum(float(norm.dual(part, check=False).sum()) for part in parts)


def _quantities(s: StepSnapshot) -> Record:
    """The numbers of a parameter; None for one that does not exist in this step."""
    weight, grad = s.tensors.get("weight"), s.tensors.get("grad")
    both = s.tensors.keys() >= {"weight", "update"}
    found: Record = {
        "update_ratio": _over(_sizes(s, "update")[0], _sizes(s, "weight")[0]) if both else None,
        "weight_rms": None if weight is None else float(weight.abs().square().mean().sqrt()),
        "grad_norm": None if grad is None else float(torch.linalg.vector_norm(grad)),
        "alignment": _alignment(s),
    }
    if s.of.matrix_view is None:
        return found
    weights = s.spectra.get("weight", [])
    found["weight_spectral"] = max((float(one.top.amax()) for one in weights), default=None)
    if s.of.on_muon:
        found["polar_error"] = _polar_error(s)
    for kind in KINDS:
        source = "" if kind == "momentum" and s.of.follows_gradient else s.source(kind)
        ranks = _ranks(s.spectra.get(source, []))
        found |= {f"{kind}_{rank}": v for rank, v in zip(RANKS, ranks, strict=True)}
    values = [one.values.flatten() for one in weights if one.values is not None]
    if values:
        found["weight_sigmas"] = _thinned(torch.cat(values))
    return found


def _over(a: float, b: float) -> float | None:
    return number(a / b) if b > 0 else None


def _ranks(spectra: Sequence[Decomposed]) -> list[float | None]:
    """Nuclear, stable and effective rank, the mean over the matrices.

    None where a matrix is zero, or the rank of one is not known.
    """
    found = torch.cat([one.ranks for one in spectra]) if spectra else torch.zeros(1, len(RANKS))
    if bool((found == 0).any()):
        return [None] * len(RANKS)
    return [number(mean) for mean in found.mean(0).tolist()]


def _thinned(values: Tensor) -> list[float]:
    """Thin to `KEPT` singular values, falling and evenly spaced, the first and the last too."""
    places = torch.linspace(0, len(values) - 1, min(len(values), KEPT)).round().long()
    kept: list[float] = values.sort(descending=True).values.cpu()[places].tolist()
    return kept


def _alignment(s: StepSnapshot) -> float | None:
    """⟨u, d⟩/(‖u‖†·‖d‖) for the step d: 1 where it is the duality map of u, at most that."""
    u, d = s.tensors.get(s.source("average")), s.step
    if u is None or d is None:
        return None
    return _over(float(inner(u, d).sum()), _sizes(s, "average")[1] * _sizes(s, "step")[0])


def _polar_error(s: StepSnapshot) -> float | None:
    """‖d − UVᴴ‖_F/‖UVᴴ‖_F for the direction d of the step and the exact factor of u.

    Notes what it is among the singular values that the method resolves, and what is promised there.
    """
    step, lr, spectra = s.step, s.of.value("lr"), s.spectra.get(s.source("average"), [])
    if step is None or lr == 0 or not spectra or any(one.left is None for one in spectra):
        return None
    totals, promised = torch.zeros(4, dtype=torch.float64), 0.0
    for part, length, one in zip(s.of.matrices(step), s.of.polar_lengths(), spectra, strict=True):
        m, n = part.shape[-2:]
        promise = s.of.accuracy(m, n)
        promised = max(promised, promise.error)
        totals += _distances(_wide(part), length and lr * length, one, promise, s.digits).cpu()
    whole, rank, inside, count = totals.tolist()
    if rank == 0:
        return None
    s.resolved = math.sqrt(inside / count), promised
    return math.sqrt(whole / rank)


def _distances(
    step: Tensor, length: float | None, one: Decomposed, promise: Accuracy, eps: float
) -> Tensor:
    """‖d − UVᴴ‖² and ‖UVᴴ‖², of all directions and of those that the method resolves.

    Args:
        step: matrices (batch, m, n).
        length: the length of the step over d; None takes the d that is nearest to UVᴴ among the
            directions that the method resolves. No other length brings it nearer, so what is left
            of the distance is no matter of length; those that it damps must not count, or the
            others would come out too long.
        one: the decomposition of the average.
        promise: the accuracy that the method promises.
        eps: rounding of what the method was given; below it there is no direction.
    """
    assert one.values is not None, "only what is decomposed has directions"
    assert one.left is not None, "asked for"
    assert one.right is not None, "asked for"
    kept = one.values > max(step.shape[-2:]) * eps * one.values[:, :1]
    factor = one.right * kept.unsqueeze(-1)
    rows = one.left.mH @ step
    resolved = kept & (one.values >= promise.resolution * one.values[:, :1])
    if length is None:
        seen = rows * resolved.unsqueeze(-1)
        along = (seen * factor.conj()).real.sum((-2, -1)).clamp(min=0)  # no length turns a step
        scale = along / safe_divisor(seen.abs().square().sum((-2, -1)))
        rows = rows * scale[:, None, None]
    else:
        rows = rows / length
    off = (rows - factor).abs().square().sum(-1)
    sums = [off.sum(), kept.sum(), off[resolved].sum(), resolved.sum()]
    return torch.stack([x.to(torch.float64) for x in sums])
