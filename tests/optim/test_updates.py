"""The update functions, and the corners of the step loop where memory or types differ."""

import copy
import weakref

import pytest
import torch
from torch import nn

from steepest import MatrixView, Muon
from steepest.norms import Schatten
from steepest.optim.updates import ONE_THREAD, descend, finite_flags
from steepest.polar import Auto, Svd
from tests.matrices import naive_polar, spectral_distance


def strided():
    storage = torch.randn(3, 4)
    return storage, nn.Parameter(storage[:, :2]), torch.randn(3, 2)


def transposed_gradient():
    p = nn.Parameter(torch.randn(3, 4))
    return p.data, p, torch.randn(4, 3).t()


def expanded_gradient():
    p = nn.Parameter(torch.randn(4))
    return p.data, p, torch.ones(()).expand(4)


def every_second():
    p = nn.Parameter(torch.randn(4))
    return p.data, p, torch.randn(8)[::2]


def channels_last():
    p = nn.Parameter(torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last))
    return p.data, p, torch.randn(2, 3, 4, 5)


@pytest.mark.parametrize(
    "case", [strided, transposed_gradient, expanded_gradient, every_second, channels_last]
)
def test_adamw_respects_strides(case):
    """The fused kernel walks flat memory; nothing outside the parameter may change."""
    storage, p, grad = case()
    twin = nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format))
    outside = storage[:, 2:].clone() if case is strided else torch.zeros(0)
    matrix = nn.Parameter(torch.zeros(2, 2))
    optimizer = Muon([{"params": [matrix]}, {"params": [p], "adamw": True}], adamw_lr=0.1)
    reference = torch.optim.AdamW(
        [twin], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0, foreach=False
    )
    for _ in range(3):
        p.grad, twin.grad = grad, grad.clone(memory_format=torch.contiguous_format)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(p.detach(), twin.detach())
    if case is strided:
        assert torch.equal(storage[:, 2:], outside)


def test_adamw_loads_a_state_of_another_layout():
    p = nn.Parameter(torch.randn(2, 3, 4, 5))
    matrix = nn.Parameter(torch.zeros(2, 2))

    def make(q):
        return Muon([{"params": [matrix]}, {"params": [q], "adamw": True}], adamw_lr=0.1)

    grads = [torch.randn(2, 3, 4, 5) for _ in range(3)]
    optimizer = make(p)
    p.grad = grads[0]
    optimizer.step()
    q = nn.Parameter(p.detach().to(memory_format=torch.channels_last, copy=True))
    other = make(q)
    other.load_state_dict(optimizer.state_dict())
    for g in grads[1:]:
        p.grad, q.grad = g, g.clone()
        optimizer.step()
        other.step()
    torch.testing.assert_close(p, q)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_gradient_too_large_for_its_momentum_is_skipped(dtype):
    """Finite as a gradient, inf in the buffer: it would be there for ever."""
    w = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    optimizer = Muon([w], momentum_dtype=dtype)
    w.grad = torch.full_like(w, 1e5 if dtype == torch.float16 else 1e39)
    optimizer.step()
    assert optimizer.skipped == 1
    assert torch.equal(w, torch.zeros_like(w))
    w.grad = torch.ones_like(w)
    optimizer.step()
    assert bool(torch.isfinite(w).all())
    assert bool((w != 0).any())


def test_finite_judges_in_the_type_asked_for():
    grads = [torch.tensor([1e5]), torch.tensor([float("nan")]), torch.tensor([1.0])]
    assert finite_flags(grads, torch.float16) == [False, False, True]
    assert finite_flags(grads, torch.float32) == [True, False, True]


def test_each_gradient_of_a_step_is_judged_in_the_type_of_its_own_momentum():
    a, b = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    optimizer = Muon([{"params": [a], "momentum_dtype": torch.float16}, {"params": [b]}], lr=0.1)
    for p in (a, b):
        p.grad = torch.full((2, 2), 1e5)
    optimizer.step()
    assert optimizer.skipped == 1
    assert bool((a == 0).all()) and bool((b != 0).any())


@pytest.mark.parametrize("size", [3, ONE_THREAD + 1])
def test_finite_is_about_entries_not_their_squares(size):
    grads = [torch.full((size,), 1e30) for _ in range(4)]
    for grad, bad in zip(grads, (float("inf"), float("-inf"), float("nan")), strict=False):
        grad[-1] = bad
    assert finite_flags(grads, torch.float32) == [False, False, False, True]


