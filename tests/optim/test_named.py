"""The named optimizers: each row of the table against the rule that its source states."""

import inspect
import math
import re

import pytest
import torch
from torch import nn

import steepest
from steepest import norms
from steepest.optim import PRESETS, Muon, Scion, SteepestDescent
from steepest.optim.choices import SLOTS
from steepest.optim.presets import FAMILY
from steepest.polar import Svd
from steepest.routing.layer_norms import HEAD
from tools import preset_table


def gradients(*shape, steps=4):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(steps)]


def run(optimizer, w, grads):
    for g in grads:
        w.grad = g
        optimizer.step()
    return w.detach()


def weight(*shape):
    g = torch.Generator().manual_seed(1)
    return nn.Parameter(torch.randn(*shape, generator=g, dtype=torch.float64))


def test_every_row_is_an_optimizer_with_its_values():
    for name, row in PRESETS.items():
        kind = getattr(steepest, name)
        optimizer = kind([weight(2, 2)], lr=0.1)
        (group,) = optimizer.param_groups
        for key in ("momentum", "nesterov", "weight_decay"):
            assert group.get(key, 0) == getattr(row, key), name
        assert optimizer._rule(0).geometry == row.norm, name
        for key in SLOTS:
            assert group.get(key) == (repr(value) if (value := getattr(row, key)) else None), name
        if issubclass(kind, Muon):
            assert group["adjust_lr_fn"] == row.adjust_lr_fn, name
        else:
            assert (group["scale"], group.get("betas")) == (row.scale, row.betas), name
            assert group["sharpness"] == (1.0 if row.scale == "dual" else None), name
        assert inspect.signature(kind).parameters["lr"].kind is not inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("page", preset_table.PAGES, ids=lambda p: p.name)
def test_the_tables_are_made_from_the_rows(page):
    text = page.read_text(encoding="utf-8")
    assert preset_table.replaced(text) == text, "run: python tools/preset_table.py --write"


@pytest.mark.parametrize("name", [n for n in PRESETS if n != "Muon" and n not in FAMILY])
def test_a_learning_rate_is_asked_for(name):
    with pytest.raises(ValueError, match=rf"lr=None: {name} needs a learning rate"):
        getattr(steepest, name)([weight(2, 2)])


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_is_that_of_torch(momentum, nesterov):
    w, v = weight(3, 4), weight(3, 4)
    ours = steepest.SGD([w], lr=0.3, momentum=momentum, nesterov=nesterov)
    theirs = torch.optim.SGD([v], lr=0.3 * (1 - momentum), momentum=momentum, dampening=0.0)
    if nesterov:
        # torch looks ahead by g + μ·buffer, which is (1 − μ)·g + μ·average over 1 − μ.
        theirs = torch.optim.SGD([v], lr=0.3 * (1 - momentum), momentum=momentum, nesterov=True)
    grads = gradients(3, 4)
    torch.testing.assert_close(run(ours, w, grads), run(theirs, v, grads), rtol=1e-12, atol=1e-12)


def test_normalized_sgd():
    w, expected = weight(3, 4), weight(3, 4).detach()
    u = torch.zeros_like(expected)
    for g in gradients(3, 4):
        u = 0.9 * u + 0.1 * g
        expected = expected - 0.2 * u / u.norm()
    got = run(steepest.NormalizedSGD([w], lr=0.2), w, gradients(3, 4))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sign_sgd(momentum):
    w, expected = weight(5), weight(5).detach()
    u = torch.zeros_like(expected)
    for g in gradients(5):
        u = momentum * u + (1 - momentum) * g
        expected = (1 - 0.2 * 0.5) * expected - 0.2 * u.sign()
    optimizer = steepest.SignSGD([w], lr=0.2, momentum=momentum, weight_decay=0.5)
    torch.testing.assert_close(run(optimizer, w, gradients(5)), expected)


def test_lion_is_algorithm_2_of_its_paper():
    w, x = weight(3, 4), weight(3, 4).detach()
    m = torch.zeros_like(x)
    for g in gradients(3, 4):
        c = 0.9 * m + 0.1 * g
        x = x - 0.02 * (c.sign() + 0.3 * x)
        m = 0.99 * m + 0.01 * g
    got = run(steepest.Lion([w], lr=0.02, weight_decay=0.3), w, gradients(3, 4))
    torch.testing.assert_close(got, x)


