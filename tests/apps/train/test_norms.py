"""Norms by name: the table, its errors, and the flag `--norm`."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from steepest import norms
from steepest._common.norm_names import KNOWN as NAMES
from steepest.apps.train.norms import LEARNING_RATES, WRITTEN
from steepest.apps.train.run import read_config
from steepest.norms import parse_norm
from steepest.polar import Auto
from tests.apps.train.conftest import Invoke

KNOWN = {
    "spectral": norms.Spectral(polar=Auto(error=0.05)),
    "nuclear": norms.Nuclear(),
    "frobenius": norms.Frobenius(),
    "schatten:4": norms.Schatten(4, polar=Auto(error=0.05)),
    "kyfan:8": norms.KyFan(8),
    "operator:rms:rms": norms.Operator("rms", "rms", polar=Auto(error=0.05)),
    "operator:1:rms": norms.Operator(1, "rms"),
    "operator:1:inf": norms.Operator(1, math.inf),
    "rows:2": norms.RowNorm(),
    "columns:inf": norms.ColumnNorm(math.inf),
    "l1": norms.L1(),
    "L2": norms.L2(),
    "linf": norms.LInf(),
    "lp:1.5": norms.Lp(1.5),
}


def test_every_name_is_known() -> None:
    assert {text: parse_norm(text) for text in KNOWN} == KNOWN
    assert {text.lower().split(":")[0] for text in KNOWN} == {n.split(":")[0] for n in NAMES}
    for text in (*WRITTEN, *LEARNING_RATES):
        parse_norm(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "norm='': choose from spectral, nuclear"),
        ("muon", "norm='muon': choose from"),
        ("schatten", "norm='schatten': write schatten:P, as in schatten:4"),
        ("schatten:", "norm='schatten:': '' is not a number"),
        ("schatten:x", "norm='schatten:x': 'x' is not a number"),
        ("schatten:0.5", r"p=0.5: .* \[1, inf\]"),
        ("spectral:2", "nothing follows spectral$"),
        ("kyfan:1.5", "norm='kyfan:1.5': '1.5' is not a whole number"),
        ("operator:2:1", "NP-hard"),
    ],
)
def test_a_name_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_norm(text)


def test_a_norm_alone_is_trained_against_adamw(tiny: Invoke, tmp_path: Path) -> None:
    assert tiny("--norm", "schatten:4", "--out", tmp_path / "run").exit_code == 0
    optimizers = read_config(tmp_path / "run")[0].optimizers
    assert list(optimizers) == ["descent", "adamw"]
    assert optimizers["descent"].norm == "schatten:4"
    assert optimizers["descent"].lr == LEARNING_RATES["schatten:4"]


def test_another_norm_needs_a_learning_rate(tiny: Invoke, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused = tiny("--norm", "linf", "--out", out)
    assert refused.exit_code == 2
    assert "--norm linf: no learning rate is known for it: add --lr descent=VALUE" in refused.stderr
    assert not out.exists()
    named = ("--optimizer", "descent", "--norm", "linf", "--lr", "0.001", "--out", out)
    assert tiny(*named).exit_code == 0


def test_only_one_optimizer_takes_a_norm(tiny: Invoke, tmp_path: Path) -> None:
    refused = tiny("--optimizer", "muon", "--norm", "l2", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "only descent takes a norm: add --optimizer descent" in refused.stderr
