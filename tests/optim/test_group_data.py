"""Groups are plain data that others may copy, sort and edit; views follow their parameters."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import steepest
from steepest.optim.objects import GroupObjects
from steepest.polar import Svd
from steepest.views import MatrixView
from tests.optim.suite import every_optimizer, model, train


def plain(value):
    """Whether a value is data that any framework can copy, show and save."""
    if isinstance(value, list | tuple):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str, torch.dtype, torch.Tensor)


@every_optimizer
def test_groups_are_plain_data_and_come_back_as_they_are(make):
    """Lightning's callbacks keep copies of the groups, and put them in place of the first ones."""
    m = model()
    optimizer = make(m)
    kept = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    assert all(plain(value) for group in kept for value in group.values())
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    before = str(optimizer.state_dict()["param_groups"])
    members = [g["params"] for g in optimizer.param_groups]
    optimizer.param_groups = [
        {**g, "params": some} for g, some in zip(loaded, members, strict=True)
    ]
    assert str(optimizer.state_dict()["param_groups"]) == before
    train(m, optimizer, 1)


def test_an_object_that_is_written_into_a_group_counts_from_the_next_step_on():
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer = steepest.SteepestDescent([w], steepest.norms.LInf(), lr=1.0)
    w.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    optimizer.step()
    assert w.tolist() == [[-1.0, 0.0], [0.0, -1.0]]
    optimizer.param_groups[0]["norm"] = steepest.norms.L2()
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[-1.6, 0.0], [0.0, -1.8]]))
    assert optimizer.param_groups[0]["norm"] == "L2()"
    optimizer.param_groups[0]["norm"] = "LInf()"
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([[-2.6, 0.0], [0.0, -2.8]]))
    optimizer.param_groups[0]["norm"] = "L1()"
    with pytest.raises(ValueError, match=r"norm='L1\(\)': give a norm object"):
        optimizer.step()


def test_two_objects_with_one_text_are_told_apart():
    class Twin:
        def __repr__(self):
            return "Twin()"

    objects, twins = GroupObjects(("K",)), [Twin(), Twin()]
    groups = [{"K": twin} for twin in twins]
    for group in groups:
        objects.close(group)
    assert [group["K"] for group in groups] == ["Twin()", "Twin() #2"]
    assert [objects.opened(group)["K"] for group in groups] == twins


def fused():
    """A projection of three matrices, a matrix and a bias, with their optimizer."""
    torch.manual_seed(0)
    qkv, up = nn.Parameter(torch.randn(12, 4)), nn.Parameter(torch.randn(12, 4))
    views = (MatrixView(split=3), MatrixView())
    group = {"params": [("qkv", qkv), ("up", up)], "views": views}
    return qkv, up, steepest.Muon([group], lr=0.1, weight_decay=0.0, polar=Svd())


def moved(optimizer, *params):
    """The singular values of a step of each parameter, as a whole and of its first four rows."""
    old = [p.detach().clone() for p in params]
    for p in params:
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    optimizer.step()
    steps = [(before - p.detach()) / 0.1 for before, p in zip(old, params, strict=True)]
    return [(torch.linalg.svdvals(s), torch.linalg.svdvals(s[:4])) for s in steps]


def check_fused(optimizer, qkv, up):
    """One is stepped in thirds, the other as a whole, by a factor of √3."""
    (_, third), (whole, _) = moved(optimizer, qkv, up)
    torch.testing.assert_close(third, torch.ones(4))
    torch.testing.assert_close(whole, torch.full((4,), 3**0.5))


@pytest.mark.parametrize("copied", [False, True])
def test_a_view_follows_its_parameter_when_others_sort_the_group(copied):
    qkv, up, optimizer = fused()
    if copied:
        qkv, up, optimizer = copy.deepcopy((qkv, up, optimizer))
    check_fused(optimizer, qkv, up)
    optimizer.param_groups[0]["params"].reverse()
    check_fused(optimizer, qkv, up)


def test_parameters_come_and_go_in_a_group():
    qkv, up, optimizer = fused()
    group = optimizer.param_groups[0]
    group["params"].remove(qkv)
    moved(optimizer, up)
    more = nn.Parameter(torch.randn(12, 4))
    group["params"].append(more)
    group["params"].append(qkv)
    # It has come back, and kept its view, its name and its momentum.
    check_fused(optimizer, qkv, more)
    assert optimizer.state[qkv]["momentum_buffer"].shape == (12, 4)


