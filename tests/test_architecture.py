"""The page on the architecture says what is there."""

from __future__ import annotations

import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tools import folder_table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
TEXT = PAGE.read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`(steepest(?:\.\w+){2,})`", TEXT)))


def test_the_table_of_folders_is_what_the_layers_say() -> None:
    assert folder_table.replaced(TEXT) == TEXT, "python tools/folder_table.py --write"


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_page_exists(name: str) -> None:
    assert resolve_name(name) is not None


def test_the_terms_are_in_order_and_said_once() -> None:
    rows = re.findall(r"^\| (?!term|---)(.+?) \|", TEXT.split("## Terms")[1], re.MULTILINE)
    plain = [row.lower().replace("λ", "lambda") for row in rows]
    assert plain == sorted(plain)
    assert 35 <= len(set(plain)) == len(plain)


def test_the_library_is_what_one_sees_first() -> None:
    entries = [
        p
        for p in (PAGE.parent.parent / "src" / "steepest").iterdir()
        if p.name not in ("__pycache__", "py.typed")
    ]
    assert len(entries) <= 16, sorted(p.name for p in entries)
