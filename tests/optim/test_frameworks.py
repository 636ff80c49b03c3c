"""What frameworks do to an optimizer, with their situations rebuilt in a few lines each."""

import copy
import gc
import io
import pickle
import weakref
from collections import UserList

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steepest
from steepest.diagnostics import Monitor, compare_directions, constraint_report
from tests.optim.suite import every_optimizer, model, train


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 9))


def loss(m, x=None):
    x = torch.arange(9) if x is None else x
    return F.cross_entropy(m(x), (2 * x) % 9)


def swapped(optimizer, m):
    """Put other parameters in the place of a model's, in the model and in the groups."""
    new = {p: nn.Parameter(p.detach().clone()) for p in m.parameters()}
    for module in m.modules():
        for name, p in list(module.named_parameters(recurse=False)):
            setattr(module, name, new[p])
    for group in optimizer.param_groups:
        group["params"] = [new[p] for p in group["params"]]


@every_optimizer
def test_an_empty_state_that_is_reloaded_stays_empty(make):
    """accelerate reloads it, and then puts sharded parameters in the place of the first ones."""
    m = model()
    optimizer = make(m)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not optimizer.state
    swapped(optimizer, m)
    assert optimizer.state_dict()["state"] == {}
    train(m, optimizer, 1)
    assert optimizer.state_dict()["state"] or not optimizer.state


@pytest.mark.parametrize("make", [steepest.Muon, steepest.Scion], ids=lambda make: make.__name__)
@pytest.mark.parametrize("through", ["itself", "deepcopy", "pickle"])
def test_parameters_that_are_replaced_are_let_go(make, through):
    m = small()
    optimizer = make(m, lr=0.1)
    if through == "deepcopy":
        m, optimizer = copy.deepcopy((m, optimizer))
    elif through == "pickle":
        m, optimizer = pickle.loads(pickle.dumps((m, optimizer)))
    before = str(optimizer.routing)
    refs = [weakref.ref(p) for p in m.parameters()]
    swapped(optimizer, m)
    gc.collect()
    assert [ref() for ref in refs] == [None] * len(refs)
    assert str(optimizer.routing) == before
    assert set(optimizer.routing.parameters) == set(m.parameters())
    loss(m).backward()
    optimizer.step()
    assert str(copy.deepcopy((m, optimizer))[1].routing) == before


NUMBERS = [np.float32(0.125), np.float64(0.125), np.float16(0.125), np.array(0.125)]


@pytest.mark.parametrize("value", NUMBERS, ids=type)
def test_numbers_of_numpy_are_numbers(value):
    w = nn.Parameter(torch.zeros(4, 4))
    optimizer = steepest.Muon([w], lr=value, weight_decay=value, momentum=value)
    group = optimizer.param_groups[0]
    assert [type(group[key]) for key in ("lr", "weight_decay", "momentum")] == [float] * 3
    torch.save(optimizer.state_dict(), file := io.BytesIO())
    file.seek(0)
    torch.load(file, weights_only=True)
    # A schedule may write one later: it counts as any other number.
    group["lr"], group["weight_decay"] = value, 50.0
    w.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="a step would decay weights past zero"):
        optimizer.step()


@pytest.mark.parametrize(
    "betas", [[0.8, 0.9], UserList([0.8, 0.9]), np.array([0.8, 0.9])], ids=type
)
def test_betas_are_any_sequence_of_two_numbers(betas):
    w, b = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))
    groups = [{"params": [w]}, {"params": [b], "adamw": True}]
    optimizer = steepest.LionK(groups, lr=0.1, betas=betas, adamw_betas=betas)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.8, 0.9)] * 2
    for wrong in ("ab", [0.8], [0.8, 1.0], 0.8, ["0.8", "0.9"], None):
        with pytest.raises(ValueError, match=r"betas=.*: give two numbers in \[0, 1\)"):
            steepest.LionK([w], lr=0.1, betas=wrong)


