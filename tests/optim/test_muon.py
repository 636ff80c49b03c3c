"""Muon against its formula, and what it is given."""

import copy
import inspect
import math
import re

import pytest
import torch
from torch import nn

from steepest import MatrixView, Muon, route
from steepest.norms import Operator
from steepest.polar import Auto, NewtonSchulz, Svd
from steepest.views import conv
from tests.matrices import naive_polar, spectral_distance
from tests.optim.runs import gradient, parameter, run

TORCH_ARGUMENTS = inspect.signature(torch.optim.Muon).parameters


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("rule", [None, "original", "match_rms_adamw", "spectral_unclamped"])
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (1, 5)], ids=str)
def test_the_docstrings_formula(nesterov, rule, shape):
    """The four lines of the class docstring, stepped in float64."""
    w = parameter(*shape)
    optimizer = Muon([w], 0.1, 0.3, 0.8, nesterov, adjust_lr_fn=rule, polar=Svd())
    expected, buffer = w.detach().clone(), torch.zeros(shape, dtype=torch.float64)
    m, n = shape
    factor = {
        "match_rms_adamw": 0.2 * math.sqrt(max(m, n)),
        "spectral_unclamped": math.sqrt(m / n),
    }.get(rule, math.sqrt(max(1, m / n)))
    for t in range(4):
        g = gradient(w, t)
        buffer = 0.8 * buffer + 0.2 * g
        u = 0.8 * buffer + 0.2 * g if nesterov else buffer
        expected = (1 - 0.1 * 0.3) * expected - 0.1 * factor * naive_polar(u)
        w.grad = g
        optimizer.step()
    torch.testing.assert_close(w.detach(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(optimizer.state[w]["momentum_buffer"], buffer)
    for line in ("buffer ← momentum·buffer + (1 − momentum)·grad", "(1 − lr·weight_decay)·W"):
        assert line in Muon.__doc__


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (16, 16)])
def test_spectral_unclamped_makes_steps_of_rms_to_rms_norm_lr(shape):
    """√(m/n) for wide matrices too, whether or not the installed torch knows the rule."""
    w = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    w.grad = gradient(w, 0)
    optimizer = Muon([w], lr=0.25, adjust_lr_fn="spectral_unclamped", polar=Svd())
    optimizer.step()
    assert float(Operator("rms", "rms")(w.detach())) == pytest.approx(0.25, rel=1e-9)


def test_match_rms_gives_entries_of_rms_one_fifth():
    w = nn.Parameter(torch.zeros(40, 90, dtype=torch.float64))
    w.grad = gradient(w, 0)
    Muon([w], lr=1.0, adjust_lr_fn="match_rms_adamw", polar=Svd()).step()
    # A full-rank update of 40 rows in 90 columns: √(40/(40·90)) an entry, times 0.2·√90.
    assert float(w.detach().square().mean().sqrt()) == pytest.approx(0.2, rel=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1, 0.9])
def test_decay_does_not_depend_on_the_shape(decay):
    """The factor of the learning rate is not in it, and it does decay."""
    for shape in ((2, 50), (50, 2), (7, 7)):
        w = parameter(*shape)
        before = w.detach().clone()
        w.grad = torch.zeros_like(w)
        Muon([w], lr=0.1, weight_decay=decay).step()
        torch.testing.assert_close(w.detach(), before * (1 - 0.1 * decay), rtol=1e-12, atol=0)


def test_a_convolution_is_scaled_by_its_matrix_shape():
    """√(out / in·kh·kw) = √(64/8·9), not √(kh/kw)."""
    w = nn.Parameter(torch.zeros(64, 2, 3, 3, dtype=torch.float64))
    w.grad = gradient(w, 0)
    Muon([{"params": [w], "views": conv(2)}], lr=1.0, polar=Svd()).step()
    assert float(torch.linalg.matrix_norm(w.detach().flatten(1), 2)) == pytest.approx(
        math.sqrt(64 / 18)
    )


def test_fused_qkv_is_three_matrices():
    w = nn.Parameter(torch.zeros(24, 8, dtype=torch.float64))
    w.grad = gradient(w, 0)
    Muon([{"params": [w], "views": MatrixView(split=3)}], lr=1.0, polar=Svd()).step()
    for block, g in zip(w.detach().split(8), w.grad.split(8), strict=True):
        assert spectral_distance(block, -naive_polar(g)) < 1e-12


