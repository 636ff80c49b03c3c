"""Ejected optimizers take the steps of the library's."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

import steepest
from steepest import retractions, transforms
from steepest.apps.eject.start import text
from steepest.polar import JORDAN, NewtonSchulz
from tests.apps.eject import written
from tests.apps.eject.written import (
    ENTRIES,
    LAYERS,
    MATRICES,
    NEEDED,
    ROWS,
    advance,
    ejected,
    largest_error,
)

STEPS = range(12)


def compared(
    name: str,
    file: Any,
    dtype: torch.dtype,
    polar: Any = None,
    theirs: Mapping[str, Any] | None = None,
    **options: Any,
) -> float:
    """The largest relative difference of the weights after some steps.

    Args:
        name: The name of the optimizer.
        file: The ejected file.
        dtype: The type of the parameters.
        polar: The polar method of the library's; None for that of the file.
        theirs: The arguments of the library's; None for the same ones.
        options: The arguments of that of the file.
    """
    options = {**NEEDED[name], **options}
    polar = polar or written.method(file)
    theirs = options if theirs is None else theirs
    (own, found), (other, expected) = written.pair(name, file, dtype, polar, options, theirs)
    advance(own, found, STEPS)
    advance(other, expected, STEPS)
    return largest_error(found, expected)


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str
)
def test_matrices_with_adamw(name: str, dtype: torch.dtype, error: float) -> None:
    assert compared(name, ejected(name), dtype) < error


@pytest.mark.parametrize(
    "options",
    [
        {"nesterov": False, "momentum": 0.8},
        {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.0, "lr": 0.01, "adamw_lr": 0.01},
        {"adjust_lr_fn": "spectral_unclamped", "lr": 0.1},
        {"adamw_lr": 0.01, "adamw_betas": (0.8, 0.99), "adamw_weight_decay": 0.3},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_arguments_of_muon_mean_the_same(options: dict[str, Any]) -> None:
    assert compared("Muon", ejected("Muon"), torch.float64, **options) < 1e-12


# Objects in slots with other values than in the rows, whose attributes are arguments of the file.
CHANGED = {
    "NorMuon": {"after": transforms.RowSecondMoment(beta=0.7, eps=0.1)},
    "AdaMuon": {
        "after": transforms.Composed(
            transforms.SecondMoment(beta=0.7, eps=0.1), transforms.SemiorthogonalNorm()
        )
    },
    "Muon2": {"before": transforms.GradientSecondMoment(beta=0.7, eps=0.1)},
    "MuonPlus": {
        "after": transforms.Composed(
            transforms.NormalizedColumns(eps=0.1), transforms.NormalizedRows(eps=0.1)
        )
    },
    "Aurora": {"before": transforms.BalancedRows(iterations=4, exponent=0.3)},
    "SOAPMuon": {"before": transforms.Eigenbasis(beta=0.7, every=3, eps=1e-3)},
    "Hyperball": {"retraction": retractions.Sphere(scale=2.0)},
    "Muown": {"retraction": retractions.RowMagnitudes(betas=(0.5, 0.6), eps=0.1, zero_row=0.2)},
    "MuonFloor": {"retraction": retractions.UpdateFloor(ratio=0.9, rows=True)},
    "MuonBrake": {"retraction": retractions.RadialBrake(outward=0.3, inward=0.8)},
}


@pytest.mark.parametrize("name", CHANGED)
@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_the_attributes_of_objects_mean_the_same(name: str, weight_decay: float) -> None:
    ((slot, filler),) = CHANGED[name].items()
    given = {k: v for each in getattr(filler, "maps", [filler]) for k, v in vars(each).items()}
    given.pop("polar", None)
    theirs = {"weight_decay": weight_decay, slot: filler}
    own = {"weight_decay": weight_decay, **given}
    assert compared(name, ejected(name), torch.float64, theirs=theirs, **own) < 1e-12
    # Against the library with the values of the row, all of these make a difference.
    usual = {"weight_decay": weight_decay}
    assert compared(name, ejected(name), torch.float64, theirs=usual, **own) > 1e-6


# Each line of Muon that a test could miss, and what it might have been.
MISTAKES = (
    ('1 - group["momentum"])', "1 - 0.9)"),
    ("grad.lerp(u, ", "grad.lerp(grad, "),
    ("<= 1e-12), 0)", "<= 1e-12), 1)"),
    (".clamp(min=torch.finfo(y.dtype).tiny)", ".clamp(min=1e-9)"),
    ("max(1, m / n)", "max(1, n / m)"),
    ('(group["split"], -1)', "(1, -1)"),
    ('p.mul_(1 - group["lr"] * group["weight_decay"])', "pass"),
    ("adamw_lr: float = 0.0003", "adamw_lr: float = 0.003"),
    ("y = y.mT if tall else y  #", "y = y  #"),
    ("beta=b, alpha=c", "beta=b, alpha=1.001 * c"),
    ("add_(1e-8)", "add_(1e-6)"),
    ("if p.grad is not None and group", "if group"),
)


@pytest.mark.parametrize(("line", "mistake"), MISTAKES)
def test_a_mistake_is_found(line: str, mistake: str) -> None:
    content = text("Muon")
    assert line in content
    wrong = written.module(content.replace(line, mistake))
    polar = written.method(ejected("Muon"))
    try:
        error = compared("Muon", wrong, torch.float64, polar)
    except (AttributeError, TypeError, RuntimeError):
        return
    assert not error < 1e-9


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_entries(name: str, dtype: torch.dtype, error: float, weight_decay: float) -> None:
    shapes = (*written.SHAPES, *written.OTHERS, (2, 3, 2, 2))
    kinds = getattr(ejected(name), name), getattr(steepest, name)
    ends = []
    for kind in kinds:
        members = written.params(shapes, dtype)
        advance(kind(members, lr=0.02, weight_decay=weight_decay), members, STEPS)
        ends.append(members)
    assert largest_error(*ends) < error


class Block(nn.Module):
    """A block of nanoGPT, as far as an optimizer sees it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        attention = {"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)}
        self.attn = nn.ModuleDict(attention)
        mlp = {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.ModuleDict(mlp)


def gpt(*, tied: bool) -> nn.Module:
    """The parameters of nanoGPT, under its names."""
    torch.manual_seed(0)
    parts = {"wte": nn.Embedding(11, 4), "wpe": nn.Embedding(8, 4), "ln_f": nn.LayerNorm(4)}
    model = nn.Module()
    model.transformer = nn.ModuleDict({**parts, "h": nn.ModuleList([Block(4), Block(4)])})
    model.lm_head = nn.Linear(4, 11, bias=False)
    if tied:
        model.transformer.wte.weight = model.lm_head.weight
    return model.double()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", [*MATRICES, *LAYERS])
def test_a_model_is_split_as_the_library_routes_it(name: str, tied: bool) -> None:
    file, ours, theirs = ejected(name), gpt(tied=tied), gpt(tied=tied)
    options = NEEDED[name]
    own = getattr(file, name)(file.groups(ours), **options)
    other = written.library(name, written.method(file), theirs, **options)
    assert sum(len(group["params"]) for group in own.param_groups) == len([*ours.parameters()])
    for optimizer, model in ((own, ours), (other, theirs)):
        advance(optimizer, [*model.parameters()], STEPS)
    assert largest_error([*ours.parameters()], [*theirs.parameters()]) < 1e-12


@pytest.mark.parametrize("name", ROWS)
def test_a_checkpoint_goes_on_where_it_was(name: str) -> None:
    file, options = ejected(name), NEEDED[name]

    def made() -> tuple[Any, nn.Module]:
        model = gpt(tied=False)
        groups = file.groups(model) if hasattr(file, "groups") else model.parameters()
        return getattr(file, name)(groups, **options), model

    first, model = made()
    advance(first, [*model.parameters()], range(4))
    stored = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": first.state_dict()}, stored)
    stored.seek(0)
    saved = torch.load(stored, weights_only=True)
    second, other = made()
    other.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimizer"])
    copied = copy.deepcopy((first, model))
    expected = [p.clone() for p in model.parameters()]
    for optimizer, its in ((first, model), (second, other), copied):
        advance(optimizer, [*its.parameters()], range(4, 8))
        for p, q in zip(its.parameters(), model.parameters(), strict=True):
            assert torch.equal(p, q)
    assert not all(torch.equal(p, q) for p, q in zip(model.parameters(), expected, strict=True))


def spread(m: int, n: int) -> torch.Tensor:
    """Matrices in float32 with singular values from 1 to 1e-2."""
    u = torch.linalg.qr(torch.randn(3, m, m)).Q[..., : min(m, n)]
    v = torch.linalg.qr(torch.randn(3, n, n)).Q[..., : min(m, n)]
    return (u * torch.logspace(0, -2, min(m, n))) @ v.mT


@pytest.mark.parametrize("shape", [(24, 48), (48, 24), (32, 32)])
@pytest.mark.parametrize(
    ("options", "dtype", "low", "high"),
    [
        ({}, None, 0.968, 1.032),
        ({"error": 1e-3}, None, 0.999, 1.001),
        ({"error": 1e-6}, None, 1 - 1e-5, 1 + 1e-5),
        ({"dtype": "bfloat16"}, torch.bfloat16, 0.95, 1.05),
        ({"polar": "jordan"}, torch.bfloat16, 0.6, 1.25),
        ({"polar": "jordan", "dtype": "float32"}, None, 0.68, 1.21),
    ],
    ids=str,
)
def test_polar_factors_are_as_their_comment_says(
    shape: tuple[int, int], options: Any, dtype: torch.dtype | None, low: float, high: float
) -> None:
    file, x = ejected("Muon", **options), spread(*shape)
    q = file.polar_factor(x)
    s = torch.linalg.svdvals(q.double())
    assert low < float(s.min()) < float(s.max()) < high
    expected = written.method(file, dtype)(x)
    bound = 1e-4 if dtype is None else 0.1
    assert float((q.float() - expected).norm() / expected.norm()) < bound
    assert q.dtype == (dtype or torch.float32)


def test_polar_factors_of_any_size() -> None:
    file, x = ejected("Muon"), spread(5, 7)
    for scale in (1e-37, 1e-20, 1e20, 1e37):
        assert torch.allclose(file.polar_factor(scale * x), file.polar_factor(x), atol=1e-4)
    assert not file.polar_factor(0 * x).any()
    assert file.polar_factor(x.double()).dtype == torch.float64
    assert file.polar_factor(x.bfloat16()).dtype == torch.float32


def test_the_steps_of_torch() -> None:
    file = ejected("Muon", polar="jordan", dtype="float32")
    assert JORDAN.coefficients == file.SCHEDULE
    assert compared("Muon", file, torch.float64, NewtonSchulz(JORDAN)) < 1e-12
    half = ejected("Muon", polar="jordan")
    ends = []
    for kind in (half.Muon, torch.optim.Muon):
        members = written.params(((24, 48), (48, 24), (32, 32)), torch.float32)
        optimizer = kind(members, lr=0.02, weight_decay=0.1)
        for step in range(3):
            for place, p in enumerate(members):
                p.grad = written.gradient(step, place + 10, p)
            optimizer.step()
        ends.append(members)
    # bfloat16 rounds each of the three steps, of norm 0.02·√min(m, n), to some per cent.
    for a, b in zip(*ends, strict=True):
        assert torch.dist(a, b).item() < 0.05 * 3 * 0.02 * min(a.shape) ** 0.5


def test_the_closure_runs_with_gradients() -> None:
    for name in ("Muon", "Lion"):
        (p,) = written.params(((3, 4),), torch.float64)
        optimizer = getattr(ejected(name), name)([p], lr=0.1)

        def closure(p: nn.Parameter = p, optimizer: Any = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            loss = p.square().sum()
            loss.backward()
            return loss

        before = optimizer.step(closure)
        assert optimizer.step() is None
        assert closure().item() < before.item()
