"""The keys of a saved state, and its record: what was skipped, and by which version."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.optim.lr_scheduler import LinearLR

import steepest
from steepest import EMANesterov, LoRAMuon, Muon, SteepestDescent, norms
from steepest._common import version
from steepest.optim import skips, torch_form
from steepest.optim.skips import Record, SkipCount
from tests.optim.adapters import adapted
from tests.optim.runs import parameter
from tests.optim.suite import OPTIMIZERS, every_optimizer, loss, model, train

EVERY = {
    *("params", "param_names", "adamw", "lr", "first_lr", "weight_decay"),
    *("decay", "constraint", "nonfinite", "maximize", "momentum_dtype", "views"),
}
AVERAGE, WEIGHTS = {"momentum", "nesterov"}, {"betas"}
TORCHS = {"ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"}
MUON = {*EVERY, *AVERAGE, *TORCHS, "polar"}
DESCENT = {"norm", "scale", "sharpness", "estimate", "known"}
MAPS = {"NorMuon": {"after"}, "AdaMuon": {"before", "after"}, "MuonPlus": {"after"}}
MAPS |= {name: {"before"} for name in ("Muon2", "MuonEq", "Aurora", "SOAPMuon")}
MAPS |= {name: {"retraction"} for name in ("Hyperball", "Muown", "MuonFloor", "MuonBrake")}

ADVICE = """the keys of saved groups have changed. torch's distributed checkpoints refuse to load
where a key is asked for that was not saved: a new key has to have a default, and to be left out of
a group while it has that (as `before`, `after`, `retraction` and `betas` are), or every checkpoint
that was written before is lost. One that is gone has to be accepted by `loadable` for good."""


def keys_of(name):
    """The keys of the first group that is not AdamW's."""
    if name in MAPS or name.startswith("muon") or name == "projected":
        return MUON | MAPS.get(name, set())
    if name == "lion_k":
        return {*EVERY, *WEIGHTS, "K"}
    average = WEIGHTS if name == "lion" else AVERAGE
    return {*EVERY, *average, *DESCENT}


@every_optimizer
def test_the_keys_of_groups_are_pinned(make, request):
    name = request.node.callspec.id
    m = model()
    optimizer = make(m)
    train(m, optimizer, 1)
    for state in (optimizer.state_dict(), get_optimizer_state_dict(m, optimizer)):
        group = next(g for g in state["param_groups"] if not g["adamw"])
        assert group.keys() == keys_of(name), ADVICE
        kept = [state["state"].get(key, {}).keys() for key in group["params"]]
        assert set().union(*kept) == STATE[name], ADVICE


def test_the_keys_of_groups_with_estimates_and_pairs_are_pinned():
    m = model()
    optimizer = SteepestDescent(m, norms.Spectral(), sharpness="estimate")
    train(m, optimizer, 2)
    group = optimizer.state_dict()["param_groups"][0]
    assert group.keys() == {*EVERY, *AVERAGE, *DESCENT}, ADVICE
    group = LoRAMuon(adapted(), lr=0.1).state_dict()["param_groups"][0]
    wanted = {*EVERY, *AVERAGE, "polar", "lora_scale", "cross_term"}
    assert group.keys() == wanted, ADVICE


STATE = {name: {"momentum_buffer"} for name in OPTIMIZERS} | {
    **{name: set() for name in ("sgd", "spectral_descent")},
    "NorMuon": {"momentum_buffer", "after.second_moment"},
    "AdaMuon": {"momentum_buffer", "after.0.second_moment"},
    "Muon2": {"momentum_buffer", "before.second_moment"},
    "SOAPMuon": {
        *("momentum_buffer", "before.second_moment", "before.steps"),
        *(f"before.{side}_{what}" for side in ("row", "col") for what in ("basis", "gram")),
    },
    "Hyperball": {"momentum_buffer", "retraction.begun"},
    "Muown": {
        "momentum_buffer",
        *(f"retraction.{k}" for k in ("average", "length", "magnitude", "square", "steps")),
    },
}


def bare():
    """Two matrices and a vector, without names."""
    return [parameter(4, 3), parameter(3, 3, seed=1), parameter(5, seed=2)]


class Holder(nn.Module):
    """A module of which torch's checkpoints get the names of parameters."""

    def __init__(self, params):
        super().__init__()
        self.params = nn.ParameterList(params)


def of_dcp(holder, optimizer, **options):
    return get_optimizer_state_dict(holder, optimizer, options=StateDictOptions(**options))


def grouped(params, **options):
    return Muon([{"params": params[:2]}, {"params": params[2:], "adamw": True}], lr=0.02, **options)


