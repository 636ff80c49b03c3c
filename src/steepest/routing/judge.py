"""The answer of the table of rules for one parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steepest.routing import rules
from steepest.routing.conditions import HeadLayout
from steepest.routing.places import ModelIndex, ParameterPlace
from steepest.routing.rule import Kind, Rule, vector
from steepest.views import MatrixView


@dataclass(frozen=True, kw_only=True)
class RuleMatch:
    """The answer of the table for one parameter.

    Args:
        rule: the row that decided.
        kind: the kind that the row says; of an embedding that is an output head too, "embedding".
        reason: its reason, with the names the parameter shares.
        layer: whether the parameter is the weight of a linear map or a convolution.
        view: the parameter as matrices, whatever the target is; None below two axes.
        query: rows that belong to queries; None where there are no heads to count.
        layout: the layout of the heads, where the module tells it.
    """

    rule: Rule
    kind: Kind
    reason: str
    layer: bool
    view: MatrixView | None
    query: int | None
    layout: HeadLayout | None = None


# Not a row: only the view that a row gives can tell.
_THIN = vector("every matrix would be a single row or column")


def _row(place: ParameterPlace, model: ModelIndex) -> Rule:
    """The first row that holds."""
    rule = next(rule for rule in rules.RULES if all(c(place, model) for c in rule.when))
    if rule.target == "matrix":
        shapes = rule.view(place, model).shapes(place.shape)
        if all(min(rows, cols) == 1 for _, rows, cols in shapes):
            return _THIN
    return rule


def judge(places: Sequence[ParameterPlace], model: ModelIndex) -> RuleMatch:
    """The answer of the table for a parameter that lives in these places.

    A parameter that is a table anywhere is a table: the other place reads the same rows.
    """
    rows = [_row(place, model) for place in places]
    first = next((i for i, rule in enumerate(rows) if rule.target == "table"), 0)
    rule, place = rows[first], places[first]
    kind = "embedding" if any(row.kind == "embedding" for row in rows) else rule.kind
    reason = rule.reason
    if len(places) > 1:
        others = [s.name for s in places if s is not place]
        reason += f", shared with {', '.join(others)}"
    view = rule.view(place, model) if place.ndim > 1 else None
    query = rule.query(place, model) if rule.query and view else None
    return RuleMatch(
        rule=rule,
        kind=kind,
        reason=reason,
        layer=place.layer,
        view=view,
        query=query,
        layout=rule.layout(place, model) if rule.layout and view else None,
    )
