"""The page about duality: its table says what the norms do, its pictures are small and complete."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from steepest import norms
from steepest.apps.gallery import balls, descent, spectra
from steepest.apps.gallery.start import PICTURES
from tests.apps.gallery.pictures import size

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "duality.md").read_text(encoding="utf-8")
DERIVATION = (ROOT / "docs" / "derivation.md").read_text(encoding="utf-8")
# A row begins with a norm in backquotes.
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
G = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def evaluate(cell: str) -> norms.Norm:
    """The norm that a cell names."""
    found = eval(cell, {**vars(norms), "inf": math.inf})
    assert isinstance(found, norms.Norm)
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_dual_in_the_table_is_the_dual(row: list[str]) -> None:
    norm, dual = evaluate(row[0]), evaluate(row[2])
    assert float(norm.dual(G)) == pytest.approx(float(dual(G)), rel=1e-12)
    torch.testing.assert_close(norm.dual.dualize(G), dual.dualize(G))


def test_the_code_on_the_page_checks_every_row_of_the_table() -> None:
    keys = re.findall(r"^    [\"'](.+)[\"']: \(", PAGE, flags=re.MULTILINE)
    assert keys == [row[0] for row in ROWS]


def test_every_norm_of_the_pictures_is_in_the_table() -> None:
    shown = {*balls.NORMS.values(), *descent.NORMS.values()}
    table = [evaluate(row[0]) for row in ROWS]
    assert all(make() in table for make in shown)
    kinds = {type(n) for n in table}
    assert {type(n) for n in spectra.NORMS.values()} <= kinds


@pytest.mark.parametrize("name", PICTURES)
def test_the_picture_is_there_and_shown(name: str) -> None:
    page = DERIVATION if name.startswith("derivation-") else PAGE
    assert f"(images/{name}.png)" in page
    content = (ROOT / "docs" / "images" / f"{name}.png").read_bytes()
    assert len(content) < 200_000
    assert size(content)[0] == 1170
