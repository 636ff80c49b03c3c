"""Steepest descent in any norm: the formula of the docstring, shared lengths, and every refusal."""

import copy
import math

import pytest
import torch
from torch import nn

from steepest import SteepestDescent, norms
from steepest.polar import Svd

NORMS = {
    "l1": norms.L1(),
    "l2": norms.L2(),
    "linf": norms.LInf(),
    "l3": norms.Lp(3),
    "rms": norms.RMS(),
    "spectral": norms.Spectral(),
    "nuclear": norms.Nuclear(),
    "schatten": norms.Schatten(4),
    "kyfan": norms.KyFan(2),
    "linear": norms.Operator("rms", "rms"),
    "embedding": norms.Operator(1, "rms"),
    "entry": norms.Operator(1, math.inf),
}
every_norm = pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every_norm
@pytest.mark.parametrize("sharpness", [None, 3.0], ids=["unit", "dual"])
@pytest.mark.parametrize(
    "average",
    [
        {},
        {"momentum": 0.9},
        {"momentum": 0.8, "nesterov": True},
        {"betas": (0.6, 0.9)},
    ],
    ids=str,
)
def test_the_formula_of_the_docstring(norm, sharpness, average):
    w = nn.Parameter(draw(4, 6))
    optimizer = SteepestDescent([w], norm, lr=0.1, sharpness=sharpness, weight_decay=0.2, **average)
    expected, buffer = w.detach().clone(), torch.zeros_like(w)
    ahead, mu = average.get("betas", (None, average.get("momentum", 0.0)))
    for t in range(4):
        w.grad = draw(4, 6, seed=t + 1)
        before, buffer = buffer, mu * buffer + (1 - mu) * w.grad
        u = mu * buffer + (1 - mu) * w.grad if average.get("nesterov") else buffer
        if ahead is not None:
            u = ahead * before + (1 - ahead) * w.grad
        length = 1.0 if sharpness is None else norm.dual(u) / sharpness
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * length * norm.dualize(u)
        optimizer.step()
    torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)


@every_norm
def test_lr_is_the_norm_of_a_step(norm):
    w = nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    w.grad = draw(5, 3)
    SteepestDescent([w], norm, lr=0.25).step()
    assert float(norm(w.detach())) == pytest.approx(0.25)


def test_with_a_sharpness_lr_is_one_and_schedulers_work():
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = SteepestDescent([w], norms.LInf(), sharpness=4.0)
    plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5**t)
    for expected in (-2.0, -3.0):
        w.grad = torch.tensor([3.0, 5.0], dtype=torch.float64)
        optimizer.step()
        plan.step()
        assert w.tolist() == [expected, expected]


def test_every_group_has_its_own_norm_and_sharpness():
    a, b, c = (nn.Parameter(torch.zeros(2, 2, dtype=torch.float64)) for _ in range(3))
    optimizer = SteepestDescent(
        [
            {"params": [a]},
            {"params": [b], "norm": norms.LInf()},
            {"params": [c], "norm": norms.L2(), "scale": "dual", "sharpness": 2.0},
        ],
        norms.Frobenius(),
        lr=1.0,
    )
    for p in (a, b, c):
        p.grad = torch.tensor([[3.0, 0.0], [0.0, -4.0]], dtype=torch.float64)
    optimizer.step()
    assert a.flatten().tolist() == pytest.approx([-0.6, 0, 0, 0.8])
    assert b.flatten().tolist() == [-1, 0, 0, 1]
    assert c.flatten().tolist() == [-1.5, 0, 0, 2]


def blocks():
    """Three parameters, their norm and their gradients."""
    named = [(name, nn.Parameter(draw(*s))) for name, s in SHAPES.items()]
    for i, (_, p) in enumerate(named):
        p.grad = draw(*p.shape, seed=i + 5)
    return named


SHAPES = {"w": (4, 6), "v": (4, 6), "b": (5,)}
MODULAR = norms.Modular(
    {"w": (norms.Spectral(), 2.0), "v": (norms.Spectral(), 0.5), "b": (norms.RMS(), 3.0)}
)


