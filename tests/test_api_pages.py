"""The pages of the API: every public name once, lists that are current, and what is left out."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import griffe
import pytest

from tests.navigation import NAV
from tests.test_house import PUBLIC
from tools import api_pages
from tools.api_extension import WithDefaults, WithoutOverrides
from tools.site_check import faults

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def names(page: Path) -> list[tuple[str, str]]:
    """(module, name) of what a page describes."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^::: ([\w.]+)\.(\w+)$", text, flags=re.MULTILINE)


def test_every_public_name_is_in_the_api_pages_once() -> None:
    listed = [name for page in PAGES for name in names(page)]
    objects = [getattr(importlib.import_module(path), name) for path, name in listed]
    missing = {k for k, v in PUBLIC.items() if not any(v is o for o in objects)}
    assert not missing, f"missing in docs/api/: {sorted(missing)}"
    assert len(listed) == len(set(listed)), "a name is listed twice"
    # Two names of types may stand for one type: only those are one object.
    made = [o for o in objects if any(v is o for v in PUBLIC.values())]
    assert len(made) == len({id(o) for o in made}), "an object is listed twice"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_the_list_of_names_is_current(page: Path) -> None:
    assert api_pages.current(page) == page.read_text(encoding="utf-8"), (
        "run: python tools/api_pages.py --write"
    )


def test_the_overview_has_every_page() -> None:
    text = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    linked = re.findall(r"^\| \[[^\]]+\]\((\w+\.md)\) \|", text, flags=re.MULTILINE)
    assert [f"api/{page}" for page in ("index.md", *linked)] == [
        page for page in NAV if page.startswith("api/")
    ]


def test_a_list_has_the_first_line_of_each_name() -> None:
    text = "# m\n\n## A\n\n::: steepest.norms.RMS\n\n## B\n\n::: steepest.norms.Scaled\n"
    table = api_pages.table(text).splitlines()
    assert "| A | |" in table and "| B | |" in table
    assert "| [`Scaled`][steepest.norms.Scaled] | `factor` times a norm. |" in table
    with pytest.raises(SystemExit, match="FAST has no docstring"):
        api_pages.summary("steepest.optim.presets.FAST")


def test_the_overview_has_a_name_once_and_no_private_path() -> None:
    hidden = "    options: { show_root_full_path: false }\n"
    text = f"# T\n\n## Of a\n\n::: p.X\n\n::: p._q.Y\n{hidden}\n## Of b c\n\n::: p.q.Z\n{hidden}"
    text += f"\n::: p.r.X\n{hidden}"
    assert api_pages.short_links("t.md", text) == [
        "[`X`](t.md)",
        "[`Y`](t.md#of-a)",
        "[`Z`](t.md#of-b-c)",
    ]


@pytest.fixture(scope="module")
def shown() -> griffe.Module:
    """The package as the site shows it."""
    extensions = griffe.load_extensions(WithoutOverrides, WithDefaults)
    loaded = griffe.load("steepest", search_paths=[ROOT / "src"], extensions=extensions)
    assert isinstance(loaded, griffe.Module)
    return loaded


def test_what_is_overridden_stands_with_the_base_alone(shown: griffe.Module) -> None:
    assert {"dual", "dualize", "project"} <= shown["norms.norm.Norm"].members.keys()
    for name in ("schatten.UnitarilyInvariantNorm", "lp.Lp", "scaled.Scaled"):
        left = shown[f"norms.{name}"].members.keys()
        assert not left & {"dual", "dualize", "project", "couples", "axes", "symmetric"}, name
    # An argument stays, even if a base has a property of its name.
    assert "polar" in shown["norms.schatten.Schatten"].parameters


def test_a_default_is_a_value(shown: griffe.Module) -> None:
    betas = shown["optim.lionk.LionK"].parameters["betas"].default
    assert eval(str(betas)) == (0.9, 0.99)
    assert shown["optim.muon.Muon"].parameters["momentum"].default == "0.95"


def test_a_type_without_a_description_is_found() -> None:
    text = '<div class="doc-signature"><span title="steepest.a.{}">x</span></div>'
    assert "Scale is in a signature" in "".join(faults(text.format("Scale")))
    assert not list(faults(text.format("LION_BETAS")))
    assert not list(faults('<p>Bases: <span title="steepest.a.Base">Base</span></p>'))
