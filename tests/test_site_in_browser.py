"""The built site in a browser: its formulas, what it asks for, and whether it fits the window."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.diagnose.chromium import Browser, installed
from tests.navigation import CONFIG

ROOT = Path(__file__).resolve().parent.parent
KATEX = ROOT / "docs" / "assets" / "katex"

# The same formulas again, where a mistake is an error; a fault names its formula.
FAULTS = """
[...document.querySelectorAll(".arithmatex")].flatMap((element) => {
  if (element.querySelector(".katex-error") || !element.querySelector(".katex")) {
    return [`not typeset: ${element.textContent}`];
  }
  const display = element.dataset.tex.startsWith("\\\\[");
  try {
    katex.renderToString(element.dataset.tex.slice(2, -2),
      {displayMode: display, throwOnError: true, strict: "error"});
  } catch (error) {
    return [`${element.dataset.tex}: ${error.message}`];
  }
  return [];
})
"""
LONG = """
(() => {
  const code = document.querySelector("pre > code");
  code.textContent = "x".repeat(100);
  return code.scrollWidth <= code.clientWidth;
})()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    installed()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--no-strict", "-d", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with an empty profile."""
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def width(browser: Browser, pixels: int) -> None:
    """Give the window a width."""
    size = {"width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.send("Emulation.setDeviceMetricsOverride", **size)


def test_every_page_shows_its_formulas_fits_and_asks_nobody(site: Path, browser: Browser) -> None:
    width(browser, 500)
    wrong, formulas = [], 0
    for page in sorted(site.rglob("*.html")):
        name = page.relative_to(site)
        browser.requests.clear()
        browser.open(page)
        formulas += browser.evaluate("document.querySelectorAll('.arithmatex .katex').length")
        wrong += [f"{name}: {fault}" for fault in browser.evaluate(FAULTS)]
        if browser.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wrong.append(f"{name} is wider than a window of 500 pixels")
        elsewhere = [u for u in browser.requests if not u.startswith(("file:", "data:", "blob:"))]
        wrong += [f"{name} asks for {url}" for url in elsewhere]
    assert not wrong, "\n".join(wrong)
    assert formulas


def test_a_faulty_formula_is_found(site: Path, browser: Browser, tmp_path: Path) -> None:
    page = (site / "api" / "index.html").read_text(encoding="utf-8")
    for formula in (r"\(\nonsense{x}\)", r"\(x_\)", r"\[xé\]"):
        broken = site / "api" / "broken.html"
        span = f'<span class="arithmatex">{formula}</span>'
        broken.write_text(page.replace("<article", f"{span}<article", 1), encoding="utf-8")
        browser.open(broken)
        (fault,) = browser.evaluate(FAULTS)
        assert formula[2:-2] in fault
        broken.unlink()


def test_a_line_of_100_characters_of_code_fits_beside_both_menus(
    site: Path, browser: Browser
) -> None:
    width(browser, 1366)
    browser.open(site / "choosing" / "index.html")
    menus = "[...document.querySelectorAll('.md-sidebar')].filter((e) => e.offsetWidth).length"
    assert browser.evaluate(menus) == 2
    assert browser.evaluate(LONG)
    width(browser, 500)
    assert not browser.evaluate(LONG)


def test_katex_is_what_was_published() -> None:
    text = (KATEX / "README.txt").read_text(encoding="utf-8")
    sums = {name: value for value, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.M)}
    files = {p.relative_to(KATEX).as_posix(): p for p in KATEX.rglob("*") if p.is_file()}
    assert sums.keys() == files.keys() - {"README.txt"}
    for name, path in files.items():
        if name in sums:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == sums[name], name


def test_what_the_theme_names_is_there() -> None:
    files = [*CONFIG["extra_css"], *(script["path"] for script in CONFIG["extra_javascript"])]
    files += [CONFIG["theme"]["logo"], CONFIG["theme"]["favicon"]]
    assert not [name for name in files if not (ROOT / "docs" / name).is_file()]