def test_blocks_share_one_length():
    named = blocks()
    before = {k: p.detach().clone() for k, p in named}
    g = {k: p.grad for k, p in named}
    SteepestDescent(named, MODULAR, sharpness=7.0).step()
    eta = sum(norm.dual(g[k]) / s for k, (norm, s) in MODULAR.parts.items()) / 7.0
    for k, p in named:
        norm, s = MODULAR.parts[k]
        torch.testing.assert_close(p.detach(), before[k] - eta / s * norm.dualize(g[k]))


def test_every_vector_has_its_own_length():
    w = nn.Parameter(draw(3, 4))
    before, w.grad = w.detach().clone(), draw(3, 4, seed=1)
    norm = norms.L2(dims=-1)
    SteepestDescent([w], norm, sharpness=2.0).step()
    torch.testing.assert_close(w.detach(), before - norm.sharp(w.grad) / 2)


def test_a_sharpness_changed_on_the_way_holds():
    lengths = []
    for value in (10.0, 1.0):
        named = blocks()
        before = dict(named)["b"].detach().clone()
        optimizer = SteepestDescent(named, MODULAR, sharpness=10.0)
        for group in optimizer.param_groups:
            group["sharpness"] = value
        optimizer.step()
        lengths.append(float((dict(named)["b"].detach() - before).norm()))
    assert lengths[1] == pytest.approx(10 * lengths[0])
    optimizer.param_groups[0]["sharpness"] = 3.0
    with pytest.raises(ValueError, match=r"sharpness=.*one length for all parameters"):
        optimizer.step()


def test_a_sharpness_in_a_group_alone():
    w = nn.Parameter(torch.zeros(2))
    optimizer = SteepestDescent([{"params": [w], "sharpness": 2.0}], norms.LInf())
    w.grad = torch.tensor([3.0, -5.0])
    optimizer.step()
    assert w.tolist() == [-4, 4]


def test_a_group_alone_has_its_own_length():
    """What a shared length is not: each parameter a problem by itself."""
    named = blocks()[:2]
    before = {k: p.detach().clone() for k, p in named}
    SteepestDescent(named, norms.Spectral(), sharpness=7.0).step()
    for k, p in named:
        step = norms.Nuclear()(p.grad) / 7.0 * norms.Spectral().dualize(p.grad)
        torch.testing.assert_close(p.detach(), before[k] - step)


def test_blocks_take_steps_of_length_lr():
    named = blocks()
    before = {k: p.detach().clone() for k, p in named}
    SteepestDescent(named, MODULAR, lr=0.3, momentum=0.9).step()
    moved = {k: p.detach() - before[k] for k, p in named}
    for norm, x in ((MODULAR.blocks[k], moved[k]) for k in moved):
        assert float(norm(x)) == pytest.approx(0.3)


def test_parameters_without_mass_do_not_move():
    named = blocks()
    parts = {k: v for k, v in MODULAR.parts.items() if k != "v"}
    before = dict(named)["v"].detach().clone()
    SteepestDescent(named, norms.Modular(parts, massless=["v"]), lr=0.3).step()
    assert torch.equal(dict(named)["v"], before)


def test_a_frozen_parameter_may_have_a_norm_or_none():
    named = blocks()
    dict(named)["v"].requires_grad_(False)
    parts = {k: v for k, v in MODULAR.parts.items() if k != "v"}
    for norm in (MODULAR, norms.Modular(parts)):
        before = {k: p.detach().clone() for k, p in named}
        dict(named)["v"].grad = None
        SteepestDescent(named, norm, lr=0.1).step()
        assert [k for k, p in named if torch.equal(p, before[k])] == ["v"]


