"""The products of a forward pass, against what they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steepest.diagnostics.geometry.layer_products import RecordedCalls, squares

MODULES = {
    "linear": (nn.Linear(3, 4, bias=False), (2, 5, 3)),
    "one sample": (nn.Linear(3, 4, bias=False), (3,)),
    "conv1d": (nn.Conv1d(4, 6, 3, 2, 1, dilation=2, groups=2, bias=False), (2, 4, 11)),
    "circular": (
        nn.Conv2d(3, 5, (3, 2), (2, 1), (1, 2), padding_mode="circular", bias=False),
        (2, 3, 7, 6),
    ),
    "same": (
        nn.Conv2d(4, 4, (3, 5), padding="same", dilation=2, groups=4, bias=False),
        (2, 4, 7, 6),
    ),
    "valid": (nn.Conv2d(4, 4, 2, padding="valid", bias=False), (2, 4, 3, 3)),
    "conv3d": (nn.Conv3d(2, 4, 2, padding=1, bias=False), (2, 2, 4, 4, 3)),
    "one image": (nn.Conv2d(2, 4, 2, bias=False), (2, 4, 4)),
}


@pytest.mark.parametrize("name", MODULES)
def test_an_input_times_the_weight_is_the_output(name):
    module, shape = MODULES[name]
    module = module.double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    with RecordedCalls({"w": module.weight}) as calls:
        z = module(x)
    (call,) = calls.of["w"]
    product = call.product
    assert product.to_columns is not None
    (w,) = product.view.matrices(module.weight)
    a = product.to_columns(product.source)
    if "linear" in name or name == "one sample":
        wanted = z.reshape(-1, z.shape[-1]).mT
    else:
        wanted = (z if z.ndim == module.weight.ndim else z[None]).movedim(1, 0).flatten(1)
    torch.testing.assert_close((w @ a).flatten(0, 1), wanted, rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(a).square()
    torch.testing.assert_close(squares([product]), values, rtol=1e-9, atol=1e-9)


class Products(nn.Module):
    """Every way of multiplying by a weight of shape in × out, and one that nobody sees."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 4))
        self.b = nn.Parameter(torch.ones(4))

    def forward(self, x):
        seen = [x @ self.w, torch.matmul(x, self.w), x.matmul(self.w)]
        return sum(seen) + torch.addmm(self.b, x, self.w) + F.linear(x, self.w.T)


def test_products_without_a_module_are_seen():
    model = Products()
    with RecordedCalls({"w": model.w}) as calls:
        model(torch.ones(2, 3))
    assert len(calls.of["w"]) == 4
    for call in calls.of["w"]:
        assert call.product.to_columns is not None
        (w,) = call.product.view.matrices(model.w)
        assert tuple((w @ call.product.to_columns(call.product.source)).shape) == (1, 4, 2)
    model(torch.ones(2, 3))
    assert len(calls.of["w"]) == 4, "outside of the context nothing is kept"


def test_what_follows_in_place_leaves_the_output_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    with RecordedCalls({"0": model[0].weight}) as calls:
        model(x)
    output = calls.of["0"][0].output
    assert bool((output < 0).any())
    torch.testing.assert_close(output, model[0](x))


def test_indices_count():
    model = nn.Embedding(5, 3, padding_idx=-1)
    with RecordedCalls({"e": model.weight}) as calls:
        model(torch.tensor([[1, 1, 0], [4, 4, 4]]))
        model(torch.tensor([1, 3]))
    products = [call.product for call in calls.of["e"]]
    assert squares(products).tolist() == [[3.0, 1.0, 1.0, 0.0, 0.0]]


def test_a_call_feeds_another():
    layer = nn.Linear(3, 3)
    x = torch.ones(2, 3)
    with RecordedCalls({"w": layer.weight}) as calls:
        layer(torch.tanh(layer(x)))
        layer(x)
    first, second, third = calls.of["w"]
    assert first.feeds(second)
    assert not second.feeds(first) and not first.feeds(third)
