"""Parameters that are frozen when an optimizer is made, and trained later."""

import copy
import io

import pytest
import torch
from torch import nn

from steepest import Lion, Muon, PolarGrad, Scion, SteepestDescent, modular, norms, route
from steepest.polar import Svd
from tests.optim.suite import every_optimizer, model
from tests.routing import zoo

ROUTED = {
    "muon": lambda m: Muon(m, lr=0.02, polar=Svd(), weight_decay=0.0),
    "descent": lambda m: SteepestDescent(m, norms.Schatten(4), lr=0.02),
    "polar_grad": lambda m: PolarGrad(m, lr=0.02),
    "scion": lambda m: Scion(m, lr=0.02),
    "lion": lambda m: Lion(m, lr=0.02),
}
every_routed = pytest.mark.parametrize("make", ROUTED.values(), ids=ROUTED.keys())


def gradients(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.grad = torch.randn(p.shape, generator=generator) if p.requires_grad else None


def members(optimizer):
    """Of each name its group, with its view."""
    views = optimizer.views()
    return {
        name: (group, views.get(p))
        for group in optimizer.param_groups
        for name, p in zip(group["param_names"], group["params"], strict=True)
    }


@every_optimizer
def test_a_thawed_parameter_trains(make):
    """Every layer but one frozen at first; nothing that is frozen has a state."""
    m = model().requires_grad_(False)
    m.down.requires_grad_(True)
    optimizer = make(m)
    gradients(m)
    before = copy.deepcopy(m.state_dict())
    optimizer.step()
    moved = {n for n, p in m.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"down.weight", "down.bias"}
    assert set(optimizer.state) <= {m.down.weight, m.down.bias}
    m.requires_grad_(True)
    gradients(m, 1)
    before = copy.deepcopy(m.state_dict())
    optimizer.step()
    assert all(not torch.equal(p, before[n]) for n, p in m.named_parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in m.parameters())


@every_optimizer
def test_a_thawed_parameter_takes_the_steps_of_one_that_never_was_frozen(make):
    frozen, free = model().requires_grad_(False), model()
    optimizers = make(frozen), make(free)
    frozen.requires_grad_(True)
    for m, optimizer in zip((frozen, free), optimizers, strict=True):
        for t in range(2):
            gradients(m, t)
            optimizer.step()
    for p, q in zip(frozen.parameters(), free.parameters(), strict=True):
        assert torch.equal(p, q)


def test_a_thawed_projection_keeps_its_view():
    """GPT-2's c_attn: three matrices, stored in × out."""
    m = zoo.GPT2().requires_grad_(False)
    optimizer = Muon(m, lr=0.1, weight_decay=0.0, polar=Svd())
    attention = m.transformer["h"][0].attn.c_attn
    attention.requires_grad_(True)
    gradients(m)
    before = attention.weight.detach().clone()
    optimizer.step()
    for part in (attention.weight.detach() - before).split(16, dim=1):
        torch.testing.assert_close(torch.linalg.svdvals(part), torch.full((16,), 0.1))


def test_the_table_says_what_is_frozen_now():
    m = model()
    m.up.requires_grad_(False)
    optimizer = Muon(m, lr=0.02)
    assert optimizer.routing["up.weight"].to == "Muon, Spectral(), frozen"
    assert optimizer.routing["up.bias"].to == "AdamW, no decay, frozen"
    m.up.requires_grad_(True)
    assert optimizer.routing["up.weight"].to == "Muon, Spectral()"


def test_a_model_of_which_only_the_head_trains_is_taken():
    """Its matrices are thawed later, as in gradual unfreezing."""
    m = model().requires_grad_(False)
    m.head.requires_grad_(True)
    optimizer = Muon(m, lr=0.02)
    gradients(m)
    before = m.head.weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, m.head.weight)


@pytest.mark.parametrize("make", [f for n, f in ROUTED.items() if n != "lion"])
@pytest.mark.parametrize("named", [False, True])
def test_an_added_group_takes_the_routing_of_its_model(make, named):
    """Frozen layers that are added leave their old group; views, norms and AdamW stay theirs."""
    m = model()
    for layer in (m.embedding, m.conv, m.up):
        layer.requires_grad_(False)
    optimizer, whole = make(m), make(m)
    count = len(optimizer.param_groups)
    pairs = [(n, p) for n, p in m.named_parameters() if not p.requires_grad]
    m.requires_grad_(True)
    optimizer.add_param_group({"params": pairs if named else [p for _, p in pairs], "lr": 0.01})
    every = [p for group in optimizer.param_groups for p in group["params"]]
    assert len({id(p) for p in every}) == len(every) == len(list(m.parameters()))
    ours, theirs = members(optimizer), members(whole)
    assert ours.keys() == theirs.keys()
    for name, (group, view) in ours.items():
        other, expected = theirs[name]
        assert view == expected
        for key in ("adamw", "norm", "weight_decay"):
            assert group.get(key) == other.get(key), (name, key)
    # A rate is said for matrices: AdamW's has the same ratio to its usual one.
    usual = optimizer.defaults["lr"], optimizer._adamw["lr"]
    for group in optimizer.param_groups[count:]:
        rate = 0.01 * usual[1] / usual[0] if group["adamw"] else 0.01
        assert group["lr"] == pytest.approx(rate)
    gradients(m)
    before = copy.deepcopy(m.state_dict())
    optimizer.step()
    assert all(not torch.equal(p, before[n]) for n, p in m.named_parameters())


