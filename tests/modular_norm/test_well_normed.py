"""What the modular norm is for: a change of the weights moves the output by at most its norm."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from steepest import Atom, Chain, Parallel, Residual, modular, norms
from steepest.apps.train.model import Attention
from steepest.modular_norm.layers import _ENTRYWISE, sensitivity_of

REAL = torch.float64
SEEDS = st.integers(0, 2**32 - 1)


def rms(x: Tensor) -> Tensor:
    """Of each vector along the last axis."""
    return x.square().mean(-1).sqrt()


def unit(*shape: int) -> Tensor:
    """Random vectors of RMS 1."""
    x = torch.randn(*shape, dtype=REAL)
    return x / rms(x).unsqueeze(-1)


def most(model: nn.Module, n: norms.Modular, x: Tensor, u: Tensor) -> float:
    """The largest ⟨u, ∂y⟩/d over changes of the weights with n = 1, by the dual norm.

    For u of RMS 1 along ∂y this is the RMS of ∂y.
    """
    y = model(x)
    assert y.shape == u.shape
    (y * u).sum().div(u.shape[-1]).backward()
    gradient = {k: p.grad for k, p in model.named_parameters() if p.requires_grad}
    return float(n.dual({k: g for k, g in gradient.items() if g is not None}))


def derivative(model: nn.Module, x: Tensor, change: dict[str, Tensor]) -> Tensor:
    """What a change of the weights does to the output, to first order: Jᵀu is linear in u."""
    y = model(x)
    u = torch.zeros_like(y, requires_grad=True)
    pulled = torch.autograd.grad(y, list(model.parameters()), u, create_graph=True)
    (moved,) = torch.autograd.grad(pulled, u, [change[k] for k, _ in model.named_parameters()])
    return moved


def fitted(model: nn.Module, size: float = 1.0) -> nn.Module:
    """The model with random weights, each of this norm in its own norm."""
    n = modular(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(size * n.parts[name][0].init(p.shape, dtype=REAL))
    return model


class Bare(nn.Module):
    """Three layers with the identity for a matrix: all changes add up, nothing cancels."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        for name in "abc":
            layer = nn.Linear(4, 4, bias=False, dtype=REAL)
            nn.init.eye_(layer.weight)
            self.add_module(name, layer)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def at(value: Tensor, y: Tensor) -> Tensor:
    """`y` moved to a value of RMS 1, where the next layer reaches its bound; it changes as `y`."""
    return y + (value - y).detach()


ALIGNED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Any]] = {
    "chain": (lambda f, x: f.c(at(x, 3 * f.b(f.a(x)))), Chain("a", "b", 3.0, "c")),
    "parallel": (lambda f, x: f.a(at(x, f.b(x) + f.c(x))), Chain(Parallel("b", "c"), "a")),
    "before": (lambda f, x: f.a(f.c(x)) + f.b(f.c(x)), Chain("c", Parallel("a", "b"))),
    "residual": (
        lambda f, x: 0.25 * f.a(x) + 2 * f.b(f.c(f.a(x))),
        Chain("a", Residual(Chain("c", "b"), skip=0.25, branch=2.0)),
    ),
}


@pytest.mark.parametrize(("forward", "flow"), ALIGNED.values(), ids=ALIGNED)
@pytest.mark.parametrize("masses", [{}, {"a.weight": 3.0}])
def test_where_everything_is_aligned_the_bound_is_reached(
    forward: Callable[[Any, Tensor], Tensor], flow: Any, masses: dict[str, float]
) -> None:
    model, x = Bare(forward), unit(4)
    n = modular(model, flow={Bare: flow}, masses=masses)
    assert most(model, n, x, x) == pytest.approx(1.0)
    # Each layer takes its share of the movement, no more and no less.
    total = sum(masses.get(name, 1.0) for name in n.parts)
    for name, p in model.named_parameters():
        norm, s = n.parts[name]
        assert p.grad is not None
        assert float(norm.dual(p.grad)) / s == pytest.approx(masses.get(name, 1.0) / total)


