"""Parameters that come with their names and without their module."""

from itertools import chain

import pytest
import torch
from torch import nn

import steepest
from steepest.routing.by_name import route_by_name


def targets(*names):
    pairs = [(name, torch.zeros(8, 8)) for name in names]
    routing = route_by_name(pairs)
    assert [a.name for a in routing] == list(names)
    assert all(p is given for p, (_, given) in zip(routing.parameters, pairs, strict=True))
    return [a.target for a in routing]


@pytest.mark.parametrize(
    "names",
    [
        ("forward.weight", "up.weight"),
        ("a.forward.weight", "a.weight"),
        ("a", "a.weight"),
        ("a.weight", "a.weight.weight"),
        ("up.weight", "training.down.weight"),
        ("a..weight", "a.b.weight"),
        (".a.weight", "a.weight"),
        ("a.", "a.weight"),
        ("a.children.0.weight", "a.children.1.weight"),
    ],
)
def test_names_that_are_no_paths_of_attributes_are_routed(names):
    assert targets(*names) == ["matrix", "matrix"]


@pytest.mark.parametrize("name", ["", ".", "..", "forward", "0", "_parameters.x"])
def test_any_name_is_a_name(name):
    targets(name, "up.weight")


def two(*more):
    first = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))
    second = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8), *more)
    return first, second


def test_two_models_with_the_same_names_are_routed_each_by_itself():
    models = two(nn.Linear(8, 4))
    routing = route_by_name(list(chain(*(m.named_parameters() for m in models))))
    assert [a.name for a in routing] == [n for m in models for n, _ in m.named_parameters()]
    assert [p for m in models for p in m.parameters()] == list(routing.parameters)
    alone = [route_by_name(list(m.named_parameters())) for m in models]
    assert [a.target for a in routing] == [a.target for r in alone for a in r]


def test_groups_that_alternate_between_models_are_put_together():
    models = [{f"{i}.up": nn.Linear(8, 8) for i in (0, 1)} for _ in range(2)]
    groups = [
        {"params": [(f"{name}.{kind}", getattr(m, kind)) for name, m in model.items()]}
        for kind in ("weight", "bias")
        for model in models
    ]
    routing = steepest.Muon(groups).routing
    assert [a.target for a in routing] == ["matrix"] * 4 + ["vector"] * 4


def test_a_pattern_may_decide_in_one_of_two_models_alone():
    pairs = list(chain(*(m.named_parameters() for m in two(nn.Linear(8, 4)))))
    routing = route_by_name(pairs, overrides={"3.weight": "adamw", "0.weight": "adamw"})
    assert [a.target for a in routing if a.name == "3.weight"] == ["table"]
    assert [a.target for a in routing if a.name == "0.weight"] == ["table", "table"]
    with pytest.raises(ValueError, match="nowhere"):
        route_by_name(pairs, overrides={"nowhere": "adamw"})


def test_heads_are_those_of_the_model_that_has_some():
    attention = [(f"attn.{k}_proj.weight", torch.zeros(8, 8)) for k in "qkv"]
    plain = [("up.weight", torch.zeros(8, 8)), ("attn.q_proj.weight", torch.zeros(8))]
    for pairs in ([*attention, *plain], [*plain, *attention]):
        found = [
            a.matrices for a in route_by_name(pairs, heads=2) if a.name == "attn.q_proj.weight"
        ]
        assert "2 × 4×8" in found
    with pytest.raises(ValueError, match="heads"):
        route_by_name([*plain, *((n, torch.zeros(8)) for n, _ in plain)], heads=2)


@pytest.mark.parametrize("names", ["ab", "aa"])
def test_a_parameter_given_twice_is_refused(names):
    p = torch.zeros(8, 8)
    with pytest.raises(ValueError, match="a parameter twice"):
        route_by_name([(name, p) for name in names])


@pytest.mark.parametrize(("rows", "matrices"), [(24, "3 × 8×8"), (16, "16×8"), (20, "20×8")])
def test_a_fused_projection_is_attention_if_its_rows_divide_by_three(rows, matrices):
    pairs = [
        ("attn.in_proj_weight", torch.zeros(rows, 8)),
        ("attn.out_proj.weight", torch.zeros(8, 8)),
    ]
    first = next(iter(route_by_name(pairs)))
    assert first.matrices == matrices
    assert first.certain == (rows == 24)