def test_a_norm_of_entries_takes_the_whole_module():
    m = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    optimizer = SteepestDescent(m, norms.LInf(), lr=0.01)
    assert [len(g["params"]) for g in optimizer.param_groups] == [6]
    m(torch.randn(5, 3)).square().sum().backward()
    before = [p.detach().clone() for p in m.parameters()]
    optimizer.step()
    for old, p in zip(before, m.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), old - 0.01 * p.grad.sign())


def test_a_norm_of_matrices_routes_the_module():
    m = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    optimizer = SteepestDescent(m, norms.Schatten(4), lr=0.1, adamw_lr=0.5)
    assert [g["adamw"] for g in optimizer.param_groups] == [False, True, True]
    assert {g["lr"] for g in optimizer.param_groups if g["adamw"]} == {0.5}


def test_a_convolution_in_its_own_norm():
    kernel = nn.Parameter(torch.zeros(4, 3, 3, 3, dtype=torch.float64))
    kernel.grad = draw(4, 3, 3, 3)
    SteepestDescent([kernel], norms.Conv(2), lr=0.5).step()
    for i in range(3):
        for j in range(3):
            tap = -math.sqrt(4 / 3) / 9 * 0.5 * Svd()(kernel.grad[..., i, j])
            torch.testing.assert_close(kernel.detach()[..., i, j], tap)


def test_without_momentum_there_is_no_state():
    w = nn.Parameter(draw(3, 3))
    optimizer = SteepestDescent([w], norms.Spectral(), lr=0.1)
    w.grad = draw(3, 3, seed=1)
    optimizer.step()
    assert not optimizer.state


@pytest.mark.parametrize("options", [{"sharpness": 2.0}, {"sharpness": "estimate"}], ids=str)
def test_a_block_that_is_not_finite_is_left_out_of_the_shared_length(options):
    named, twin = blocks(), [(k, p) for k, p in blocks() if k != "v"]
    dict(named)["v"].grad[0, 0] = math.nan
    before = dict(named)["v"].detach().clone()
    optimizer = SteepestDescent(named, MODULAR, **options)
    optimizer.step()
    assert torch.equal(dict(named)["v"], before)
    assert optimizer.skipped == 1
    if options["sharpness"] == 2.0:
        parts = {k: v for k, v in MODULAR.parts.items() if k != "v"}
        SteepestDescent(twin, norms.Modular(parts), **options).step()
        for k, p in twin:
            torch.testing.assert_close(dict(named)[k].detach(), p.detach())
    for _, p in named:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(bool(p.isfinite().all()) for _, p in named)


