"""Transfer: every formula, what makes it one, and the optimizers that take its options."""

import math
from itertools import product

import pytest
import torch
from torch import nn

from steepest import Muon, Scion, Transfer, norms
from steepest.polar import Svd

MUON = ("original", "spectral_unclamped", "match_rms_adamw")
RMS_TO_RMS = norms.Operator("rms", "rms")
BASE = {"lr": 0.02, "weight_decay": 0.1, "adamw_lr": 4e-3}


def factors(**changes):
    """What becomes of values of 1, by option."""
    found = Transfer(**{"lr": 1.0, "weight_decay": 1.0, "adamw_lr": 1.0, **changes}).options
    return {name: value for name, value in found.items() if name != "adjust_lr_fn"}


def close(found, **expected):
    assert found == pytest.approx(expected, rel=1e-12)


ALL = {"lr": 1, "weight_decay": 1, "embedding_lr": 1, "head_lr": 1, "vector_lr": 1}


def test_nothing_changes_if_nothing_does():
    for convention in MUON:
        close(factors(convention=convention), **ALL)
        same = {"width": (3, 3), "depth": (2, 2), "batch": (7, 7), "steps": (9, 9)}
        close(factors(convention=convention, **same), **ALL)


@pytest.mark.parametrize("convention", ["original", "spectral_unclamped"])
def test_width(convention):
    four = factors(convention=convention, width=(256, 1024))
    close(four, **{**ALL, "weight_decay": 1 / 4, "head_lr": 1 / 4})


def test_width_with_entries_of_one_size():
    four = factors(convention="match_rms_adamw", width=(256, 1024))
    close(four, **{**ALL, "lr": 1 / 2, "weight_decay": 1 / 2, "head_lr": 1 / 4})


@pytest.mark.parametrize("convention", ["scion", "modular"])
def test_without_adamw(convention):
    close(factors(convention=convention, width=(1, 4), adamw_lr=None), lr=1, weight_decay=1 / 4)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [("1/width", 1 / 4), ("1/width²", 1 / 16), ("1/tokens", 1 / 3), ("constant", 1)],
)
def test_decay_is_of_the_product(decay, expected):
    for convention in MUON:
        found = factors(convention=convention, width=(1, 4), steps=(1, 3), decay=decay)
        assert found["lr"] * found["weight_decay"] == pytest.approx(expected)


@pytest.mark.parametrize("branches", [0.0, 0.5, 1.0])
def test_depth(branches):
    found = factors(depth=(4, 16), branches=branches)
    slower = 4 ** (branches - 1)
    close(found, **{**ALL, "lr": slower, "weight_decay": 1 / slower, "vector_lr": slower})
    assert factors(depth=(4, 16), branches=branches, convention="modular")["lr"] == 1


def test_batch():
    """A sample is forgotten after as many samples as before."""
    close(factors(batch=(1, 4)), **dict.fromkeys(ALL, 2))
    found = factors(batch=(1, 4), decay="constant")
    assert found["lr"] * found["weight_decay"] == pytest.approx(4)


def test_tokens():
    close(factors(steps=(1, 8)), **ALL)
    assert factors(batch=(1, 2), steps=(1, 4), horizon=0.32)["head_lr"] == pytest.approx(
        math.sqrt(2) * 8**-0.32
    )
    found = factors(steps=(1, 8), horizon=1 / 3, decay="constant")
    close(found, **{**dict.fromkeys(ALL, 1 / 2), "weight_decay": 2})


def test_adamw_as_in_nanochat():
    found = factors(width=(768, 3072), adamw="1/√width")
    close(found, **{**ALL, "weight_decay": 1 / 4, "embedding_lr": 1 / 2, "head_lr": 1 / 2})


def test_factors_multiply():
    changes = {"width": (1, 4), "depth": (1, 9), "batch": (1, 2), "steps": (1, 5)}
    rules = {"branches": 0.5, "horizon": 0.25, "convention": "match_rms_adamw"}
    whole = factors(**changes, **rules)
    parts = [factors(**{name: pair}, **rules) for name, pair in changes.items()]
    close(whole, **{name: math.prod(part[name] for part in parts) for name in whole})


def test_it_has_the_decay_of_nanochat():
    """scripts/base_train.py: λ_ref·√(B/B_ref)·(D_ref/D), with lr·√(B/B_ref)."""
    for b, steps in product((0.5, 2.0), (1.0, 3.0)):
        found = factors(batch=(1, b), steps=(1, steps), decay="1/tokens", width=(1, 2))
        assert found["lr"] == pytest.approx(math.sqrt(b))
        assert found["weight_decay"] == pytest.approx(math.sqrt(b) / (b * steps))
    squared = Transfer(lr=0.02, weight_decay=0.22, width=(768, 1280), decay="1/width²")
    # The measured optimum there is 0.08.
    assert squared.options["weight_decay"] == pytest.approx(0.08, abs=1e-3)


