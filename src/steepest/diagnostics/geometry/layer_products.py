"""The linear maps that a forward pass applies: each call with a weight, its input and output."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from steepest._common.numerics import in_double
from steepest.diagnostics.spectra._batched import gram_factors
from steepest.views import INPUT_FIRST, LINEAR, MatrixView, conv


@dataclass(frozen=True, eq=False, kw_only=True)
class Product:
    """A product Z = W·A with a weight, as the arguments of a call tell it.

    Args:
        kind: the function that was called, in words.
        weight: the parameter that W is cut from.
        view: the matrices W that it is cut into, one for each group of a convolution.
        source: the input of the call, in its own shape and with its graph.
        to_columns: the function that makes A of `source`, (groups, in, samples); None where that
            holds indices, so that each column of A is one-hot.
        ignored: the index whose column of W never gets a gradient.
    """

    kind: str
    weight: Tensor
    view: MatrixView
    source: Tensor
    to_columns: Callable[[Tensor], Tensor] | None
    ignored: int | None = None


@dataclass(frozen=True, eq=False)
class Call:
    """A product that was computed, and its result in its own shape and with its graph."""

    product: Product
    output: Tensor

    def feeds(self, other: Call) -> bool:
        """Whether the input of another call was made of the output of this one."""
        source = other.product.source
        if not (source.requires_grad and self.output.requires_grad):
            return False
        (found,) = torch.autograd.grad(
            source, self.output, torch.ones_like(source), retain_graph=True, allow_unused=True
        )
        return found is not None


class RecordedCalls(TorchFunctionMode):
    """A context that keeps every call with one of the weights.

    It looks at the calls of functions and not at modules: a weight may be used by several modules,
    several times, or by a function alone. Not seen are a product with a tensor made of the weight
    (a part of it, its transpose), and what torch calls within one function of its own, as the
    projections inside `torch.nn.MultiheadAttention`.

    Args:
        weights: the parameters to look for, by name.

    Attributes:
        of: the calls with each of them, in their order.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.of: dict[str, list[Call]] = {name: [] for name in weights}
        self._names = {weight: name for name, weight in weights.items()}

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        product = READERS[func](*args, **kwargs) if func in READERS else None
        if product is None or product.weight not in self._names:
            return result
        self.of[self._names[product.weight]].append(Call(product, result))
        # What follows may change its input in place, as nn.ReLU(inplace=True) does.
        return result.clone()


def squares(products: Sequence[Product]) -> Tensor:
    """σ_i(A)², falling, of the inputs A of one weight, side by side: (groups, count).

    They are the eigenvalues of A·Aᵀ or of Aᵀ·A, whichever is smaller, in double precision, off by
    rounding of the size of eps·σ₁². With a = min(in, samples) that takes in·samples·a
    multiplications, a³ for the eigenvalues, and A in double precision in memory. Of indices they
    are how often each of them occurs.
    """
    if products[0].to_columns is None:
        return counts(products).sort(descending=True).values[None]
    a = side_by_side(products)
    _, values, _ = gram_factors(a if a.shape[-2] <= a.shape[-1] else a.mT, vectors=False)
    return values.square()


def counts(products: Sequence[Product]) -> Tensor:
    """Count each index in the inputs of one weight, (in,), in double precision."""
    first = products[0]
    indices = torch.cat([p.source.detach().reshape(-1) for p in products])
    found = torch.bincount(indices, minlength=first.weight.shape[first.view.cols[0]]).double()
    if first.ignored is not None:
        found[first.ignored] = 0
    return found


def side_by_side(products: Sequence[Product]) -> Tensor:
    """The inputs of one weight that are not indices, (groups, in, samples), in double precision."""
    return torch.cat(
        [in_double(p.to_columns(p.source.detach())) for p in products if p.to_columns], -1
    )


def _columns(x: Tensor) -> Tensor:
    """(*samples, in) as one matrix in × samples."""
    return x.reshape(-1, x.shape[-1]).mT[None]


# The readers have the signatures of what they read, also where an argument does not matter.
# ruff: noqa: ARG001


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Product:
    return Product(kind="linear", weight=weight, view=LINEAR, source=input, to_columns=_columns)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any) -> Product | None:
    # With other factors than 1 it is not W·A.
    return None if any(s != 1 for s in scales.values()) else _matmul(mat1, mat2)


def _matmul(input: Tensor, other: Tensor) -> Product | None:
    if other.ndim != 2:
        return None
    return Product(
        kind="product", weight=other, view=INPUT_FIRST, source=input, to_columns=_columns
    )


def _embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Product | None:
    if scale_grad_by_freq:  # what backward gives is not a gradient then
        return None
    ignored = None if padding_idx is None else padding_idx % weight.shape[0]
    return Product(
        kind="embedding",
        weight=weight,
        view=INPUT_FIRST,
        source=input,
        to_columns=None,
        ignored=ignored,
    )


def _conv(spatial: int) -> Callable[..., Product]:
    def read(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Product:
        kernel = weight.shape[2:]
        strides, dilations = _each(stride, spatial), _each(dilation, spatial)

        def to_columns(x: Tensor) -> Tensor:
            x = x if x.ndim == spatial + 2 else x[None]
            x = F.pad(x, _margins(padding, kernel, dilations))
            for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
                x = x.unfold(axis + 2, d * (k - 1) + 1, s)[..., ::d]
            # (batch, channels, *positions, *kernel) to (groups, channels·kernel, batch·positions)
            x = x.unflatten(1, (groups, -1)).movedim(0, 2)
            places = tuple(range(2, spatial + 3))
            last = tuple(range(-len(places), 0))
            return x.movedim(places, last).flatten(-len(places)).flatten(1, -2)

        view = conv(spatial, groups=groups)
        return Product(
            kind="convolution", weight=weight, view=view, source=input, to_columns=to_columns
        )

    return read


def _each(value: int | Sequence[int], count: int) -> list[int]:
    """One number for each axis."""
    given = [value] if isinstance(value, int) else list(value)
    return given * count if len(given) == 1 else given


def _margins(
    padding: int | str | Sequence[int], kernel: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """The margins for `functional.pad`: before and after each axis, the last axis first."""
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilations, strict=True)]
        pairs = [(t // 2, t - t // 2) for t in total]
    else:
        given = 0 if isinstance(padding, str) else padding
        pairs = [(p, p) for p in _each(given, len(kernel))]
    return [margin for pair in reversed(pairs) for margin in pair]


READERS: dict[Any, Callable[..., Product | None]] = {
    F.linear: _linear,
    F.embedding: _embedding,
    F.conv1d: _conv(1),
    F.conv2d: _conv(2),
    F.conv3d: _conv(3),
    # How weights are used that are stored as in × out, such as those of Hugging Face's Conv1D.
    torch.addmm: _addmm,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
}
"""How to read the arguments of the functions that multiply by a weight."""
