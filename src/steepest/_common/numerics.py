"""Types, memory, scales and precision: what everything that computes with matrices shares."""

from __future__ import annotations

import itertools
import math
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
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


PLAIN = (Tensor, torch.nn.Parameter)
"""Types of tensors that are nothing but memory."""

# Memory of the host that a thread keeps from one call to the next: so much in all, in pieces of at
# most so much, since a large one would take the place of many.
KEPT_BYTES, LARGEST_PIECE = 2**29, 2**26


class _Pieces(threading.local):
    """Storages that a thread has handed out, by their size; the size that grew last comes last.

    One is free as soon as no tensor refers to it: nobody has to give it back, and what a caller
    keeps stays theirs.
    """

    def __init__(self) -> None:
        self.by_size: dict[int, list[torch.UntypedStorage]] = {}

    def add(self, nbytes: int) -> torch.UntypedStorage:
        """A new one, for which others are let go where there are too many bytes."""
        storage = torch.UntypedStorage(nbytes, device="cpu")
        self.by_size[nbytes] = [*self.by_size.pop(nbytes, ()), storage]
        while sum(size * len(same) for size, same in self.by_size.items()) > KEPT_BYTES:
            size, same = next(iter(self.by_size.items()))
            del same[0]
            if not same:
                del self.by_size[size]
        return storage


_pieces = _Pieces()


def empty(shape: tuple[int, ...], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A contiguous tensor with anything in it, on the device of `like`.

    On the host it lies, up to 64 MiB, in memory that was used before, if there is some that no
    tensor refers to any more: the system clears the pages of fresh memory, which on small matrices
    takes longer than all the products of a polar factor. An accelerator's allocator keeps memory
    itself. Where autograd, a compiler or inference mode follows, all memory is fresh.

    Args:
        shape: the shape.
        like: a tensor.
        dtype: the type; None for that of `like`.
    """
    dtype = dtype or like.dtype
    nbytes = math.prod(shape) * dtype.itemsize
    if (
        not 0 < nbytes <= LARGEST_PIECE
        or type(like) not in PLAIN
        or like.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.is_inference_mode_enabled()
    ):
        return like.new_empty(shape, dtype=dtype)
    same = _pieces.by_size.get(nbytes, [])
    for place in range(len(same) - 1, -1, -1):
        storage = same[place]
        # torch has no public question for this; its CUDA graphs ask the same one.
        if torch._C._storage_Use_Count(storage._cdata) == 1 and storage.nbytes() == nbytes:
            same.append(same.pop(place))  # what was handed out last may still be in the cache
            break
    else:
        storage = _pieces.add(nbytes)
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, shape, _strides(shape))


@lru_cache(maxsize=1024)
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a contiguous tensor."""
    return tuple(itertools.accumulate(shape[:0:-1], operator.mul, initial=1))[::-1]


def empty_like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`empty` of the shape of `x`: columns are dense where those of `x` are, else rows."""
    if x.ndim > 1 and x.stride(-1) != 1 and x.stride(-2) == 1:
        return empty(tuple(x.mT.shape), x, dtype).mT
    return empty(tuple(x.shape), x, dtype)


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in another type, in the same memory order; itself if it has the type."""
    # On the host `x.to` takes fresh memory. Its counterpart here would be followed by autograd too.
    if x.dtype == dtype or x.device.type != "cpu" or torch.is_grad_enabled():
        return x.to(dtype)
    return empty_like(x, dtype).copy_(x)


def power_of_two_scale(x: Tensor) -> Tensor:
    """The first of `power_of_two_scales`: the largest entry may land in [eps/2, 4) at the ends."""
    return power_of_two_scales([x])[0][0]


def power_of_two_scales(xs: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Two powers of two for each matrix, which bring its largest entry into [1/2, 1).

    A power of two costs no digit. The norm itself is not usable: its square over- or underflows
    for entries of 1e±30 in float32. A power must be a normal number itself, so at the two ends of
    the type one is not enough: the second is 1 elsewhere.

    Args:
        xs: stacks (*batch, m, n) of one dtype and device.

    Returns:
        For each stack real numbers of shape (*batch, 1, 1) in its precision; 1 for a zero matrix.
    """
    largest = []
    for x in xs:
        parts = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
        axes = (-2, -1) if parts is x else (-3, -2, -1)
        # Four times faster on a CPU than the absolute values, which would need memory.
        most = torch.maximum(parts.amax(axes, keepdim=True), -parts.amin(axes, keepdim=True))
        largest.append(most if parts is x else most.squeeze(-1))
    # On small matrices the dozen calls on these few numbers take longer than those on all entries.
    entries = torch.cat([most.reshape(-1) for most in largest]) if len(xs) > 1 else largest[0]
    exponent = torch.frexp(entries.float() if entries.dtype in HALF else entries).exponent
    # The power must itself be a normal number of the type: 2^149 is not a float32.
    limit = math.frexp(torch.finfo(entries.dtype).max)[1] - 2
    first = (-exponent).clamp(-limit, limit)
    one = torch.ones_like(entries)
    power, rest = torch.ldexp(one, first), torch.ldexp(one, -exponent - first)
    if len(xs) == 1:
        return [(power, rest)]
    sizes = [most.numel() for most in largest]
    pairs = zip(power.split(sizes), rest.split(sizes), largest, strict=True)
    return [(first.view_as(most), second.view_as(most)) for first, second, most in pairs]


def unit_scale(x: Tensor) -> Tensor:
    """Each matrix times its `power_of_two_scales`, in new memory; zero stays zero."""
    return unit_scales([x])[0]


def unit_scales(xs: Sequence[Tensor]) -> list[Tensor]:
    """`unit_scale` of stacks (*batch, m, n) of one dtype and device."""
    out = []
    for x, (power, rest) in zip(xs, power_of_two_scales(xs), strict=True):
        known = is_known(x)
        if x.is_complex():
            scaled = times(x, power)
        else:
            reuses = known and not torch.is_grad_enabled() and x.is_contiguous()
            scaled = torch.mul(x, power, out=empty(tuple(x.shape), x) if reuses else None)
        # Hardly ever is there a rest: where looking costs nothing, that pass is not made.
        once = known and looked_at((rest == 1).all())
        out.append(scaled if once else times(scaled, rest))
    return out


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
