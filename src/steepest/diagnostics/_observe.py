"""What one step did to each parameter, in the terms of the theory."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._files import Record
from steepest._metrics import number
from steepest.diagnostics._measured import unscaled
from steepest.diagnostics._watch import Watched
from steepest.norms import Spectral
from steepest.norms.base import inner
from steepest.polar.base import epsilon, in_double, widened

KEPT = 64
"""The most singular values of a layer that go into a record, evenly spaced in their order."""

# A decomposition takes a time ∝ (smaller side)²·(larger side).
EXACT = 2048
"""The largest smaller side of a matrix that is decomposed; larger ones have no spectrum here."""

RANKS = ("nuclear_rank", "stable_rank", "effective_rank")
KINDS = ("weight", "grad", "momentum", "update")


@dataclass(eq=False)
class Seen:
    """One parameter in one step, in double precision.

    Args:
        of: the parameter.
        tensors: `weight` before the step; `update`, what was added to it; `step`, what was
            subtracted beside decay, unless that is all; `grad`; and `average`, the u that the step
            followed, unless that is the gradient. Missing is what there is not, or is not known, or
            is not finite.
        bad: how many entries of the gradient are not finite.
    """

    of: Watched
    tensors: dict[str, Tensor]
    bad: int

    sigmas: dict[str, list[Tensor]] = field(default_factory=dict)
    """Singular values of the matrices of each of these tensors."""
    vectors: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Singular vectors U and Vᴴ of the average, where its polar factor is wanted."""
    quantities: Record = field(default_factory=dict)
    """What goes into the record."""
    resolved: tuple[float, float] | None = None
    """The polar error among what the method resolves, and what it promises there."""

    @property
    def step(self) -> Tensor | None:
        """What was subtracted beside decay."""
        update = self.tensors.get("update")
        return self.tensors.get("step") if self.of.decays or update is None else -update

    def source(self, kind: str) -> str:
        """Which tensor stands for a kind: without momentum and decay two kinds are one."""
        if kind in self.tensors:
            return kind
        same = {"step": "update", "average": "grad" if self.of.follows_gradient else ""}
        return same.get(kind, "")