def test_groups_that_say_use_muon():
    body, head = nn.Linear(8, 8, bias=False), nn.Linear(8, 9, bias=False)
    optimizer = steepest.Muon(
        [
            {"params": [body.weight], "use_muon": True, "lr": 0.02},
            {"params": [head.weight], "use_muon": False, "lr": 3e-4, "betas": (0.9, 0.95)},
        ]
    )
    assert [group["adamw"] for group in optimizer.param_groups] == [False, True]
    assert not any("use_muon" in group for group in optimizer.param_groups)
    loss(nn.Sequential(nn.Embedding(9, 8), body, head)).backward()
    optimizer.step()
    assert set(optimizer.state[head.weight]) == {"step", "exp_avg", "exp_avg_sq"}


def compiled(m):
    return torch.compile(m, backend="eager")


WRAPS = {
    "compile": compiled,
    "data_parallel": nn.DataParallel,
    "inside": lambda m: nn.ModuleDict({"core": m}),
    "both": lambda m: nn.ModuleDict({"core": compiled(m)}),
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS.keys())
@pytest.mark.parametrize("saved_wrapped", [False, True])
def test_a_run_goes_on_with_the_model_in_a_wrapper_or_out_of_it(wrap, saved_wrapped):
    a, b = small(), small()
    first = steepest.Muon(wrap(a) if saved_wrapped else a, lr=0.02)
    second = steepest.Muon(b if saved_wrapped else wrap(b), lr=0.02)
    loss(a).backward()
    first.step()
    b.load_state_dict(a.state_dict())
    names = [group["param_names"] for group in second.param_groups]
    second.load_state_dict(first.state_dict())
    assert [group["param_names"] for group in second.param_groups] == names
    for m, optimizer in ((a, first), (b, second)):
        optimizer.zero_grad()
        loss(m).backward()
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def deep(name, **more):
    layers = {f"{name}{i}": nn.Linear(4, 4) for i in range(50)}
    return nn.ModuleDict({**layers, **more, "head": nn.Linear(4, 2)})


def test_a_state_of_another_model_names_the_first_parameter_that_differs():
    saved = steepest.Muon(deep("layer"), lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"'layer0.weight'.*'block0.weight'") as caught:
        steepest.Muon(deep("block"), lr=0.1).load_state_dict(saved)
    assert len(str(caught.value)) < 300
    with pytest.raises(ValueError, match=r"\['views'\]\[50\]=None: saved with this") as caught:
        steepest.Muon(deep("layer", more=nn.Linear(4, 4)), lr=0.1).load_state_dict(saved)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("make", [steepest.Muon, steepest.Scion, steepest.SpectralDescent])
def test_the_options_of_the_routing_are_taken_with_a_module(make):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.qkv, self.proj = nn.Linear(8, 24, bias=False), nn.Linear(8, 8, bias=False)

    m = nn.ModuleDict({"attn": Attention(), "other": nn.Linear(8, 8, bias=False)})
    optimizer = make(m, lr=0.1, overrides={"other.weight": "matrix"}, heads="auto", strict=True)
    routing = optimizer.routing
    assert routing["other.weight"].reason.startswith("override")
    assert routing["attn.qkv.weight"].matrices == "6 × 4×8"
    with pytest.raises(ValueError, match="strict=True: these are guesses"):
        make(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), lr=0.1, strict=True)
    with pytest.raises(ValueError, match="heads='auto': it is about the routing of a module"):
        make(list(m.parameters()), lr=0.1, heads="auto")


