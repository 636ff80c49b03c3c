"""`matrix_views`: who decides which matrices a parameter is, in which order."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

import steepest
from steepest.routing import matrix_views, route
from steepest.views import EXPERTS, INPUT_FIRST, LINEAR, MatrixView, conv, default_view
from tests.refusals import assert_refused
from tests.routing import zoo


class Small(nn.Module):
    """An embedding, a fused projection, a convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.qkv = nn.Linear(4, 12)
        self.conv = nn.Conv2d(4, 6, 3)
        self.head = nn.Linear(6, 9)


QKV, CONV, EMBED, HEAD = (f"{name}.weight" for name in ("qkv", "conv", "embed", "head"))
ROUTED = {QKV: MatrixView(split=3), CONV: conv(2)}


def test_without_anybody_else_the_routing_decides() -> None:
    model = Small()
    assert matrix_views(model) == ROUTED == matrix_views(route(model))
    assert matrix_views(model, optimizer=torch.optim.AdamW(model.parameters())) == ROUTED
    assert list(matrix_views(model)) == [QKV, CONV]
    heads = route(model, heads=2, overrides={HEAD: "matrix"})
    assert matrix_views(heads) == {QKV: MatrixView(split=6), CONV: conv(2), HEAD: LINEAR}


@pytest.mark.parametrize(
    "make", [Small, zoo.sequential, zoo.vgg, zoo.GroupedExperts, zoo.PairedExperts]
)
def test_it_is_what_route_calls_a_matrix(make) -> None:
    model = make()
    assert matrix_views(model) == {a.name: a.view for a in route(model) if a.target == "matrix"}


def test_tables_are_looked_at_by_their_axes() -> None:
    model = Small()
    every = {EMBED: LINEAR, **ROUTED, HEAD: LINEAR}
    assert matrix_views(model, tables=True) == every
    assert matrix_views(model, optimizer=steepest.Muon(model), tables=True) == every
    stays = route(model, overrides={QKV: "adamw"})
    muon = steepest.Muon(stays)
    assert matrix_views(model, optimizer=muon) == {CONV: conv(2)}
    # What AdamW has is still three matrices to look at.
    assert matrix_views(model, optimizer=muon, tables=True) == every


def test_an_optimizer_that_moves_matrices_knows_better() -> None:
    model = Small()
    ours = route(model, overrides={QKV: MatrixView(rows=(1,), cols=(0,)), HEAD: "matrix"})
    seen = matrix_views(model, optimizer=steepest.Muon(ours))
    assert seen == {QKV: INPUT_FIRST, CONV: conv(2), HEAD: LINEAR}
    # torch's takes whatever has two axes as one matrix.
    theirs = torch.optim.Muon([model.qkv.weight])
    assert matrix_views(model, optimizer=theirs) == {QKV: LINEAR, CONV: conv(2)}
    # Entries, and the kernels of Scion, are not matrices to the step: then the routing decides.
    assert matrix_views(model, optimizer=steepest.SignSGD(model, lr=0.1)) == ROUTED
    scion = matrix_views(model, optimizer=steepest.Scion(model, lr=0.1))
    assert scion == {EMBED: LINEAR, **ROUTED, HEAD: LINEAR}


def test_views_are_stronger_than_both() -> None:
    model = Small()
    given = {"q*": None, "*.weight": MatrixView(rows=(0, 1), cols=(2, 3))}
    for optimizer in (None, steepest.Muon(model)):
        found = matrix_views(model.conv, optimizer=optimizer, views={"weight": given["*.weight"]})
        assert found == {"weight": given["*.weight"]}
        assert matrix_views(model, optimizer=optimizer, views={QKV: None}) == {CONV: conv(2)}
        assert matrix_views(model, optimizer=optimizer, views={HEAD: LINEAR}).keys() == {
            *ROUTED,
            HEAD,
        }


def test_tensors_without_a_module_are_what_their_axes_say() -> None:
    named = {"x": torch.ones(3), "w": torch.ones(3, 2), "e": torch.ones(2, 3, 3)}
    assert matrix_views(named) == matrix_views(named.items()) == {"w": LINEAR}
    assert matrix_views(iter(named.items()), views={"e": EXPERTS}) == {"w": LINEAR, "e": EXPERTS}
    assert matrix_views([]) == {}
    assert [default_view(n) for n in range(6)] == [None, None, LINEAR, None, conv(2), conv(3)]


def test_a_tied_parameter_has_its_first_name_and_answers_to_each() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert list(matrix_views(model)) == ["0.weight", "2.weight"]
    assert list(matrix_views(model, views={"1.weight": None})) == ["2.weight"]


@pytest.mark.usefixtures("unchecked")
def test_refused() -> None:
    model = Small()
    for views, value, remedy in (
        ({"w": None}, "views=['w']", "give some of the names"),
        ({"*": None, QKV: None}, f"views={QKV!r}", "put it before them"),
        ({QKV: conv(2)}, "views=MatrixView(", "qkv.weight does not fit it"),
    ):
        assert_refused(partial(matrix_views, model, views=views), value, remedy)
    assert_refused(partial(matrix_views, list(model.parameters())), "model='list'", "pairs")
