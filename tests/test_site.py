"""The site: what is wrong with the documentation stops `make docs`."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import markdown
import pytest
from griffe import Docstring, DocstringSectionKind

from tests.navigation import CONFIG, NAV
from tests.test_house import SOURCES, short
from tools.site_check import faults

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = {
    name: options or {}
    for entry in CONFIG["markdown_extensions"]
    for name, options in (entry.items() if isinstance(entry, dict) else [(entry, None)])
}


RENDERER = markdown.Markdown(extensions=list(EXTENSIONS), extension_configs=EXTENSIONS)


def html(text: str) -> str:
    """A piece of Markdown as the site renders it."""
    return RENDERER.reset().convert(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("the *dual* norm, *larger*; **so** (*far*) a **1.00×** and `W*`, `K*`", None),
        ("a lone W* and ‖G‖_*, one \\*, W\\* and W\\*", None),
        ("W = ½⟨W − W*, A(W − W*)⟩", "', A(W − W' is set in italics"),
        ("‖G‖_*/L₂ and Σ_{i} σ", "*/L₂ and Σ"),
        ("x**2 + y**2", "'2 + y' is set in bold"),
        ("K*(x) + K*(y) = *z*", "'(x) + K' is set in italics"),
        ("an open `quote", "` stands in the text"),
        ("| a | b |\n| --- |\n| 1 | 2 |", "| --- stands in the text"),
        (">>> polar(x)\n0.5", "quotes within quotes"),
        ("for $5 and $6, `$ make`, $x_{1}^*$ and $y^*$\n\n$$\na_{1} \\\\ b\n$$", None),
        ("a price of $x$ and $ y", "$ stands in the text"),
        ("‖W‖_{RMS→RMS}", "_{ stands in the text"),
        ("R^{-1/2}", "^{ stands in the text"),
        ("\\(x\\) and \\sigma_1", "\\sigma stands in the text"),
        ('<span class="arithmatex">\\(a <em>b</em>\\)</span>', "is broken"),
        ('<span class="arithmatex">\\(a</span>', "is broken"),
        ('<img src="https://example.org/a.png">', "loads https://example.org/a.png"),
        ('<script src="//example.org/a.js"></script>', "loads //example.org/a.js"),
        ("[a page](https://example.org)", None),
    ],
)
def test_what_markdown_eats_is_found(text: str, fault: str | None) -> None:
    found = "\n".join(faults(html(text)))
    assert fault in found if fault else not found


@pytest.mark.parametrize("page", [p for p in NAV if not p.startswith("api/")])
def test_markdown_eats_nothing_of_a_page(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert not list(faults(html(text)))


def texts(section: object) -> list[str]:
    """The pieces of a section of a docstring that are rendered one by one."""
    value = getattr(section, "value", "")
    if getattr(section, "kind", None) is DocstringSectionKind.examples:
        return [text for kind, text in value if kind is DocstringSectionKind.text]
    if isinstance(value, str):
        return [value]
    items = value if isinstance(value, list) else [value]
    return [str(getattr(item, "description", item)) for item in items]


def shown() -> Iterator[tuple[str, str]]:
    """The docstrings of the API pages: of the objects they list, and of their public members."""
    pages = [(ROOT / "docs" / p).read_text(encoding="utf-8") for p in NAV if p.startswith("api/")]
    listed = re.findall(r"^::: ([\w.]+)\.(\w+)$", "\n".join(pages), flags=re.MULTILINE)
    for module, name in listed:
        value = getattr(importlib.import_module(module), name)
        if not str(getattr(value, "__module__", "")).startswith("steepest"):
            continue  # a type alias, whose docstring is that of `dict` or of `Union`
        members = vars(value) if isinstance(value, type) else {}
        public = {f"{name}.{k}": v for k, v in members.items() if not k.startswith("_")}
        for label, each in {name: value, **public}.items():
            if callable(each) or isinstance(each, property):
                yield label, inspect.cleandoc(each.__doc__ or "")


HEADINGS = {"Args", "Attributes", "Examples", "Raises", "Returns", "Sources", "Yields"}


def test_markdown_eats_nothing_of_the_api_pages() -> None:
    wrong = []
    for label, text in shown():
        for section in Docstring(text).parse("google", warnings=False):
            for piece in texts(section):
                wrong += [f"{label}: {fault}" for fault in faults(html(piece))]
    assert not wrong, "\n".join(wrong)


def test_headings_of_docstrings_are_sections() -> None:
    # What the google parser does not know begins no section: under `Example:` the examples of a
    # whole library were prose.
    wrong = [
        f"{short(path)}: {heading}:"
        for path in SOURCES
        for heading in re.findall(r"^ +([A-Z]\w+):$", path.read_text("utf-8"), re.MULTILINE)
        if heading not in HEADINGS
    ]
    assert not wrong, "\n".join(wrong)


def built(folder: Path, pages: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`make docs` in a folder with the pages of the navigation, empty but for those given."""
    (folder / "docs" / "api").mkdir(parents=True)
    for page in {*NAV, *pages}:
        text = pages.get(page, f"# {page}\n")
        (folder / "docs" / page).write_text(text, encoding="utf-8")
    package = folder / "src" / "steepest"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        'def f(x: int) -> int:\n    """One.\n\n    Args:\n        y: no parameter.\n    """\n',
        encoding="utf-8",
    )
    (folder / "tools").mkdir()
    for name in ("Makefile", "mkdocs.yml", "tools/site_check.py", "tools/api_extension.py"):
        shutil.copy(ROOT / name, folder / name)
    # `-o`: what is to be installed is installed.
    command = ["make", "-o", ".venv/.installed", "docs", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


WARNINGS = {
    "[no page](nonexistent.md)": "nonexistent.md",
    "[no heading](maps.md#nonexistent)": "#nonexistent",
    "![no picture](images/nonexistent.png)": "images/nonexistent.png",
    "[no name][steepest.nonexistent]": "steepest.nonexistent",
    "::: steepest.f": "Parameter 'y' does not appear",
}


def test_make_docs_stops_at_a_warning(tmp_path: Path) -> None:
    page = "\n\n".join(["# Start", *WARNINGS])
    done = built(tmp_path, {"index.md": page, "unlisted.md": "# Not in the navigation\n"})
    assert done.returncode == 2
    assert "  - unlisted.md" in done.stderr
    for named in WARNINGS.values():
        assert re.search(rf"^WARNING.*{re.escape(named)}", done.stderr, flags=re.MULTILINE), named
    # Two more than there are kinds: of the unlisted page, and the parameter has no type either.
    assert f"Aborted with {len(WARNINGS) + 2} warnings" in done.stdout + done.stderr


def test_make_docs_stops_at_one_broken_link(tmp_path: Path) -> None:
    done = built(tmp_path, {"index.md": "# Start\n\n[no page](nonexistent.md)\n"})
    assert done.returncode == 2
    assert "Aborted with 1 warning" in done.stdout + done.stderr


def test_make_docs_stops_at_an_eaten_formula(tmp_path: Path) -> None:
    done = built(tmp_path, {"maps.md": "# Maps\n\nK*(x) + K*(y)\n"})
    assert done.returncode == 2
    assert "maps/index.html: '(x) + K' is set in italics" in done.stderr
    assert "warnings" not in done.stderr


def test_make_docs_passes_otherwise(tmp_path: Path) -> None:
    done = built(tmp_path, {"index.md": "# Start\n\n[a page](maps.md)\n"})
    assert done.returncode == 0, done.stderr
