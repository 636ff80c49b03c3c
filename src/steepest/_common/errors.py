"""Wording of errors and names of types that every layer shares."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def invalid(argument: str, value: object, remedy: str) -> ValueError:
    """A `ValueError` in the library's one form: the argument, its value, what to do.

    Examples:
        >>> str(invalid("lr", -1.0, "give a number >= 0"))
        'lr=-1.0: give a number >= 0'
    """
    return ValueError(f"{argument}={value!r}: {remedy}")


def shape_text(shape: Sequence[int]) -> str:
    """A shape as people write it.

    Examples:
        >>> shape_text((64, 3, 7, 7))
        '64×3×7×7'
    """
    return "×".join(str(int(d)) for d in shape) or "scalar"


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the real and imaginary parts; a real type is its own."""
    return dtype.to_real() if dtype.is_complex else dtype
