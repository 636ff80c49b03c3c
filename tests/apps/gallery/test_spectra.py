"""The data of the spectra: a gradient of the real model, and what each duality map leaves of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steepest import norms
from steepest.apps._figures import plot_style
from steepest.apps.gallery.spectra import (
    NORMS,
    WEIGHT,
    K,
    default_config,
    draw_gradient,
    gradient,
    nuclear_rank,
    spectrum,
)
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.data import Text, prepare
from tests.apps.gallery.pictures import size
from tests.apps.train.tiny import words

MODEL = ModelConfig(layers=1, width=32, heads=2, context=16)
CONFIG = replace(default_config(), model=MODEL, steps=3, batch=4, eval_windows=1)


@pytest.fixture(scope="module")
def g() -> Tensor:
    corpus = prepare(Text(name="words", text=words(4000)), context=16)
    return gradient(CONFIG, corpus, seed=0)


def test_the_gradient_is_of_the_hidden_matrix_and_repeats(g: Tensor) -> None:
    corpus = prepare(Text(name="words", text=words(4000)), context=16)
    assert g.shape == (128, 32) and g.dtype == torch.float64
    assert torch.equal(g, gradient(CONFIG, corpus, seed=0))
    assert not torch.allclose(g, gradient(CONFIG, corpus, seed=1))
    assert not torch.allclose(g, gradient(replace(CONFIG, steps=1), corpus, seed=0))
    assert WEIGHT.startswith("blocks.")


@pytest.mark.parametrize("name", NORMS)
def test_the_name_is_the_norm(name: str) -> None:
    assert eval(name, {**vars(norms), "inf": math.inf}) == NORMS[name]


def test_the_spectra_after_the_maps(g: Tensor) -> None:
    def after(name: str) -> Tensor:
        return spectrum(NORMS[name].dualize(g))

    raw, rank = spectrum(g), len(spectrum(g))
    # LayerNorm leaves one direction out.
    assert rank == 31
    ones = torch.ones(rank, dtype=torch.float64)
    close = {"rtol": 0, "atol": 1e-9}
    torch.testing.assert_close(after("Spectral()"), ones, **close)
    torch.testing.assert_close(after("Frobenius()"), raw, **close)
    torch.testing.assert_close(after("Nuclear()"), ones[:1], **close)
    torch.testing.assert_close(after("Schatten(4)"), raw ** (1 / 3), **close)
    cubes = raw**3
    torch.testing.assert_close(after("Schatten(4/3)")[:4], cubes[:4], **close)
    torch.testing.assert_close(after(f"KyFan({K}).dual"), ones[:K], **close)
    flat = raw.sum() > K
    torch.testing.assert_close(after(f"KyFan({K})"), ones if flat else ones[:1], **close)


def test_rows_columns_and_entries_are_made_equal(g: Tensor) -> None:
    columns = NORMS["ColumnNorm()"].dualize(g).norm(dim=0)
    rows = NORMS["RowNorm()"].dualize(g).norm(dim=1)
    signs = NORMS["Operator(1, inf)"].dualize(g).abs()
    for made_equal in (rows, columns, signs):
        torch.testing.assert_close(made_equal, torch.ones_like(made_equal))


def test_the_nuclear_rank_counts() -> None:
    assert nuclear_rank(torch.eye(5, 9)) == pytest.approx(5)
    assert nuclear_rank(torch.ones(4, 7)) == pytest.approx(1)
    assert nuclear_rank(torch.diag(torch.tensor([2.0, 1.0]))) == pytest.approx(9 / 5)


def test_the_spectrum_leaves_rounding_out() -> None:
    x = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 5, dtype=torch.float64)
    s = spectrum(x)
    assert len(s) == 2 and float(s[0]) == 1


def test_the_picture(g: Tensor) -> None:
    with plot_style():
        content = draw_gradient(g)
    assert size(content)[0] == 1170
