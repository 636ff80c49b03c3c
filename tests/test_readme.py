"""The README: one page, whose table, calls and figures are what the library does and measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import steepest
from tests.test_docs import ROOT, blocks
from tools import facts

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What the first example leaves behind."""
    found: dict[str, Any] = {}
    exec(compile(blocks(README, "python")[0], README.name, "exec"), found)
    return found


def test_the_first_example_learns(names: dict[str, Any]) -> None:
    # By chance it is log(32) = 3.47.
    assert names["loss"] < 2.3


def test_the_routing_shown_is_the_one_printed(names: dict[str, Any]) -> None:
    (shown,) = (text for text in blocks(README, "text") if text.startswith("parameter"))
    printed = {" ".join(line.split()) for line in str(names["optimizer"].routing).splitlines()}
    rows = [" ".join(line.split()) for line in shown.splitlines()]
    assert set(rows) <= printed
    matrices = [n for n, p in names["model"].named_parameters() if p.ndim == 2]
    assert [row.split()[0] for row in rows[1:]] == matrices


# The first column of the table of those who come from elsewhere, and the call in the second.
COMING_FROM = re.findall(r"^\| ([^|]+) \| `(steepest\.\w+\(model.*?\))`", TEXT, re.MULTILINE)


def test_everyone_is_told_what_to_write() -> None:
    origins = " ".join(origin for origin, _ in COMING_FROM)
    for word in ("AdamW", "torch.optim.Muon", "Keller Jordan", "Moonlight", "Lion", "Scion"):
        assert word in origins


@pytest.mark.parametrize("call", [call for _, call in COMING_FROM])
def test_the_calls_for_those_who_come_from_elsewhere(call: str, names: dict[str, Any]) -> None:
    optimizer = eval(call, {"steepest": steepest, "model": names["model"]})
    stated = re.search(r"lr=([\d.e-]+)", call)
    assert stated
    assert optimizer.param_groups[0]["lr"] == float(stated[1])
    held = sum(len(group["params"]) for group in optimizer.param_groups)
    assert held == len(list(names["model"].parameters()))


def test_install_comes_before_everything_that_needs_it() -> None:
    sections = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)
    assert sections[:3] == ["Install", "Ten lines that train", "Coming from another optimizer"]
    assert sections.index("Limits") < sections.index("The command line")
    assert len(TEXT.partition("## Documentation")[0].split()) < 1450, "one page"


@pytest.mark.parametrize("page", facts.pages(), ids=lambda p: p.name)
def test_facts_are_the_present_ones(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert facts.filled(text) == text, "run: python tools/facts.py --write"


def test_a_fact_that_changes_is_found() -> None:
    stale = "<!-- fact: versions -->\nPython 2\n<!-- end of fact -->"
    assert "Python 3.11" in facts.filled(stale)
    with pytest.raises(SystemExit, match="no fact 'unknown'"):
        facts.filled("<!-- fact: unknown --><!-- end of fact -->")
