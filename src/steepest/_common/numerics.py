"""Types, scales and precision: what everything that computes with matrices shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from steepest._common.errors import invalid

F = TypeVar("F", bound=Callable[..., Any])

HALF = (torch.float16, torch.bfloat16)
"""Types that are too coarse to normalise in and that no LAPACK routine takes."""


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the real and imaginary parts; a real type is its own."""
    return dtype.to_real() if dtype.is_complex else dtype


def widened(dtype: torch.dtype) -> torch.dtype:
    """float32 for half precision, any other type itself."""
    return torch.float32 if dtype in HALF else dtype


def in_double(x: Tensor) -> Tensor:
    """`x` in double precision, real or complex as it is."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def epsilon(dtype: torch.dtype) -> float:
    """Machine epsilon of a real or complex type."""
    return float(torch.finfo(dtype).eps)


def safe_divisor(norm: Tensor) -> Tensor:
    """The norm where it is positive, 1 where it is zero, so that zero is divided to zero."""
    return torch.where(norm > 0, norm, torch.ones_like(norm))


def is_known(x: Tensor) -> bool:
    """Whether looking at a value costs nothing: in the memory of the host, outside a graph."""
    return not torch.compiler.is_compiling() and type(x) is Tensor and x.device.type == "cpu"


def number(value: object) -> float:
    """A number of any library, NaN for anything else: no comparison with that holds."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()  # an array of one number
    return float(value) if isinstance(value, Real) else float("nan")


def host_value(value: object) -> float:
    """A number, or that of a tensor where looking costs nothing; NaN where it is not known."""
    if isinstance(value, Tensor):
        return float(value) if is_known(value) and value.numel() == 1 else float("nan")
    return number(value)


def looked_at(a: Tensor) -> bool | None:
    """The truth of a tensor of one entry; None under `torch.func.vmap`, which has none to show."""
    try:
        return bool(a)
    except RuntimeError as error:
        # torch has no public question for this; tests/norms/test_vmap.py fails if the words change.
        if "vmap" not in str(error):
            raise
        return None


def power_of_two_scale(x: Tensor) -> Tensor:
    """The first of `power_of_two_scales`: the largest entry may land in [eps/2, 4) at the ends."""
    return power_of_two_scales(x)[0]


def power_of_two_scales(x: Tensor) -> tuple[Tensor, Tensor]:
    """Two powers of two for each matrix, which bring its largest entry into [1/2, 1).

    A power of two costs no digit. The norm itself is not usable: its square over- or underflows
    for entries of 1e±30 in float32. A power must be a normal number itself, so at the two ends of
    the type one is not enough: the second is 1 elsewhere.

    Returns:
        Real numbers of shape (*batch, 1, 1) in the precision of `x`; 1 for a zero matrix.
    """
    parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
    axes = (-2, -1) if parts is x else (-3, -2, -1)
    # Four times faster on a CPU than the absolute values, which would need memory.
    largest = torch.maximum(parts.amax(axes, keepdim=True), -parts.amin(axes, keepdim=True))
    largest = largest if parts is x else largest.squeeze(-1)
    exponent = torch.frexp(largest.float() if x.dtype in HALF else largest).exponent
    # The power must itself be a normal number of the type: 2^149 is no float32.
    limit = math.frexp(torch.finfo(parts.dtype).max)[1] - 2
    first = (-exponent).clamp(-limit, limit)
    one = torch.ones_like(largest)
    return torch.ldexp(one, first), torch.ldexp(one, -exponent - first)


def unit_scale(x: Tensor) -> Tensor:
    """Each matrix times its `power_of_two_scales`; zero stays zero."""
    power, rest = power_of_two_scales(x)
    x = times(x, power) if x.is_complex() else x * power
    # Hardly ever is there a rest: where looking costs nothing, no pass over the matrix is made.
    return x if is_known(x) and looked_at((rest == 1).all()) else times(x, rest)


def times(x: Tensor, factor: Tensor) -> Tensor:
    """A matrix times a real number."""
    if not x.is_complex():
        return x * factor
    return torch.view_as_complex(torch.view_as_real(x.resolve_conj()) * factor.unsqueeze(-1))


def constant_when_traced(function: F) -> F:
    """Mark a pure function that torch.compile calls while tracing, rather than trace it."""
    # torch.compiler.assume_constant_result does the same, but imports the compiler, which takes
    # seconds; tests/optim/test_compiled.py fails when the mark has another name.
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


# torch's settings of the library that multiplies on a type of device; oneDNN is that of all others.
# `torch.get_float32_matmul_precision` speaks of all of them at once, and raises where they differ.
_MKLDNN: Any = torch.backends.mkldnn
_LIBRARIES: dict[str, Any] = {"cuda": torch.backends.cuda.matmul}


@constant_when_traced  # torch 2.10 cannot trace the second call
def product_settings(device: str) -> tuple[str, bool]:
    """torch's setting for float32 products, and whether this type of device has autocast."""
    library = _LIBRARIES.get(device, _MKLDNN.matmul)
    return library.fp32_precision, torch.amp.is_autocast_available(device)


@contextmanager
def full_precision(device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Products in the type of their factors, whatever autocast or a global setting says.

    The iterations are stable for rounding of the size of eps: with float32 products done in
    bfloat16 or TF32 they diverge.

    Raises:
        ValueError: in a function under torch.compile, which cannot change the setting, where the
            setting is another one and `dtype` is single precision.
    """
    before, autocast = product_settings(device.type)
    with torch.autocast(device.type, enabled=False) if autocast else nullcontext():
        if before in ("none", "ieee") or dtype not in (torch.float32, torch.complex64):
            yield
            return
        if torch.compiler.is_compiling():
            raise invalid(
                "fp32_precision",
                before,
                "compiled, single precision needs torch.set_float32_matmul_precision('highest'): "
                "set that, or take a method that computes in half precision",
            )
        library = _LIBRARIES.get(device.type, _MKLDNN.matmul)
        library.fp32_precision = "ieee"
        try:
            yield
        finally:
            library.fp32_precision = before