@pytest.mark.parametrize(("name", "mu"), [("SpectralDescent", 0.0), ("PolarGrad", 0.95)])
def test_the_nuclear_norm_scales_the_polar_factor(name, mu):
    w, x = weight(4, 6), weight(4, 6).detach()
    m = torch.zeros_like(x)
    for g in gradients(4, 6):
        m = mu * m + (1 - mu) * g
        u, s, vh = torch.linalg.svd(m, full_matrices=False)
        x = x - 0.05 * s.sum() * u @ vh
    kind = getattr(steepest, name)
    got = run(kind([w], lr=0.05, norm=norms.Spectral(polar=Svd())), w, gradients(4, 6))
    torch.testing.assert_close(got, x)
    # The fast method of the default stays within its stated error, step by step.
    near = weight(4, 6)
    run(kind([near], lr=0.05), near, gradients(4, 6)[:1])
    exact = weight(4, 6)
    run(kind([exact], lr=0.05, norm=norms.Spectral(polar=Svd())), exact, gradients(4, 6)[:1])
    moved, error = exact.detach() - weight(4, 6).detach(), near.detach() - exact.detach()
    assert float(error.norm()) < 0.12 * float(moved.norm())


class Net(nn.Module):
    def __init__(self, tied=False):
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.up = nn.Linear(4, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.gain = nn.LayerNorm(8)
        self.down = nn.Linear(8, 4)
        self.head = nn.Linear(4, 7, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, tokens):
        x = self.up(self.table(tokens))
        x = self.gain(self.conv(x.mT).mT)
        return self.head(self.down(x).relu())


def one_step(net, **options):
    optimizer = Scion(net, lr=0.1, head_scale=20.0, norm=LINEAR, **options)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    net(torch.arange(6).reshape(2, 3) % 7).logsumexp(-1).sum().backward()
    optimizer.step()
    return {n: p.detach() - before[n] for n, p in net.named_parameters()}, before


def all_are(moved, length):
    """Every entry has moved by this length, but for those without a gradient."""
    sizes = moved.abs()[moved != 0]
    return len(sizes) > moved.numel() / 2 and torch.allclose(sizes, torch.full_like(sizes, length))


LINEAR = norms.Operator("rms", "rms", polar=Svd())


def test_scion_moves_every_layer_in_its_norm():
    moved, _ = one_step(Net().double())
    for name in ("up.weight", "down.weight"):
        out, inp = moved[name].shape
        assert float(torch.linalg.matrix_norm(moved[name], 2)) == pytest.approx(
            0.1 * math.sqrt(out / inp)
        )
    for tap in moved["conv.weight"].unbind(-1):
        assert float(torch.linalg.matrix_norm(tap, 2)) == pytest.approx(0.1 / 3)
    rows = moved["table.weight"].square().mean(dim=1).sqrt()
    torch.testing.assert_close(rows[:6], torch.full((6,), 0.1, dtype=torch.float64))
    assert float(rows[6]) == 0  # a word that did not occur
    assert all_are(moved["head.weight"], 0.1 * 20 / 4)
    for name in ("up.bias", "gain.weight", "down.bias"):
        assert float(moved[name].square().mean().sqrt()) == pytest.approx(0.1)


def test_scion_takes_a_tied_table_for_a_head():
    moved, _ = one_step(Net(tied=True).double())
    assert "head.weight" not in moved
    assert all_are(moved["table.weight"], 0.1 * 20 / 4)


def test_scion_s_decay_is_a_ball_in_every_norm():
    """Each weight tends to norm ≤ radius, the head's 20 times larger."""
    net = Net().double()
    optimizer = Scion(net, lr=0.5, head_scale=20.0, weight_decay=0.5, norm=LINEAR, momentum=0.0)
    tokens = torch.arange(7).reshape(1, 7)
    for _ in range(60):
        optimizer.zero_grad()
        net(tokens).sum().backward()
        optimizer.step()
    for group in optimizer.param_groups:
        radius = group["lr"] / 0.5 / 0.5
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.25)
        for seen in (v for v in optimizer.parameter_views() if v.group is group):
            for part in seen.parts(seen.param.detach()):
                assert float(seen.geometry(part).amax()) <= radius * (1 + 1e-6)


def test_scion_without_a_module_moves_hidden_matrices():
    w = weight(4, 6)
    w.grad = gradients(4, 6)[0]
    before = w.detach().clone()
    Scion([w], lr=0.1, norm=LINEAR).step()
    assert float(LINEAR(w.detach() - before)) == pytest.approx(0.1)
    assert isinstance(Scion([w], lr=0.1), SteepestDescent)