def test_unequal_blocks_have_their_own_shape_and_factor():
    """Grouped-query attention: a large Q over small K and V, in one stack call each."""
    w, v = (nn.Parameter(torch.zeros(24, 8, dtype=torch.float64)) for _ in range(2))
    for p in (w, v):
        p.grad = gradient(p, 1)
    view = MatrixView(split=(16, 4, 4))
    Muon([{"params": [w, v], "views": (view, view)}], lr=1.0, polar=Svd()).step()
    assert torch.equal(w, v)
    for block, g in zip(w.detach().split([16, 4, 4]), w.grad.split([16, 4, 4]), strict=True):
        factor = math.sqrt(max(1, block.shape[0] / 8))
        assert spectral_distance(block, -factor * naive_polar(g)) < 1e-12


def test_stacked_experts_are_separate_matrices():
    w = nn.Parameter(torch.zeros(3, 5, 7, dtype=torch.float64))
    w.grad = gradient(w, 0)
    view = MatrixView(batch=(0,), rows=(1,), cols=(2,))
    Muon([{"params": [w], "views": view}], lr=1.0, polar=Svd()).step()
    for e in range(3):
        assert spectral_distance(w.detach()[e], -naive_polar(w.grad[e])) < 1e-12


def test_a_module_is_routed_and_the_rest_is_torchs_adamw():
    torch.manual_seed(0)
    model = nn.ModuleDict(
        {"embedding": nn.Embedding(6, 4), "hidden": nn.Linear(4, 4), "head": nn.Linear(4, 6)}
    )
    twin = copy.deepcopy(model)
    optimizer = Muon(
        model, lr=0.1, adamw_lr=0.01, adamw_betas=(0.8, 0.9), adamw_eps=1e-6, adamw_weight_decay=0.3
    )
    tables = [twin["embedding"].weight, twin["head"].weight]
    vectors = [twin["hidden"].bias, twin["head"].bias]
    reference = torch.optim.AdamW(
        [{"params": tables}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.01, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3,
    )  # fmt: skip
    for t in range(3):
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            p.grad, q.grad = gradient(p, t), gradient(p, t)
        optimizer.step()
        reference.step()
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        if name != "hidden.weight":
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    hidden = spectral_distance(model["hidden"].weight.detach(), twin["hidden"].weight.detach())
    assert hidden > 0.1


def test_rest_lr_defaults():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert [g["lr"] for g in Muon(model, lr=0.02).param_groups] == [0.02, 3e-4]
    matched = Muon(model, lr=0.002, adjust_lr_fn="match_rms_adamw")
    assert [g["lr"] for g in matched.param_groups] == [0.002, 0.002]
    lr = torch.tensor(0.1)
    groups = Muon(model, lr=lr, adjust_lr_fn="match_rms_adamw").param_groups
    assert groups[1]["lr"] is not lr  # a scheduler fills each tensor in place


@pytest.mark.parametrize("kind", ["parameters", "named", "groups", "routing"])
def test_what_it_accepts(kind):
    layer = nn.Linear(3, 4, bias=False)
    given_ = {
        "parameters": layer.parameters(),
        "named": layer.named_parameters(),
        "groups": [{"params": list(layer.parameters()), "lr": 0.5}],
        "routing": route(layer),
    }[kind]
    optimizer = Muon(given_, lr=0.25)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.ones_like(layer.weight)
    optimizer.step()
    assert not torch.equal(before, layer.weight)
    assert optimizer.param_groups[0]["lr"] == (0.5 if kind == "groups" else 0.25)
    assert (optimizer.routing is not None) == (kind in ("routing", "named"))


MUON_GOT_A_VECTOR = (
    r"^Muon got a parameter of shape \(4,\)\. Pass the module instead: "
    r"`steepest\.Muon\(model, lr=0\.02\)` sends biases, embeddings and heads to AdamW\. "
    r"It is not a matrix \(parameter 1 of its group\): .*adamw=True$"
)


def test_a_bare_vector_is_refused_with_the_remedy():
    layer = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=MUON_GOT_A_VECTOR):
        Muon(layer.parameters())


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 3, 4, 5, 6)], ids=len)
def test_a_bare_tensor_of_more_axes_is_refused_with_both_readings(shape):
    """A kernel to some and a stack of matrices to others: torch's proposals disagree as well."""
    w = nn.Parameter(torch.zeros(shape))
    with pytest.raises(ValueError, match=rf"`views`.*conv\({len(shape) - 2}\).*batch="):
        Muon([w])
    *batch, rows, cols = range(len(shape))
    stack = MatrixView(batch=tuple(batch), rows=(rows,), cols=(cols,))
    Muon([{"params": [w], "views": stack}])
    Muon([{"params": [w], "views": conv(len(shape) - 2)}])


