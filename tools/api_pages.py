"""The lists of names on the pages of docs/api/, from the names that they describe.

python tools/api_pages.py          print the pages that are not current
python tools/api_pages.py --write  bring them up to date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "api"
BEGIN, END = "<!-- names: tools/api_pages.py -->", "<!-- end of names -->"

sys.path[:0] = [str(ROOT / "tools")]
from preset_table import between  # noqa: E402

TOKEN = re.compile(r"^(?:# (?P<title>.+)|## (?P<heading>.+)|::: (?P<name>[\w.]+))$", re.MULTILINE)


@cache
def package() -> griffe.Module:
    """The package as its sources say it."""
    loaded = griffe.load("steepest", search_paths=[ROOT / "src"])
    assert isinstance(loaded, griffe.Module)
    return loaded


def summary(path: str) -> str:
    """The first line of what is said about a name; all of a paragraph, if it goes on."""
    docstring = package()[path.removeprefix("steepest.")].docstring
    if docstring is None:
        raise SystemExit(f"error: {path} has no docstring")
    return " ".join(docstring.value.partition("\n\n")[0].split())


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """The headings of a page, each with the names under it."""
    heading, names = "", list[str]()
    for found in TOKEN.finditer(text):
        if found["name"]:
            names.append(found["name"])
        elif found["heading"]:
            if names:
                yield heading, names
            heading, names = found["heading"], []
    if names:
        yield heading, names


def link(path: str) -> str:
    """A name without its module, which leads to its description wherever that is."""
    return f"[`{path.rpartition('.')[2]}`][{path}]"


def table(text: str) -> str:
    """The names of a page with what they are, a table for each heading."""
    found = list(sections(text))
    lines = ['<div class="names" markdown>']
    for heading, names in found:
        title = heading if len(found) > 1 else ""
        rows = (f"| {link(n)} | {summary(n).replace('|', chr(92) + '|')} |" for n in names)
        lines += ["", f"| {title} | |", "| --- | --- |", *rows]
    return "\n".join([*lines, "", "</div>"])


def anchor(heading: str) -> str:
    """The address of a heading on its page.

    Examples:
        >>> anchor("Of norms and polar methods")
        'of-norms-and-polar-methods'
    """
    return re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")


def short_links(page: str, text: str) -> list[str]:
    """A link for each name of a page, once.

    A name without a path to import it by leads to its section, and one that several things have to
    the page: a path would say what nobody can write.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for heading, names in sections(text):
        for path in names:
            places.setdefault(path.rpartition(".")[2], []).append((heading, path))
    found = []
    for name, (first, *others) in places.items():
        heading, path = first
        if others:
            found.append(f"[`{name}`]({page})")
        elif path in inside(text):
            found.append(f"[`{name}`]({page}#{anchor(heading)})")
        else:
            found.append(link(path))
    return found


def inside(text: str) -> set[str]:
    """The names of a page whose path is not for import, and is not shown."""
    return set(re.findall(r"^::: ([\w.]+)\n    options:.*show_root_full_path: false", text, re.M))


def contents() -> str:
    """Every page with its names, for the page that begins the API."""
    lines = ["", "| page | names |", "| --- | --- |"]
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (PAGES / name for name in re.findall(r": api/(\w+\.md)$", nav, re.MULTILINE)):
        text = page.read_text(encoding="utf-8")
        names = short_links(page.name, text)
        if names:
            title = next(m["title"] for m in TOKEN.finditer(text) if m["title"])
            lines.append(f"| [{title}]({page.name}) | {', '.join(names)} |")
    return "\n".join([*lines, ""])


def current(page: Path) -> str:
    """A page with its present list."""
    text = page.read_text(encoding="utf-8")
    return between(text, BEGIN, END, contents() if page.stem == "index" else table(text))


def main() -> None:
    """Compare every page, and write with `--write`."""
    for page in sorted(PAGES.glob("*.md")):
        text = current(page)
        if text != page.read_text(encoding="utf-8"):
            print(page.relative_to(ROOT))
            if "--write" in sys.argv[1:]:
                page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