class Wrapper(torch.optim.Optimizer):
    """An optimizer around another, as of accelerate: it has no attribute of its base."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    state = property(lambda self: self.optimizer.state)
    param_groups = property(lambda self: self.optimizer.param_groups)
    defaults = property(lambda self: self.optimizer.defaults)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


def test_instruments_take_an_optimizer_in_a_wrapper():
    m = small()
    plain = steepest.Muon(m, lr=0.02)
    wrapped = Wrapper(Wrapper(plain))
    with Monitor(m, wrapped, every=1, quiet=True) as monitor:
        for _ in range(2):
            wrapped.zero_grad()
            loss(m).backward()
            wrapped.step()
    assert len(monitor.records) == 2
    assert str(constraint_report(m, wrapped)) == str(constraint_report(m, plain))
    reports = [compare_directions(lambda: loss(m), m, optimizer=o) for o in (wrapped, plain)]
    assert str(reports[0]) == str(reports[1])


def test_hooks_that_change_a_state_before_it_is_loaded_are_heard():
    w = nn.Parameter(torch.zeros(4, 4))
    optimizer = steepest.Muon([w], lr=0.1)
    w.grad = torch.randn(4, 4)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())

    def zeroed(_, state):
        state["state"][0]["momentum_buffer"] = torch.zeros(4, 4)
        return state

    optimizer.register_load_state_dict_pre_hook(zeroed)
    optimizer.load_state_dict(saved)
    assert not optimizer.state[w]["momentum_buffer"].any()


def test_a_hook_that_loads_by_name_comes_before_the_check():
    a, b = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
    first = steepest.Muon([("a", a), ("b", b)], lr=0.1)
    for p in (a, b):
        p.grad = torch.randn(4, 4)
    first.step()
    other = steepest.Muon([("b", b), ("a", a)], lr=0.1)

    def by_name(optimizer, state):
        (group,), (own,) = state["param_groups"], optimizer.param_groups
        place = {n: i for i, n in zip(group["params"], group["param_names"], strict=True)}
        found = {i: state["state"][place[n]] for i, n in enumerate(own["param_names"])}
        names = {"params": [0, 1], "param_names": own["param_names"]}
        return {"state": found, "param_groups": [{**group, **names}]}

    other.register_load_state_dict_pre_hook(by_name)
    other.load_state_dict(first.state_dict())
    for p in (a, b):
        left, right = (o.state[p]["momentum_buffer"] for o in (first, other))
        assert torch.equal(left, right)


def test_a_hook_after_loading_has_the_last_word():
    w = nn.Parameter(torch.zeros(4, 4))
    optimizer = steepest.Muon([w], lr=0.1)
    w.grad = torch.randn(4, 4)
    optimizer.step()
    optimizer.register_load_state_dict_post_hook(
        lambda o: o.state[w].update(momentum_buffer=torch.zeros(4, 4))
    )
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert not optimizer.state[w]["momentum_buffer"].any()


class Optional(nn.Module):
    """A model with a feature of width zero."""

    def __init__(self):
        super().__init__()
        self.edge, self.node = nn.Linear(0, 8), nn.Linear(8, 8)

    def forward(self, x):
        return self.node(x + self.edge(x[:, :0]))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("cls", [steepest.Muon, steepest.Scion, steepest.Lion])
def test_a_parameter_without_elements_has_a_state_in_a_distributed_checkpoint(cls):
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    torch.manual_seed(0)
    m = Optional()
    optimizer = cls(m, lr=0.01)
    m(torch.randn(2, 8)).sum().backward()
    optimizer.step()
    weights, state = get_state_dict(m, optimizer)
    other = Optional()
    again = cls(other, lr=0.01)
    set_state_dict(other, again, model_state_dict=weights, optim_state_dict=state)
    assert again.param_groups[0]["lr"] == 0.01
    assert len(again.state) == len(optimizer.state) > 2
    for p, q in zip(m.parameters(), other.parameters(), strict=True):
        assert again.state[q].keys() == optimizer.state[p].keys()


def test_the_state_of_an_adamw_is_refused_by_name():
    m = small()
    adamw = torch.optim.AdamW(m.parameters())
    loss(m).backward()
    adamw.step()
    with pytest.raises(ValueError, match=r"torch\.optim\.AdamW.*not the momentum of matrices"):
        steepest.Muon(m, lr=0.02).load_state_dict(adamw.state_dict())
    lone = [m[1].weight]
    with pytest.raises(ValueError, match=r"torch\.optim\.AdamW"):
        steepest.Muon(lone).load_state_dict(torch.optim.AdamW(lone).state_dict())


def test_another_number_of_groups_is_named():
    m = small()
    saved = steepest.Muon(m, lr=0.02, head_lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"param_groups=4: .*than the 3 of this optimizer"):
        steepest.Muon(m, lr=0.02).load_state_dict(saved)
