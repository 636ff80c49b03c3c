"""The last step's factorisation as the start of the next polar factor, in exact arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from steepest.polar import Schedule, polar_express_coefficients

RESOLUTION = 3e-3
"""Directions with σ below this part of σ₁ are not judged: that of `polar.Auto`."""

# Lower ends of the intervals that schedules are made for; each start gets the one that suits it.
LOWERS = tuple(10 ** (i / 4 - 3) for i in range(11))

# Errors beyond this are divergence.
GONE = 1e9

# Householder QR with its factor formed: 8/3·m³ operations, those of 4/3 products.
QR = 4 / 3


class GramSpectrum:
    """X = UΣVᵀ of a stack (batch, m, n), m ≤ n, from its Gram matrix in float64."""

    def __init__(self, x: Tensor) -> None:
        self.x = x = x.double()
        self.gram = x @ x.mT
        values, u = torch.linalg.eigh(self.gram)
        self.u: Tensor = u.flip(-1)
        self.sigma: Tensor = values.flip(-1).clamp(min=0).sqrt()
        # Of directions that are not judged it need not be accurate.
        floor = 1e-7 * self.sigma[:, :1]
        self.vt: Tensor = (self.u.mT @ x) / torch.maximum(self.sigma, floor).unsqueeze(-1)

    @property
    def judged(self) -> Tensor:
        """A mask of the directions that count, (batch, m)."""
        return self.sigma >= RESOLUTION * self.sigma[:, :1]

    def power(self, damping: float) -> Tensor:
        """(XXᵀ + damping²·σ₁²·I)^{-1/2}, no eigenvalue taken below the resolution."""
        largest = self.sigma[:, :1]
        sigma = torch.maximum(self.sigma, RESOLUTION * largest)
        return (self.u / (sigma**2 + (damping * largest) ** 2).sqrt().unsqueeze(-2)) @ self.u.mT

    @property
    def factor(self) -> Tensor:
        """UVᵀ."""
        return self.u @ self.vt

    def error(self, q: Tensor) -> Tensor:
        """‖Uᵀq − Vᵀ‖_F/√k over the k directions that are judged, (batch,)."""
        rows = (self.u.mT @ q - self.vt) * self.judged.unsqueeze(-1)
        norm: Tensor = torch.linalg.vector_norm(rows, dim=(-2, -1))
        return norm / self.judged.sum(-1).double().sqrt()


@cache
def schedules(steps: int) -> tuple[Schedule, ...]:
    """Polar Express schedules of this length, one for each of `LOWERS`."""
    return tuple(
        Schedule(
            name=f"{steps} steps from {lower:g}",
            coefficients=polar_express_coefficients(lower, steps, cushion=0.024, safety=1.002),
            interval=(lower, 1.002),
            source="arXiv 2505.16932",
        )
        for lower in LOWERS
    )


Errors = Iterator[tuple[int, Tensor]]
"""The steps and the errors (choices, batch), for each length that is tried."""

LENGTHS = (1, 2, 3, 4, 5, 6, 7)
FOREVER = 0
"""Stands for as many steps as it takes to stand still."""

MARGIN = 1e-5
"""The share that `GramNewtonSchulz` adds to its bound, since rounding may leave it too low."""


def iterate(start: Tensor, truth: GramSpectrum) -> Errors:
    """Errors after numbers of quintic steps from a start, with each schedule of that length.

    A polynomial p maps U'Σ'V'ᵀ to U'p(Σ')V'ᵀ, so its error needs no iteration.
    """
    begun = GramSpectrum(start)
    left = (truth.u.mT @ begun.u) * truth.judged.unsqueeze(-1)
    squares = left.square().sum(-2)
    inner = (left * (truth.vt @ begun.vt.mT)).sum(-2)
    count = truth.judged.sum(-1)
    sigma = begun.sigma / _bound(begun.sigma)
    for steps in (*LENGTHS, FOREVER):
        made = [p(sigma) for p in schedules(steps)] if steps else [torch.ones_like(sigma)]
        square = [((p * p * squares - 2 * p * inner).sum(-1) + count) / count for p in made]
        yield steps, torch.stack(square).clamp(min=0).sqrt()


def _bound(sigma: Tensor) -> Tensor:
    """The bound of σ₁ by which `GramNewtonSchulz` divides; see there."""
    gram = sigma.square()
    square = gram.square()
    c = (gram * square).sum(-1, keepdim=True) / square.sum(-1, keepdim=True)
    rest = (square - c * gram).norm(dim=-1, keepdim=True)
    bound: Tensor = ((c / 2 + (c.square() / 4 + rest).sqrt()) * (1 + MARGIN)).sqrt()
    return bound


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """A way to the polar factor of X_t that may use what is known of X_{t−1}.

    Args:
        title: the title in the picture.
        errors: the errors for (X_{t−1}, X_t).
        square: m × m products of a number of steps.
    """

    title: str
    errors: Callable[[GramSpectrum, GramSpectrum], Errors]
    square: Callable[[int], float]

    def products(self, steps: int, ratio: float) -> float:
        """Products in units of one m × m, the Gram matrix and the last one of m × n among them."""
        return self.square(steps) + 2 * ratio


def _cold(_: GramSpectrum, now: GramSpectrum) -> Errors:
    return iterate(now.x, now)


def _root(damping: float) -> Callable[[GramSpectrum, GramSpectrum], Errors]:
    return lambda last, now: iterate(last.power(damping) @ now.x, now)


def _shift(size: float) -> Callable[[GramSpectrum, GramSpectrum], Errors]:
    # X and X + s·σ₁·UVᵀ have the same polar factor, and the second has σ ≥ s·σ₁.
    return lambda last, now: iterate(now.x + size * now.sigma[:, :1, None] * last.factor, now)


def _deflate(now: GramSpectrum, basis: Tensor) -> Errors:
    """Take the Ritz values of a space, after one power step, down to its smallest."""
    basis, _ = torch.linalg.qr(now.gram @ basis)
    values, turn = torch.linalg.eigh(basis.mT @ now.gram @ basis)
    basis = basis @ turn
    shrink = (values[:, :1] / values).sqrt() - 1
    return iterate(now.x + (basis * shrink.unsqueeze(-2)) @ (basis.mT @ now.x), now)


def _leading(last: GramSpectrum, now: GramSpectrum) -> Errors:
    return _deflate(now, last.u[..., : eighth(now)])


def _sketch(_: GramSpectrum, now: GramSpectrum) -> Errors:
    draw = torch.Generator().manual_seed(0)
    m = now.x.shape[-2]
    random = torch.randn(m, eighth(now), generator=draw, dtype=torch.float64)
    return _deflate(now, torch.linalg.qr(now.gram @ random)[0])


def eighth(x: GramSpectrum) -> int:
    """The number of directions that are taken down: m/8."""
    return max(1, x.x.shape[-2] // 8)


def largest(gram: Tensor) -> Tensor:
    """The largest eigenvalue of symmetric matrices, (batch,)."""
    top: Tensor = torch.linalg.eigvalsh((gram + gram.mT) / 2)[:, -1]
    return top


def _newton(last: GramSpectrum, now: GramSpectrum) -> Errors:
    z = last.power(0.0)
    z = z / largest(z @ now.gram @ z).sqrt()[:, None, None]
    eye = torch.eye(z.shape[-1], dtype=z.dtype)
    for steps in LENGTHS:
        z = z @ (3 * eye - z @ now.gram @ z) / 2
        z = (z + z.mT) / 2
        yield steps, now.error(z @ now.x)[None].nan_to_num(nan=GONE).clamp(max=GONE)


def _eigenvectors(last: GramSpectrum, now: GramSpectrum) -> Errors:
    v = last.u
    for sweeps in LENGTHS:
        image = now.gram @ v
        values = (v * image).sum(-2)
        values = torch.maximum(values, RESOLUTION**2 * values.amax(-1, keepdim=True))
        yield sweeps, now.error((v * values.rsqrt().unsqueeze(-2)) @ (v.mT @ now.x))[None]
        v, _ = torch.linalg.qr(image)


METHODS: Mapping[str, WarmStart] = {
    # R², then two products for R, one for R² and one for Q in every further step.
    "cold": WarmStart(
        title="no start",
        errors=_cold,
        square=lambda t: 4 * t - 3,
    ),
    # Z·R·Z and Q·Z come on top. Z itself is taken as given.
    "root 0": WarmStart(
        title="inverse root",
        errors=_root(0.0),
        square=lambda t: 4 * t,
    ),
    "root 0.3": WarmStart(
        title="inverse root, δ = 0.3",
        errors=_root(0.3),
        square=lambda t: 4 * t,
    ),
    "shift 0.01": WarmStart(
        title="last factor, s = 0.01",
        errors=_shift(0.01),
        square=lambda t: 4 * t - 3,
    ),
    "shift 0.1": WarmStart(
        title="last factor, s = 0.1",
        errors=_shift(0.1),
        square=lambda t: 4 * t - 3,
    ),
    "newton": WarmStart(
        title="Newton's iteration",
        errors=_newton,
        square=lambda t: 3 * t,
    ),
    # One step takes the last eigenvectors as they are: only their Rayleigh quotients are new.
    "eigenvectors": WarmStart(
        title="eigenvectors",
        errors=_eigenvectors,
        square=lambda t: 2 + (t - 1) * (1 + QR),
    ),
    # Six products of m × m by m × m/8: R·B, B·BᵀRB, two for the new R and two for Q.
    "leading": WarmStart(
        title="leading subspace",
        errors=_leading,
        square=lambda t: 4 * t - 3 + 6 / 8,
    ),
    "sketch": WarmStart(
        title="random subspace",
        errors=_sketch,
        square=lambda t: 4 * t - 3 + 7 / 8,
    ),
}
"""The ways that are compared; `cold` and `sketch` know nothing of the last step."""


def compare(last: GramSpectrum, now: GramSpectrum) -> Iterator[tuple[str, int, Tensor]]:
    """(method, steps, errors (choices, batch)) for a stack of X_{t−1} and one of X_t."""
    for name, method in METHODS.items():
        for steps, errors in method.errors(last, now):
            yield name, steps, errors


def drift(a: GramSpectrum, b: GramSpectrum) -> dict[str, Tensor]:
    """Measure what has changed from X_{t−1}, `a`, to X_t, `b`; each (batch,).

    `change` is ‖X_t − X_{t−1}‖_F/‖X_t‖_F, `turn` the same of the polar factors. `stretch` is
    ‖(X_{t−1}X_{t−1}ᵀ)^{-1/2}X_t‖₂: 1 if nothing changes. `large` and `small` are the parts of the
    left singular directions with σ ≥ 0.05·σ₁, and of the judged ones below, that lay in the same
    space before.
    """
    norm = torch.linalg.vector_norm
    axes = (-2, -1)
    root = a.power(0.0)
    leading = [s.sigma >= 0.05 * s.sigma[:, :1] for s in (a, b)]
    small = [s.judged & ~big for s, big in zip((a, b), leading, strict=True)]
    overlap = (a.u.mT @ b.u).square()
    shares = [
        (overlap * p.unsqueeze(-1) * q.unsqueeze(-2)).sum(axes) / q.sum(-1).clamp(min=1)
        for p, q in (leading, small)
    ]
    return {
        "change": norm(b.x - a.x, dim=axes) / norm(b.x, dim=axes),
        "turn": norm(b.factor - a.factor, dim=axes) / b.x.shape[-2] ** 0.5,
        "stretch": largest(root @ b.gram @ root).sqrt(),
        "large": shares[0],
        "small": shares[1],
    }