def test_scion_keeps_its_routing():
    optimizer = Scion(Net(), lr=0.1)
    assert optimizer.routing["head.weight"].target == "table"
    assert "head.weight" in str(optimizer.routing)


def test_the_routing_of_scion_names_its_norms():
    net = nn.Sequential(nn.Embedding(5, 4), nn.Conv1d(4, 4, 3), nn.Linear(4, 4), nn.Linear(4, 3))
    table = Scion(net, lr=0.1).routing
    assert {a.name: a.to for a in table if a.name.endswith("weight")} == {
        "0.weight": "Scion, 1→RMS",
        "1.weight": "Scion, Conv(1)",
        "2.weight": "Scion, RMS→RMS",
        "3.weight": "Scion, RMS→RMS",
    }
    assert table["2.bias"].to == "Scion, RMS"
    assert Scion(Net(), lr=0.1).routing["head.weight"].to == "Scion, sign/in"
    assert not {"Muon", "AdamW"} & set(re.findall(r"\w+", str(table)))


DESTINATIONS = [
    (lambda m: steepest.Muon(m, lr=0.1), "Muon, Spectral()", "AdamW, no decay"),
    (lambda m: steepest.Muon(m, ns_steps=5), "Muon, Spectral()", "AdamW, no decay"),
    (lambda m: steepest.PolarGrad(m, lr=0.1), "PolarGrad, Spectral()", "AdamW, no decay"),
    (
        lambda m: SteepestDescent(m, norms.Schatten(4), lr=0.1, adamw_weight_decay=0.1),
        "SteepestDescent, Schatten(4)",
        "AdamW",
    ),
    (
        lambda m: steepest.LionK(m, K=steepest.maps.NuclearMap()),
        "LionK, NuclearMap()",
        "AdamW, no decay",
    ),
    (
        lambda m: Scion(steepest.route(m), lr=0.1),
        "Scion, RMS→RMS",
        "AdamW, no decay",
    ),
]


@pytest.mark.parametrize(("make", "hidden", "table"), DESTINATIONS)
def test_the_routing_names_the_optimizer_in_use_and_its_norm(make, hidden, table):
    net = Net()
    routing = make(net).routing
    assert routing["up.weight"].to == hidden
    assert routing["head.weight"].to == table
    assert hidden in str(routing)
    assert ("Muon" in str(routing)) == hidden.startswith("Muon")
    # Before there is an optimizer the table names none.
    assert not {"Muon", "AdamW"} & set(re.findall(r"\w+", str(steepest.route(net))))


@pytest.mark.parametrize("norm", [norms.L2(), HEAD, norms.Schatten(4)], ids=str)
def test_scion_takes_another_norm_for_hidden_matrices(norm):
    net = Net()
    optimizer = Scion(net, lr=0.1, norm=norm)
    net(torch.arange(6).reshape(2, 3) % 7).logsumexp(-1).sum().backward()
    optimizer.step()
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates["up.weight"] == 0.1
    assert rates["head.weight"] == pytest.approx(0.1 * 60)


CHANGES = [
    ("SGD", {"lr": 0.1, "scale": "unit"}, {"scale": "unit", "sharpness": None}),
    ("SGD", {"scale": "linesearch"}, {"lr": 1.0, "scale": "linesearch", "sharpness": None}),
    ("SGD", {"sharpness": 4.0}, {"lr": 1.0, "scale": "dual", "sharpness": 4.0}),
    ("SignSGD", {"sharpness": 2.0}, {"scale": "dual", "sharpness": 2.0, "momentum": 0.9}),
    ("SignSGD", {"sharpness": "estimate"}, {"scale": "dual", "sharpness": "estimate"}),
    ("Lion", {"lr": 0.1, "betas": (0.8, 0.7)}, {"betas": (0.8, 0.7)}),
    ("PolarGrad", {"lr": 0.1, "betas": (0.8, 0.7)}, {"betas": (0.8, 0.7)}),
    ("Scion", {"lr": 0.1, "momentum": 0.5}, {"momentum": 0.5, "lr": 0.1}),
]


@pytest.mark.parametrize(("name", "given", "expected"), CHANGES, ids=str)
def test_every_value_of_a_row_can_be_changed(name, given, expected):
    group = getattr(steepest, name)([weight(2, 2)], **given).param_groups[0]
    assert {key: group[key] for key in expected} == expected


def test_scion_refuses_a_head_without_radius():
    with pytest.raises(ValueError, match=r"head_scale=0: give a positive number"):
        Scion(Net(), lr=0.1, head_scale=0)
