"""Momentum in 8 bits: the step of its definition, a state of plain data, and every way back."""

import copy
import io
from functools import partial

import pytest
import torch
from torch import nn

from steepest import Lion, LionK, Muon, SteepestDescent, maps, norms
from steepest.diagnostics import layer_spectra
from steepest.optim import momentum
from steepest.optim.blockwise import BLOCK, dequantise, quantise
from steepest.optim.member import Member
from steepest.polar import Svd
from steepest.testing import check_optimizer
from tests.optim.suite import OPTIMIZERS
from tests.optim.suite import all_in_eight_bits as all_in_eight_bits

BUFFER, CODES, UNITS = "momentum_buffer", "momentum_codes", "momentum_units"
EIGHT = {"momentum_dtype": torch.int8}
SHAPE = (40, 300)


def weight(shape=SHAPE, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))


def step(optimizer, *params, seed=0):
    for i, p in enumerate(params):
        p.grad = weight(p.shape, p.dtype, 100 * seed + i).detach()
    optimizer.step()


def read(own):
    """The average in a state."""
    return dequantise(own[CODES], own[UNITS].flatten(1))


def alike(a, b):
    """Whether two states of parameters are equal bit for bit, types and all."""
    same = a.keys() == b.keys()
    return same and all(torch.equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


@pytest.mark.usefixtures("all_in_eight_bits")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_its_contract(name):
    made = []

    def make(model):
        made.append(OPTIMIZERS[name](model, **EIGHT))
        return made[-1]

    check_optimizer(make)
    groups = [group for optimizer in made for group in optimizer.param_groups]
    averages = any("betas" in g or g.get("momentum") for g in groups if not g["adamw"])
    kept = [(p, own) for optimizer in made for p, own in optimizer.state.items()]
    assert any({CODES, UNITS} <= own.keys() for _, own in kept) == averages
    assert all(p.ndim == 1 for p, own in kept if BUFFER in own)


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_step_takes_the_average_and_quantises_what_is_left(nesterov):
    """m = codes·units; m ← β·m + (1 − β)·grad; u from m; codes, units ← m."""
    w = weight(dtype=torch.float64)
    beta, expected = 0.9, w.detach().clone()
    options = {"lr": 0.1, "weight_decay": 0.2, "nesterov": nesterov, "polar": Svd()}
    optimizer = Muon([w], momentum=beta, **options, **EIGHT)
    codes, units = torch.zeros(SHAPE, dtype=torch.int8), torch.zeros(SHAPE[0], 2).double()
    for seed in range(4):
        step(optimizer, w, seed=seed)
        average = beta * dequantise(codes, units) + (1 - beta) * w.grad
        u = beta * average + (1 - beta) * w.grad if nesterov else average
        left, _, right = torch.linalg.svd(u, full_matrices=False)
        expected = (1 - 0.1 * 0.2) * expected - 0.1 * left @ right
        codes, units = quantise(average, 2)
        own = optimizer.state[w]
        assert own.keys() == {CODES, UNITS}
        assert int((own[CODES].int() - codes).abs().max()) <= 1
        torch.testing.assert_close(own[UNITS].flatten(1), units, rtol=1e-4, atol=0)
        codes, units = own[CODES].clone(), own[UNITS].flatten(1).clone()
        torch.testing.assert_close(w.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        partial(Muon, lr=0.1, polar=Svd()),
        partial(Muon, lr=0.1, polar=Svd(), nesterov=False),
        partial(Lion, lr=0.1),
        partial(LionK, lr=0.1, K=maps.L1Map()),
        partial(SteepestDescent, norm=norms.LInf(), lr=0.1, momentum=0.9),
    ],
)
def test_the_first_step_is_that_of_a_whole_average(make):
    """Nothing has been quantised yet: the step goes along what is only then put away."""
    params = weight(), weight()
    for p, options in zip(params, ({}, EIGHT), strict=True):
        step(make([p], **options), p)
    assert torch.equal(*params)


