"""What an optimizer prints as: each group with what holds now, and nothing that is not used."""

import copy
import math
import pickle
import re

import pytest
import torch
from torch import nn

import steepest
from steepest import maps, norms, polar
from steepest.optim.choices import SHAPE_RULES
from steepest.optim.rule import shape_factor
from steepest.optim.summary import FACTORS
from tests.optim.suite import OPTIMIZERS, model


class Small(nn.Module):
    """One parameter of each kind, and a fused projection."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 50)


def lines(optimizer):
    return repr(optimizer).splitlines()


def test_muon_with_a_module():
    optimizer = steepest.Muon(Small(), lr=0.02, adamw_lr=3e-3)
    by = "polar Auto(error=0.05)"
    assert lines(optimizer) == [
        "Muon(",
        f"  0: 3 parameters of 5 matrices, Spectral(), {by}, lr 0.02 × √max(1, out/in),",
        "     momentum 0.95 (Nesterov), weight_decay 0.1",
        "  1: AdamW, 1 embedding and 1 head, lr 0.003, betas (0.9, 0.95), no decay",
        "  2: AdamW, 4 vectors, lr 0.003, betas (0.9, 0.95), no decay",
        ")",
    ]


def test_values_are_those_that_hold_now():
    net = Small()
    optimizer = steepest.Muon(net, lr=0.02)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / 10)
    net.hidden(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    scheduler.step()
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.param_groups[0]["polar"] = polar.Svd()
    net.embedding.requires_grad_(False)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, 3))]})
    text = " ".join(" ".join(lines(optimizer)).split())
    assert "polar Svd(), lr 0.018 (first 0.02) × √max(1, out/in)" in text
    assert "momentum 0.95 (Nesterov), no decay 1: AdamW" in text
    assert "1 embedding and 1 head (1 frozen), lr 0.00027 (first 0.0003)" in text
    assert "3: 1 matrix, Spectral()" in text


def test_what_is_asked_for_is_said():
    optimizer = steepest.Muon(
        Small(),
        lr=0.02,
        ns_steps=6,
        adjust_lr_fn="match_rms_adamw",
        decay="implicit",
        constraint="project",
        nonfinite="raise",
        maximize=True,
        momentum_dtype=torch.float32,
        adamw_eps=1e-6,
    )
    text, _, second = " ".join(" ".join(lines(optimizer)).split()).partition(" 1: AdamW")
    for said in (
        "polar torch's Newton–Schulz, ns_steps 6, lr 0.02 × 0.2·√max(out, in)",
        "weight_decay 0.1 (implicit), projected on its ball, maximize, nonfinite raise",
        "momentum in float32",
    ):
        assert said in text
    assert "eps 1e-06" in second and "project" not in second and "implicit" not in second


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unused_values_do_not_show(name):
    text = repr(OPTIMIZERS[name](model()))
    assert ("ns_" in text) == (name == "muon_torch")
    assert not re.search(r"first|estimate\b|known|MatrixView|None|param_names|False", text)
    assert "skip" not in text and "explicit" not in text
    for line in text.splitlines():
        if "AdamW" in line:
            assert not re.search("momentum|polar|Spectral|scale", line)
    # A few lines for a group, none of them long.
    assert max(map(len, text.splitlines())) <= 120
    assert len(text.splitlines()) < 20


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda m: steepest.SGD(m, lr=0.1), "13 tensors, L2(), lr 0.1, scale dual norm, no decay"),
        (lambda m: steepest.Lion(m, lr=1e-4), "LInf(), lr 0.0001, betas (0.9, 0.99), no decay"),
        (
            lambda m: steepest.SteepestDescent(m, norms.LInf(), sharpness=4),
            "LInf(), lr 1, scale dual norm, sharpness 4, no decay",
        ),
        (
            lambda m: steepest.SteepestDescent(m, norms.Spectral(), sharpness="estimate"),
            "Spectral(), exact, by SVD, lr 1, sharpness estimated, no decay",
        ),
        (
            lambda m: steepest.SteepestDescent(m, norms.L2(), scale="linesearch"),
            "L2(), length by line search, no decay",
        ),
        (
            lambda m: steepest.LionK(m, K=maps.NuclearMap(polar=polar.Auto())),
            "NuclearMap(polar=Auto(error=0.05)), lr 0.0001, betas (0.9, 0.99), no decay",
        ),
        (lambda m: steepest.Scion(m, lr=0.1), "1 head, sign/in, lr 6, momentum 0.9, no decay"),
        (
            lambda m: steepest.Muon([m.hidden.weight], lr=torch.tensor(0.5)),
            "1 matrix, Spectral(), polar Auto(error=0.05), lr 0.5 × √max(1, out/in)",
        ),
    ],
)
def test_norm_scale_and_average_of_each(make, said):
    net = nn.Sequential()
    net.embedding, net.hidden, net.head = nn.Embedding(50, 8), nn.Linear(8, 16), nn.Linear(16, 50)
    net.other = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    assert said in " ".join(repr(make(net)).split())


def test_an_estimated_sharpness_is_told_once_it_is_known():
    w = nn.Parameter(torch.tensor([3.0, 1.0]))
    optimizer = steepest.SteepestDescent([w], norms.L2(), sharpness="estimate")
    for _ in range(3):
        optimizer.zero_grad()
        w.square().sum().backward()
        optimizer.step()
    assert f"sharpness estimated: {optimizer.sharpness:.4g} now" in repr(optimizer)


@pytest.mark.parametrize("rule", SHAPE_RULES)
@pytest.mark.parametrize(("m", "n"), [(16, 4), (4, 16), (5, 5)])
def test_the_factor_that_is_shown_is_the_one_that_is_taken(rule, m, n):
    written = FACTORS[rule or "original"]
    code = re.sub(r"√(max\(.*\)|\(.*\))", r"sqrt(\1)", written).replace("·", "*")
    names = {"sqrt": math.sqrt, "max": max, "out": m, "in_": n}
    value = eval(re.sub(r"\bin\b", "in_", code), names)
    assert value == pytest.approx(shape_factor(m, n, rule))


def test_a_group_that_no_step_accepts_is_shown():
    optimizer = steepest.Muon(Small(), lr=0.02)
    optimizer.param_groups[0]["polar"] = "exact"
    assert "3 parameters, which the next step refuses: polar='exact'" in " ".join(
        repr(optimizer).split()
    )
    assert "AdamW, 1 embedding and 1 head" in repr(optimizer)


def test_a_copy_prints_as_the_optimizer():
    optimizer = steepest.Scion(Small(), lr=0.1)
    assert repr(copy.deepcopy(optimizer)) == repr(optimizer)
    assert repr(pickle.loads(pickle.dumps(optimizer))) == repr(optimizer)
    assert f"{optimizer}" == repr(optimizer)
