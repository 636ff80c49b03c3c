"""Lengths that are found on the way: the line search and the estimated sharpness."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from steepest import SteepestDescent, norms
from steepest.optim.line_search import ARMIJO, line_search

NORMS = [norms.L1(), norms.L2(), norms.LInf(), norms.Spectral(), norms.Operator(1, "rms")]
every_norm = pytest.mark.parametrize("norm", NORMS, ids=str)


def quadratic(seed=0, d=5, k=4):
    """½⟨x, Hx⟩ with a random positive definite H, in float64."""
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(d, d + 2, generator=g, dtype=torch.float64)
    x = nn.Parameter(torch.randn(d, k, generator=g, dtype=torch.float64))
    hessian = a @ a.mT
    return hessian, x, lambda: 0.5 * (x * (hessian @ x)).sum()


def stepper(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return lambda: float(optimizer.step(closure).detach())


@every_norm
@pytest.mark.parametrize("seed", range(3))
def test_the_step_is_exact_on_a_quadratic(norm, seed):
    hessian, x, loss = quadratic(seed)
    step = stepper(SteepestDescent([x], norm, scale="linesearch"), loss)
    for _ in range(4):
        before = x.detach().clone()
        g = hessian @ before
        d = norm.dualize(g)
        best = (g * d).sum() / (d * (hessian @ d)).sum()
        step()
        torch.testing.assert_close(x.detach(), before - best * d, rtol=1e-7, atol=1e-9)


def test_one_length_for_all_parameters():
    hessian, x, _ = quadratic()
    y = nn.Parameter(torch.ones(3, dtype=torch.float64))
    named = [("x", x), ("y", y)]
    norm = norms.Modular({"x": (norms.Spectral(), 2.0), "y": (norms.LInf(), 1.0)})

    def loss():
        return 0.5 * (x * (hessian @ x)).sum() + (y.square() * 3).sum() + (x.sum() * y).sum()

    step = stepper(SteepestDescent(named, norm, scale="linesearch"), loss)
    first = step()
    before = x.detach().clone(), y.detach().clone()
    step()
    moved = before[0] - x.detach(), before[1] - y.detach()
    length = norms.LInf()(moved[1])
    assert float(norms.Spectral()(moved[0])) == pytest.approx(float(length) / 2)
    # Along the line the loss has its minimum: no other length is better.
    best = float(loss().detach())
    assert best < first
    for factor in (0.9, 0.99, 1.01, 1.1):
        with torch.no_grad():
            x.copy_(before[0] - factor * moved[0])
            y.copy_(before[1] - factor * moved[1])
        assert float(loss().detach()) > best


@every_norm
def test_armijo_elsewhere(norm):
    """Rosenbrock's valley: the loss falls in every step."""
    x = nn.Parameter(torch.tensor([[-1.2, 1.0], [0.5, 2.0]], dtype=torch.float64))

    def loss():
        return (100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2).sum()

    step = stepper(SteepestDescent([x], norm, scale="linesearch"), loss)
    values = [step() for _ in range(60)]
    assert all(b <= a for a, b in pairwise(values))
    assert values[-1] < 0.1 * values[0]


CURVES = {
    "quadratic": (lambda t: (t - 3) ** 2, 9.0, -6.0),
    "quartic": (lambda t: (t - 1) ** 4, 1.0, -4.0),
    "barrier": (lambda t: -math.log1p(-t) - 3 * t if t < 1 else math.inf, 0.0, -2.0),
    "cosine": (lambda t: math.cos(t + 0.5), math.cos(0.5), -math.sin(0.5)),
    "kink": (lambda t: abs(t - 1.0), 1.0, -1.0),
    "overflow": (
        lambda t: math.cosh(min(t, 800) - 2) if t < 700 else math.inf,
        math.cosh(2),
        -math.sinh(2),
    ),
    "not a number": (lambda t: (t - 1) ** 2 if t < 5 else math.nan, 1.0, -2.0),
}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("first", [1e-6, 1e-2, 1.0, 1e3])
def test_armijo_holds_where_a_step_is_found(name, first):
    f, start, slope = CURVES[name]
    t = line_search(f, start, slope, first)
    assert t > 0
    assert f(t) <= start + ARMIJO * slope * t


