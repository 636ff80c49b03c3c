"""Architectures of transformers and timm are routed as the pinned table says."""

from __future__ import annotations

import re

import pytest

from tests.frameworks import architectures

TEXT = architectures.TABLE.read_text(encoding="utf-8")
PINNED = architectures.sections(TEXT)
VERSIONS = dict(re.findall(r"^# (\w+) ([\d.]+)$", TEXT, re.MULTILINE))


def test_the_table_has_every_architecture_of_the_list() -> None:
    lists = zip(
        architectures.PACKAGES, (architectures.TRANSFORMERS, architectures.TIMM), strict=True
    )
    assert list(PINNED) == [f"{package} {name}" for package, names in lists for name in names]
    assert len(PINNED) >= 60
    assert VERSIONS.keys() == set(architectures.PACKAGES)


@pytest.mark.parametrize("section", PINNED)
def test_an_architecture_is_routed_as_pinned(section: str) -> None:
    package, name = section.split()
    pytest.importorskip(package, exc_type=ImportError)
    if architectures.version(package) != VERSIONS[package]:
        pytest.skip(f"the table is of {package} {VERSIONS[package]}; write it anew")
    assert architectures.lines(package, name) == PINNED[section]