def test_scion_keeps_the_ratio_of_the_head():
    m = model()
    m.head.requires_grad_(False)
    optimizer = Scion(m, lr=0.02, weight_decay=0.1, head_scale=5.0)
    m.head.requires_grad_(True)
    optimizer.add_param_group({"params": [m.head.weight], "lr": 0.1})
    group, _ = members(optimizer)["head.weight"]
    assert (group["lr"], group["weight_decay"]) == pytest.approx((0.5, 0.02))


@pytest.mark.parametrize("part", ["module", "routing"])
@pytest.mark.parametrize("cls", [Muon, Scion])
def test_a_module_can_be_added(cls, part):
    """Of the model or a new one; the routing table knows it afterwards."""
    m, extra = model(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    m.up.requires_grad_(False)
    optimizer = cls(m, lr=0.02)
    m.up.requires_grad_(True)
    optimizer.add_param_group({"params": m.up, "lr": 0.01})
    optimizer.add_param_group({"params": extra if part == "module" else route(extra), "lr": 0.01})
    found = members(optimizer)
    assert found["up.weight"][0]["lr"] == found["0.weight"][0]["lr"] == 0.01
    assert optimizer.routing["0.weight"].target == "matrix"
    assert optimizer.routing["1.bias"].target == "vector"
    assert "0.weight" in str(optimizer.routing)
    every = nn.ModuleList([m, extra])
    gradients(every)
    before = copy.deepcopy(every.state_dict())
    optimizer.step()
    assert all(not torch.equal(p, before[n]) for n, p in every.named_parameters())


def test_a_module_is_routed_in_an_optimizer_without_names():
    w, extra = nn.Parameter(torch.zeros(3, 3)), nn.Linear(3, 3)
    optimizer = Muon([w], lr=0.1)
    optimizer.add_param_group({"params": nn.Sequential(nn.Embedding(4, 3), extra)})
    assert [g["adamw"] for g in optimizer.param_groups] == [False, False, True, True]
    assert "param_names" not in optimizer.param_groups[-1]


def test_parameters_of_nowhere_get_a_name_and_the_usual_view():
    m, extra = model(), nn.Parameter(torch.zeros(5, 3))
    optimizer = Muon(m, lr=0.02)
    optimizer.add_param_group({"params": [extra]})
    name = optimizer.param_groups[-1]["param_names"]
    assert name == [f"param_groups.{len(optimizer.param_groups) - 1}.0"]
    with pytest.raises(ValueError, match="got a parameter of shape"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(5))]})


def test_what_a_group_says_is_stronger_than_the_routing():
    m = model()
    m.up.requires_grad_(False)
    optimizer = Muon(m, lr=0.02)
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [("up.weight", m.up.weight)], "adamw": True})
    # Left where it was: the group has been refused.
    assert members(optimizer)["up.weight"][0]["adamw"] is False


def test_a_parameter_that_trains_is_not_added_again():
    m = model()
    optimizer = Muon(m, lr=0.02)
    count = [len(g["params"]) for g in optimizer.param_groups]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [m.up.weight]})
    with pytest.raises(ValueError, match="a parameter twice"):
        optimizer.add_param_group({"params": [m.up.weight, m.up.weight]})
    assert [len(g["params"]) for g in optimizer.param_groups] == count


def test_a_refused_group_leaves_every_parameter_where_it_was():
    m = model()
    m.up.requires_grad_(False)
    optimizer = Muon(m, lr=0.02)
    before = {name: (id(group), view) for name, (group, view) in members(optimizer).items()}
    for wrong in ({"lr": -1.0}, {"momentum": 2.0}, {"polar": "svd"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            optimizer.add_param_group({"params": m.up, **wrong})
    after = {name: (id(group), view) for name, (group, view) in members(optimizer).items()}
    assert after == before


@every_routed
def test_a_checkpoint_goes_on_with_what_was_thawed(make):
    """Saved frozen, loaded into an optimizer that was made the same way, then thawed in both."""
    twins = [model(), model()]
    optimizers = []
    for m in twins:
        m.up.requires_grad_(False)
        optimizers.append(make(m))
    gradients(twins[0])
    optimizers[0].step()
    buffer = io.BytesIO()
    torch.save(optimizers[0].state_dict(), buffer)
    buffer.seek(0)
    twins[1].load_state_dict(twins[0].state_dict())
    optimizers[1].load_state_dict(torch.load(buffer, weights_only=True))
    for m, optimizer in zip(twins, optimizers, strict=True):
        m.requires_grad_(True)
        gradients(m, 1)
        optimizer.step()
    for p, q in zip(twins[0].parameters(), twins[1].parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("whole", [copy.deepcopy, lambda o: o], ids=["copy", "same"])
def test_a_copy_still_knows_its_layers(whole):
    m = model()
    m.up.requires_grad_(False)
    m, optimizer = whole((m, Scion(m, lr=0.1)))
    m.up.requires_grad_(True)
    optimizer.add_param_group({"params": list(m.up.parameters())})
    assert optimizer.routing["up.weight"].to == "Scion, RMS→RMS"
    assert optimizer.routing["up.bias"].to == "Scion, RMS"


def test_a_modular_norm_says_that_it_has_no_block_for_what_was_frozen():
    """Its blocks share the length of the step: another one makes another norm."""
    m = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    m[0].requires_grad_(False)
    optimizer = SteepestDescent(m, modular(m), lr=0.1)
    gradients(m)
    optimizer.step()
    before = copy.deepcopy(m.state_dict())
    m[0].weight.requires_grad_(True)
    gradients(m)
    with pytest.raises(ValueError, match=r"params='0\.weight'.*make the norm and the optimizer"):
        optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in m.named_parameters())
