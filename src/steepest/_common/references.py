"""References to parameters that do not keep them alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

Reference = Callable[[], Tensor | None]
"""A function that gives a tensor, or None if it is gone."""


def reference(param: Tensor) -> Reference:
    """A weak reference to a plain tensor, a strong one to a tensor of another class.

    Modules convert and move parameters of other classes, DTensors for instance, by exchanging
    their contents, which torch refuses where a weak reference is. Of a sharded parameter a process
    holds a part.
    """
    if type(param) in (Tensor, nn.Parameter):
        return weakref.ref(param)
    return partial(_same, param)


def _same(param: Tensor) -> Tensor:
    return param


class KnownTensors(dict[int, tuple[Reference, object]]):
    """Values of tensors by their identity, as long as they are there."""

    def of(self, param: Tensor) -> object:
        """The value of a tensor; None for one that has none."""
        found = self.get(id(param))
        return found[1] if found is not None and found[0]() is param else None

    def remember(self, values: Iterable[tuple[Tensor, object]]) -> None:
        """Give tensors values, and forget those that are gone."""
        for key in [key for key, (ref, _) in self.items() if ref() is None]:
            del self[key]
        super().update({id(p): (reference(p), value) for p, value in values})
