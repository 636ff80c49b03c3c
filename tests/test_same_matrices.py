"""Every instrument sees the same matrices, and a rule of routing that changes changes them all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

import steepest
from steepest import diagnostics, norms
from steepest.apps.bench import gradients
from steepest.apps.reproduce.directional_sharpness import networks
from steepest.apps.reproduce.spectral_constraint.networks import enlarge
from steepest.apps.train.optimizers import TorchMuon, recipe
from steepest.routing import conditions, matrix_views, rules
from steepest.views import MatrixView

WIDTH = 6


class Experts(nn.Module):
    """Two linear maps in one parameter with three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eoi,bti->bto", self.weight, x)


class Attention(nn.Module):
    """Queries, keys and values by one projection, as timm has it."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 2
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.proj = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(torch.softmax(q @ k.mT, -1) @ v)


class Block(nn.Module):
    """Attention, a convolution and experts, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.experts = Experts()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x)
        side = x.mT.unflatten(-1, (4, 4))
        return x + self.experts(x + self.conv(side).flatten(2).mT)


class Net(nn.Module):
    """A block with an output head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block()])
        self.head = nn.Linear(WIDTH, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Without a function of single entries all gradients would have the rank of the head.
        return self.head(self.blocks[0](x).tanh().mean(1))


QKV, PROJ, CONV, EXPERTS = (
    f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "conv", "experts")
)
# (how many, rows, columns) of each stack, written down by hand.
USUAL = {
    QKV: [(3, 6, 6)],
    PROJ: [(1, 6, 6)],
    CONV: [(1, 6, 54)],
    EXPERTS: [(2, 6, 6)],
}
CHANGED = {
    QKV: [(1, 12, 6), (1, 6, 6)],
    CONV: [(3, 2, 54)],
    EXPERTS: [(6, 2, 6)],
}
RULES = (
    rules.matrix(
        "two of them in one",
        conditions.given_name("qkv"),
        view=lambda place, _: place.cut((2 * WIDTH, WIDTH)),
    ),
    rules.matrix("by threes", conditions.given_name("conv"), view=conditions.cut(3)),
    rules.matrix("by threes", conditions.axes(3), view=conditions.cut(3)),
    rules.table("a table", conditions.given_name("proj")),
)

Sigmas = dict[str, list[float]]


def made() -> tuple[Net, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = Net().double()
    x, y = torch.randn(8, 16, WIDTH, dtype=torch.float64), torch.arange(8) % 3
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def falling(matrices: list[Tensor]) -> list[float]:
    """All singular values of stacks of matrices together, falling."""
    values = torch.cat([torch.linalg.svdvals(x).flatten() for x in matrices])
    return values.sort(descending=True).values.tolist()


def sigmas(tensors: Mapping[str, Tensor], views: Mapping[str, MatrixView | None]) -> Sigmas:
    """All singular values of each tensor that is viewed as matrices."""
    return {n: falling(view.matrices(tensors[n].detach())) for n, view in views.items() if view}


def of_groups() -> tuple[nn.Module, Sigmas]:
    """The parameters that Muon moves."""
    model, _ = made()
    names = {p: n for n, p in model.named_parameters()}
    views = {names[p]: view for p, view in steepest.Muon(model).views().items()}
    return model, sigmas(dict(model.named_parameters()), views)


def of_parameters() -> tuple[nn.Module, Sigmas]:
    """`parameter_views()` of an optimizer, by their parts."""
    model, _ = made()
    seen = [v for v in steepest.Muon(model).parameter_views() if v.geometry is not None]
    return model, {v.name: falling(v.parts(v.param.detach())) for v in seen}


def of_layer_spectra(build: Callable[[nn.Module], object] | None) -> tuple[nn.Module, Sigmas]:
    """`layer_spectra`, of a model alone or under an optimizer."""
    model, _ = made()
    optimizer = build(model) if build else None
    found: Sigmas = {}
    for name, one in diagnostics.layer_spectra(model, optimizer, method="exact").items():
        assert one.values is not None
        found[name.partition("[")[0]] = [*found.get(name.partition("[")[0], []), *one.values]
    return model, {k: sorted(map(float, v), reverse=True) for k, v in found.items()}


def of_constraint_spectra() -> tuple[nn.Module, Sigmas]:
    """The magnitudes that a ball bounds; all matrices of a model are in balls of one radius."""
    model, _ = made()
    optimizer = steepest.SteepestDescent(model, norms.Spectral(), lr=0.1, weight_decay=0.1)
    spectra = diagnostics.constraint_spectra(model, optimizer)
    return model, {s.name: s.values.tolist() for s in spectra}


def of_constraint_report() -> tuple[nn.Module, Sigmas]:
    """The norms of a report: the largest singular values."""
    model, _ = made()
    optimizer = steepest.SteepestDescent(model, norms.Spectral(), lr=0.1, weight_decay=0.1)
    return model, {row.name: [row.norm] for row in diagnostics.constraint_report(model, optimizer)}


def of_monitor(
    build: Callable[[nn.Module], torch.optim.Optimizer],
) -> tuple[nn.Module, Sigmas]:
    """The singular values in the records of a monitor."""
    model, loss = made()
    optimizer = build(model)
    with diagnostics.Monitor(model, optimizer, every=1, quiet=True) as monitor:
        loss().backward()
        optimizer.step()
    layers = {n.removesuffix(".weight"): n for n, _ in model.named_parameters()}
    record = monitor.records[0]
    keys = [k for k in record if k.endswith("/weight_sigmas")]
    found = {layers[k.removesuffix("/weight_sigmas")]: record[k] for k in keys}
    return made()[0], found


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


# Those with `True` look at tables too, such as the head, which are then one matrix of out × in.
INSTRUMENTS: dict[str, tuple[Callable[[], tuple[nn.Module, Sigmas]], bool]] = {
    "groups of Muon": (of_groups, False),
    "parameter_views()": (of_parameters, False),
    "layer_spectra": (lambda: of_layer_spectra(None), True),
    "layer_spectra, Muon": (lambda: of_layer_spectra(steepest.Muon), True),
    "layer_spectra, AdamW": (lambda: of_layer_spectra(adamw), True),
    "layer_spectra, SignSGD": (
        lambda: of_layer_spectra(lambda m: steepest.SignSGD(m, lr=0.1)),
        True,
    ),
    "layer_spectra, Scion": (lambda: of_layer_spectra(lambda m: steepest.Scion(m, lr=0.1)), True),
    "constraint_spectra": (of_constraint_spectra, False),
    "constraint_report": (of_constraint_report, False),
    "Monitor, Muon": (lambda: of_monitor(steepest.Muon), True),
    "Monitor, AdamW": (lambda: of_monitor(adamw), True),
    "Monitor, SignSGD": (lambda: of_monitor(lambda m: steepest.SignSGD(m, lr=0.1)), True),
}


@pytest.fixture(params=["usual", "changed"])
def shapes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[tuple[int, int, int]]]:
    """What the matrices are, by the rules of the library and by others."""
    if request.param == "changed":
        monkeypatch.setattr(rules, "RULES", (*RULES, *rules.RULES))
    return CHANGED if request.param == "changed" else USUAL


def views_of(model: nn.Module, shapes: Mapping[str, list[tuple[int, int, int]]]) -> dict:
    """The views that have these shapes, checked against `matrix_views`."""
    views = matrix_views(model)
    named = {n: v.shapes(model.get_parameter(n).shape) for n, v in views.items()}
    assert named == shapes
    return views


@pytest.mark.parametrize("instrument", INSTRUMENTS)
def test_instruments_that_measure_matrices_see_the_same(instrument: str, shapes: dict) -> None:
    look, tables = INSTRUMENTS[instrument]
    model, found = look()
    tensors = dict(model.named_parameters())
    expected = sigmas(tensors, views_of(model, shapes))
    if tables:
        flat = [n for n in ("head.weight", PROJ) if n not in expected]
        expected |= sigmas(tensors, dict.fromkeys(flat, MatrixView()))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        length = 1 if instrument == "constraint_report" else len(values)
        assert found[name] == pytest.approx(values[:length], rel=1e-6), name


def test_directions_are_those_of_the_same_matrices(shapes: dict) -> None:
    model, loss = made()
    # A polar factor of rank r has the length √r.
    ranks = {n: sum(k * min(r, c) for k, r, c in s) for n, s in shapes.items()}
    chosen = {"muon": norms.Spectral()}
    # An optimizer of entries says nothing of matrices, and one of AdamW's parameters neither.
    for optimizer in (None, steepest.Muon(model), steepest.SignSGD(model, lr=0.1), adamw(model)):
        report = diagnostics.compare_directions(loss, model, chosen, optimizer=optimizer)
        assert set(report.layers) == ranks.keys()
        found = {name: round(report["muon", name].norm ** 2, 6) for name in report.layers}
        assert found == pytest.approx(ranks)
    direction = diagnostics.smoothness(loss, model, norms.Spectral(), restarts=0, steps=2).direction
    for name, values in sigmas(direction, matrix_views(model)).items():
        assert values == pytest.approx([1.0] * ranks[name])
    assert direction.keys() == ranks.keys()


def test_applications_take_the_same_parameters(shapes: dict) -> None:
    model, _ = made()
    names = {p: n for n, p in model.named_parameters()}
    assert [names[p] for p in gradients.hidden(model)] == list(shapes)
    linear = [n for n in shapes if n in (QKV, PROJ)]
    assert [names[layer.weight] for layer in networks.hidden(model).values()] == linear
    muon = TorchMuon(model, recipe("torch-muon").tuned).muon.param_groups[0]["params"]
    assert [names[p] for p in muon] == linear
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    enlarge(model, 2.0)
    grown = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert grown == list(shapes)
