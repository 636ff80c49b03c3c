"""The spectra of a model: which matrices there are, and of what."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from steepest import Muon
from steepest.diagnostics import input_spectra, layer_spectra
from tests.refusals import assert_refused


class Tied(nn.Module):
    """A convolution, attention with a fused projection, and a table that is its own head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.table = nn.Embedding(11, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.table.weight
        self.unused = nn.Linear(6, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv(image).flatten(2).mT
        x = self.norm(x + self.attention(x, x, x)[0])
        return self.head(x)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(
        torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    ).square().mean().backward()
    optimizer.step()


QKV = [f"attention.in_proj_weight[{i}]" for i in range(3)]
USED = ["conv.weight", *QKV, "attention.out_proj.weight", "table.weight"]


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, Muon])
def test_every_matrix_of_a_model_once(make):
    model = Tied()
    options = {"momentum": 0.9} if make is torch.optim.SGD else {}
    optimizer = make(model if make is Muon else model.parameters(), lr=0.01, **options)
    assert (
        layer_spectra(model, of="gradients") == {} == layer_spectra(model, optimizer, of="momentum")
    )
    stepped(model, optimizer)
    size = len(optimizer.state)
    for of in ("gradients", "momentum"):
        assert list(layer_spectra(model, optimizer, of=of)) == USED
    found = layer_spectra(model, optimizer)
    assert sorted(found) == sorted([*USED, "unused.weight"])
    assert len(optimizer.state) == size, "looking makes no state"
    assert found["conv.weight"].shape == (6, 18)
    expected = torch.linalg.svdvals(model.attention.in_proj_weight.detach()[6:12].double())
    assert torch.allclose(found[QKV[1]].values, expected, rtol=1e-12)
    # One step from zero: the average is a multiple of the gradient.
    gradient, momentum = (
        layer_spectra(model, optimizer, of=of)["conv.weight"] for of in ("gradients", "momentum")
    )
    assert momentum.nuclear_rank == pytest.approx(gradient.nuclear_rank, rel=1e-5)


def test_pairs_and_options():
    torch.manual_seed(0)
    w, b = nn.Parameter(torch.randn(30, 20)), nn.Parameter(torch.randn(20))
    found = layer_spectra([("w", w), ("b", b)], method="randomised", probes=4)
    assert list(found) == ["w"] and found["w"].values is None
    w.data[0, 0] = math.nan
    assert layer_spectra([("w", w), ("b", b)]) == {}


def test_refused():
    model = nn.Linear(2, 3)
    assert_refused(lambda: layer_spectra(model, of="momentum"), "optimizer=None", "momentum")


def test_inputs_are_what_each_weight_multiplies():
    model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(36, 5)).double()
    images = torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    table = nn.Embedding(6, 3, padding_idx=0)
    before = torch.get_rng_state()
    found = input_spectra(model, lambda: model(images))
    assert list(found) == ["0.weight[0]", "0.weight[1]", "2.weight"]
    patches = nn.functional.unfold(images[:, 1:], 3).movedim(0, -1).flatten(1)
    given = model[1](model[0](images)).detach()
    for name, a in (("0.weight[1]", patches), ("2.weight", given.mT)):
        assert found[name].shape == tuple(a.shape)
        assert torch.allclose(found[name].values, torch.linalg.svdvals(a), rtol=1e-10)
    words = torch.tensor([[1, 1, 1, 4], [4, 0, 5, 0]])
    (one,) = input_spectra(table, lambda: table(words)).values()
    assert one.shape == (6, 8) and one.stable_rank == pytest.approx(6 / 3)
    assert one.values.tolist() == pytest.approx([3**0.5, 2**0.5, 1, 0, 0, 0])
    assert input_spectra(model, lambda: None) == {} and table.weight.grad is None
    assert input_spectra(model, lambda: model(images * math.nan)) == {}
    assert torch.equal(torch.get_rng_state(), before)


def test_looking_at_the_inputs_leaves_buffers_and_random_numbers_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(), nn.Linear(5, 3))
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    state, x = torch.get_rng_state(), torch.arange(24.0).reshape(6, 4)
    assert list(input_spectra(model, lambda: model(x))) == ["0.weight", "3.weight"]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(b, buffers[name]) for name, b in model.named_buffers())


def test_a_sparse_gradient_has_a_spectrum() -> None:
    table = nn.Embedding(7, 4, sparse=True)
    table(torch.tensor([1, 1, 2])).sum().backward()
    found = layer_spectra(table, of="gradients")["weight"]
    assert found.spectral_norm == pytest.approx(math.sqrt(20))
