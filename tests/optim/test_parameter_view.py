"""What an optimizer says of its parameters to those who look from outside."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import steepest
from steepest import maps, norms
from steepest.views import LINEAR, MatrixView


class Small(nn.Module):
    """A fused projection, a gain and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12, bias=False)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5, bias=False)


def test_every_parameter_that_can_be_trained_is_there_once() -> None:
    model = Small()
    model.norm.bias.requires_grad_(False)
    optimizer = steepest.Muon(model, lr=0.1, weight_decay=0.5, polar=steepest.polar.Svd())
    views = {v.name: v for v in optimizer.parameter_views()}
    assert list(views) == ["qkv.weight", "head.weight", "norm.weight"]
    qkv = views["qkv.weight"]
    assert qkv.param is model.qkv.weight and qkv.group is optimizer.param_groups[0]
    assert qkv.view == MatrixView(split=3) and qkv.geometry == norms.Spectral(
        polar=steepest.polar.Svd()
    )
    assert [tuple(x.shape) for x in qkv.parts(qkv.param)] == [(3, 4, 4)]
    assert (qkv.weight_decay, qkv.lengths, qkv.why_none) == (0.5, (1.0,), "")
    assert qkv.radii == pytest.approx([2.0], rel=1e-5) and qkv.works_in == torch.float32
    assert qkv.momentum is None and not (qkv.maximize or qkv.cautious or qkv.projected)
    assert not optimizer.state, "nobody has looked"


def test_what_adamw_steps_has_no_geometry_and_no_ball() -> None:
    for v in steepest.Muon(Small(), adamw_weight_decay=0.1).parameter_views():
        assert v.adamw == (v.geometry is None) == (v.name != "qkv.weight")
        if v.adamw:
            assert (v.view, v.K, v.lengths) == (None, None, ())
            assert v.why_none and v.radii == [math.inf]
            assert v.parts(v.param)[0] is v.param


def test_it_is_as_the_optimizer_is_now() -> None:
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = steepest.SteepestDescent(
        [w], norms.Spectral(), lr=0.1, momentum=0.9, weight_decay=0.5, maximize=True
    )
    (view,) = optimizer.parameter_views()
    assert view.view == LINEAR and view.parts(w)[0] is w and view.maximize
    w.grad = torch.ones(2, 2)
    optimizer.step()
    (view,) = optimizer.parameter_views()
    assert view.momentum is optimizer.state[w]["momentum_buffer"]
    optimizer.param_groups[0]["weight_decay"] = 0.25
    assert view.radii == [pytest.approx(4, rel=0.1)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"weight_decay": 0.0}, "no weight decay"),
        ({"weight_decay": 0.1, "decay": "cautious"}, "cautious decay has no ball"),
        ({"weight_decay": 0.1, "decay": "cautious", "constraint": "project"}, ""),
        ({"weight_decay": 0.1, "scale": "dual", "sharpness": 1.0}, "follow the gradient"),
    ],
)
def test_why_there_is_no_ball(options, why) -> None:
    w = nn.Parameter(torch.ones(2, 2))
    lr = {} if "scale" in options else {"lr": 0.1}
    (view,) = steepest.SteepestDescent([w], norms.LInf(), **lr, **options).parameter_views()
    assert why in view.why_none and bool(view.why_none) == bool(why)
    assert view.radii == ([math.inf] if why else [10.0])


def test_a_map_without_a_domain_has_a_penalty() -> None:
    w = nn.Parameter(torch.ones(2, 2))
    optimizer = steepest.LionK([w], lr=0.1, weight_decay=0.1, K=maps.HalfSquare())
    (view,) = optimizer.parameter_views()
    assert view.why_none == f"{view.K}: decay is a penalty" and view.radii == [math.inf]
