"""Maps and retractions as options: what they do to groups, states and messages."""

import copy
import io

import pytest
import torch
from torch import nn

import steepest
from steepest import MatrixView, maps, norms, retractions, transforms
from steepest.optim import FAMILY, MuonVariant, Preset
from steepest.polar import Svd
from steepest.testing.optimizers import model, train
from steepest.transforms import Eigenbasis, RowSecondMoment, SecondMoment, Sign


def weight(*shape, dtype=torch.float64):
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype))


def stepped(optimizer, *params, seed=0):
    for i, p in enumerate(params):
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(seed + i)).to(p.dtype)
    optimizer.step()


@pytest.mark.parametrize("name", FAMILY)
def test_a_row_is_muon_with_its_options(name):
    row = steepest.optim.PRESETS[name]
    w, v = weight(5, 4), weight(5, 4)
    values = {"lr": 0.1, "weight_decay": row.weight_decay, "adjust_lr_fn": row.adjust_lr_fn}
    slots = {"before": row.before, "after": row.after, "retraction": row.retraction}
    for optimizer, p in (
        (getattr(steepest, name)([w], lr=0.1), w),
        (steepest.Muon([v], **values, **slots), v),
    ):
        for seed in range(3):
            stepped(optimizer, p, seed=seed)
    assert torch.equal(w, v)


def test_a_part_of_a_row_can_be_changed_or_left_out():
    w, v = weight(5, 4), weight(5, 4)
    stepped(steepest.AdaMuon([w], lr=0.1, before=None, after=None, adjust_lr_fn="original"), w)
    stepped(steepest.Muon([v], lr=0.1), v)
    assert torch.equal(w, v)


def test_a_row_of_your_own():
    class Mine(MuonVariant):
        """Muon of signs."""

        preset = Preset(norm=norms.Spectral(), momentum=0.9, before=Sign(), source="here")

    optimizer = Mine(model(), lr=0.1)
    assert optimizer.param_groups[0]["before"] == "Sign()" and "before Sign()" in repr(optimizer)


def test_a_group_has_its_own():
    w, v, u = weight(5, 4), weight(5, 4), weight(5, 4)
    groups = [{"params": [w], "after": RowSecondMoment()}, {"params": [v]}]
    optimizer = steepest.Muon(groups, lr=0.1, polar=Svd())
    optimizer.add_param_group({"params": [u], "before": SecondMoment(), "retraction": None})
    stepped(optimizer, w, v, u)
    kept = [sorted(k for k in optimizer.state[p] if "." in k) for p in (w, v, u)]
    assert kept == [["after.second_moment"], [], ["before.second_moment"]]


def test_another_map_takes_over_between_steps():
    """Written into its group, as a learning rate is; what was kept for the old one stays."""
    w, v = weight(5, 4), weight(5, 4)
    one, other = steepest.Muon([w], lr=0.1, before=Sign()), steepest.Muon([v], lr=0.1)
    other.param_groups[0]["before"] = Sign()
    for seed in range(2):
        stepped(one, w, seed=seed)
        stepped(other, v, seed=seed)
    assert torch.equal(w, v)
    other.param_groups[0]["before"] = None
    stepped(other, v)
    assert "before Sign()" not in repr(other)


def test_parts_of_unequal_sizes_keep_a_state_each():
    w = weight(12, 4)
    groups = [{"params": [w], "views": [MatrixView(split=(6, 4, 2))]}]
    optimizer = steepest.Muon(groups, lr=0.1, after=RowSecondMoment(), polar=Svd())
    stepped(optimizer, w)
    shapes = {k: tuple(x.shape) for k, x in optimizer.state[w].items() if "." in k}
    assert shapes == {
        "after.second_moment": (1, 6, 1),
        "after.second_moment.1": (1, 4, 1),
        "after.second_moment.2": (1, 2, 1),
    }


