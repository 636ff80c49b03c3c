"""Lion-K: its formula, its equivalents, and the ball that decay and projection keep."""

import copy

import pytest
import torch
from torch import nn

from steepest import Lion, LionK, Muon, SteepestDescent, maps, norms
from steepest.polar import Auto, Svd
from steepest.views import MatrixView

SHAPE = (6, 9)
# Every map whose gradient has norm at most 1 in the domain.
MAPS = {
    "l1": maps.L1Map(),
    "nuclear": maps.NuclearMap(),
    "frobenius": maps.FromNorm(norms.Frobenius()),
    "rows": maps.GroupRows(),
    "columns": maps.GroupColumns(),
    "schatten": maps.SchattenMap(4),
    "largest": maps.TopK(2),
    "l2": maps.FromNorm(norms.L2()),
    "lp": maps.FromNorm(norms.Lp(3)),
    "operator": maps.FromNorm(norms.Operator("rms", "rms").dual),
    "smooth": maps.SmoothNuclear(0.1),
    "huber": maps.Huber(0.5),
    "dead": maps.SpectralDeadZone(0.2),
    "scaled": 3.0 * maps.NuclearMap(),
}
every_map = pytest.mark.parametrize("K", MAPS.values(), ids=MAPS)
DECAYS = ("explicit", "implicit", "cautious")


def weight(scale=1.0, seed=0, shape=SHAPE):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=torch.float64))


def run(optimizer, w, steps, seed=1):
    """Steps along random gradients; yields the weights after each."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        w.grad = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        optimizer.step()
        yield w.detach().clone()


def naive(w, grads, K, *, lr, betas, weight_decay, decay):
    """The docstrings' formulas, one line each."""
    m = torch.zeros_like(w)
    for g in grads:
        u = betas[0] * m + (1 - betas[0]) * g
        m = betas[1] * m + (1 - betas[1]) * g
        d = K.grad(u)
        if decay == "explicit":
            w = (1 - lr * weight_decay) * w - lr * d
        elif decay == "implicit":
            w = (w - lr * d) / (1 + lr * weight_decay)
        else:
            w = w - lr * (d + weight_decay * torch.where(d * w >= 0, w, 0.0))
    return w


@every_map
@pytest.mark.parametrize("decay", DECAYS)
def test_it_is_its_formula(K, decay):
    options = {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.5, "decay": decay}
    w = weight()
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(5)]
    expected = naive(w.detach(), grads, K, **options)
    last = list(run(LionK([w], K=K, **options), w, 5))[-1]
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
def test_the_decay_of_every_other_optimizer_is_the_same(decay):
    """Muon and the presets share the loop, so they share its decay; in single precision too."""
    options = {"lr": 0.1, "weight_decay": 0.5, "decay": decay}
    a, b = weight(), weight()
    muon = Muon([a], polar=Svd(), momentum=0.9, **options)
    lion_k = LionK([b], betas=(0.81, 0.9), K=maps.NuclearMap(), **options)
    for x, y in zip(run(muon, a, 5), run(lion_k, b, 5), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)
    c, d = (nn.Parameter(weight().detach().float()) for _ in range(2))
    pairs = zip(run(Lion([c], **options), c, 5), run(LionK([d], **options), d, 5), strict=True)
    assert all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.95])
@pytest.mark.parametrize("shape", [SHAPE, (9, 6)], ids=str)
def test_nuclear_is_nesterov_muon(momentum, shape):
    """β₁ = μ², β₂ = μ: one trajectory, to 1e-12 in float64; K has the factor of a tall shape."""
    a, b = weight(shape=shape), weight(shape=shape)
    K = max(1, shape[0] / shape[1]) ** 0.5 * maps.NuclearMap()
    muon = Muon([a], lr=0.02, weight_decay=0.3, momentum=momentum, polar=Svd())
    lion = LionK([b], lr=0.02, weight_decay=0.3, betas=(momentum**2, momentum), K=K)
    for x, y in zip(run(muon, a, 60), run(lion, b, 60), strict=True):
        assert float((x - y).abs().max()) < 1e-12


def test_l1_is_lion_and_loads_its_state():
    a, b = weight(), weight()
    lion, general = Lion([a], lr=0.1, weight_decay=0.1), LionK([b], lr=0.1, weight_decay=0.1)
    for x, y in zip(run(lion, a, 5), run(general, b, 5), strict=True):
        assert torch.equal(x, y)
    fresh = LionK([b], lr=0.7)
    fresh.load_state_dict(lion.state_dict())
    for x, y in zip(run(lion, a, 5, seed=2), run(fresh, b, 5, seed=2), strict=True):
        assert torch.equal(x, y)


def test_lion_takes_the_papers_betas():
    group = Lion([weight()], lr=0.1, betas=(0.5, 0.6)).param_groups[0]
    assert group["betas"] == (0.5, 0.6)
    for given in ({"momentum": 0.1}, {"nesterov": True}):
        with pytest.raises(ValueError, match="are the weights of this average"):
            Lion([weight()], lr=0.1, **given)