def test_without_names_a_distributed_checkpoint_has_the_keys_of_torchs():
    holder = Holder(bare())
    params = list(holder.params)
    optimizer = grouped(params, decay="cautious", ns_steps=5)
    theirs = [torch.optim.Muon(params[:2]), torch.optim.AdamW(params[2:])]
    groups = get_optimizer_state_dict(holder, theirs)["param_groups"]
    assert [g.keys() for g in of_dcp(holder, optimizer)["param_groups"]] == [
        g.keys() for g in groups
    ]
    # They hold what is held here.
    found = of_dcp(holder, optimizer)["param_groups"]
    for saved, group in zip(found, optimizer.param_groups, strict=True):
        assert all(saved[key] == group[key] for key in saved.keys() & group.keys() - {"params"})
    # In other forms, and by itself, nothing is left out.
    full = optimizer.state_dict()["param_groups"]
    assert all({"decay", "adamw", "first_lr"} <= group.keys() for group in full)
    whole = of_dcp(holder, optimizer, full_state_dict=True)["param_groups"]
    assert [g.keys() for g in whole] == [g.keys() for g in full]
    flat = of_dcp(holder, optimizer, flatten_optimizer_state_dict=True)
    assert "param_groups.params.0.decay" in flat


@pytest.mark.parametrize(
    "make",
    [
        lambda params: Muon([(f"up.{i}.weight", p) for i, p in enumerate(params[:2])]),
        lambda params: steepest.NorMuon(params[:2], lr=0.1),
        lambda params: steepest.PolarGrad(params[:2], lr=0.1),
        lambda params: type("Mine", (Muon,), {})(params[:2]),
    ],
    ids=["names", "a map", "another", "a subclass"],
)
def test_others_keep_all_of_their_keys(make):
    holder = Holder(bare())
    group = of_dcp(holder, make(list(holder.params)))["param_groups"][0]
    assert {"adamw", "decay", "first_lr", "nonfinite"} <= group.keys()


def test_what_schedulers_write_is_kept_in_torchs_form():
    holder = Holder(bare())
    optimizer = grouped(list(holder.params))
    LinearLR(optimizer, 0.5, 1.0, 10)
    optimizer.param_groups[0]["tag"] = "mine"
    first, second = of_dcp(holder, optimizer)["param_groups"]
    assert (first["initial_lr"], first["tag"], first["lr"]) == (0.02, "mine", 0.01)
    assert second["initial_lr"] == optimizer.param_groups[1]["initial_lr"]


def test_the_keys_of_adamw_are_those_of_the_installed_torch():
    own = torch.optim.AdamW([parameter(2)]).defaults.keys()
    shared = {"lr", "betas", "eps", "weight_decay", "maximize"}
    assert own == shared | torch_form.ADAMW_ONLY, "keys of torch.optim.AdamW have changed"


def test_the_functions_of_torch_that_ask_have_their_names():
    """If they move, checkpoints of torch.optim.Muon do not load by the usual recipe."""
    home = torch.distributed.checkpoint.state_dict
    for name in (torch_form.MAKES, torch_form.LOADS):
        assert callable(getattr(home, name))


def skip(m, optimizer, times=2):
    for _ in range(times):
        optimizer.zero_grad()
        loss(m).backward()
        m.up.weight.grad.fill_(float("nan"))
        optimizer.step()


@every_optimizer
def test_what_was_skipped_is_saved(make):
    m = model()
    optimizer = make(m)
    skip(m, optimizer)
    assert optimizer.skipped == 2
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other = make(model())
    skip(model(), other)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.skipped == 2
    assert {g["nonfinite"] for g in other.param_groups} == {"skip"}
    n = model()
    third = make(n)
    set_optimizer_state_dict(n, third, get_optimizer_state_dict(m, optimizer))
    assert third.skipped == 2
    skip(n, third, 1)
    assert third.skipped == 3
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.skipped == 2
    assert optimizer.skipped == 2


def test_a_wrapped_optimizer_saves_it_as_well():
    m, n = model(), model()
    first, second = (EMANesterov(Muon(x), start=0, stop=None) for x in (m, n))
    first.train()
    skip(m, first, 1)
    second.load_state_dict(first.state_dict())
    assert second.skipped == 1


def test_every_group_says_it_with_the_version():
    m = model()
    optimizer = Muon(m, nonfinite="skip")
    skip(m, optimizer)
    optimizer.param_groups[1]["nonfinite"] = "raise"
    texts = [g["nonfinite"] for g in optimizer.state_dict()["param_groups"]]
    end = f"(2 skipped, steepest {steepest.__version__})"
    assert texts[:2] == [f"skip {end}", f"raise {end}"]
    assert [g["nonfinite"] for g in optimizer.param_groups][:2] == ["skip", "raise"]
    other = Muon(model())
    other.load_state_dict(optimizer.state_dict())
    assert [g["nonfinite"] for g in other.param_groups][:2] == ["skip", "raise"]