@pytest.mark.parametrize("name", [n for n in FAMILY if n != "SOAPMuon"])
def test_a_checkpoint_of_half_precision_goes_on_bit_for_bit(name):
    """torch's loader casts what it loads to the type of the parameter."""
    w = weight(6, 4, dtype=torch.bfloat16)
    optimizer = getattr(steepest, name)([w], lr=0.1, polar=Svd())
    for seed in range(3):
        stepped(optimizer, w, seed=seed)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    v = nn.Parameter(w.detach().clone())
    other = getattr(steepest, name)([v], lr=0.1, polar=Svd())
    other.load_state_dict(torch.load(file, weights_only=True))
    for seed in (7, 8):
        stepped(optimizer, w, seed=seed)
        stepped(other, v, seed=seed)
    assert torch.equal(w, v)
    for key, kept in optimizer.state[w].items():
        assert kept.dtype == other.state[v][key].dtype and torch.equal(kept, other.state[v][key])


def test_a_checkpoint_of_another_map_is_refused():
    saved = steepest.NorMuon(model(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match=r"'after'.*RowSecondMoment\(\).*saved with this"):
        steepest.Muon(model(), lr=0.1, after=RowSecondMoment(beta=0.5)).load_state_dict(saved)


def test_a_checkpoint_from_before_there_were_maps_loads():
    m = model()
    saved = steepest.Muon(m, lr=0.1)
    train(m, saved, 1)
    other = steepest.Muon(model(), lr=0.1, after=RowSecondMoment())
    other.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert other.param_groups[0]["after"] == "RowSecondMoment()"


def test_weight_decay_has_no_ball_beside_them():
    for optimizer in (steepest.NorMuon(model(), lr=0.1), steepest.MuonBrake(model(), lr=0.1)):
        (view, *_) = (v for v in optimizer.parameter_views() if v.geometry is not None)
        assert view.K is None and "mapped" in view.why_none
    with pytest.raises(ValueError, match="constraint='project'"):
        steepest.NorMuon(model(), lr=0.1, constraint="project")
    # Before the polar factor a map changes which one it is, and it is one.
    steepest.MuonEq(model(), lr=0.1, constraint="project")


def of(**options):
    return lambda: steepest.Muon([weight(3, 3)], lr=0.1, **options)


WRONG = [
    (of(before=RowSecondMoment), r"before='transforms.RowSecondMoment': call it"),
    (of(after="NorMuon"), r"after='NorMuon': give an object of steepest.transforms or None"),
    (of(retraction=Sign()), r"retraction=Sign\(\): give an object of steepest.retractions or None"),
    (of(before=retractions.Sphere()), r"before=Sphere\(\): give an object of steepest.transforms"),
    (
        of(retraction=retractions.Sphere(), decay="cautious"),
        r"decay='cautious': with Sphere\(\) give \"explicit\"",
    ),
    (
        lambda: steepest.Lion([weight(3, 3)], lr=0.1, before=Sign()),
        r"before=Sign\(\): LInf\(\) takes no matrices: leave before out",
    ),
    (
        lambda: steepest.PolarGrad([weight(3, 3)], lr=0.1, after=RowSecondMoment()),
        r"its steps have a length of their own: scale=\"unit\"",
    ),
    (
        lambda: steepest.Muon([weight(3, 3).to(torch.complex64).detach()], lr=0.1, before=Sign()),
        r"it takes real parameters",
    ),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=[m for _, m in WRONG])
def test_what_cannot_be_says_so(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_other_norms_and_maps_of_matrices_take_them():
    for optimizer, w in (
        (lambda w: steepest.LionK([w], lr=0.1, K=maps.NuclearMap(), before=Eigenbasis()), 0),
        (lambda w: steepest.SteepestDescent([w], "schatten:8", lr=0.1, after=Sign()), 1),
        (lambda w: steepest.Scion([w], lr=0.1, retraction=retractions.RadialBrake()), 2),
    ):
        p = weight(4, 3)
        made = optimizer(p)
        for seed in range(2):
            stepped(made, p, seed=seed + w)
        assert bool(p.isfinite().all())


def test_non_finite_gradients_on_a_device_leave_the_state_alone(monkeypatch):
    """As on an accelerator, where flags are not looked at."""
    w, v = weight(4, 4), weight(4, 4)
    optimizer = steepest.Muon(
        [w, v],
        lr=0.1,
        polar=Svd(),
        before=transforms.GradientSecondMoment(),
        retraction=retractions.RowMagnitudes(),
    )
    stepped(optimizer, w, v)
    kept = copy.deepcopy(optimizer.state[w])
    before = w.detach().clone()
    flags = {w: torch.tensor(False), v: torch.tensor(True)}
    monkeypatch.setattr(optimizer, "_finite_gradients", lambda: (flags, set()))
    w.grad, v.grad = torch.full_like(w, float("nan")), torch.ones_like(v)
    optimizer.step()
    assert torch.equal(w, before)
    assert all(torch.equal(kept[key], optimizer.state[w][key]) for key in kept)
    assert not torch.equal(v, weight(4, 4)) and bool(v.isfinite().all())


def test_magnitudes_are_the_norms_of_rounded_weights():
    """What half precision loses of a row, or what others do to it, its magnitude loses too."""
    w = weight(6, 16, dtype=torch.bfloat16)
    optimizer = steepest.Muown([w], lr=1e-3)
    for seed in range(200):
        stepped(optimizer, w, seed=seed)
        if seed == 100:
            with torch.no_grad():
                w.mul_(3.0)
    kept = optimizer.state[w]["retraction.magnitude"].flatten().abs()
    torch.testing.assert_close(w.detach().float().norm(dim=1), kept, rtol=2e-2, atol=0)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("momentum", [torch.float32, torch.float64], ids=str)
def test_momentum_may_be_of_another_type(name, momentum):
    dtype = torch.float64 if momentum == torch.float32 else torch.float32
    w = weight(5, 3, dtype=dtype)
    optimizer = getattr(steepest, name)([w], lr=0.1, momentum_dtype=momentum)
    for seed in range(3):
        stepped(optimizer, w, seed=seed)
    assert w.dtype == dtype and bool(w.isfinite().all())


@pytest.mark.parametrize("name", FAMILY)
def test_one_huge_gradient_does_no_lasting_harm(name):
    w = weight(4, 3, dtype=torch.float32)
    optimizer = getattr(steepest, name)([w], lr=0.01)
    for seed, scale in enumerate((1.0, 1e20, 1.0, 1.0)):
        w.grad = scale * torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
    assert bool(w.isfinite().all()) and optimizer.skipped == 0


def test_a_map_that_is_gone_is_named_and_can_be_left_behind():
    m = model()
    optimizer = steepest.NorMuon(m, lr=0.1)
    train(m, optimizer, 1)
    saved = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"saved with this, but the optimizer has None"):
        steepest.Muon(m, lr=0.1).load_state_dict(saved)
    for group in saved["param_groups"]:
        group.pop("after")
    other = steepest.Muon(m, lr=0.1)
    other.load_state_dict(saved)
    assert not any(key.startswith("after") for state in other.state.values() for key in state)


def test_a_class_of_your_own_needs_no_repr():
    class Halved(transforms.Transform):
        """Half of it."""

        def __call__(self, x, state):
            return x / 2

    class Straight(retractions.Retraction):
        """The usual step."""

        rows = False

        def move(self, products, size, state):
            one = torch.ones_like(products.xx)
            return retractions.Combination((1 - size.decay) * one, -size.length * one)

    w, v = weight(4, 3), weight(4, 3)
    one = steepest.Muon([w], lr=0.1, before=Halved(), retraction=Straight(), polar=Svd())
    other = steepest.Muon([v], lr=0.1, polar=Svd())
    for seed in range(2):
        stepped(one, w, seed=seed)
        stepped(other, v, seed=seed)
    torch.testing.assert_close(w, v)
    assert "before Halved()" in repr(one) and "retraction Straight()" in repr(one)
