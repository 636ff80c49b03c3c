"""Say what Markdown has made of the documentation that nobody wrote; `make docs` runs it.

    python tools/site_check.py site

An asterisk of a formula that begins an emphasis, as in W* = W₀ + K*(x), eats what stands between
two of them. An example of a docstring under a heading that the site does not know ends as a quote
within a quote. Neither is a warning of MkDocs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

INLINE = {"a", "abbr", "br", "span", "sub", "sup"}
# Emphasis is a phrase: it stands between blanks or punctuation, and holds words.
MARKS = {"em": ("\x01", "\x02"), "strong": ("\x03", "\x04")}
PHRASE = re.compile(r"(.?)([\x01\x03])(.*?)[\x02\x04](.?)", re.DOTALL)
BEFORE = re.compile(r"""[\s(\["'“‘—–/]?""")
AFTER = re.compile(r"""[\s)\]"'”’—–/.,:;!?]?""")
# What is left of a code span, of bold type, of a table and of a link that were none.
STRAY = re.compile(r"`+|\*\*|\|[ :]*---|\]\(|\]\[|^ *:::|^ *>>>", re.MULTILINE)
WORDS = re.compile(r"""[\w\s.,:;!?()'"’–/-]*""")


class _Text(HTMLParser):
    """The text of a page with the ends of emphasis marked, code left out, and its nested quotes."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.quotes = 0
        self._open = {"pre": 0, "code": 0, "script": 0, "style": 0, "nav": 0, "blockquote": 0}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._open:
            self._open[tag] += 1
            self.quotes += tag == "blockquote" and self._open[tag] > 1
        self._mark(tag, 0)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            self._open[tag] -= 1
        self._mark(tag, 1)

    def handle_data(self, data: str) -> None:
        hidden = any(depth for tag, depth in self._open.items() if tag != "blockquote")
        self.text.append("c" if hidden else data)

    def _mark(self, tag: str, end: int) -> None:
        """Keep the ends of emphasis; a block begins a new line, and no phrase spans two."""
        if tag in MARKS:
            self.text.append(MARKS[tag][end])
        elif tag not in INLINE and tag != "code":
            self.text.append("\n")


def faults(html: str) -> Iterator[str]:
    """The faults of a page, one sentence for each."""
    page = _Text()
    page.feed(html)
    for before, mark, phrase, after in PHRASE.findall("".join(page.text)):
        alone = BEFORE.fullmatch(before) and AFTER.fullmatch(after)
        # Bold figures are common in tables; a formula in italics is always an accident.
        if not alone or (mark == MARKS["em"][0] and not WORDS.fullmatch(phrase)):
            kind = "italics" if mark == MARKS["em"][0] else "bold"
            text = re.sub("[\x01-\x04]", "", phrase)
            yield f"{text!r} is set in {kind}: write \\* or put the formula into backquotes"
    for mark in sorted(set(STRAY.findall("".join(page.text)))):
        yield f"{mark.strip()} stands in the text: what it begins or ends is not what was meant"
    if page.quotes:
        yield f"{page.quotes} quotes within quotes: examples of docstrings stand under `Examples:`"


def main() -> None:
    """Check every page of a built site; the exit code is 1 if one has a fault."""
    root = Path(sys.argv[1])
    pages = sorted(root.rglob("*.html"))
    if not pages:
        raise SystemExit(f"error: no page in {root}")
    found = [f"{p.relative_to(root)}: {f}" for p in pages for f in faults(p.read_text("utf-8"))]
    if found:
        raise SystemExit("\n".join(["error: Markdown has eaten something", *found]))
    print(f"{len(pages)} pages: no formula eaten, no example lost")


if __name__ == "__main__":
    main()