def without(state):
    """The state as it was saved before there was a record."""
    old = copy.deepcopy(state)
    for group in old["param_groups"]:
        group["nonfinite"] = group["nonfinite"].partition(" ")[0]
    return old


@every_optimizer
def test_a_state_without_a_record_is_still_read(make):
    m = model()
    optimizer = make(m)
    skip(m, optimizer, 1)
    other = make(model())
    other.load_state_dict(without(optimizer.state_dict()))
    assert other.skipped == 0
    assert {g["nonfinite"] for g in other.param_groups} == {"skip"}


def test_nothing_is_counted_where_loading_fails():
    m = model()
    optimizer = Muon(m)
    skip(m, optimizer, 1)
    state = Muon(model()).state_dict()
    state["param_groups"][0]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.load_state_dict(state)
    assert optimizer.skipped == 1


def by_version(state, text):
    state = copy.deepcopy(state)
    for group in state["param_groups"]:
        group["nonfinite"] = group["nonfinite"].replace(version.VERSION, text)
    return state


def test_a_newer_version_is_named_only_if_something_does_not_fit(recwarn):
    m = model()
    optimizer = Muon(m)
    state = by_version(optimizer.state_dict(), "99.1")
    optimizer.load_state_dict(state)
    assert not [w for w in recwarn if "99.1" in str(w.message)]
    state["param_groups"][0]["brand_new"] = 3
    both = rf"saved by steepest 99\.1, and this is {version.VERSION}"
    with pytest.warns(UserWarning, match=rf"{both}.*brand_new"):
        Muon(model()).load_state_dict(state)
    state["param_groups"][0]["decay"] = "sideways"
    with pytest.raises(ValueError, match=rf"decay='sideways'.*{both}"):
        Muon(model()).load_state_dict(state)
    # An older one, or none, is not to blame.
    for older in ("0.0.1", version.VERSION, "nonsense"):
        with pytest.raises(ValueError, match="sideways") as caught:
            Muon(model()).load_state_dict(
                by_version(state, older).copy()
                | {
                    "param_groups": [
                        {**g, "nonfinite": g["nonfinite"].replace("99.1", older)}
                        for g in state["param_groups"]
                    ]
                }
            )
        assert "saved by" not in str(caught.value)


@pytest.mark.parametrize("text", ["leave", "skip me", "(3 skipped)", ""])
def test_another_answer_than_those_is_refused(text):
    state = Muon(model()).state_dict()
    state["param_groups"][0]["nonfinite"] = text
    with pytest.raises(ValueError, match="nonfinite="):
        Muon(model()).load_state_dict(state)


@pytest.mark.parametrize(
    ("new", "old", "expected"),
    [
        ("0.2.0", "0.1.0", True),
        ("0.10.0", "0.9.0", True),
        ("1.0", "1.0.1", False),
        ("0.1.0", "0.1.0", False),
        ("0.1.0", "0.2.0", False),
        ("0.3.dev1", "0.2.9+cpu", True),
        ("0+unknown", "0.1.0", False),
        ("0.2.0", "0+unknown", False),
        (None, "0.1.0", False),
    ],
)
def test_versions_are_compared_as_numbers(new, old, expected):
    assert version.is_newer(new, old) == expected


def test_counts_of_several_devices_are_summed_and_set_in_place():
    count = SkipCount()
    p, q = parameter(2), parameter(3)
    flags = {p: False, q: torch.tensor(False)}
    count.add(flags, {})
    assert not flags[p] and isinstance(flags[p], torch.Tensor)
    count.add({p: torch.tensor(True), q: True}, {})
    (memory,) = count.by_device.values()
    assert count.total() == 2
    count.set(5)
    assert count.total() == 5
    assert next(iter(count.by_device.values())) is memory
    fresh = SkipCount()
    fresh.set(0)
    assert fresh.total() == 0
    assert Record.of({}) == Record()
    assert skips.without_record(None) is None


@pytest.mark.parametrize("count", ["1" + 30 * "0", 5000 * "9", "-3", "some"])
def test_a_count_that_nobody_has_counted_is_none(count):
    w = torch.nn.Parameter(torch.eye(3))
    optimizer = steepest.Muon([w])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["nonfinite"] = f"skip ({count} skipped, steepest 0.1.0)"
    optimizer.load_state_dict(saved)
    assert optimizer.skipped == 0 and optimizer.param_groups[0]["nonfinite"] == "skip"