def test_a_parameter_in_the_place_of_another_has_its_view():
    _, up, optimizer = fused()
    new = nn.Parameter(torch.randn(12, 4))
    optimizer.param_groups[0]["params"][0] = new
    check_fused(optimizer, new, up)


def test_a_vector_that_is_put_into_a_group_of_matrices_is_refused():
    _, _, optimizer = fused()
    optimizer.param_groups[0]["params"].append(nn.Parameter(torch.zeros(3)))
    with pytest.raises(ValueError, match="got a parameter of shape"):
        optimizer.step()


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_views_of_a_copy_follow_its_parameters(how):
    _, _, optimizer = fused()
    other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    qkv, up = other.param_groups[0]["params"]
    other.param_groups[0]["params"].reverse()
    assert other.views() == {up: MatrixView(), qkv: MatrixView(split=3)}
    del other.param_groups[0]["params"][0]
    assert other.views() == {qkv: MatrixView(split=3)}


def test_a_view_comes_back_from_a_group_without_views():
    qkv, up, _ = fused()
    groups = [
        {"params": [qkv], "views": MatrixView(split=3), "norm": steepest.norms.Spectral()},
        {"params": [up], "norm": steepest.norms.RMS()},
    ]
    optimizer = steepest.SteepestDescent(groups, lr=0.1)
    first, second = (group["params"] for group in optimizer.param_groups)
    second.append(first.pop())
    assert optimizer.views() == {qkv: None, up: None}
    first.append(second.pop())
    assert optimizer.views()[qkv] == MatrixView(split=3)


def test_a_norm_of_another_kind_takes_the_parameters_anew():
    w = nn.Parameter(torch.zeros(6, 4))
    group = {"params": [w], "views": MatrixView(split=2)}
    optimizer = steepest.SteepestDescent([group], steepest.norms.Spectral(), lr=1.0)
    optimizer.param_groups[0]["norm"] = steepest.norms.L2()
    w.grad = torch.randn(6, 4)
    optimizer.step()
    assert float(w.detach().norm()) == pytest.approx(1.0)
    kernel = nn.Parameter(torch.zeros(4, 3, 3, 3))
    optimizer = steepest.SteepestDescent([kernel], steepest.norms.L2(), lr=1.0)
    optimizer.param_groups[0]["norm"] = steepest.norms.Spectral()
    kernel.grad = torch.randn(4, 3, 3, 3)
    with pytest.raises(ValueError, match="got a parameter of shape"):
        optimizer.step()


def test_a_routing_tells_parameters_apart_whose_names_were_left_behind():
    m = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 4), nn.Embedding(3, 4))
    optimizer = steepest.Muon(m, lr=0.02, overrides={"2.weight": "matrix"})
    before = str(optimizer.routing)
    optimizer.param_groups[0]["params"].reverse()
    assert str(optimizer.routing) == before
    optimizer.param_groups[0]["params"].reverse()
    del optimizer.param_groups[0]["params"][0]
    assert optimizer.routing["1.weight"].shape == (6, 8)
    assert list(optimizer.state_dict()["param_groups"][0]["views"]) == [repr(MatrixView())] * 2


def test_the_first_rates_go_with_their_groups():
    m = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    optimizer = steepest.Muon(
        m, lr=0.02, embedding_lr=1.0, head_lr=2.0, overrides={"2.weight": "adamw"}
    )
    rates = [g["lr"] for g in optimizer.param_groups]
    optimizer.param_groups.reverse()
    assert optimizer.lrs(0.02) == rates[::-1]
    del optimizer.param_groups[1]
    assert optimizer.lrs(0.04) == [2 * r for i, r in enumerate(rates[::-1]) if i != 1]


def test_rates_of_layers_are_relative_to_the_given_one():
    blocks = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(12)]
    groups = steepest.layer_decay(nn.Sequential(*blocks), 0.75, lr=0.02)
    for optimizer in (steepest.Muon(groups), steepest.Muon(groups, lr=0.5)):
        assert max(optimizer.lrs(0.04)) == pytest.approx(0.04)