def test_what_is_small_or_has_short_rows_stays_as_it_is():
    shapes = {
        (64, 64): True,
        (63, 64): False,
        (4096, 31): False,
        (4096, 32): True,
        (8, 8, 64): True,
    }
    params = {shape: weight(shape, torch.bfloat16) for shape in (*shapes, (5000,))}
    optimizer = Lion(list(params.values()), lr=0.1, **EIGHT)
    step(optimizer, *params.values())
    for shape, p in params.items():
        own = optimizer.state[p]
        if shapes.get(shape):
            assert own.keys() == {CODES, UNITS} and own[CODES].shape == p.shape
            assert own[CODES].dtype == torch.int8 and own[UNITS].dtype == torch.float32
            blocks = -(-p[0].numel() // BLOCK)
            assert own[UNITS].shape == (shape[0], *[1] * (len(shape) - 1), blocks)
        else:
            assert own.keys() == {BUFFER} and own[BUFFER].dtype == torch.float32


@pytest.mark.parametrize("shape", [(128, 768), (64, 64), (96, 300)], ids=str)
def test_bytes(shape):
    """One byte for each entry, and four for each block of a row."""
    w = weight(shape)
    optimizer = Muon([w], **EIGHT)
    step(optimizer, w)
    kept = sum(x.nbytes for x in optimizer.state[w].values())
    assert kept == w.numel() + 4 * shape[0] * -(-shape[1] // BLOCK)


def test_a_resumed_run_goes_on_bit_for_bit():
    w, other = weight(), weight()
    optimizer, twin = Muon([w], **EIGHT), Muon([other], **EIGHT)
    for seed in range(3):
        step(optimizer, w, seed=seed)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert {type(x) for x in saved["state"][0].values()} == {torch.Tensor}
    twin.load_state_dict(saved)
    assert alike(optimizer.state[w], twin.state[other])
    other.data.copy_(w.data)
    third, copied = copy.deepcopy((w, optimizer))
    for seed in range(3, 6):
        step(optimizer, w, seed=seed)
        step(twin, other, seed=seed)
        step(copied, third, seed=seed)
    assert torch.equal(w, other) and torch.equal(w, third)
    assert alike(optimizer.state[w], twin.state[other])


def flags_on_a_device(monkeypatch):
    """Flags as an accelerator has them: in tensors, which are not looked at."""
    for module in ("updates", "blockwise"):
        monkeypatch.setattr(f"steepest.optim.{module}.is_known", lambda _: False)


@pytest.mark.parametrize("device", [False, True])
def test_a_skipped_gradient_leaves_the_codes_bit_for_bit(device, monkeypatch):
    if device:
        flags_on_a_device(monkeypatch)
    w, v = weight(), weight(seed=1)
    optimizer = Muon([w, v], **EIGHT)
    step(optimizer, w, v)
    before, others = copy.deepcopy((optimizer.state[w], optimizer.state[v]))
    places = [x.data_ptr() for x in optimizer.state[w].values()]
    for bad in (float("nan"), float("inf")):
        w.grad, v.grad = weight(seed=7).detach(), weight(seed=8).detach()
        w.grad[0, 0] = bad
        w.grad[1] = 0  # where an average shrinks
        optimizer.step()
    assert alike(optimizer.state[w], before) and optimizer.skipped == 2
    assert not alike(optimizer.state[v], others)
    assert places == [x.data_ptr() for x in optimizer.state[w].values()], "a graph would need them"


def test_the_codes_of_a_bad_flag_stay_whatever_the_average_is():
    w, v = weight(), weight(seed=1)
    optimizer = Muon([w, v], **EIGHT)
    step(optimizer, w, v)
    before, state = copy.deepcopy(optimizer.state[w]), optimizer.state
    members = [Member(p, torch.float32, None, False, p) for p in (w, v)]
    flags, averages = [torch.tensor(False), torch.tensor(True)], [2 * w.grad, 2 * v.grad]
    momentum.keep(members, averages, [w.grad, v.grad], flags, {w, v}, state)
    assert alike(state[w], before)
    assert torch.equal(state[v][CODES], quantise(2 * v.grad, 2)[0])


def test_a_first_gradient_that_is_not_finite_leaves_zeros(monkeypatch):
    flags_on_a_device(monkeypatch)
    w = weight()
    optimizer = Muon([w], **EIGHT)
    w.grad = torch.full_like(w, float("nan"))
    optimizer.step()
    assert not read(optimizer.state[w]).any()


@pytest.mark.parametrize("source", ["steepest", "torch", "bfloat16"])
def test_a_checkpoint_of_whole_averages_loads(source):
    w = weight()
    make = torch.optim.Muon if source == "torch" else Muon
    options = {"momentum_dtype": torch.bfloat16} if source == "bfloat16" else {}
    theirs = make([w], lr=0.1, **options)
    step(theirs, w)
    saved = theirs.state_dict()
    ours = Muon([w], lr=0.1, **EIGHT)
    if source != "torch":
        kind = r"None" if source == "steepest" else r"torch\.bfloat16"
        with pytest.raises(ValueError, match=rf"momentum_dtype'\]='{kind}': saved with this, but"):
            ours.load_state_dict(saved)
        del saved["param_groups"][0]["momentum_dtype"]
    ours.load_state_dict(saved)
    own, buffer = ours.state[w], theirs.state[w][BUFFER].float()
    assert own.keys() == {CODES, UNITS}
    codes, units = quantise(buffer, 2)
    assert torch.equal(own[CODES], codes) and torch.equal(own[UNITS].flatten(1), units)
    step(ours, w, seed=1)


def test_codes_load_where_whole_averages_are_kept_and_come_back():
    w = weight()
    optimizer, whole, again = Muon([w], **EIGHT), Muon([w]), Muon([w], **EIGHT)
    step(optimizer, w)
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"='torch\.int8': saved with this, but the optimizer has"):
        whole.load_state_dict(saved)
    assert not whole.state
    del saved["param_groups"][0]["momentum_dtype"]
    whole.load_state_dict(saved)
    assert whole.state[w].keys() == {BUFFER}
    assert torch.equal(whole.state[w][BUFFER], read(optimizer.state[w]))
    saved = whole.state_dict()
    del saved["param_groups"][0]["momentum_dtype"]
    again.load_state_dict(saved)
    assert alike(again.state[w], optimizer.state[w])


@pytest.mark.parametrize(
    ("units", "message"),
    [
        (None, r"state\[0\]\['momentum_units'\]=None: the codes have units of shape 40×1×2 here"),
        (torch.zeros(40, 2, 1), r"='40×2×1': .* load them where rows are cut as they were"),
    ],
)
def test_units_of_other_blocks_are_refused(units, message):
    w = weight()
    optimizer = Muon([w], **EIGHT)
    step(optimizer, w)
    before, saved = copy.deepcopy(optimizer.state[w]), optimizer.state_dict()
    saved["state"][0] = {CODES: saved["state"][0][CODES]}
    if units is not None:
        saved["state"][0][UNITS] = units
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(saved)
    assert alike(optimizer.state[w], before)


def test_the_type_of_a_group_may_change_between_two_steps():
    w = weight()
    optimizer = Muon([w], polar=Svd())
    step(optimizer, w)
    buffer = optimizer.state[w][BUFFER].clone()
    optimizer.param_groups[0].update(EIGHT)
    step(optimizer, w, seed=1)
    assert optimizer.state[w].keys() == {CODES, UNITS}
    average = buffer.lerp(w.grad, 1 - optimizer.param_groups[0]["momentum"])
    codes, _ = quantise(average, 2)
    assert torch.equal(optimizer.state[w][CODES], codes)
    before = read(optimizer.state[w])
    optimizer.param_groups[0]["momentum_dtype"] = None
    step(optimizer, w, seed=2)
    assert optimizer.state[w].keys() == {BUFFER}
    assert torch.equal(optimizer.state[w][BUFFER], before.lerp(w.grad, 1 - 0.95))


@pytest.mark.parametrize("bad", [torch.uint8, torch.float8_e4m3fn, torch.complex64], ids=str)
def test_another_type_is_refused_with_the_one_to_give(bad):
    with pytest.raises(
        ValueError, match=r"momentum_dtype=.*: give a real floating-point type, torch"
    ):
        Muon([weight()], momentum_dtype=bad)


def test_complex_parameters_are_refused_by_name():
    w = nn.Parameter(torch.zeros(64, 64, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"momentum_dtype=torch\.int8: spectrum is complex"):
        Muon([("spectrum", w)], **EIGHT)
    both = [{"params": [("w", weight())]}, {"params": [("spectrum", w)], "adamw": True}]
    assert Muon(both, **EIGHT).param_groups[0]["momentum_dtype"] == torch.int8


def test_it_is_shown_as_numbers():
    """To those who look from outside it is what it would be as a buffer."""
    w = weight()
    optimizer = Muon([("w", w)], **EIGHT)
    assert next(iter(optimizer.parameter_views())).momentum is None
    step(optimizer, w)
    (view,) = optimizer.parameter_views()
    assert torch.equal(view.momentum, read(optimizer.state[w]))
    found = layer_spectra([("w", w)], optimizer, of="momentum")["w"]
    assert found.stable_rank == layer_spectra([("w", view.momentum)])["w"].stable_rank
    assert "momentum in int8" in repr(optimizer)


def test_a_column_without_gradients_comes_to_rest():
    """Beside others that go on: rounded to the nearest code it would drift for ever."""
    w = weight()
    optimizer = Muon([w], lr=0.1, weight_decay=0.0, momentum=0.9, polar=Svd())
    eight = Muon([w], lr=0.1, weight_decay=0.0, momentum=0.9, polar=Svd(), **EIGHT)
    for one in (optimizer, eight):
        for seed in range(60):
            w.grad = weight(seed=seed).detach()
            w.grad[:, 5] = weight(seed=0).detach()[:, 5] if seed < 3 else 0
            one.step()
        past = one.state[w][BUFFER] if one is optimizer else read(one.state[w])
        if one is eight:
            assert not past[:, 5].any()
        assert float(past[:, 5].abs().max()) < 0.02 * float(past.abs().max())
