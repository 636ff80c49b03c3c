"""The maps by their names: each is a norm, or one function of one number over one basis."""

from __future__ import annotations

from steepest.maps.base import ConvexMap, Separable
from steepest.maps.bases import Columns, Entries, Rows, Singular
from steepest.maps.norm import FromNorm
from steepest.maps.scalars import Clip, Dead, Modulus, Root, Square
from steepest.norms import KyFan, Schatten
from steepest.polar import PolarMethod


def L1Map(*, dims: int | tuple[int, ...] | None = None) -> Separable:
    """Σ|x|: the gradient is the sign, the domain the box |y| ≤ 1: Lion.

    Args:
        dims: the axes of one vector; the other axes are a batch. None takes the whole tensor.

    Examples:
        >>> import torch
        >>> L1Map().grad(torch.tensor([3.0, -0.1, 0.0])).tolist()
        [1.0, -1.0, 0.0]
    """
    return Separable(Modulus(), Entries(dims=dims))


def NuclearMap(*, polar: PolarMethod | None = None) -> Separable:
    """Σσ: the gradient is the polar factor, the domain the spectral ball σ₁ ≤ 1: Muon.

    Args:
        polar: a method of `steepest.polar`; None means an SVD, exact to the dtype.

    Examples:
        >>> import torch
        >>> K = NuclearMap()
        >>> bool((K.grad(torch.diag(torch.tensor([9.0, 0.1]))) - torch.eye(2)).abs().max() < 1e-6)
        True
        >>> float(K.violation(3 * torch.eye(2), weight_decay=0.5))
        1.0
    """
    return Separable(Modulus(), Singular(polar=polar))


def GroupRows() -> Separable:
    """Σ‖row‖₂: the gradient normalises every row, in the domain no row is longer than 1."""
    return Separable(Modulus(), Rows())


def GroupColumns() -> Separable:
    """Σ‖column‖₂: the gradient normalises every column, in the domain none is longer than 1."""
    return Separable(Modulus(), Columns())


def HalfSquare() -> Separable:
    """½Σ|x|²: the gradient is x, the conjugate ½Σ|y|², the domain everything: SGD.

    It belongs to every basis: K + c·HalfSquare() is strictly convex, and its gradient is that of K
    plus c·x.

    Examples:
        >>> import torch
        >>> float((NuclearMap() + 2.0 * HalfSquare()).value(torch.eye(3)))
        6.0
    """
    return Separable(Square(), Entries())


def SchattenMap(p: float, *, polar: PolarMethod | None = None) -> ConvexMap:
    """The Schatten-p norm; the domain is the ball of Schatten-q, 1/p + 1/q = 1.

    p = 1 is `NuclearMap`; p = 2 normalises the matrix; p = ∞ has the gradient u₁v₁ᴴ.

    Args:
        p: the exponent, in [1, inf].
        polar: a method of `steepest.polar`; None means an SVD.

    Raises:
        ValueError: p < 1.

    Examples:
        >>> SchattenMap(4).domain
        Schatten(1.33333)
    """
    return FromNorm(Schatten(p, polar=polar))


def TopK(k: int, *, polar: PolarMethod | None = None) -> ConvexMap:
    """σ₁ + … + σ_k: the gradient is u₁v₁ᴴ + … + u_kv_kᴴ, the domain max(σ₁, Σσ/k) ≤ 1.

    So every matrix ends with singular values of at most 1/λ, whose sum is at most k/λ.

    Args:
        k: how many, at most min(m, n) of the matrices given.
        polar: a method of `steepest.polar`; None means an SVD.

    Raises:
        ValueError: k is not a positive whole number; when used, k > min(m, n).
    """
    return FromNorm(KyFan(k, polar=polar))


