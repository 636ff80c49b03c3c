"""The contract of every optimizer: a new one is one line in the table of tests/optim/suite.py."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

import steepest.optim
from steepest.optim import LoRAMuon, MuonVariant, Muown, SteepestOptimizer
from steepest.optim.presets import FAMILY
from steepest.testing import optimizers as contract
from tests.optim.suite import (
    OPTIMIZERS,
    assert_equal,
    every_optimizer,
    loss,
    model,
    parameters,
    train,
)
from tests.optim.suite import all_in_eight_bits as all_in_eight_bits

pytestmark = pytest.mark.usefixtures("all_in_eight_bits")


def test_the_table_is_complete():
    public = {
        cls
        for _, cls in inspect.getmembers(steepest.optim, inspect.isclass)
        if issubclass(cls, torch.optim.Optimizer)
    }
    # One takes pairs of matrices, the other an optimizer: tests/optim/test_lora.py and
    # test_ema_nesterov.py hold them to the contract.
    public -= {SteepestOptimizer, MuonVariant, LoRAMuon, steepest.EMANesterov}
    assert {type(make(model())) for make in OPTIMIZERS.values()} == public


@every_optimizer
def test_it_descends_and_moves_every_parameter(make):
    contract.descends(make)


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_gradients_are_not_written_to(make, dtype):
    contract.leaves_gradients_alone(make, dtype)


@every_optimizer
def test_closure_runs_once_with_gradients_enabled(make):
    contract.calls_its_closure(make)


@every_optimizer
def test_a_scheduler_reaches_every_group_from_its_own_base(make):
    contract.obeys_a_scheduler(make)


@every_optimizer
def test_one_cycle_lr_cycles_the_momentum(make):
    m = model()
    optimizer = make(m)
    scheduler = OneCycleLR(optimizer, max_lr=optimizer.lrs(0.1), total_steps=4, cycle_momentum=True)
    values = []
    for t in range(3):
        train(m, optimizer, 1, t)
        scheduler.step()
        group = optimizer.param_groups[0]
        values.append(group.get("betas") or group["momentum"])
    assert len(set(values)) > 1


@every_optimizer
@pytest.mark.parametrize("shape", [(), (1,)], ids=str)
def test_tensor_lr_equals_float_lr(make, shape):
    m, other = model(), model()
    # A power of two: the same number in every type.
    optimizer, twin = make(m, lr=0.125), make(other, lr=torch.full(shape, 0.125))
    for t in range(3):
        train(m, optimizer, 1, t)
        train(other, twin, 1, t)
        # One kernel rounds once where another rounds twice.
        for a, b in zip(m.parameters(), other.parameters(), strict=True):
            ulp = torch.finfo(a.dtype).eps * float(a.detach().abs().max())
            torch.testing.assert_close(a, b, rtol=0, atol=8 * ulp)
        # The next gradients, and a polar factor of them, would not forget even that.
        other, twin = copy.deepcopy((m, optimizer))
        for group in twin.param_groups:
            group["lr"] = torch.full(shape, group["lr"])


@every_optimizer
def test_a_scheduler_reaches_tensor_lr(make):
    m = model()
    optimizer = make(m, lr=torch.tensor(0.25), adamw_lr=torch.tensor(0.25))
    LambdaLR(optimizer, lambda t: 0.0)
    before = parameters(m)
    train(m, optimizer, 1)
    assert_equal(before, parameters(m))


@every_optimizer
def test_add_param_group(make):
    m, extra = model(), nn.Linear(5, 5)
    optimizer = make(m)
    optimizer.add_param_group({"params": [("extra.weight", extra.weight)], "lr": 0.5})
    optimizer.add_param_group({"params": [("extra.bias", extra.bias)], "adamw": True})
    before = extra.weight.detach().clone(), extra.bias.detach().clone()
    extra(torch.randn(3, 5)).square().sum().backward()
    train(m, optimizer, 1)
    loss(m).backward()
    extra(torch.randn(3, 5)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before[0], extra.weight)
    assert not torch.equal(before[1], extra.bias)


@every_optimizer
def test_a_refused_group_leaves_the_optimizer_as_it_was(make):
    m = model()
    optimizer = make(m)
    groups = len(optimizer.param_groups)
    for bad in ({"lr": -1.0}, {"views": (1, 2, 3)}):
        with pytest.raises((ValueError, AttributeError)):
            optimizer.add_param_group({"params": [("w", nn.Parameter(torch.ones(2, 2)))], **bad})
    assert len(optimizer.param_groups) == groups
    train(m, optimizer, 1)


@every_optimizer
def test_step_hooks(make):
    contract.calls_step_hooks(make)


@every_optimizer
def test_grad_scaler_and_clipping(make):
    m, other = model(), model()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer, twin = make(m), make(other)
    for t in range(3):
        optimizer.zero_grad()
        scaler.scale(loss(m, t)).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(m.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        twin.zero_grad()
        loss(other, t).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        twin.step()
    for a, b in zip(m.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    before = parameters(m)
    optimizer.zero_grad()
    scaler.scale(loss(m)).backward()
    m.up.weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    assert_equal(before, parameters(m))


@every_optimizer
def test_parameters_without_gradient_are_left_alone(make):
    """No zero gradient, no decay, no state."""
    contract.leaves_alone_what_has_no_gradient(lambda m: make(m, weight_decay=0.5))


@every_optimizer
def test_it_goes_on_bit_for_bit(make):
    contract.resumes(make)


@every_optimizer
def test_batched_equals_one_by_one(make):
    shapes = [(6, 6), (6, 6), (4, 9), (9, 4), (9, 4), (6, 6)]
    torch.manual_seed(0)
    together = [nn.Parameter(torch.randn(s, dtype=torch.float64)) for s in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    stacked = make(together)
    single = [make([p]) for p in alone]
    for _ in range(3):
        for p, q in zip(together, alone, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        stacked.step()
        for optimizer in single:
            optimizer.step()
    # A batched bfloat16 product may round differently from a single one.
    tolerance = 3e-2 if stacked.param_groups[0].get("polar", "") is None else 1e-9
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


@every_optimizer
@pytest.mark.parametrize("limit", [1, 600, 10_000])
def test_a_bounded_stack_changes_nothing(make, limit):
    m, other = model().double(), model().double()
    train(m, make(m), 2)
    train(other, make(other, max_batch_bytes=limit), 2)
    for a, b in zip(m.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-3)


@every_optimizer
def test_maximize_is_descent_on_the_negative(make):
    m, other = model(), model()
    up, down = make(m, maximize=True), make(other)
    for t in range(2):
        up.zero_grad()
        (-loss(m, t)).backward()
        up.step()
        down.zero_grad()
        loss(other, t).backward()
        down.step()
    assert_equal(parameters(m), parameters(other))


@every_optimizer
def test_complex_parameters(make):
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(4, 6, dtype=torch.complex64))
    b = nn.Parameter(torch.randn(4, dtype=torch.complex64))
    target = torch.randn(4, 6, dtype=torch.complex64)
    groups = [{"params": [w]}, {"params": [b], "adamw": True}]
    if make in (OPTIMIZERS[name] for name in FAMILY):
        with pytest.raises(ValueError, match="it takes real parameters"):
            make(groups, weight_decay=0.0)
        return
    optimizer = make(groups, weight_decay=0.0, momentum_dtype=None)

    def value():
        return (w - target).abs().square().sum() + b.abs().square().sum()

    first = float(value().detach())
    for _ in range(30):
        optimizer.zero_grad()
        value().backward()
        optimizer.step()
    assert float(value().detach()) < 0.9 * first


@every_optimizer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_does_not_corrupt_the_momentum(make, dtype):
    """An in-place normalisation of `grad.bfloat16()`, not a copy, would write the buffer."""
    w = nn.Parameter(torch.randn(6, 8).to(dtype))
    optimizer = make([w], momentum=0.5, momentum_dtype=None)
    if isinstance(optimizer, Muown):
        return  # its average is of other gradients
    expected = torch.zeros(6, 8, dtype=dtype)
    for t in range(3):
        w.grad = torch.randn(6, 8, generator=torch.Generator().manual_seed(t)).to(dtype)
        expected = torch.lerp(expected, w.grad, 0.5)
        optimizer.step()
        assert torch.equal(optimizer.state[w]["momentum_buffer"], expected)


@every_optimizer
def test_channels_last_and_empty_parameters(make):
    torch.manual_seed(0)
    conv, other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
    other.load_state_dict(conv.state_dict())
    other = other.to(memory_format=torch.channels_last)
    empty = nn.Parameter(torch.zeros(0, 4))
    image = torch.randn(2, 3, 5, 5)
    for layer, more in ((conv, []), (other, [empty])):
        empty.grad = torch.zeros(0, 4)
        named = [("conv.weight", layer.weight), *(("empty", p) for p in more)]
        optimizer = make(
            [{"params": named}, {"params": [("conv.bias", layer.bias)], "adamw": True}]
        )
        for _ in range(2):
            optimizer.zero_grad()
            layer(image).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(conv.weight, other.weight, rtol=2e-2, atol=2e-3)


@every_optimizer
def test_default_type_does_not_matter(make):
    """Nothing depends on torch's global default type."""
    results = []
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        try:
            w = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4))
            optimizer = make([w])
            w.grad = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(3, 4).cos()
            optimizer.step()
            results.append(w.detach().clone())
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*results)