def test_nothing_to_orthogonalise_is_refused():
    """The worst default elsewhere: plain AdamW or SGD under the name of Muon, without a word."""
    with pytest.raises(ValueError, match=r"plain AdamW.*torch\.optim\.AdamW"):
        Muon(nn.LayerNorm(4))
    with pytest.raises(ValueError, match="no matrix"):
        Muon([{"params": [parameter(3)], "adamw": True}])


def test_a_group_may_ask_for_newton_schulz_alone():
    a, b = parameter(4, 4), parameter(4, 4)
    optimizer = Muon([{"params": [a], "ns_steps": 3}, {"params": [b]}])
    assert optimizer.param_groups[0]["polar"] is None
    assert optimizer.param_groups[1]["polar"] == repr(Auto(error=0.05))
    with pytest.raises(ValueError, match="either"):
        optimizer.add_param_group({"params": [parameter(2, 2)], "ns_steps": 3, "polar": Svd()})


BAD = [
    ({"lr": -1.0}, r"lr=-1\.0"),
    ({"lr": float("nan")}, "lr=nan"),
    ({"lr": torch.ones(2)}, "lr='2'"),
    ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
    ({"momentum": 1.0}, r"momentum=1\.0"),
    ({"momentum": -0.5}, r"momentum=-0\.5"),
    ({"adjust_lr_fn": "adam"}, "adjust_lr_fn='adam'"),
    ({"nonfinite": "ignore"}, "nonfinite='ignore'"),
    ({"polar": "svd"}, "polar='svd'"),
    ({"ns_steps": 0}, "ns_steps=0"),
    ({"ns_steps": 100}, "ns_steps=100"),
    ({"ns_coefficients": (1.0, 2.0)}, "ns_coefficients="),
    ({"ns_steps": 3, "polar": Svd()}, "either them or polar"),
    ({"max_batch_bytes": 0}, "max_batch_bytes=0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[str(b[0]) for b in BAD])
def test_bad_arguments(arguments, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Muon([parameter(3, 3)], **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"adamw_lr": -1.0}, "lr="), ({"adamw_betas": (0.9, 1.0)}, "betas=")]
)
def test_bad_arguments_of_the_rest(arguments, message):
    with pytest.raises(ValueError, match=message):
        Muon(nn.Linear(3, 3), **arguments)


def test_views_that_do_not_fit():
    w = parameter(6, 4)
    with pytest.raises(ValueError, match=r"view of parameter 0 .*split=5"):
        Muon([{"params": [w], "views": MatrixView(split=5)}])
    with pytest.raises(ValueError, match=r"views=2: give one view, or 1"):
        Muon([{"params": [w], "views": [MatrixView(), MatrixView()]}])


def test_a_checkpoint_of_other_views_is_refused():
    w = parameter(6, 4)
    saved = Muon([{"params": [w], "views": MatrixView(split=2)}]).state_dict()
    fresh = Muon([w])
    with pytest.raises(ValueError, match=re.escape("param_groups[0]['views']")):
        fresh.load_state_dict(saved)
    del saved["param_groups"][0]["views"]
    fresh.load_state_dict(saved)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        Muon([w], lr=0.1).load_state_dict(Muon(nn.Linear(2, 2)).state_dict())


def test_the_weights_end_in_the_ball_of_the_decay():
    """‖W‖₂ ≤ 1/weight_decay for a square matrix and an exact polar factor."""
    w = nn.Parameter(10 * parameter(6, 6).detach())
    optimizer = Muon([w], lr=0.05, weight_decay=2.0, polar=Svd())
    run(optimizer, [w], 150)
    assert float(torch.linalg.matrix_norm(w.detach(), 2)) <= 0.5 + 1e-6


def test_the_default_error_reaches_the_weights():
    """One step from zero is −lr·polar(g) to within the 5 % of Auto's default."""
    w = nn.Parameter(torch.zeros(32, 48))
    w.grad = gradient(w, 0)
    Muon([w], lr=1.0).step()
    assert spectral_distance(w.detach(), -naive_polar(w.grad)) < 0.05
    assert NewtonSchulz().accuracy(32, 48, torch.float32).error > 0.05
