"""Maps one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from steepest._common.checks import check_object
from steepest.norms import Coupling
from steepest.transforms.transform import State, StateShapes, Transform, kept_at, placed


@dataclass(frozen=True, init=False, repr=False)
class Composed(Transform):
    """Maps one after the other, each with what it keeps itself.

    Args:
        maps: The maps, the first one first.

    Examples:
        >>> from steepest.transforms import NormalizedColumns, NormalizedRows
        >>> Composed(NormalizedColumns(), NormalizedRows())
        Composed(NormalizedColumns(), NormalizedRows())
    """

    couples: ClassVar[Coupling] = Coupling.MATRIX
    maps: tuple[Transform, ...]

    def __init__(self, *maps: Transform) -> None:
        for each in maps:
            check_object("maps", each, Transform, "give maps of steepest.transforms")
        object.__setattr__(self, "maps", maps)

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"Composed({', '.join(map(repr, self.maps))})"

    @property
    def observes(self) -> bool:  # type: ignore[override]
        """Whether one of them does."""
        return any(each.observes for each in self.maps)

    def state_shapes(self, rows: int, cols: int) -> StateShapes:
        """The shapes of what each keeps, named after its place."""
        shapes: dict[str, tuple[int, ...]] = {}
        for place, each in enumerate(self.maps):
            shapes |= placed(str(place), each.state_shapes(rows, cols))
        return shapes

    def observe(self, gradient: Tensor, state: State) -> None:
        """Let each look that does."""
        for place, each in enumerate(self.maps):
            if each.observes:
                each.observe(gradient, kept_at(str(place), state))

    def __call__(self, x: Tensor, state: State) -> Tensor:
        """The last map of … of the first map of x."""
        for place, each in enumerate(self.maps):
            x = each(x, kept_at(str(place), state))
        return x
