"""The views of the parameters of each group, which follow their parameters."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from steepest._common.references import KnownTensors, Reference, reference
from steepest.optim.groups import Views


class MemberViews(dict[int, Views]):
    """The views of each group of matrices by its place, without holding on to its parameters.

    Other code sorts the parameters of a group, adds, removes and exchanges them. A view stays with
    its parameter, and goes to the one that takes its place when it is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.members: dict[int, list[Reference]] = {}
        """The parameters that the views of each group are for."""
        self.shapes: dict[int, list[tuple[int, ...]]] = {}
        """The shapes that they had."""
        self._known = KnownTensors()

    def seat(self, place: int, params: Sequence[Tensor], views: Views) -> None:
        """Let the parameters of a group have these views."""
        self[place] = views
        self.members[place] = [reference(p) for p in params]
        if params:  # what empties a group and fills it again is still known by it
            self.shapes[place] = [tuple(p.shape) for p in params]
        seen = zip(params, views, strict=True)
        # A norm of entries has no view, and a parameter may come back from it.
        self._known.remember((p, view) for p, view in seen if view is not None)

    def of(self, place: int, params: Sequence[Tensor], others: Collection[Tensor]) -> list[Any]:
        """The views of the parameters that a group has now; None for one without a place.

        Args:
            place: The place of the group.
            params: Its parameters.
            others: The parameters of all groups.
        """
        old = self.get(place, ())
        before: list[Tensor | None] = [ref() for ref in self.members.get(place, [])]
        found: list[Any] = []
        for i, p in enumerate(params):
            replaced = len(old) == len(params) and not (before and before[i] in others)
            known = self._known.of(p)
            found.append(known if known is not None else old[i] if replaced else None)
        return found

    def replaced(self, place: int, params: Sequence[Tensor]) -> list[tuple[int, ...]]:
        """The shapes that the parameters of a group had, if it has none of them any more."""
        before = {id(ref()) for ref in self.members.get(place, [])}
        return [] if any(id(p) in before for p in params) else self.shapes.get(place, [])

    def cut(self, count: int) -> None:
        """Forget the groups from this number on."""
        for place in [place for place in self if place >= count]:
            del self[place], self.members[place]
            self.shapes.pop(place, None)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy has views for the parameters in the same places."""
        return type(self), (), None, None, iter(self.items())
