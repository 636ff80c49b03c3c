"""Products, polynomials and inverses of stacks of matrices, blocked where a library call is slower.

A batched Cholesky factorisation takes a CPU twenty times as long as a product of the same size when
the matrices are small. Cut into blocks, nearly all of the work is products.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from steepest._common.numerics import HALF, converted, empty, empty_like

# Measured in torch 2.13 on two x86-64 cores, in float32. Below, a product by halves costs more in
# calls than it saves in arithmetic.
HALVED = 512

# In half precision a Hermitian product is cut into blocks from as many rows on. Measured on Zen 5,
# one and two threads, bfloat16, for 512 to 4096 rows and as many or four times as many columns: up
# to 4 blocks a side, and more of 192 rows or more, take 0.60 to 0.91 of the time of the whole
# product. oneDNN is fast for contiguous factors alone, so the blocks are copied first.
FEW_BLOCKS, HALF_BLOCK, MOST_BLOCKS = 4, 192, 16
# Where LAPACK takes over: a smaller leaf costs more calls.
LEAF = 32
# `torch.bmm` has a batched kernel for contiguous factors alone; larger blocks are worth a call
# each.
BATCHED = 192
# Rows so many times as long as there are rows, and of this length at least, are cut: a product of
# few long rows is added up entry by entry. Measured for 1 to 8 rows in float32: 6·eps·λ₁ at a
# length of 512, 20 at 4096, 210 at 100 000, where small singular values are noise.
LONG_ROWS, LONG_ROW = 64, 512

# Rounding may leave a bound a few eps below λ₁.
MARGIN = 1e-5


class Workspace:
    """Makes results, in memory that is used again where nothing follows them.

    Args:
        like: a tensor on the device of all results.
        dtype: their type; None for that of `like`.
    """

    def __init__(self, like: Tensor, dtype: torch.dtype | None = None) -> None:
        self.writes = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        """Whether results may be written into memory that is there."""
        self.dtype = dtype or like.dtype
        self._like = like

    def empty(self, *shape: int) -> Tensor:
        """Contiguous memory with anything in it."""
        return empty(shape, self._like, self.dtype)

    def copy(self, x: Tensor) -> Tensor:
        """A contiguous copy."""
        return self.empty(*x.shape).copy_(x)

    def times(self, x: Tensor, factor: float | Tensor) -> Tensor:
        """x·factor."""
        return torch.mul(x, factor, out=empty_like(x) if self.writes else None)

    def product(
        self,
        a: Tensor,
        b: Tensor | None = None,
        *,
        plus: Tensor | None = None,
        beta: float = 1.0,
        alpha: float = 1.0,
        hermitian: bool = False,
        out: Tensor | None = None,
    ) -> Tensor:
        """beta·plus + alpha·a·b for a batch; of a large Hermitian one little more than half.

        On the host in half precision that holds for a·aᴴ alone: oneDNN is slow for parts of
        matrices.

        Args:
            a: shape (batch, m, k).
            b: shape (batch, k, n); None for aᴴ.
            plus: a matrix to add, shape (batch, m, n), Hermitian where the product is; None for
                none, and no alpha.
            beta: its factor.
            alpha: the factor of the product.
            hermitian: whether a·b is known to be; a·aᴴ always is.
            out: memory for the result.
        """
        m, half, own = a.shape[1], a.dtype in HALF, b is None
        b = a.mH if b is None else b
        if out is None and self.writes:
            out = empty((len(a), m, b.shape[2]), self._like, a.dtype)
        if out is not None and m >= HALVED and (own or hermitian):
            count = half_blocks(m) if half and own else 1
            if count > 1:
                self._write_by_blocks(a, count, out, plus, beta, alpha)
                return out
            if not half or a.device.type != "cpu":
                self._write_by_halves(a, b, out, plus, beta, alpha)
                return out
        if plus is None:
            return torch.bmm(a, b, out=out)
        return torch.baddbmm(plus, a, b, beta=beta, alpha=alpha, out=out)

    def product_like(self, a: Tensor, x: Tensor, beta: float = 0.0) -> Tensor:
        """a·x + beta·x in the memory order of x: columns are dense where those of x are.

        A tall matrix comes as its transpose. A factor in another order than the parameter it
        belongs to is four to twenty times as slow to add to it on a CPU.
        """
        if x.stride(-1) == 1:
            return self.product(a, x, plus=x if beta else None, beta=beta)
        own = x.mH
        return self.product(own, a.mH, plus=own if beta else None, beta=beta).mH

    def gram(self, xs: Sequence[Tensor]) -> Tensor:
        """XXᴴ of all matrices of several stacks, of m rows each, in one stack."""
        if not self.writes:
            return torch.cat([gram_matrix(x) for x in xs]) if len(xs) > 1 else gram_matrix(xs[0])
        m = xs[0].shape[-2]
        out = empty((sum(map(len, xs)), m, m), self._like, self.dtype)
        for x, part in zip(xs, out.split([len(x) for x in xs]), strict=True):
            if x.dtype in HALF or x.shape[-1] < 2 * max(LONG_ROW, LONG_ROWS * m):
                self.product(x, out=part)
            else:
                part.copy_(gram_matrix(x))
        return out

    def _write_by_halves(
        self, a: Tensor, b: Tensor, out: Tensor, plus: Tensor | None, beta: float, alpha: float
    ) -> None:
        """The halves on the diagonal in the same way, one of the others, and its mirror image."""
        m = a.shape[-2]
        if m < HALVED:
            self.product(a, b, plus=plus, beta=beta, alpha=alpha, out=out)
            return
        upper, lower = slice(None, m // 2), slice(m // 2, None)
        for rows, columns in ((upper, upper), (lower, lower), (lower, upper)):
            block = None if plus is None else plus[:, rows, columns]
            parts = a[:, rows], b[..., columns], out[:, rows, columns]
            if rows == columns:
                self._write_by_halves(*parts, block, beta, alpha)
            else:
                self.product(*parts[:2], plus=block, beta=beta, alpha=alpha, out=parts[2])
        out[:, upper, lower] = out[:, lower, upper].mH

    def _write_by_blocks(
        self, a: Tensor, count: int, out: Tensor, plus: Tensor | None, beta: float, alpha: float
    ) -> None:
        """Block (i + k, i) of the product for all i in one call, and its mirror image."""
        batch, m, n = a.shape
        size = m // count
        # (count·batch, size, n): block i of all matrices at [i·batch : (i + 1)·batch].
        if a.stride(-1) == 1:
            rows = self.empty(count * batch, size, n)
            rows.view(count, batch, size, n).copy_(a.unflatten(1, (count, size)).movedim(1, 0))
        else:
            columns = self.empty(count * batch, n, size)
            cut = a.mT.unflatten(2, (count, size)).movedim(2, 0)
            columns.view(count, batch, n, size).copy_(cut)
            rows = columns.mT
        grid = out.unflatten(2, (count, size)).unflatten(1, (count, size))
        own = None if plus is None else plus.unflatten(2, (count, size)).unflatten(1, (count, size))
        for k in range(count):
            below, above = rows[k * batch :], rows[: (count - k) * batch]
            block = self.empty(len(above), size, size)
            if own is None:
                torch.bmm(below, above.mH, out=block)
            else:
                # (count − k, batch, size, size)
                shifted = own.diagonal(-k, dim1=1, dim2=3).movedim(-1, 0)
                block.view_as(shifted).copy_(shifted)
                # torch counts the flops of this form, and not of `baddbmm_`.
                torch.baddbmm(block, below, above.mH, beta=beta, alpha=alpha, out=block)
            block = block.view(count - k, batch, size, size)
            grid.diagonal(-k, dim1=1, dim2=3).movedim(-1, 0).copy_(block)
            if k:
                grid.diagonal(k, dim1=1, dim2=3).movedim(-1, 0).copy_(block.mH)


@cache
def half_blocks(m: int) -> int:
    """The number of equal blocks of rows by which a Hermitian product in half precision is cut."""
    counts = range(1, MOST_BLOCKS + 1) if m >= HALVED else (1,)
    return max(c for c in counts if m % c == 0 and (c <= FEW_BLOCKS or m // c >= HALF_BLOCK))


def largest_eigenvalue(r: Tensor, square: Tensor, space: Workspace) -> Tensor:
    """Upper bound of the largest eigenvalue of each positive semidefinite R, shape (batch, 1, 1).

        c = ⟨R, R²⟩/‖R‖_F²;  λ₁ ≤ c/2 + √(c²/4 + ‖R² − cR‖_F)

    For λ₁² − cλ₁ is an eigenvalue of R² − cR. This c makes the norm least; any other one, a rounded
    one for instance, gives a bound as well. It is exact if all eigenvalues are λ₁ or 0, and never
    more than `steepest.polar._scale.overestimate`² times too large.

    Args:
        r: the matrices in single or double precision, shape (batch, m, m).
        square: R².
        space: memory.

    Returns:
        Real numbers; 1 for zero.
    """
    axes = (-2, -1)
    memory = empty(tuple(r.shape), r) if space.writes else None
    inner = torch.mul(r, square.conj(), out=memory).real.sum(axes, keepdim=True)
    size = torch.linalg.vector_norm(r, dim=axes, keepdim=True)
    c = (inner / size.square()).nan_to_num()
    rest = torch.addcmul(square, r, -c.to(r.dtype), out=memory)
    size = torch.linalg.vector_norm(rest, dim=axes, keepdim=True)
    bound = (c / 2 + (c.square() / 4 + size).sqrt()) * (1 + MARGIN)
    return torch.where(bound == 0, 1.0, bound)


def gram_matrix(x: Tensor) -> Tensor:
    """XXᴴ of (batch, m, n), the products of long rows added up in pieces."""
    batch, m, n = x.shape
    length = max(LONG_ROW, LONG_ROWS * m)
    # Products of half precision are added up in float32 and rounded once.
    if n < 2 * length or x.dtype in HALF:
        return torch.bmm(x, x.mH)
    count = n // length
    pieces = x[..., : count * length].unflatten(-1, (count, length)).movedim(-2, 1).flatten(0, 1)
    whole = torch.bmm(pieces, pieces.mH).unflatten(0, (batch, count)).sum(dim=1)
    rest = x[..., count * length :]
    return torch.baddbmm(whole, rest, rest.mH) if rest.shape[-1] else whole


def nested(r: Tensor, v: Tensor, pairs: Sequence[tuple[float, float]], space: Workspace) -> Tensor:
    """q(R) − q(0)·I of a Hermitian R with eigenvalues in [0, 1].

        N_i = B_i·R + A_{i+1}·V + V·N_{i+1}

    The constant stays apart: in half precision, rounding of it would drown what is small in R. A
    sum is formed before it is rounded, and every term but the constants is as small as R where R
    is small. R and V may come in a wider type than that of the workspace: V has to be that of R and
    not of what rounding makes of R, since the terms nearly cancel.

    Args:
        r: the matrices, shape (batch, m, m).
        v: V = 4R(τ − R)/τ².
        pairs: q in the symmetric form.
        space: memory for results.
    """
    slope, factor = pairs[-1][1], converted(v, space.dtype)
    inner: tuple[float, Tensor] | None = (slope, converted(r, space.dtype)) if slope else None
    for (_, b), (a, _) in zip(pairs[-2::-1], pairs[:0:-1], strict=True):
        # aV + bR = scale·plus
        (scale, plus), (small, y) = sorted([(a, v), (b, r)], key=lambda pair: -abs(pair[0]))
        if small:
            out = empty_like(plus) if space.writes else None
            plus = torch.add(plus, y, alpha=small / scale, out=out)
        plus = factor if plus is v else converted(plus, space.dtype)
        if inner is not None:
            alpha, n = inner
            plus = space.product(factor, n, plus=plus, beta=scale, alpha=alpha, hermitian=True)
            scale = 1.0
        inner = scale, plus
    assert inner is not None, "two coefficients or more"
    scale, n = inner
    return n if scale == 1 else space.times(n, scale)


def definite_inverse(a: Tensor) -> Tensor:
    """Inverse of each Hermitian positive definite matrix, by products of blocks.

        A = LLᴴ,  W = L⁻¹,  A⁻¹ = WᴴW

    L and W are found together, block by block. As stable as a Cholesky inverse: the error in the
    direction of an eigenvalue λ is about eps·λ₁/λ.

    Args:
        a: real or complex matrices in single or double precision, shape (batch, m, m); positive
            definite (not checked), of which the lower triangle is read.

    Returns:
        A new tensor of shape (batch, m, m).

    Examples:
        >>> a = torch.tensor([[[2.0, 1.0], [1.0, 2.0]]])
        >>> bool(torch.allclose(definite_inverse(a) @ a, torch.eye(2), atol=1e-6))
        True

    Sources:
        Higham, Accuracy and Stability of Numerical Algorithms (SIAM, 2002), sections 13.3 and 14.2.
    """
    return inverse_in(a, Workspace(a))


def inverse_in(a: Tensor, space: Workspace) -> Tensor:
    """`definite_inverse`, the result and what leads to it in the memory of a workspace."""
    w = _inverse_factor(a, space)
    m = w.shape[-1]
    if m < HALVED:
        inverse = space.product(w.mH, w)
    else:
        # W is lower triangular: its last rows alone reach every column.
        h = _middle(m)
        inverse = space.product(w[:, h:].mH, w[:, h:], hermitian=True)
        corner = space.product(w[:, :h, :h].mH, w[:, :h, :h], hermitian=True)
        inverse[:, :h, :h] += corner
    return inverse


def _middle(m: int) -> int:
    """A multiple of the leaf near m/2."""
    return -(-(m // 2) // LEAF) * LEAF


def _inverse_factor(a: Tensor, space: Workspace) -> Tensor:
    """W = L⁻¹ of A = LLᴴ.

    [A₁₁  ·  ]        L₂₁ = A₂₁W₁₁ᴴ,  L₂₂L₂₂ᴴ = A₂₂ − L₂₁L₂₁ᴴ
    [A₂₁  A₂₂]        W₂₁ = −W₂₂L₂₁W₁₁
    """
    m = a.shape[-1]
    if m <= LEAF:
        return _leaf(a, space)
    h = _middle(m)
    a11, a21 = a[:, :h, :h], a[:, h:, :h]
    small = h <= BATCHED
    w11 = _inverse_factor(a11, space)
    a21 = space.copy(a21) if small else a21
    l21 = space.product(a21, w11.mH)
    del a21
    rest = space.copy(a[:, h:, h:]).baddbmm_(l21, l21.mH, alpha=-1)
    w22 = _inverse_factor(rest, space)
    half = space.product(l21, w11)
    w21 = space.product(w22, half)
    w = space.empty(*a.shape)
    w[:, :h, :h] = w11
    w[:, :h, h:] = 0
    w[:, h:, :h] = w21.neg_()
    w[:, h:, h:] = w22
    return w


def _leaf(a: Tensor, space: Workspace) -> Tensor:
    """W = L⁻¹ by LAPACK."""
    batch, m, _ = a.shape
    eye = torch.eye(m, dtype=a.dtype, device=a.device).expand_as(a)
    if not space.writes:
        factor = torch.linalg.cholesky_ex(a).L
        return space.copy(torch.linalg.solve_triangular(factor, eye, upper=False))
    # LAPACK writes columns.
    factor, solution = space.empty(batch, m, m), space.empty(batch, m, m)
    info = torch.empty(batch, dtype=torch.int32, device=a.device)
    torch.linalg.cholesky_ex(a, out=(factor.mT, info))
    torch.linalg.solve_triangular(factor.mT, eye, upper=False, out=solution.mT)
    return space.copy(solution.mT)