def test_half_the_square_is_gradient_descent():
    a, b = weight(), weight()
    plain = torch.optim.SGD([b], lr=0.1)
    for _ in run(LionK([a], lr=0.1, betas=(0.0, 0.0), K=maps.HalfSquare()), a, 3):
        b.grad = a.grad
        plain.step()
        torch.testing.assert_close(a, b)


@every_map
@pytest.mark.parametrize("decay", ["explicit", "implicit"])
@pytest.mark.parametrize("scale", [0.0, 4.0])
def test_the_ball_is_approached_exponentially_and_never_left(K, decay, scale):
    """dist ← at most (1 − ηλ)·dist, or dist/(1 + ηλ), whatever the gradients are."""
    lr, weight_decay = 0.05, 2.0
    factor = 1 - lr * weight_decay if decay == "explicit" else 1 / (1 + lr * weight_decay)
    w = weight(scale)
    before = float(K.violation(w.detach(), weight_decay))
    assert (before > 0) == (scale > 0)
    optimizer = LionK([w], lr=lr, weight_decay=weight_decay, K=K, decay=decay)
    for x in run(optimizer, w, 12):
        now = float(K.violation(x, weight_decay))
        assert now <= factor * before + 1e-9
        before = now


def test_cautious_decay_has_no_ball():
    """Weights that the gradients drive outwards go on for ever."""
    w = weight(0.0)
    optimizer = LionK([w], lr=0.1, weight_decay=2.0, K=maps.L1Map(), decay="cautious")
    for _ in range(100):
        w.grad = -torch.ones_like(w)
        optimizer.step()
    assert float(w.detach().abs().max()) > 10 * 0.5


@every_map
def test_a_projection_ends_on_the_nearest_point_of_the_ball(K):
    weight_decay = 2.0
    a, b = weight(4.0), weight(4.0)
    options = {"lr": 0.01, "weight_decay": weight_decay, "K": K}
    free, bound = LionK([a], **options), LionK([b], constraint="project", **options)
    (x,), (y,) = run(free, a, 1), run(bound, b, 1)
    torch.testing.assert_close(y, K.domain.project(x, 1 / weight_decay), rtol=0, atol=1e-10)
    assert float(K.violation(x, weight_decay)) > 0.1
    assert all(float(K.violation(z, weight_decay)) < 1e-9 for z in run(bound, b, 20))


def test_the_ball_of_muon_has_the_factor_of_the_step():
    w = weight(9.0, shape=(18, 2))
    optimizer = Muon([w], lr=0.01, weight_decay=2.0, constraint="project", polar=Svd())
    (x,) = run(optimizer, w, 1)
    assert float(torch.linalg.matrix_norm(x, 2)) == pytest.approx(3 / 2)


def test_each_part_of_a_fused_projection_has_its_own_ball():
    w = weight(5.0, shape=(12, 4))
    group = {"params": [w], "views": MatrixView(split=(4, 8))}
    optimizer = LionK([group], lr=0.01, weight_decay=2.0, K=maps.NuclearMap(), constraint="project")
    (x,) = run(optimizer, w, 1)
    for part in x.split([4, 8]):
        assert float(torch.linalg.matrix_norm(part, 2)) == pytest.approx(0.5)


def test_a_projection_in_half_precision_rounds_once():
    w = nn.Parameter(weight(5.0).detach().bfloat16())
    for x in run(LionK([w], lr=0.01, weight_decay=2.0, constraint="project"), w, 3):
        assert float(x.abs().max()) == 0.5


def test_weights_that_are_not_finite_have_no_projection():
    w = weight(float("nan"))
    optimizer = LionK(
        [w], lr=0.01, weight_decay=2.0, K=maps.NuclearMap(polar=Auto()), constraint="project"
    )
    with pytest.raises(FloatingPointError, match="6×9 has NaN or inf entries"):
        list(run(optimizer, w, 1))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_tensor_may_hold_the_decay(shape, unchecked):
    a, b = weight(4.0), weight(4.0)
    options = {"lr": 0.1, "K": maps.NuclearMap(), "constraint": "project"}
    tensor = LionK([a], weight_decay=torch.full(shape, 0.5), **options)
    for x, y in zip(
        run(tensor, a, 3), run(LionK([b], weight_decay=0.5, **options), b, 3), strict=True
    ):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_skipped_is_not_projected(bad):
    w, other = weight(5.0), weight(5.0)
    before = w.detach().clone()
    optimizer = LionK([w, other], lr=0.01, weight_decay=2.0, constraint="project")
    w.grad, other.grad = torch.full_like(w, bad), torch.ones_like(other)
    optimizer.step()
    assert torch.equal(w, before)
    assert float(other.detach().abs().max()) <= 0.5


def test_a_map_for_each_group_and_its_own_betas():
    a, b = weight(), weight(seed=3)
    groups = [{"params": [a]}, {"params": [b], "K": maps.GroupRows(), "betas": (0.1, 0.2)}]
    optimizer = LionK(groups, lr=0.1, K=maps.NuclearMap())
    found = [view.geometry for view in optimizer.parameter_views()]
    assert found == [maps.NuclearMap(), maps.GroupRows()]
    second = optimizer.param_groups[1]
    assert second["betas"] == (0.1, 0.2)
    last = list(run(optimizer, b, 1))[-1]
    grad = 0.9 * b.grad
    expected = weight(seed=3) - 0.1 * maps.GroupRows().grad(grad)
    torch.testing.assert_close(last, expected.detach())