def step_norm(rows, columns, **options):
    """What one step of Muon does to the RMS of an input, at most."""
    weight = nn.Parameter(torch.zeros(rows, columns, dtype=torch.float64))
    optimizer = Muon([("a.weight", weight)], polar=Svd(), **options)
    generator = torch.Generator().manual_seed(0)
    weight.grad = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    optimizer.step()
    return RMS_TO_RMS(weight.detach()).item()


@pytest.mark.parametrize("convention", MUON)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 4)], ids=str)
def test_a_step_has_one_norm_at_every_width(convention, shape):
    steps = [
        step_norm(*(n * w for n in shape), **options)
        for w in (8, 32)
        for options in (Transfer(**BASE, width=(8, w), convention=convention).options,)
    ]
    assert steps[0] == pytest.approx(steps[1], rel=1e-9)


def test_without_it_the_norm_of_a_step_with_entries_of_one_size_grows():
    small, large = (step_norm(w, w, lr=0.02, adjust_lr_fn="match_rms_adamw") for w in (8, 32))
    assert large == pytest.approx(2 * small)


def test_of_a_matrix_whose_inputs_stay_the_norm_does_not_grow():
    for convention in ("match_rms_adamw", "original"):
        small, large = (step_norm(w, 8, lr=0.02, adjust_lr_fn=convention) for w in (16, 64))
        assert large == pytest.approx(small)


def model(width):
    return nn.Sequential(
        *(nn.Embedding(9, width), nn.Linear(width, width), nn.LayerNorm(width)),
        nn.Linear(width, 9),
    )


def test_muon_takes_the_options():
    wider = Transfer(**BASE, width=(8, 32), convention="match_rms_adamw", batch=(1, 4))
    optimizer = Muon(model(32), overrides={"1.weight": "matrix"}, **wider.options)
    rates = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            rates.setdefault(tuple(p.shape), set()).add(group["lr"])
    assert rates == {
        (32, 32): {0.02},
        (9, 32): {8e-3, 2e-3},
        (32,): {8e-3},
        (9,): {8e-3},
    }
    matrices = [group for group in optimizer.param_groups if not group["adamw"]]
    assert [group["adjust_lr_fn"] for group in matrices] == ["match_rms_adamw"]
    assert [group["weight_decay"] for group in matrices] == [pytest.approx(0.1)]


def test_scion_takes_the_options():
    wider = Transfer(lr=0.1, weight_decay=0.5, width=(8, 32), convention="scion")
    optimizer = Scion(model(32), **wider.options)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert optimizer.param_groups[0]["weight_decay"] == 0.125


def test_adamw_has_the_rate_that_muon_gives_it():
    for convention, expected in (("original", 3e-4), ("match_rms_adamw", 0.02)):
        found = Transfer(lr=0.02, weight_decay=0.1, convention=convention).options
        assert found["vector_lr"] == expected
        optimizer = Muon(model(8), lr=0.02, adjust_lr_fn=convention)
        (group,) = (g for g in optimizer.param_groups if g["params"][0].ndim == 1)
        assert group["lr"] == expected


def test_the_text_says_what_changes_and_why():
    text = str(Transfer(**BASE, width=(1, 4), batch=(1, 4), convention="match_rms_adamw"))
    assert [line.split() for line in text.splitlines()] == [
        ["option", "from", "to", "factor"],
        ["lr", "0.02", "0.02", "width^-0.5", "·", "batch^0.5"],
        ["weight_decay", "0.1", "0.1", "width^-0.5", "·", "batch^0.5"],
        ["embedding_lr", "0.004", "0.008", "batch^0.5"],
        ["head_lr", "0.004", "0.002", "width^-1", "·", "batch^0.5"],
        ["vector_lr", "0.004", "0.008", "batch^0.5"],
    ]
    assert "stays" in str(Transfer(lr=0.1, weight_decay=0.0, convention="scion"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.0}, "lr=0.0: give a positive number"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1: "),
        ({"adamw_lr": -1.0}, "adamw_lr=-1.0: give a positive number"),
        ({"width": (0, 4)}, r"width=\(0, 4\): give two positive numbers, \(from, to\)"),
        ({"steps": (1, 2, 3)}, r"steps=\(1, 2, 3\): give two positive numbers"),
        ({"convention": "muP"}, "convention='muP': give one of \"original\", "),
        ({"decay": "1/depth"}, "decay='1/depth': give one of \"1/width\", "),
        ({"adamw": "none"}, "adamw='none': give one of \"muP\", "),
        ({"branches": 2.0}, r"branches=2.0: give a power in \[0, 1\]"),
        ({"horizon": -1.0}, "horizon=-1.0: give a finite number >= 0"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(next(iter(value))),
)
def test_what_it_does_not_take(changes, message):
    with pytest.raises(ValueError, match=message):
        Transfer(**{**BASE, **changes})
