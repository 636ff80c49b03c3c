"""A loss at one point: derivatives against autograd's own, every form of parameters, refusals."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from steepest.diagnostics.curvature.loss import LossAt, dot, named
from tests.diagnostics.dense import dense_hessian, flat
from tests.refusals import assert_refused


def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    return model, lambda: (model(x) - y).square().mean()


def test_products_are_those_of_the_dense_hessian():
    model, loss = small()
    point = LossAt(loss, model)
    params = dict(model.named_parameters())
    v = {k: torch.randn_like(p) for k, p in params.items()}
    for names in (list(v), ["0.weight"], ["0.bias", "2.weight"]):
        found = point.hvp({k: v[k] for k in names})
        assert list(found) == names
        want = dense_hessian(loss, [params[k] for k in names]) @ flat([v[k] for k in names])
        torch.testing.assert_close(flat(found.values()), want, rtol=1e-10, atol=1e-12)
    assert point.value == pytest.approx(float(loss().detach()), rel=1e-15)
    loss().backward()
    for k, p in model.named_parameters():
        torch.testing.assert_close(point.grad[k], p.grad, rtol=1e-12, atol=1e-14)
    assert dot(v, {"0.bias": v["0.bias"]}) == pytest.approx(float(v["0.bias"].square().sum()))


def test_attention_has_a_second_derivative_and_unused_or_linear_parameters_have_none():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    point = LossAt(lambda: layer(x).square().mean(), layer)
    assert float(point.hvp(point.grad)["self_attn.in_proj_weight"].abs().max()) > 0
    a, b, unused = (torch.ones(2, requires_grad=True) for _ in range(3))

    def loss():
        return (a.square() + 3 * b).sum()

    point = LossAt(loss, [a, b, unused])
    found = point.hvp({k: torch.ones(2) for k in "012"})
    assert [h.tolist() for h in found.values()] == [[2, 2], [0, 0], [0, 0]]
    assert point.hvp({"1": torch.ones(2)})["1"].tolist() == [0, 0]
    assert a.grad is None


def test_parameters_and_directions_come_in_every_form():
    model, loss = small()
    pairs = list(model.named_parameters())
    for form in (model, pairs, dict(pairs)):
        assert list(named(form)) == ["0.weight", "0.bias", "2.weight"]
    assert list(named(model.parameters())) == ["0", "1", "2"]
    model[0].bias.requires_grad_(False)
    assert list(named(model)) == ["0.weight", "2.weight"]
    point = LossAt(loss, model)
    ones = [torch.ones(4, 3), torch.ones(2, 4)]
    assert list(point.direction(ones)) == ["0.weight", "2.weight"]
    assert point.direction({"2.weight": ones[1]})["2.weight"].dtype == torch.float64
    w = torch.ones(2, requires_grad=True)
    assert LossAt(w.sum, w).direction(torch.ones(2))["0"].tolist() == [1, 1]


def test_refused():
    w = torch.ones(2, requires_grad=True)
    for loss, value, remedy in (
        (lambda: w * 2, "loss='shape 2'", "return one number"),
        (lambda: float(w.detach().sum()), "loss='float'", "as a tensor"),
        (lambda: w.sum().detach(), "loss='no graph'", "without .item()"),
        (lambda: w.sum() / 0, "loss=inf", "finite"),
    ):
        assert_refused(partial(LossAt, loss, w), value, remedy)
    for params, value, remedy in (
        (w.detach(), "nothing to differentiate", "requires_grad=True"),
        (nn.Linear(2, 2).half(), "weight in torch.float16", "model.float()"),
        ([("a", w), ("a", w)], "'a'", "each name once"),
    ):
        assert_refused(partial(named, params), value, remedy)
    point = LossAt(w.sum, w)
    for direction, value, remedy in (
        ({"x": w}, "direction=['x']", "some of the names ['0']"),
        ([w, w], "2 tensors", "give 1"),
        (torch.ones(3), "0 of shape 3", "of the parameter, 2"),
    ):
        assert_refused(partial(point.direction, direction), value, remedy)
