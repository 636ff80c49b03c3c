"""A polar method: its laws, and what all of them share: shapes, scale, orientation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import is_dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor

from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import HALF, converted, full_precision, unit_scales
from steepest._common.text import changed_fields


class Accuracy(NamedTuple):
    """The promise of a polar method for one shape and type.

    Singular values σ ≥ `resolution`·σ₁ of the input become singular values within `error` of 1;
    smaller ones are damped; none becomes larger than `upper`. The directions are those of x + E
    with ‖E‖₂ ≤ `backward`·σ₁: a pair of singular vectors with σ turns by backward·σ₁/σ at most,
    besides a few eps of the compute type. It is 0 where that is less than `error`.
    """

    resolution: float
    error: float
    upper: float
    backward: float = 0.0


class PolarMethod(ABC):
    """A way to compute the polar factor UVᴴ of X = UΣVᴴ.

    Laws, for a method `polar` and an input `x` of shape (*batch, m, n):

        polar(c * x) == polar(x)                  for every c > 0 that leaves c·x representable
        polar(0 * x) == 0
        polar(x.mH) == polar(x).mH
        polar(x)[i] == polar(x[i])                a batch is its members
        accuracy(m, n, dtype).upper >= σ₁(polar(x))

    The output has the dtype and device of the input and never shares its memory. Neither autocast
    nor torch's setting for float32 products changes it. A subclass writes
    `_factor` and `accuracy`; the scale and the transposition are done here.
    """

    rounds: ClassVar[bool] = False
    """Whether `_factors` takes a wider input than its compute type and rounds it itself."""

    any_scale: ClassVar[tuple[torch.dtype, ...]] = ()
    """The compute types for which `_factors` takes matrices of any scale."""

    _shown: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that its text has at their default too."""

    @abstractmethod
    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Polar factor of (batch, m, n), m ≤ n, in compute type; `dtype` is the caller's type.

        Its largest entries are in [1/2, 1), unless `any_scale` holds. It is only read.
        """

    @abstractmethod
    def accuracy(self, m: int, n: int, dtype: torch.dtype) -> Accuracy:
        """The promise of the method for m × n matrices of this dtype."""

    @abstractmethod
    def compute_dtype(self, dtype: torch.dtype, device: torch.device) -> torch.dtype:
        """The type in which an input of `dtype` on `device` is computed."""

    def choose(self, m: int, n: int, dtype: torch.dtype, device: torch.device) -> PolarMethod:
        """The concrete method for m × n matrices of this dtype; `self` unless it is a selector."""
        return self

    def __call__(self, x: Inexact[Tensor, "*batch m n"]) -> Inexact[Tensor, "*batch m n"]:
        """The polar factor of each matrix of `x`; entries must be finite (not checked)."""
        return self.factors([x])[0]

    def factors(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """The polar factors of several stacks, each of shape (*batch, m, n) with m and n its own.

        Stacks of one dtype and device with equal smaller sides may share work if one method is
        chosen for them: a method that computes with m × m matrices does it once for all of them.
        """
        out = list(xs)
        alike: list[tuple[PolarMethod, tuple[int, torch.dtype, torch.device], list[int]]] = []
        for i, x in enumerate(xs):
            check_matrices(x)
            m, n = x.shape[-2:]
            if x.numel():
                method = self.choose(m, n, x.dtype, x.device)
                kind = min(m, n), x.dtype, x.device
                known = (p for other, k, p in alike if other is method and k == kind)
                places = next(known, None)
                if places is None:
                    alike.append((method, kind, places := []))
                places.append(i)
            else:
                out[i] = torch.zeros_like(x)
        for method, (_, dtype, device), places in alike:
            compute = method.compute_dtype(dtype, device)
            held = torch.float32 if method.rounds and compute in HALF else compute
            own = [xs[i] for i in places]
            with full_precision(device, compute):
                # (batch, m, n) with m ≤ n
                scaled = own if compute in method.any_scale else unit_scales(own)
                stacks = [x.to(held).reshape(-1, *x.shape[-2:]) for x in scaled]
                tall = [x.shape[-2] > x.shape[-1] for x in stacks]
                wide = [x.mH if t else x for x, t in zip(stacks, tall, strict=True)]
                del own, scaled, stacks
                for i, q, t in zip(places, method._factors(wide, dtype), tall, strict=True):
                    q = (q.mH if t else q).reshape(xs[i].shape)
                    out[i] = q.resolve_conj() if q.dtype == dtype else converted(q, dtype)
        return out

    def __repr__(self) -> str:
        """The fields of a dataclass that are not at their default.

        An optimizer and its checkpoints know a method by this text: other methods have another.
        """
        method: object = self
        return changed_fields(self, *self._shown) if is_dataclass(method) else super().__repr__()

    def _factors(self, xs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """`_factor` of each; a method may do what they have in common once."""
        return [self._factor(x, dtype) for x in xs]


def check_matrices(x: object, argument: str = "x") -> None:
    """Raise unless `x` holds real or complex matrices."""
    if not isinstance(x, Tensor):
        raise invalid(argument, type(x).__name__, "give a tensor, such as torch.as_tensor of it")
    if x.ndim < 2 or not (x.is_floating_point() or x.is_complex()):
        raise invalid(
            argument,
            f"{shape_text(x.shape)} {x.dtype}",
            "give floating-point or complex matrices of shape (*batch, m, n)",
        )