def test_a_module_is_routed_for_matrices_and_whole_for_entries():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    routed = LionK(model, K=maps.NuclearMap())
    assert [g["adamw"] for g in routed.param_groups] == [False, True]
    assert len(LionK(model, K=maps.L1Map()).param_groups[0]["params"]) == 6


def test_the_state_names_the_map():
    w = weight()
    optimizer = LionK([w], lr=0.1, K=maps.SchattenMap(4))
    list(run(optimizer, w, 2))
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["K"] == repr(maps.SchattenMap(4))
    LionK([w], K=maps.SchattenMap(4)).load_state_dict(saved)
    with pytest.raises(ValueError, match=r"param_groups\[0\]\['K'\]=.*build it with the saved one"):
        LionK([w], K=maps.NuclearMap()).load_state_dict(saved)


BAD = [
    ({"weight_decay": 0.0, "constraint": "project"}, r"weight_decay=0.0: the ball .* give it > 0"),
    ({"lr": 1.0, "weight_decay": 2.0}, r"weight_decay=2.0: with lr=1 .* at most 1, or take decay"),
    ({"K": maps.HalfSquare(), "weight_decay": 1.0, "constraint": "project"}, "have no ball"),
    ({"constraint": "clip"}, "constraint='clip': give"),
    ({"decay": "coupled"}, "decay='coupled': give"),
    (
        {"K": norms.Spectral()},
        r"K=.*: a norm is a map by steepest.maps.FromNorm\(norms.Spectral\(\)\)",
    ),
    ({"K": "nuclear"}, "K='nuclear': give a map object"),
    ({"K": maps.TopK(7)}, r"k=7: a 6×9 matrix has 6 singular values"),
    ({"betas": (1.0, 0.9)}, r"betas=\(1.0, 0.9\): give two numbers"),
    ({"betas": 0.9}, "betas=0.9: give two numbers"),
    ({"betas": (0.9,)}, r"betas=\(0.9,\): give two numbers"),
    ({"weight_decay": -1.0}, "weight_decay=-1.0: give a finite number"),
    ({"weight_decay": torch.tensor(-1.0)}, r"weight_decay=tensor\(-1.\): give a finite number"),
    ({"weight_decay": torch.ones(2)}, "weight_decay='2': a tensor weight_decay holds one number"),
    ({"lr": torch.tensor(1.0), "weight_decay": 2.0}, "a step would decay weights past zero"),
    ({"weight_decay": torch.tensor(0.0), "constraint": "project"}, "give it > 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[m for _, m in BAD])
def test_bad_arguments(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        LionK([weight()], **{"lr": 0.1, **arguments})


def test_a_map_that_does_not_fit_the_dimension():
    with pytest.raises(ValueError, match="got a parameter of shape"):
        LionK([nn.Parameter(torch.zeros(3))], K=maps.NuclearMap())
    with pytest.raises(ValueError, match="got a parameter of shape"):
        LionK([nn.Parameter(torch.zeros(3))], K=maps.GroupRows())


LATER = [
    ({"lr": 1.5}, r"weight_decay=1.0: with lr=1.5 a step would decay"),
    ({"lr": torch.tensor(1.5)}, r"weight_decay=1.0: with lr=1.5 a step would decay"),
    ({"weight_decay": 0.0, "constraint": "project"}, "the ball to project on .* give it > 0"),
    ({"decay": "coupled"}, "decay='coupled': give"),
    ({"constraint": "clip"}, "constraint='clip': give"),
]


@pytest.mark.parametrize("make", [LionK, lambda p, **kw: SteepestDescent(p, norms.L2(), **kw)])
@pytest.mark.parametrize(("change", "message"), LATER, ids=[m for _, m in LATER])
def test_what_a_schedule_may_not_do_is_stopped_before_anything_changes(make, change, message):
    w = weight()
    optimizer = make([w], lr=0.5, weight_decay=1.0)
    list(run(optimizer, w, 1))
    state = copy.deepcopy(optimizer.state_dict()["state"])
    before = w.detach().clone()
    optimizer.param_groups[0].update(change)
    with pytest.raises(ValueError, match=message):
        list(run(optimizer, w, 1))
    assert torch.equal(w, before)
    torch.testing.assert_close(optimizer.state_dict()["state"], state)


@pytest.mark.parametrize("arguments", [{"sharpness": 1.0}, {"scale": "linesearch"}])
def test_steps_whose_length_follows_the_gradient_have_no_ball(arguments):
    decay = {} if "scale" in arguments else {"weight_decay": 1.0}
    with pytest.raises(ValueError, match=r"no ball|the ball to project on"):
        SteepestDescent([weight()], norms.L2(), constraint="project", **decay, **arguments)