@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_pass_is_decay_and_update(decay, transposed):
    """Whatever the order of memory, weights move by −rate·length after they have decayed."""
    params = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    updates = [torch.randn(4, 3, dtype=torch.float64).mT for _ in params]
    updates = updates if transposed else [u.contiguous() for u in updates]
    lengths = [2.0, 0.0, 2.0]
    expected = [
        (1 - 0.1 * decay) * p - 0.1 * length * u
        for p, u, length in zip(params, updates, lengths, strict=True)
    ]
    descend(params, updates, rates=0.1, lengths=lengths, weight_decay=decay)
    torch.testing.assert_close(params, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("change", ["missing", "converted", "transposed"])
def test_a_model_may_change_between_steps(change):
    """Other parameters with gradients, another type, another order of memory."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(80, 64)) for _ in range(3)]
    alone = [copy.deepcopy(p) for p in params]
    optimizer, single = Muon(params, polar=Svd()), [Muon([p], polar=Svd()) for p in alone]
    for t in range(3):
        alone, single = copy.deepcopy((alone, single))  # which remember nothing
        for i, (p, q) in enumerate(zip(params, alone, strict=True)):
            if t == 1 and change == "converted":
                p.data, q.data = p.data.double(), q.data.double()
            if t == 1 and change == "transposed":
                p.data = p.data.mT.contiguous().mT
            skipped = t == i + 1 and change == "missing"
            p.grad = None if skipped else torch.randn_like(p)
            q.grad = None if p.grad is None else p.grad.clone()
        for each in (optimizer, *single):
            each.step()
        torch.testing.assert_close(params, alone)


def test_gradients_are_not_kept_alive():
    w = nn.Parameter(torch.randn(4, 4))
    optimizer = Muon([w])
    w.grad = torch.randn(4, 4)
    seen = weakref.ref(w.grad)
    optimizer.step()
    w.grad = None
    assert seen() is None


def test_half_precision_weights_are_rounded_once():
    """1 − lr·decay = 0.999 is not a bfloat16 number: decaying in bfloat16 does nothing."""
    w = nn.Parameter(torch.linspace(1, 2, 64, dtype=torch.bfloat16).reshape(8, 8))
    before = w.detach().float()
    w.grad = torch.randn(8, 8).bfloat16()
    Muon([w], lr=0.01, weight_decay=0.1, momentum=0.0, polar=Svd()).step()
    expected = (before * (1 - 0.001) - 0.01 * naive_polar(w.grad).float()).bfloat16()
    different = (w != expected).float().mean()
    assert float(different) < 0.05  # a tie may fall the other way


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)], ids=str)
def test_a_complex_step_is_the_complex_polar_factor(shape):
    w = nn.Parameter(torch.zeros(shape, dtype=torch.complex128))
    w.grad = torch.randn(shape, dtype=torch.complex128)
    Muon([w], lr=1.0, polar=Svd()).step()
    factor = max(1, shape[0] / shape[1]) ** 0.5
    assert spectral_distance(w.detach(), -factor * naive_polar(w.grad)) < 1e-12


def test_complex_momentum_in_another_precision_stays_complex():
    w = nn.Parameter(torch.zeros(3, 3, dtype=torch.complex64))
    w.grad = torch.randn(3, 3, dtype=torch.complex64)
    optimizer = Muon([w], lr=1.0, momentum_dtype=torch.float64, polar=Svd())
    optimizer.step()
    assert optimizer.state[w]["momentum_buffer"].dtype == torch.complex128
    assert spectral_distance(w.detach(), -naive_polar(w.grad)) < 1e-5


@pytest.mark.parametrize("limit", [1, 1024, 100_000])
def test_stacks_are_full_but_bounded(limit, monkeypatch):
    """Equal shapes are one stack; `max_batch_bytes` cuts it, down to one parameter."""
    shapes = [(8, 8), (8, 8), (4, 8, 8), (8, 8), (6, 3), (3, 6)]
    params = [nn.Parameter(torch.randn(s)) for s in shapes]
    stacked = MatrixView(batch=(0,), rows=(1,), cols=(2,))
    views = [stacked if p.ndim == 3 else MatrixView() for p in params]
    optimizer = Muon([{"params": params, "views": views}], max_batch_bytes=limit)
    seen = []
    dualize_all = Schatten.dualize_all

    def watched(self, gs, **kw):
        # One call takes no more than the bound, or one parameter.
        assert len(gs) == 1 or 4 * sum(g.numel() for g in gs) <= limit
        seen.extend(tuple(g.shape) for g in gs)
        return dualize_all(self, gs, **kw)

    monkeypatch.setattr(Schatten, "dualize_all", watched)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    expected = {
        1: [(1, 8, 8), (1, 8, 8), (4, 8, 8), (1, 8, 8), (1, 3, 6), (1, 3, 6)],
        1024: [(2, 8, 8), (4, 8, 8), (1, 8, 8), (2, 3, 6)],
        100_000: [(7, 8, 8), (2, 3, 6)],
    }[limit]
    assert seen == expected


@pytest.mark.parametrize(("limit", "calls"), [(None, 2), (800, 4)])
def test_matrices_with_equal_smaller_sides_come_together(limit, calls, monkeypatch):
    """A method that works on m × m matrices does it once for all that have the same m."""
    shapes = [(8, 12), (8, 20), (30, 8), (4, 12)]
    params = [nn.Parameter(torch.zeros(s)) for s in shapes]
    seen = []
    dualize_all = Schatten.dualize_all

    def watched(self, gs, **kw):
        seen.append({min(g.shape[-2:]) for g in gs})
        return dualize_all(self, gs, **kw)

    monkeypatch.setattr(Schatten, "dualize_all", watched)
    optimizer = Muon(params, lr=1.0, momentum=0.0, weight_decay=0.0, max_batch_bytes=limit)
    for p in params:
        p.grad = torch.randn_like(p)
    optimizer.step()
    assert len(seen) == calls and all(len(sides) == 1 for sides in seen)
    for p in params:
        expected = -naive_polar(p.grad) * max(1.0, p.shape[0] / p.shape[1]) ** 0.5
        assert spectral_distance(p.detach(), expected) < 0.1


def test_tensor_learning_rates_are_not_shared():
    """A scheduler writes into them, each group from its own base."""
    a, b = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    optimizer = Muon([{"params": [a]}, {"params": [b]}], lr=torch.tensor(0.5))
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda t: 1.0, lambda t: 0.0])
    assert [float(g["lr"]) for g in optimizer.param_groups] == [0.5, 0.0]


def test_groups_copied_from_another_optimizer():
    """As wrappers build them: from `param_groups`, with every key."""
    a, b = (nn.Parameter(torch.randn(3, 3)) for _ in range(2))
    for arguments in ({}, {"ns_steps": 4}):
        optimizer = Muon([a], **arguments)
        group = {k: v for k, v in optimizer.param_groups[0].items() if k != "views"}
        optimizer.add_param_group({**group, "params": [b]})
        assert optimizer.param_groups[1]["polar"] == optimizer.param_groups[0]["polar"]
    optimizer = Muon([a], ns_steps=4)
    optimizer.add_param_group({"params": [b], "polar": None})
    assert optimizer.param_groups[1]["polar"] == optimizer.param_groups[0]["polar"]


def test_an_error_that_no_method_reaches_is_refused_when_built():
    with pytest.raises(ValueError, match="error=1e-09"):
        Muon([nn.Parameter(torch.zeros(4, 4))], polar=Auto(error=1e-9))


def test_a_parameter_given_twice_is_refused():
    w = nn.Parameter(torch.zeros(2, 2))
    with pytest.warns(UserWarning, match="duplicate"), pytest.raises(ValueError, match="twice"):
        Muon([w, w])


@pytest.mark.parametrize(
    "bad", [{"views": (1,)}, {"lr": "x"}, {"momentum": None}, {"momentum_dtype": torch.int32}]
)
def test_whatever_is_refused_is_not_kept(bad):
    optimizer = Muon([nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises((ValueError, AttributeError, TypeError)):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 2))], **bad})
    assert len(optimizer.param_groups) == 1


def test_a_checkpoint_with_matrices_and_rest_exchanged_is_refused():
    a, b = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    saved = Muon([{"params": [a], "adamw": True}, {"params": [b]}]).state_dict()
    optimizer = Muon([{"params": [a]}, {"params": [b], "adamw": True}])
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"\['adamw'\]"):
        optimizer.load_state_dict(saved)
    assert optimizer.state_dict() == before


def test_a_checkpoint_with_a_bad_value_is_refused():
    w = nn.Parameter(torch.zeros(2, 2))
    saved = Muon([w]).state_dict()
    saved["param_groups"][0]["ns_steps"] = 0
    with pytest.raises(ValueError, match="ns_steps=0"):
        Muon([w]).load_state_dict(saved)


def test_nothing_is_counted_when_a_step_raises():
    a, b = (nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    optimizer = Muon([{"params": [a]}, {"params": [b], "nonfinite": "raise"}])
    for p in (a, b):
        p.grad = torch.full_like(p, float("nan"))
    with pytest.raises(FloatingPointError, match="parameter 0"):
        optimizer.step()
    assert optimizer.skipped == 0


def test_adamws_step_moves_with_its_parameter():
    """A checkpoint mapped to the host; the kernel wants the count beside the weights."""
    a, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    optimizer = Muon([{"params": [a]}, {"params": [b], "adamw": True}])
    a.grad, b.grad = torch.ones(2, 2), torch.ones(2)
    optimizer.step()
    there = [
        nn.Parameter(torch.zeros(2, 2, device="meta")),
        nn.Parameter(torch.zeros(2, device="meta")),
    ]
    loaded = Muon([{"params": there[:1]}, {"params": there[1:], "adamw": True}])
    loaded.load_state_dict(optimizer.state_dict())
    assert {v.device.type for v in loaded.state[there[1]].values()} == {"meta"}
