"""The errors of ranks that differ, without other ranks: what they are told is made up."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

import steepest
from steepest.optim import adamw, finite, foreign
from steepest.optim.adamw import new_state

OTHERS = "not the same on all 2 ranks"


class Ranks:
    """Two ranks that never meet."""

    size, rank, group = 2, 0, None


def told(*differ):
    """A comparison that finds what has one of these argument names to differ."""

    def same_everywhere(text, ranks, device, argument):
        if argument in differ:
            raise ValueError(f"{argument}: {OTHERS}")

    return same_everywhere


def parameters():
    w = nn.Parameter(torch.ones(2, 2))
    w.grad = torch.ones(2, 2)
    return finite.ReplicatedParams(
        Ranks(), names=["w"], params=[w], plans=["0"], values={(0, "lr"): "0.1"}
    )


@pytest.mark.parametrize(
    ("differ", "said"),
    [
        (("params", "step"), "step='refused on another rank': its error says why"),
        (("params",), f"params: {OTHERS}"),
    ],
)
def test_what_differs_is_named(monkeypatch, differ, said):
    monkeypatch.setattr(finite, "same_everywhere", told(*differ))
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        finite._agree(parameters(), None)


@pytest.mark.parametrize(("key", "said"), [("lr", f"lr: {OTHERS}"), ("", f"params: {OTHERS}")])
def test_a_value_that_differs_is_named(monkeypatch, key, said):
    seen = []

    def same_everywhere(text, ranks, device, argument):
        seen.append(argument)
        if argument == key or (len(seen) == 1 and argument == "params"):
            raise ValueError(f"{argument}: {OTHERS}")

    monkeypatch.setattr(finite, "same_everywhere", same_everywhere)
    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        finite._agree(parameters(), None)
    assert seen == ["params", "step", "params", "lr"]


def test_the_traced_update_of_adamw_is_the_plain_one(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    made = []
    for good in (True, torch.tensor(True), torch.tensor(False)):
        w = nn.Parameter(torch.ones(3))
        w.grad = torch.tensor([1.0, -2.0, 0.5])
        state = {w: {}}
        new_state(w, state)
        own = state[w]
        tensors = [w.detach(), w.grad, own["exp_avg"], own["exp_avg_sq"]]
        options = {"beta1": 0.9, "beta2": 0.95, "lr": 0.1, "weight_decay": 0.0, "eps": 1e-8}
        options |= {"maximize": False, "amsgrad": False}
        adamw._traced_adamw(tensors, own["step"], good, options)
        made.append(w.detach())
    monkeypatch.undo()
    plain = nn.Parameter(torch.ones(3))
    plain.grad = torch.tensor([1.0, -2.0, 0.5])
    torch.optim.AdamW([plain], lr=0.1, betas=(0.9, 0.95), weight_decay=0.0).step()
    assert torch.allclose(made[0], plain) and torch.equal(made[0], made[1])
    assert made[2].tolist() == [1.0, 1.0, 1.0]


def test_a_first_step_that_cannot_be_is_an_error_to_be_told():
    w = nn.Parameter(torch.ones(4))
    w._fsdp_flattened = True
    error = foreign.refused([{"params": [w]}], ())
    assert isinstance(error, ValueError) and "FSDP1" in str(error)
    plain = steepest.SGD([nn.Parameter(torch.ones(4))], lr=0.1)
    assert foreign.refused(plain.param_groups, ()) is None


@pytest.mark.parametrize(
    ("differ", "values", "said"),
    [
        ("lr", {(0, "lr"): "0.1", (0, "momentum"): "0.9"}, f"lr: {OTHERS}"),
        ("", {(0, "lr"): "0.1"}, f"param_groups='{OTHERS}'"),
        ("lr", {}, f"param_groups='{OTHERS}'"),
    ],
)
def test_a_value_that_was_written_later_is_named(monkeypatch, differ, values, said):
    def same_everywhere(text, ranks, device, argument, remedy):
        if argument == differ:
            raise ValueError(f"{argument}: {OTHERS}")

    monkeypatch.setattr(finite, "same_everywhere", same_everywhere)
    assert str(finite._other_value(parameters(), values)).startswith(said)
