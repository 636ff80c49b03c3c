"""Kinds of mistakes that names and order lead to, one small architecture for each."""

from __future__ import annotations

import pytest

from steepest.routing import conditions, outputs, places, projections, rules
from steepest.routing.table import Routing, route
from tests.routing.imitations import IMITATIONS

ROUTER = "router of a mixture of experts"


def said(routing: Routing, name: str) -> str:
    """What becomes of a parameter in a word: its matrices, or its kind; ? for a guess."""
    a = routing[name]
    return ("" if a.certain else "?") + (a.matrices or a.kind)


def answers() -> list[dict[str, str]]:
    """What routing says of every parameter of the imitations that a test names."""
    found = []
    for make, expected in IMITATIONS.values():
        routing = route(make())
        found.append({name: said(routing, name) for name in expected})
    return found


@pytest.mark.parametrize("name", IMITATIONS)
def test_an_imitation_is_routed_as_its_original_works(name: str) -> None:
    make, expected = IMITATIONS[name]
    routing = route(make())
    assert {n: said(routing, n) for n in expected} == expected


def test_routers_say_that_they_are() -> None:
    make, expected = IMITATIONS["routers"]
    routing = route(make())
    routed = [n for n in expected if "shared" not in n]
    assert {routing[n].reason for n in routed} == {ROUTER}


NEW_ROWS = [
    "positions, by the class of the module",
    "relative positions: a table, since its input is a single 1",
    "output of a branch of a detection head",
    "fused query, value and key in four parts",
    "fused projections, cut as the module tells",
    "a row of scores, key and value in one weight",
    "three parts in one weight, of which the output projection reads one",
    "two halves in one weight, of which the output projection reads one",
    "hidden layer, all of which the output projection reads",
    "one projection for key and value",
    "key and value, or one matrix for both: taken as one",
    "two halves in one weight, of which the next layer reads one",
    "stacked experts, two halves in one weight, of which the next layer reads one",
    "gate and up in one weight, by the class of the module",
    "mixes the streams of hyper-connections",
    "projection with an axis for heads",
    "named as an output, as large as the embedding",
    "named as an output, behind all blocks",
    "last layer, in a head",
    "end of a branch of the last module: hidden, or the output of a detection head?",
]


@pytest.mark.parametrize("reason", NEW_ROWS)
def test_an_imitation_needs_its_row(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = answers()
    kept = tuple(rule for rule in rules.RULES if rule.reason != reason)
    assert len(kept) < len(rules.RULES)
    monkeypatch.setattr(rules, "RULES", kept)
    assert answers() != before


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (outputs, "followed_by_norm", lambda *_: False),
        (outputs, "_has_named_head", lambda *_: False),
        (outputs, "_is_collection", lambda module: hasattr(module, "append")),
        (outputs, "_added", lambda *_: False),
        (outputs, "router", lambda *_: False),
        (outputs, "in_attention", lambda *_: False),
        (outputs.names, "FEED_FORWARD", "never"),
        (outputs.names, "HIDDEN", "never"),
        (outputs.names, "HEAD_PATH", "never"),
        (outputs.names, "OUTPUT_BLOCK", "never"),
        (projections, "_alternates", lambda *_: False),
        (places, "_of_positions", lambda *_: False),
        (places.ParameterPlace, "of_attention", True),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_imitation_needs_what_its_row_asks(
    where: object, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answers()
    monkeypatch.setattr(where, name, value)
    assert answers() != before


def test_parameters_called_query_are_projections_beside_a_key() -> None:
    make, _ = IMITATIONS["fused"]
    model = make()
    assert not conditions.no_projection(
        next(p for (p, *_) in places.ModelIndex(model).tied.values() if p.name == "raschka.query"),
        places.ModelIndex(model),
    )