def see(w: Watched, before: Tensor, past: Tensor | None) -> Seen:
    """A parameter after a step.

    Args:
        w: the parameter.
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
        average = None if bad or w.follows_gradient else w.average(grad, past)
        if average is not None:
            tensors["average"] = average
    finite = {k: x for k, x in tensors.items() if bool(torch.isfinite(x).all())}
    return Seen(w, finite, bad)


@torch.no_grad()
def measure(all_seen: Sequence[Seen]) -> None:
    """Fill in the quantities of every parameter; equal shapes share their decompositions."""
    _decompose(all_seen)
    for s in all_seen:
        s.quantities = _quantities(s)


def _decompose(all_seen: Sequence[Seen]) -> None:
    """Fill in singular values kind by kind, and the vectors of averages that polar steps follow."""
    for kind in ("weight", "grad", "average", "update", "step"):
        for factored in (False, True):
            jobs = [
                (s, part)
                for s in all_seen
                if kind in s.tensors and factored == (s.of.on_muon and kind == s.source("average"))
                for part in map(_wide, s.of.matrices(s.tensors[kind]))
                if part.shape[-2] <= EXACT
            ]
            found = _by_shape([part for _, part in jobs], _svd if factored else _svdvals)
            for (s, _), (sigma, *vectors) in zip(jobs, found, strict=True):
                s.sigmas.setdefault(kind, []).append(sigma)
                if vectors:
                    s.vectors.append((vectors[0], vectors[1]))


def _wide(x: Tensor) -> Tensor:
    """Matrices with a batch axis, transposed where they are tall."""
    x = x.reshape(-1, *x.shape[-2:])
    return x if x.shape[-2] <= x.shape[-1] else x.mT


def _svdvals(x: Tensor) -> tuple[Tensor, ...]:
    return (torch.linalg.svdvals(x),)


def _svd(x: Tensor) -> tuple[Tensor, ...]:
    u, s, vh = torch.linalg.svd(x, full_matrices=False)
    return s, u, vh


def _by_shape(
    parts: Sequence[Tensor], decompose: Callable[[Tensor], tuple[Tensor, ...]]
) -> list[tuple[Tensor, ...]]:
    """A decomposition of each stack of matrices, all of equal shape in one call."""
    places: dict[object, list[int]] = defaultdict(list)
    for i, part in enumerate(parts):
        places[(part.shape[-2:], part.dtype, part.device)].append(i)
    found: dict[int, tuple[Tensor, ...]] = {}
    for same in places.values():
        sizes = [len(parts[i]) for i in same]
        results = decompose(torch.cat([parts[i] for i in same]))
        split = zip(*(result.split(sizes) for result in results), strict=True)
        found.update(zip(same, split, strict=True))
    return [found[i] for i in range(len(parts))]


def _ranks(sigmas: Sequence[Tensor]) -> list[float | None]:
    """Nuclear, stable and effective rank, each the mean over the matrices; None for a zero one."""
    rows = [row for values in sigmas for row in values]
    if not rows or any(float(row[0]) == 0 for row in rows):
        return [None] * len(RANKS)
    found = []
    for row in rows:
        s = row / row[0]
        squares, p = s.square().sum(), s / s.sum()
        entropy = torch.special.entr(p).sum()
        found.append(torch.stack([s.sum() ** 2 / squares, squares, entropy.exp()]))
    mean: list[float | None] = torch.stack(found).mean(0).tolist()
    return mean


def _sizes(s: Seen, kind: str) -> tuple[float, float]:
    """The norm of a tensor, the largest of its parts, and its dual norm, their sum."""
    norm, source = s.of.norm, s.source(kind)
    parts = s.of.cut(s.tensors[source])
    if unscaled(norm)[0] == Spectral() and source in s.sigmas:
        pairs = [(unscaled(norm, p)[1], v) for p, v in zip(parts, s.sigmas[source], strict=True)]
        size = max(factor * float(values.amax()) for factor, values in pairs)
        return size, sum(float(values.sum()) / factor for factor, values in pairs)
    size = max(float(norm(part, check=False).amax()) for part in parts)
    return size, sum(float(norm.dual(part, check=False).sum()) for part in parts)


def _quantities(s: Seen) -> Record:
    """The numbers of a parameter; None for one that does not exist in this step."""
    w, weight, found = s.of, s.tensors.get("weight"), Record()
    whole = s.tensors.keys() >= {"weight", "update"}
    ratio = _over(_sizes(s, "update")[0], _sizes(s, "weight")[0]) if whole else None
    found["update_ratio"] = ratio
    found["weight_rms"] = None if weight is None else float(weight.abs().square().mean().sqrt())
    grad = s.tensors.get("grad")
    found["grad_norm"] = None if grad is None else number(float(torch.linalg.vector_norm(grad)))
    found["alignment"] = _alignment(s)
    if w.param.ndim < 2:
        return found
    sigmas = s.sigmas.get("weight", [])
    found["weight_spectral"] = max((float(v.amax()) for v in sigmas), default=None)
    if w.on_muon:
        found["polar_error"] = _polar_error(s)
    for kind in KINDS:
        source = s.source("average") if kind == "momentum" and not w.follows_gradient else kind
        values = _ranks(s.sigmas.get(source, []))
        found |= {f"{kind}_{rank}": v for rank, v in zip(RANKS, values, strict=True)}
    if sigmas:
        found["weight_sigmas"] = _thinned(sigmas)
    return found


def _over(a: float, b: float) -> float | None:
    return number(a / b) if b > 0 else None


def _thinned(sigmas: Sequence[Tensor]) -> list[float]:
    """At most `KEPT` of the singular values of all matrices, falling, the extremes among them."""
    values = torch.cat([v.flatten() for v in sigmas]).sort(descending=True).values
    places = torch.linspace(0, len(values) - 1, min(len(values), KEPT)).round().long()
    kept: list[float] = values[places].tolist()
    return kept


def _alignment(s: Seen) -> float | None:
    """⟨u, d⟩/(‖u‖†·‖d‖) for the step d: 1 where it is the duality map of u, at most that."""
    u, d = s.tensors.get(s.source("average")), s.step
    if u is None or d is None:
        return None
    product = float(inner(u, d).sum())
    return _over(product, _sizes(s, "average")[1] * _sizes(s, "step")[0])


def _polar_error(s: Seen) -> float | None:
    """‖d − UVᴴ‖_F/‖UVᴴ‖_F for the direction d of the step and the exact factor of u."""
    step, lr = s.step, s.of.value("lr")
    if step is None or not s.vectors or lr == 0:
        return None
    totals = torch.zeros(4, dtype=torch.float64)
    worst = 0.0
    pairs = zip(s.of.matrices(step), s.of.lengths(), s.vectors, s.sigmas[s.source("average")], strict=True)
    for part, length, (left, right), sigma in pairs:
        m, n = part.shape[-2:]
        promise = s.of.accuracy(m, n)
        d = _wide(part)
        cutoff = max(m, n) * epsilon(widened(s.of.param.dtype))
        kept = sigma > cutoff * sigma[..., :1]
        factor = (left * kept.unsqueeze(-2)) @ right
        if length is None:
            size = torch.linalg.matrix_norm(d, keepdim=True)
            scale = torch.linalg.matrix_norm(factor, keepdim=True) / torch.where(size > 0, size, 1.0)
        else:
            scale = torch.tensor(1 / (lr * length), dtype=torch.float64)
        rows = (left.mH @ (d * scale - factor)).abs().square().sum(-1)
        resolved = sigma >= promise.resolution * sigma[..., :1]
        sums = [rows.sum(), kept.sum(), rows[resolved].sum(), resolved.sum()]
        totals += torch.stack([x.to("cpu", torch.float64) for x in sums])
        worst = max(worst, promise.error)
    whole, rank, inside, count = totals.tolist()
    if rank == 0:
        return None
    s.resolved = math.sqrt(inside / count), worst
    return math.sqrt(whole / rank)
