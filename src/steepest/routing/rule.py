"""A rule of routing, and the words in which the table of rules is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from steepest.routing.conditions import (
    Condition,
    Layout,
    Rows,
    View,
    natural_view,
)

Target: TypeAlias = Literal["matrix", "table", "vector", "constant"]
"""Destination of a parameter: "matrix" moves in a norm of matrices; "table", an embedding or an
output head, goes to AdamW with weight decay; "vector" to AdamW without; "constant", integers,
nowhere."""

Kind: TypeAlias = Literal["hidden", "embedding", "head", "vector", "constant"]
"""Part of a parameter in the model, which tells the two kinds of tables apart."""

KINDS: dict[Target, Kind] = {"matrix": "hidden", "vector": "vector", "constant": "constant"}
"""The kind of what a target takes; of tables there are two, so the rule says which."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the table.

    Args:
        target: the destination of the parameter.
        kind: the part that the parameter has in the model.
        reason: the explanation for the printed table.
        when: conditions, all of which must hold.
        view: the parameter as matrices.
        query: rows that belong to queries, by which heads are counted; None where there are none
            to count, 0 where the rule cannot tell.
        layout: the layout of the heads where the module tells it; None where the rows are counted.
        settle: the override that settles a guess; empty where the rule is sure.
    """

    target: Target
    kind: Kind
    reason: str
    when: tuple[Condition, ...]
    view: View
    query: Rows | None = None
    layout: Layout | None = None
    settle: str = ""


def matrix(
    reason: str,
    *when: Condition,
    view: View = natural_view,
    query: Rows | None = None,
    layout: Layout | None = None,
) -> Rule:
    """A row that sends matrices to the polar factor."""
    return Rule(
        target="matrix",
        kind="hidden",
        reason=reason,
        when=when,
        view=view,
        query=query,
        layout=layout,
    )


def table(reason: str, *when: Condition, kind: Kind = "head") -> Rule:
    """A row for output heads, or for embeddings."""
    return Rule(target="table", kind=kind, reason=reason, when=when, view=natural_view)


def vector(reason: str, *when: Condition) -> Rule:
    """A row for biases, gains and other parameters that are not matrices."""
    return Rule(target="vector", kind="vector", reason=reason, when=when, view=natural_view)


def guess(
    target: Target,
    reason: str,
    *when: Condition,
    settle: str,
    view: View = natural_view,
    query: Rows | None = None,
) -> Rule:
    """A row for what the module tree does not show."""
    return Rule(
        target=target,
        kind=KINDS[target],
        reason=reason,
        when=when,
        view=view,
        query=query,
        settle=settle,
    )