@given(
    st.lists(st.integers(1, 6), min_size=2, max_size=5),
    st.sampled_from([nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.Identity]),
    st.booleans(),
    SEEDS,
)
def test_a_perceptron_moves_by_at_most_the_norm(
    widths: list[int], activation: type[nn.Module], bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inner, out in pairwise(widths):
        layers += [nn.Linear(inner, out, bias=bias, dtype=REAL), activation()]
    # With a bias of ½ beside a matrix of ½ no activation has an RMS above 1.
    model = fitted(nn.Sequential(*layers), 0.5 if bias else 1.0)
    n = modular(model)
    x, u = unit(widths[0]), unit(widths[-1])
    assert most(model, n, x, u) <= 1 + 1e-9
    change = {k: torch.randn_like(p) for k, p in model.named_parameters()}
    moved = derivative(model, x, change)
    assert float(rms(moved)) <= float(n(change)) * (1 + 1e-9)


def test_one_layer_moves_by_exactly_the_norm() -> None:
    for layer in (nn.Linear(3, 5, bias=False, dtype=REAL), nn.Linear(5, 3, dtype=REAL)):
        n = modular(layer)
        x, u = unit(layer.in_features), unit(layer.out_features)
        assert most(layer, n, x, u) == pytest.approx(1.0)


def test_an_embedding_is_measured_by_its_words() -> None:
    # torch stores one row a word.
    table = nn.Embedding(7, 4, dtype=REAL)
    n = modular(table).parts["weight"][0]
    w = table.weight.detach()
    assert float(n(w)) == pytest.approx(float(rms(w).max()))
    assert n.couples is norms.Coupling.ROWS
    assert float(norms.Operator(1, "rms")(w.T)) == pytest.approx(float(n(w)))
    assert torch.allclose(rms(n.dualize(w)), torch.ones(7, dtype=REAL))
    assert most(table, modular(table), torch.tensor(3), unit(4)) == pytest.approx(1.0)
    bag = nn.EmbeddingBag(7, 4, dtype=REAL)
    assert modular(bag).parts["weight"][0] == n
    same = unit(1, 4)
    assert most(bag, modular(bag), torch.tensor([[1, 2, 5]]), same) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"flow='0'.*mode='sum'.*Atom\('weight'"):
        modular(nn.Sequential(nn.EmbeddingBag(7, 4, mode="sum")))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_moves_by_the_norm_of_its_taps(kind: type[Any]) -> None:
    d = (nn.Conv1d, nn.Conv2d, nn.Conv3d).index(kind) + 1
    model = kind(3, 5, 2, bias=False, dtype=REAL)
    n = modular(model)
    assert n.parts == {"weight": (norms.Conv(d), 1.0)}
    at = unit(1, *[2] * d, 3).movedim(-1, 1)  # channels of RMS 1 at each of the 2^d positions

    class Pixel(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(5)

    whole = nn.Sequential(model, Pixel())
    n = modular(whole, sensitivities={Pixel: 1.0})
    assert most(whole, n, at, unit(5)) == pytest.approx(1.0)


def test_one_filter_a_channel_has_a_norm_and_other_groups_are_refused() -> None:
    model = nn.Conv2d(4, 4, 3, groups=4, bias=False, dtype=REAL)
    n = modular(model).parts["weight"][0]
    w = model.weight.detach()
    assert float(n(w)) == pytest.approx(9 * float(w.abs().max()))
    x = unit(1, 3, 3, 4).movedim(-1, 1)
    with torch.no_grad():
        model.weight.copy_(n.init(w.shape, dtype=REAL))
        assert float(rms(model(x).flatten())) <= 1
    for out in (4, 8):
        with pytest.raises(ValueError, match=r"flow='0': a convolution with groups=2.*masses="):
            modular(nn.Sequential(nn.Conv2d(4, out, 3, groups=2)))
    with pytest.raises(ValueError, match="groups=4"):
        modular(nn.Conv2d(4, 8, 3, groups=4))


@pytest.mark.parametrize(
    "make", [lambda: nn.LayerNorm(6), lambda: nn.RMSNorm(6), lambda: nn.GroupNorm(1, 6)]
)
def test_a_gain_is_a_diagonal_matrix(make: Callable[[], nn.Module]) -> None:
    layer = make().to(REAL)
    n = modular(layer)
    assert n.parts["weight"][0] == norms.LInf()
    x = torch.tensor([[9.0, -1, -2, -2, -2, -2]], dtype=REAL)  # one entry holds nearly everything
    y = layer(x).detach()
    u = y / rms(y).unsqueeze(-1)
    assert most(layer, n, x, u) <= 1 + 1e-6
    gain = dict(layer.named_parameters())["weight"].grad
    assert gain is not None
    assert float(norms.LInf().dual(gain)) == pytest.approx(1.0, abs=1e-4)
    assert float(norms.RMS().dual(gain)) > 2  # its RMS would not bound what a gain does


def test_biases_and_slopes() -> None:
    model = nn.Sequential(nn.PReLU(4), nn.LayerNorm(4), nn.BatchNorm1d(4))
    n = modular(model)
    assert {k: norm for k, (norm, _) in n.parts.items()} == {
        "0.weight": norms.LInf(),
        "1.weight": norms.LInf(),
        "1.bias": norms.RMS(),
        "2.weight": norms.LInf(),
        "2.bias": norms.RMS(),
    }
    assert [s for _, s in n.parts.values()] == pytest.approx([5.0] * 5)


def slopes(module: nn.Module) -> float:
    """The largest |f'| of an entrywise function, on a fine grid."""
    x = torch.linspace(-20, 20, 400_001, dtype=REAL, requires_grad=True)
    return float(torch.autograd.grad(module.to(REAL)(x).sum(), x)[0].abs().max())


SETTINGS = [
    *(nn.LeakyReLU(0.3), nn.LeakyReLU(-2.0), nn.ELU(0.5), nn.ELU(3.0), nn.CELU(2.0)),
    *(nn.GELU("tanh"), nn.Softplus(beta=5.0), nn.Hardtanh(-3.0, 2.0)),
]
ENTRYWISE = [*(kind() for kind in _ENTRYWISE), *SETTINGS]


@pytest.mark.parametrize("module", ENTRYWISE, ids=repr)
def test_sensitivities_of_activations_are_their_largest_slopes(module: nn.Module) -> None:
    told = sensitivity_of(module)
    assert told is not None
    assert slopes(module) <= told + 1e-8
    # At a kink a kernel may take the slope of either side: then a step of the grid, 1e-4, is
    # missing from a slope that grows by less than its length.
    assert told == pytest.approx(slopes(module), abs=1e-4)


def amplification(module: nn.Module, x: Tensor) -> float:
    """The largest singular value of the derivative."""
    jacobian = torch.autograd.functional.jacobian(module, x)
    return float(torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2))