def test_no_descent_is_no_step():
    assert line_search(lambda t: t, 0.0, 1.0, 1.0) == 0
    assert line_search(lambda t: t, 0.0, math.nan, 1.0) == 0
    assert line_search(lambda t: 1.0 + t, 1.0, -1.0, 1.0) == 0  # the slope is a lie
    assert line_search(lambda t: math.inf, 1.0, -1.0, 1.0) == 0


def test_a_linear_loss_ends():
    t = line_search(lambda t: -t, 0.0, -1.0, 1.0)
    assert 1 < t < math.inf


def test_a_search_needs_a_closure_and_changes_nothing_without():
    _, x, loss = quadratic()
    optimizer = SteepestDescent([x], norms.L2(), scale="linesearch")
    loss().backward()
    before = x.detach().clone()
    with pytest.raises(ValueError, match=r"closure=None: .*step\(closure\)"):
        optimizer.step()
    assert torch.equal(x, before)


def test_a_closure_that_fails_in_the_search_leaves_the_parameters():
    _, x, loss = quadratic()
    optimizer = SteepestDescent([x], norms.L2(), scale="linesearch")
    before, calls = x.detach().clone(), []

    def closure():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert torch.equal(x, before)


def test_a_search_can_ascend():
    _, x, loss = quadratic()
    optimizer = SteepestDescent([x], norms.L2(), scale="linesearch", maximize=True)
    step = stepper(optimizer, lambda: -loss())
    values = [step() for _ in range(5)]
    assert values[-1] > values[0]


def curvature(hessian, k, norm):
    """sup ‖Hv‖†/‖v‖ for the norms where it is known: the Hessian of x ↦ ½⟨x, Hx⟩ is I⊗H."""
    if norm == norms.L2():
        return float(torch.linalg.eigvalsh(hessian)[-1])
    if norm == norms.L1():
        return float(hessian.abs().max())
    if norm == norms.LInf():
        d = len(hessian)
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * d)
        return k * float((signs @ hessian).abs().sum(dim=-1).max())
    assert norm == norms.Spectral()
    # ‖HV‖_* ≤ σ's of H dotted with those of V; min(d, k) of the latter are at most 1.
    return float(torch.linalg.eigvalsh(hessian)[-min(len(hessian), k) :].sum())


@pytest.mark.parametrize("norm", NORMS[:4], ids=str)
def test_the_estimate_is_a_lower_bound_and_training_works(norm):
    hessian, x, loss = quadratic()
    optimizer = SteepestDescent([x], norm, sharpness="estimate")
    step = stepper(optimizer, loss)
    top = curvature(hessian, x.shape[1], norm)
    values = []
    for _ in range(60):
        values.append(step())
        assert optimizer.sharpness is None or optimizer.sharpness <= top * (1 + 1e-9)
    assert values[-1] < 0.05 * values[0]


def test_the_estimate_is_the_ratio_of_the_last_step():
    hessian, x, loss = quadratic()
    norm = norms.LInf()
    optimizer = SteepestDescent([x], norm, sharpness="estimate")
    step = stepper(optimizer, loss)
    points, ratios = [x.detach().clone()], []
    for _ in range(6):
        step()
        points.append(x.detach().clone())
        if len(points) > 2:
            moved = points[-2] - points[-3]
            ratios.append(float(norm.dual(hessian @ moved) / norm(moved)))
            expected = max(r * 0.95**age for age, r in enumerate(reversed(ratios)))
            assert optimizer.sharpness == pytest.approx(expected)
            length = float(norm(points[-1] - points[-2]))
            assert length == pytest.approx(float(norm.dual(hessian @ points[-2])) / expected)


