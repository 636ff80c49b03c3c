"""The answer of the routing for one parameter, and what a user changes about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from steepest._common.errors import invalid, shape_text
from steepest.routing.conditions import HeadLayout
from steepest.routing.judge import RuleMatch
from steepest.routing.rule import Kind, Target
from steepest.views import MatrixView

Override: TypeAlias = Literal["matrix", "adamw"]
"""Assignment by a user: "matrix", to move in a norm of matrices, or "adamw". A `MatrixView` in its
place says which matrices the parameter is."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The destination of one parameter, and the reason.

    Args:
        name: full name, the first one if the parameter is tied.
        shape: shape of the parameter.
        target: `"matrix"` moves in a norm of matrices; `"table"` (embeddings, output heads) goes to
            AdamW with weight decay; `"vector"` (biases, gains, …) to AdamW without; `"constant"`
            (integers) nowhere. An optimizer with a norm for every layer takes all three.
        view: the parameter as matrices; None unless the target is `"matrix"`.
        kind: the part of the parameter in the model, which tells apart what a target takes
            together: `"hidden"` weights; among tables the `"embedding"`, tied ones included, and
            the output `"head"`; `"vector"` and `"constant"` as the targets of these names.
        reason: the rule or the override that decided.
        certain: False where the module tree does not show what the parameter is.
        settle: the override that settles an uncertain parameter; else empty.
        aliases: its other names, if it is tied.
        pair: the name of the other factor of a low-rank update, which is multiplied with this one;
            empty for every other parameter.
        frozen: whether it had `requires_grad=False`; it is routed for the day when it has not.
        destination: the optimizer that moves it and the norm in which it does, such as
            `Muon, Spectral()`; empty as long as no optimizer has it.
    """

    name: str
    shape: tuple[int, ...]
    target: Target
    view: MatrixView | None
    kind: Kind
    reason: str
    certain: bool = True
    settle: str = ""
    aliases: tuple[str, ...] = ()
    pair: str = ""
    frozen: bool = False
    destination: str = ""

    @property
    def to(self) -> str:
        """The destination, as the printed table says it, or what the parameter is."""
        text = "nowhere" if self.target == "constant" else self.destination or self.target
        return f"{text}, frozen" if self.frozen and self.target != "constant" else text

    @property
    def numel(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)

    @property
    def matrices(self) -> str:
        """The matrices it is seen as, such as `3 × 128×128`; empty without a view.

        Examples:
            >>> Assignment(name="w", shape=(96, 32), target="matrix", view=MatrixView(split=3),
            ...            kind="hidden", reason="").matrices
            '3 × 32×32'
        """
        shapes = self.view.shapes(self.shape) if self.view else []
        return " + ".join(
            (f"{count} × " if count > 1 else "") + shape_text((rows, cols))
            for count, rows, cols in shapes
        )


def overridden(
    a: Assignment, verdict: RuleMatch, pattern: str, value: MatrixView | Override
) -> Assignment:
    """The assignment that an override asks for."""
    reason = f"override {pattern!r}"
    if value == "adamw":
        if verdict.rule.target != "matrix":
            return replace(a, reason=reason, certain=True, settle="")
        # Of two kinds of table, a layer can only be the head; what its owner named itself has rows.
        kind: Kind = "head" if verdict.layer else "embedding"
        return replace(
            a, target="table", kind=kind, view=None, reason=reason, certain=True, settle=""
        )
    if isinstance(value, str) and value != "matrix":
        raise invalid("overrides", value, 'give "matrix", "adamw" or a MatrixView')
    view = verdict.view if isinstance(value, str) else value
    if view is None:
        raise invalid(
            "overrides",
            value,
            f"{a.name} has shape {shape_text(a.shape)}: a matrix needs two axes; write 'adamw'",
        )
    try:
        view.shapes(a.shape)
    except ValueError as error:
        raise invalid("overrides", value, f"{a.name} does not fit it ({error})") from None
    return replace(
        a, target="matrix", kind="hidden", view=view, reason=reason, certain=True, settle=""
    )


def by_head(a: Assignment, verdict: RuleMatch, heads: int) -> Assignment:
    """The assignment with one matrix for each head."""
    view, query = verdict.view, verdict.query
    assert view is not None
    dim = view.rows[0]
    if verdict.layout is not None:
        parts = _told(a, verdict.layout, heads, a.shape[dim])
        split: int | tuple[int, ...] = len(parts) if len(set(parts)) == 1 else parts
    else:
        split = _counted(a, query or 0, heads, a.shape[dim])
    view = replace(view, split=split, split_dim=dim)
    # Heads settle the one guess that has query rows: whether they are stored head by head.
    return replace(a, view=view, reason=f"{a.reason}, one matrix per head", certain=True, settle="")


def _told(a: Assignment, layout: HeadLayout, heads: int, rows: int) -> tuple[int, ...]:
    """The rows of each part of each head, as the module tells."""
    if heads not in layout.heads or not layout.fits(rows):
        raise invalid(
            "heads",
            heads,
            f"{a.name}: its module tells {layout.words}, which is {sum(layout.parts)} "
            f"rows of {rows}; give {{pattern: number}} for others, or override it with "
            "MatrixView(split=…)",
        )
    return layout.parts


def _counted(a: Assignment, query: int, heads: int, rows: int) -> int:
    """The number of blocks of the size of a query head."""
    if not query:
        raise invalid(
            "heads",
            heads,
            f"{a.name}: its query rows are unknown; override it with MatrixView(split=…)",
        )
    if heads < 1 or query % heads:
        raise invalid("heads", heads, f"{a.name}: {query} query rows do not divide by it")
    size = query // heads
    if rows % size:
        raise invalid("heads", heads, f"{a.name}: {rows} rows do not divide into heads of {size}")
    return rows // size