def SmoothL1(delta: float, *, dims: int | tuple[int, ...] | None = None) -> Separable:
    """Σ√(|x|² + δ²): the gradient x/√(|x|² + δ²), the conjugate −δΣ√(1 − |y|²) in the box.

    Args:
        delta: δ > 0, an absolute number: entries of the gradient below it count as small.
        dims: the axes, those of `L1Map`.

    Raises:
        ValueError: a δ that is not positive.
    """
    return Separable(Root(delta), Entries(dims=dims))


def SmoothNuclear(delta: float, *, polar: PolarMethod | None = None) -> Separable:
    """Σ√(σ² + δ²): the gradient (XXᴴ + δ²I)^(−1/2)·X, the conjugate −δΣ√(1 − s²) for s₁ ≤ 1.

    The smallest value is δ·min(m, n), at 0. With a polar method the gradient is the first n columns
    of the polar factor of [X, δI].

    Args:
        delta: δ > 0, an absolute number: singular values of the gradient below it count as small.
        polar: a method of `steepest.polar`; None means an SVD.

    Raises:
        ValueError: a δ that is not positive.

    Examples:
        >>> import torch
        >>> K, x = SmoothNuclear(3.0), torch.diag(torch.tensor([4.0, 0.0]))
        >>> float(K.value(x)), round(float(K.grad(x)[0, 0]), 6)
        (8.0, 0.8)
    """
    return Separable(Root(delta), Singular(polar=polar))


def Huber(delta: float, *, dims: int | tuple[int, ...] | None = None) -> Separable:
    """Huber's function of |x|: the gradient clips x/δ to 1, the conjugate is ½δΣ|y|² in the box.

    Args:
        delta: δ > 0, an absolute number: entries of the gradient below it count as small.
        dims: the axes, those of `L1Map`.

    Raises:
        ValueError: a δ that is not positive.

    Examples:
        >>> import torch
        >>> Huber(2.0).grad(torch.tensor([5.0, -1.0])).tolist()
        [1.0, -0.5]
    """
    return Separable(Clip(delta), Entries(dims=dims))


def SpectralHuber(delta: float, *, polar: PolarMethod | None = None) -> Separable:
    """Huber's function of σ: the gradient clips σ/δ to 1, the conjugate is ½δ‖Y‖_F² for s₁ ≤ 1.

    Args:
        delta: δ > 0, an absolute number: singular values of the gradient below it count as small.
        polar: a method of `steepest.polar`; None means an SVD. With a method two polar factors and
            a linear system; see `Clip.by_polar` for what becomes of its error.

    Raises:
        ValueError: a δ that is not positive.
    """
    return Separable(Clip(delta), Singular(polar=polar))


def DeadZone(delta: float, *, dims: int | tuple[int, ...] | None = None) -> Separable:
    """Σmax(|x| − δ, 0): the sign of entries above δ, the conjugate is δΣ|y| in the box.

    A weight whose gradient stays below δ decays to 0: an ℓ1 penalty δ within the box.

    Args:
        delta: δ > 0, an absolute number: entries of the gradient below it do not count.
        dims: the axes, those of `L1Map`.

    Raises:
        ValueError: a δ that is not positive.

    Examples:
        >>> import torch
        >>> DeadZone(2.0).grad(torch.tensor([5.0, -3.0, 1.0])).tolist()
        [1.0, -1.0, 0.0]
    """
    return Separable(Dead(delta), Entries(dims=dims))


def SpectralDeadZone(delta: float, *, polar: PolarMethod | None = None) -> Separable:
    """Σmax(σ − δ, 0): the polar factor of the part with σ > δ, the conjugate δ‖Y‖_* for s₁ ≤ 1.

    A direction in which the gradient stays below δ decays to 0: a nuclear penalty δ, which asks for
    low rank, within the spectral ball.

    Args:
        delta: δ > 0, an absolute number: singular values of the gradient below it do not count.
        polar: a method of `steepest.polar`; None means an SVD. With a method two polar factors.

    Raises:
        ValueError: a δ that is not positive.
    """
    return Separable(Dead(delta), Singular(polar=polar))