W = [nn.Parameter(torch.zeros(2, 3))]
BAD = [
    ({}, "lr=None: give a learning rate, the norm of a step, or a sharpness"),
    ({"lr": -1.0}, "lr=-1.0"),
    ({"lr": 1.0, "norm": None}, "norm=None: give a norm"),
    ({"lr": 1.0, "norm": "spectra"}, "norm='spectra': did you mean spectral"),
    ({"sharpness": 0.0}, "sharpness=0.0: give a positive number"),
    ({"sharpness": math.nan}, "sharpness=nan: give a positive number"),
    ({"sharpness": "guess"}, "sharpness='guess': give a positive number"),
    ({"scale": "dual"}, 'sharpness=None: scale="dual" needs one'),
    ({"lr": 1.0, "scale": "unit", "sharpness": 2.0}, 'sharpness=2.0: scale="unit" has none'),
    ({"lr": 1.0, "scale": "free"}, "scale='free': give"),
    ({"scale": "linesearch", "sharpness": 2.0}, 'sharpness=2.0: scale="linesearch" has none'),
    ({"scale": "linesearch", "momentum": 0.9}, "momentum=0.9: a line search"),
    ({"scale": "linesearch", "weight_decay": 0.1}, "weight_decay=0.1: a line search"),
    ({"lr": 1.0, "betas": (1.5, 0.5)}, "betas=(1.5, 0.5\\): give two numbers"),
    ({"lr": 1.0, "norm": norms.Spectral}, "norm='norms.Spectral': call it: norms.Spectral"),
    ({"lr": 1.0, "betas": "a"}, "betas='a': give two numbers"),
    ({"lr": 1.0, "betas": (0.5, 0.5), "nesterov": True}, "nesterov=True: betas=.* are the weights"),
    ({"lr": 1.0, "momentum": 1.0}, "momentum=1.0"),
    ({"lr": 1.0, "norm": norms.KyFan(3)}, "k=3: a 2×3 matrix has 2 singular values"),
    ({"lr": 1.0, "norm": norms.Conv(2)}, "acts on 4 axes"),
    ({"lr": 1.0, "norm": MODULAR}, "params='list': a norm of named blocks needs names"),
    ({"lr": 1.0, "norm": MODULAR.dual.dual.dual}, "in a sum one block moves at a time"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        SteepestDescent(W, **{"norm": norms.Spectral(), **arguments})


def test_names_that_do_not_match(unchecked):
    named = blocks()
    with pytest.raises(ValueError, match=r"norm=\['b'\]: .*missing \['b'\]"):
        SteepestDescent(named, norms.Modular({k: MODULAR.parts[k] for k in "wv"}), lr=0.1)
    more = norms.Modular({**MODULAR.parts, "x": (norms.L2(), 1.0)})
    with pytest.raises(ValueError, match=r"norm=\['x'\]: .*unknown \['x'\]"):
        SteepestDescent(named, more, lr=0.1)
    with pytest.raises(ValueError, match=r"massless=\['typo'\]"):
        SteepestDescent(named, norms.Modular(MODULAR.parts, massless=["typo"]), lr=0.1)
    with pytest.raises(ValueError, match=r"params=.*give each name once"):
        SteepestDescent([*named, *named], MODULAR, lr=0.1)
    kernel = norms.MaxOf({"weight": norms.Spectral()})
    with pytest.raises(ValueError, match=r"4×3×3×3 is not a matrix: take norms.Conv"):
        SteepestDescent(nn.Conv2d(3, 4, 3, bias=False), kernel, lr=0.1)
    with pytest.raises(ValueError, match="does not fit every parameter"):
        SteepestDescent(nn.Linear(2, 2), norms.Conv(2), lr=0.1)


def test_a_group_cannot_leave_the_shared_length(unchecked):
    for options in ({"scale": "linesearch"}, {"sharpness": "estimate"}):
        with pytest.raises(ValueError, match="one length for all parameters"):
            SteepestDescent(
                [{"params": W, "scale": "dual", "sharpness": 3.0}], norms.Spectral(), **options
            )
    for options in ({"scale": "linesearch", "sharpness": None}, {"sharpness": "estimate"}):
        with pytest.raises(ValueError, match="one length for all parameters"):
            SteepestDescent([{"params": W, **options}], norms.Spectral(), sharpness=3.0)
    rest = {"params": [nn.Parameter(torch.zeros(2))], "adamw": True}
    with pytest.raises(ValueError, match="adamw=True: a line search moves all"):
        SteepestDescent([{"params": W}, rest], norms.Spectral(), scale="linesearch")


def test_the_norm_is_in_the_state():
    state = SteepestDescent(W, norms.Schatten(4), lr=0.1).state_dict()
    assert state["param_groups"][0]["norm"] == "Schatten(4)"
    with pytest.raises(ValueError, match=r"norm.*saved with this, but the optimizer has Spectral"):
        SteepestDescent(W, norms.Spectral(), lr=0.1).load_state_dict(state)


def test_a_copy_of_a_modular_optimizer_goes_on():
    named = blocks()
    optimizer = SteepestDescent(named, MODULAR, sharpness="estimate", momentum=0.9)
    for t in range(3):
        for _, p in named:
            p.grad = draw(*p.shape, seed=t)
        optimizer.step()
    both = copy.deepcopy((named, optimizer))
    for pairs, one in ((named, optimizer), both):
        for _, p in pairs:
            p.grad = draw(*p.shape, seed=9)
        one.step()
    for (_, p), (_, q) in zip(named, both[0], strict=True):
        assert torch.equal(p, q)
