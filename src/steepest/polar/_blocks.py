"""Products and inverses of stacks of matrices, blocked where that is faster than a library call.

A batched Cholesky factorisation takes a CPU twenty times as long as a product of the same size when
the matrices are small. Cut into blocks, nearly all of the work is products.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from steepest._common.numerics import HALF

# Measured in torch 2.13 on two x86-64 cores, in float32. Below, a product by halves costs more in
# calls than it saves in arithmetic.
HALVED = 512

# The number of rows from which on Hermitian products of a type are cut. Ours in half precision:
# matrix units are full with fewer rows, and a 768 × 768 product is cut twice.
CUT = {torch.float16: 384, torch.bfloat16: 384}
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

# Memory that a thread keeps from one call to the next, on the host alone, for each dtype.
KEPT_BYTES = 2**26


class Workspace:
    """Memory of intermediate results, used again as soon as it is given back.

    The pages of fresh memory cost a CPU more than the arithmetic does on small matrices: with it,
    the m × m work of sixteen 128 × 128 matrices takes less than half the time.

    Where autograd or a compiler follows, every result is new memory.

    Args:
        like: a tensor of the dtype and on the device that all results get.
    """

    def __init__(self, like: Tensor) -> None:
        self.reuses = not (torch.is_grad_enabled() or torch.compiler.is_compiling())
        self._like = like
        self.free: dict[int, list[Tensor]] = {}
        """Memory that has been given back, by the number of entries."""

    def empty(self, *shape: int) -> Tensor:
        """Contiguous memory with anything in it."""
        free = self.free.get(math.prod(shape))
        return free.pop().view(shape) if free else self._like.new_empty(shape)

    def release(self, *tensors: Tensor) -> None:
        """Declare contiguous results that nobody reads any more."""
        if self.reuses:
            for t in tensors:
                self.free.setdefault(t.numel(), []).append(t)

    def trim(self, limit: int) -> None:
        """Let go of what exceeds `limit` bytes, the largest pieces first to stay."""
        kept: dict[int, list[Tensor]] = {}
        for size in sorted(self.free, reverse=True):
            for t in self.free[size]:
                if t.nbytes <= limit:
                    limit -= t.nbytes
                    kept.setdefault(size, []).append(t)
        self.free = kept

    def copy(self, x: Tensor) -> Tensor:
        """A contiguous copy."""
        return self.empty(*x.shape).copy_(x)

    def concatenate(self, stacks: list[Tensor]) -> Tensor:
        """The stacks as one, whose memory is given back if there are several."""
        if len(stacks) == 1:
            return stacks[0]
        if not self.reuses:
            return torch.cat(stacks)
        out = self.empty(sum(len(s) for s in stacks), *stacks[0].shape[1:])
        torch.cat(stacks, out=out)
        self.release(*stacks)
        return out

    def times(self, x: Tensor, factor: float | Tensor) -> Tensor:
        """x·factor."""
        return torch.mul(x, factor, out=self.empty(*x.shape)) if self.reuses else x * factor

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        """a·b for a batch."""
        if not self.reuses:
            return torch.bmm(a, b)
        return torch.bmm(a, b, out=self.empty(a.shape[0], a.shape[1], b.shape[2]))

    def hermitian(
        self,
        a: Tensor,
        b: Tensor,
        *,
        plus: Tensor | None = None,
        beta: float = 1.0,
        alpha: float = 1.0,
    ) -> Tensor:
        """beta·plus + alpha·a·b, known to be Hermitian: of a large one little more than half.

        Args:
            a: shape (batch, m, k).
            b: shape (batch, k, m).
            plus: a Hermitian matrix to add, shape (batch, m, m); None for none.
            beta: its factor.
            alpha: the factor of the product.
        """
        out = None
        if self.reuses:
            shape = len(a), a.shape[1], a.shape[1]
            free = self.free.get(math.prod(shape))
            out = free.pop().view(shape) if free else a.new_empty(shape)
            if a.shape[1] >= CUT.get(a.dtype, HALVED):
                _write_hermitian(a, b, out, plus, beta, alpha)
                return out
        if plus is None:
            return torch.bmm(a, b, out=out)
        return torch.baddbmm(plus, a, b, beta=beta, alpha=alpha, out=out)


def matmul_like(a: Tensor, x: Tensor) -> Tensor:
    """The product a·x in the memory order of x: columns are dense where those of x are.

    A tall matrix comes as its transpose. A factor in another order than the parameter it belongs to
    is four to twenty times as slow to add to it on a CPU.
    """
    return a @ x if x.stride(-1) == 1 else (x.mH @ a.mH).mH


def plus_matmul_like(beta: float, a: Tensor, x: Tensor) -> Tensor:
    """beta·x + a·x in the memory order of x."""
    if x.stride(-1) == 1:
        return torch.baddbmm(x, a, x, beta=beta)
    return torch.baddbmm(x.mH, x.mH, a.mH, beta=beta).mH


def largest_eigenvalue(r: Tensor, square: Tensor) -> Tensor:
    """Upper bound of the largest eigenvalue of each positive semidefinite R, shape (batch, 1, 1).

        c = ⟨R, R²⟩/‖R‖_F²;  λ₁ ≤ c/2 + √(c²/4 + ‖R² − cR‖_F)

    For λ₁² − cλ₁ is an eigenvalue of R² − cR. This c makes the norm least; any other one, a rounded
    one for instance, gives a bound as well. It is exact if all eigenvalues are λ₁ or 0, and never
    more than `steepest.polar._scale.overestimate`² times too large.

    Args:
        r: the matrices, shape (batch, m, m).
        square: R².

    Returns:
        Real numbers in float32 at least; 1 for zero.
    """
    wide = torch.float32 if r.dtype in HALF else None
    axes = (-2, -1)
    inner = (r * square.conj()).real.sum(axes, keepdim=True, dtype=wide)
    size = torch.linalg.vector_norm(r, dim=axes, keepdim=True, dtype=wide)
    c = (inner / size.square()).nan_to_num()
    rest = torch.addcmul(square, r, -c.to(r.dtype))
    size = torch.linalg.vector_norm(rest, dim=axes, keepdim=True, dtype=wide)
    if wide:
        c = c.to(r.dtype).to(wide)  # ‖R² − cR‖_F is that of the rounded c
    bound = (c / 2 + (c.square() / 4 + size).sqrt()) * (1 + MARGIN)
    return torch.where(bound == 0, 1.0, bound)


def gram_matrix(x: Tensor, space: Workspace | None = None) -> Tensor:
    """XXᴴ of (batch, m, n), the products of long rows added up in pieces.

    Args:
        x: the matrices.
        space: memory for a result that is one product, then by `Workspace.hermitian`.
    """
    batch, m, n = x.shape
    length = max(LONG_ROW, LONG_ROWS * m)
    # Products of half precision are added up in float32 and rounded once.
    if n < 2 * length or x.dtype in HALF:
        return torch.bmm(x, x.mH) if space is None else space.hermitian(x, x.mH)
    count = n // length
    pieces = x[..., : count * length].unflatten(-1, (count, length)).movedim(-2, 1).flatten(0, 1)
    whole = torch.bmm(pieces, pieces.mH).unflatten(0, (batch, count)).sum(dim=1)
    rest = x[..., count * length :]
    return torch.baddbmm(whole, rest, rest.mH) if rest.shape[-1] else whole


_kept = threading.local()


@contextmanager
def workspace(like: Tensor) -> Iterator[Workspace]:
    """The workspace of this thread for tensors of one dtype, with what the last call left there.

    Whatever is not given back belongs to the caller. Only plain tensors of the host have one that
    stays: an accelerator's allocator keeps memory itself.
    """
    space = Workspace(like)
    host = type(like) is Tensor and like.device.type == "cpu"
    if not space.reuses or not host or torch.is_inference_mode_enabled():
        yield space
        return
    spaces: dict[torch.dtype, Workspace] = _kept.__dict__.setdefault("spaces", {})
    # Taken out, so that a call within a call has another one, and an interrupted one leaves none.
    space = spaces.pop(like.dtype, space)
    yield space
    if sum(t.nbytes for same in space.free.values() for t in same) > KEPT_BYTES:
        space.trim(KEPT_BYTES)
    spaces[like.dtype] = space


def _write_hermitian(
    a: Tensor, b: Tensor, out: Tensor, plus: Tensor | None, beta: float, alpha: float
) -> None:
    m = a.shape[-2]
    if m < CUT.get(a.dtype, HALVED):
        _write_product(a, b, out, plus, beta, alpha)
        return
    upper, lower = slice(None, m // 2), slice(m // 2, None)
    for rows, columns in ((upper, upper), (lower, lower), (lower, upper)):
        write = _write_hermitian if rows == columns else _write_product
        block = None if plus is None else plus[:, rows, columns]
        write(a[:, rows], b[..., columns], out[:, rows, columns], block, beta, alpha)
    out[:, upper, lower] = out[:, lower, upper].mH


def _write_product(
    a: Tensor, b: Tensor, out: Tensor, plus: Tensor | None, beta: float, alpha: float
) -> None:
    if plus is None:
        torch.bmm(a, b, out=out)
    else:
        torch.baddbmm(plus, a, b, beta=beta, alpha=alpha, out=out)


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
    with workspace(a) as space:
        return inverse_in(a, space)


def inverse_in(a: Tensor, space: Workspace) -> Tensor:
    """`definite_inverse`, the result and what leads to it in the memory of a workspace."""
    w = _inverse_factor(a, space)
    m = w.shape[-1]
    if m < HALVED:
        inverse = space.product(w.mH, w)
    else:
        # W is lower triangular: its last rows alone reach every column.
        h = _middle(m)
        inverse = space.hermitian(w[:, h:].mH, w[:, h:])
        corner = space.hermitian(w[:, :h, :h].mH, w[:, :h, :h])
        inverse[:, :h, :h] += corner
        space.release(corner)
    space.release(w)
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
    if small:
        space.release(a21)
    rest = space.copy(a[:, h:, h:]).baddbmm_(l21, l21.mH, alpha=-1)
    w22 = _inverse_factor(rest, space)
    half = space.product(l21, w11)
    w21 = space.product(w22, half)
    w = space.empty(*a.shape)
    w[:, :h, :h] = w11
    w[:, :h, h:] = 0
    w[:, h:, :h] = w21.neg_()
    w[:, h:, h:] = w22
    space.release(l21, rest, half, w11, w21, w22)
    return w


def _leaf(a: Tensor, space: Workspace) -> Tensor:
    """W = L⁻¹ by LAPACK."""
    batch, m, _ = a.shape
    eye = torch.eye(m, dtype=a.dtype, device=a.device).expand_as(a)
    if not space.reuses:
        factor = torch.linalg.cholesky_ex(a).L
        return space.copy(torch.linalg.solve_triangular(factor, eye, upper=False))
    # LAPACK writes columns.
    factor, solution = space.empty(batch, m, m), space.empty(batch, m, m)
    info = torch.empty(batch, dtype=torch.int32, device=a.device)
    torch.linalg.cholesky_ex(a, out=(factor.mT, info))
    torch.linalg.solve_triangular(factor.mT, eye, upper=False, out=solution.mT)
    w = space.copy(solution.mT)
    space.release(factor, solution)
    return w