def test_nothing_is_learnt_where_nothing_moves():
    """A warm-up from lr 0, a gradient that is zero or not finite at first: no step is taken yet."""
    firsts = {"warm-up": 1.0, "zero": 0.0, "not finite": math.inf}
    for name, factor in firsts.items():
        hessian, x, _ = quadratic()
        optimizer = SteepestDescent([x], norms.L2(), sharpness="estimate")
        if name == "warm-up":
            torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.0)
        losses = []
        for t in range(100):
            losses.append(float(0.5 * (x * (hessian @ x)).sum().detach()))
            x.grad = (hessian @ x.detach()) * (factor if t == 0 else 1.0)
            optimizer.step()
            if t == 0:
                optimizer.param_groups[0]["lr"] = 1.0
        assert losses[1] == losses[0], name
        assert losses[-1] < 0.05 * losses[0], name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_first_step_is_seen_in_half_precision(dtype):
    x = nn.Parameter(torch.ones(4, dtype=dtype))
    optimizer = SteepestDescent([x], norms.LInf(), sharpness="estimate")
    for _ in range(40):
        x.grad = x.detach().clone()
        optimizer.step()
    assert float(x.detach().abs().max()) < 0.1
    w = nn.Parameter(torch.ones(4))
    half = SteepestDescent([w], norms.LInf(), sharpness="estimate", momentum_dtype=dtype)
    for _ in range(40):
        w.grad = w.detach().clone()
        half.step()
    assert float(w.detach().abs().max()) < 0.1


def test_where_the_gradient_stays_the_step_doubles():
    x = nn.Parameter(torch.full((3,), 1000.0, dtype=torch.float64))
    optimizer = SteepestDescent([x], norms.L2(), sharpness="estimate")
    lengths = []
    for _ in range(6):
        before = x.detach().clone()
        x.grad = torch.ones_like(x)
        optimizer.step()
        lengths.append(float((x.detach() - before).norm()))
    assert [b / a for a, b in pairwise(lengths)] == pytest.approx([2.0] * 5)


def test_a_skipped_gradient_is_no_change_of_the_gradient():
    """Of two parameters one has a NaN once: the estimate stays a ratio of real changes."""
    named = [
        ("a", nn.Parameter(torch.ones(3).double())),
        ("b", nn.Parameter(torch.ones(2).double())),
    ]
    norm = norms.MaxOf({"a": norms.L2(), "b": norms.L2()})
    optimizer = SteepestDescent(named, norm, sharpness="estimate")
    for t in range(30):
        for _, p in named:
            p.grad = 2.0 * p.detach()
        if t == 3:
            named[1][1].grad[0] = math.nan
        optimizer.step()
        # The Hessian is 2: in this norm the changes of the two gradients add up.
        assert optimizer.sharpness is None or optimizer.sharpness <= 4.0 + 1e-9


def test_the_first_step_is_a_thousandth_of_the_weights():
    _, x, loss = quadratic()
    before = x.detach().clone()
    stepper(SteepestDescent([x], norms.Spectral(), sharpness="estimate"), loss)()
    moved = float(norms.Spectral()(x.detach() - before))
    assert moved == pytest.approx(1e-3 * float(norms.Spectral()(before)))


@pytest.mark.parametrize("options", [{"sharpness": "estimate"}, {"scale": "linesearch"}], ids=str)
def test_resumed_as_if_never_stopped(options):
    _, x, loss = quadratic()
    _, y, other = quadratic()
    whole, part = (SteepestDescent([p], norms.LInf(), **options) for p in (x, y))
    for _ in range(3):
        stepper(whole, loss)()
        stepper(part, other)()
    _, z, again = quadratic()
    z.data.copy_(y.data)
    resumed = SteepestDescent([z], norms.LInf(), **options)
    resumed.load_state_dict(part.state_dict())
    for _ in range(3):
        stepper(whole, loss)()
        stepper(resumed, again)()
    assert torch.equal(x, z)


def test_no_gradient_is_no_step():
    x = nn.Parameter(torch.ones(3))
    for options in ({"sharpness": "estimate"}, {"scale": "linesearch"}):
        optimizer = SteepestDescent([x], norms.L2(), **options)
        optimizer.step(lambda: torch.zeros(()))
        x.grad = torch.zeros(3)
        optimizer.step(lambda: torch.zeros(()))
        optimizer.step(lambda: 0.0)
        assert x.tolist() == [1, 1, 1]
        x.grad = None