def test_a_normalisation_has_sensitivity_1_where_its_input_has_size_1() -> None:
    for module in (nn.LayerNorm(6), nn.RMSNorm(6, eps=1e-9), nn.GroupNorm(1, 6)):
        x = torch.randn(1, 6, dtype=REAL)
        x = x - x.mean()
        x = x / rms(x)
        assert sensitivity_of(module) == pytest.approx(amplification(module.to(REAL), x), rel=1e-3)
        assert amplification(module.to(REAL), 4 * x) == pytest.approx(1 / 4, rel=1e-3)


def test_poolings_move_and_average() -> None:
    x = torch.randn(1, 3, 6, dtype=REAL)
    changes = unit(1000, 6, 3).mT  # RMS 1 over channels at each position
    for module in (nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout()):
        assert sensitivity_of(module) == 1
        moved = module.eval()(changes)
        assert float(moved.square().mean(1).sqrt().max()) <= 1 + 1e-9
    pool = nn.MaxPool1d(2)
    assert sensitivity_of(pool) == 1
    near = pool(x + 1e-3 * torch.ones_like(x)) - pool(x)
    assert float(near.abs().max()) == pytest.approx(1e-3)
    assert sensitivity_of(nn.AvgPool2d(2)) == 1
    assert sensitivity_of(nn.AvgPool2d(2, divisor_override=1)) is None
    assert sensitivity_of(nn.Softmax(-1)) is None


def test_attention_with_the_papers_scale_has_the_sensitivity_that_the_gpt_states() -> None:
    # The largest change over changes of q, k and v with RMS 1 together at each position.
    (_, told, _) = Attention.steepest_flow.parts
    time, width = 5, 4
    largest = 0.0
    for _ in range(200):
        qkv = unit(time, 3, width).requires_grad_()
        q, k, v = qkv.movedim(-2, 0)
        y = F.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=True, scale=1 / width
        )
        (gradient,) = torch.autograd.grad((y[0, -1] * unit(width)).sum() / width, qkv)
        largest = max(largest, float(gradient.flatten(1).norm(dim=1).sum()) * math.sqrt(3 * width))
    assert 1 < largest <= told


def test_a_whole_network_with_a_residual_stream() -> None:
    depth, width = 3, 4

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, width, dtype=REAL)
            self.blocks = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(width, 8, bias=False, dtype=REAL),
                    nn.ReLU(),
                    nn.Linear(8, width, bias=False, dtype=REAL),
                )
                for _ in range(depth)
            )
            self.shift = nn.Parameter(torch.zeros(width, dtype=REAL))
            self.head = nn.Linear(width, 3, bias=False, dtype=REAL)

        steepest_flow = Chain(
            "table",
            *(Residual(f"blocks.{i}", skip=2 / 3, branch=1 / 3) for i in range(depth)),
            Atom("shift", norms.RMS()),
            "head",
        )

        def forward(self, ids: Tensor) -> Tensor:
            x = self.table(ids)
            for block in self.blocks:
                x = 2 / 3 * x + 1 / 3 * block(x)
            y: Tensor = self.head(x + self.shift)
            return y

    for _ in range(20):
        model = fitted(Stack())
        with torch.no_grad():
            model.shift.zero_()
        n = modular(model, masses={"blocks": 5.0})
        found = most(model, n, torch.tensor(2), unit(3))
        assert 0 < found <= 1 + 1e-9
