"""Say what Markdown has made of the documentation that nobody wrote; `make docs` runs it.

    python tools/site_check.py site

An asterisk of a formula that begins an emphasis, as in W* = W₀ + K*(x), eats what stands between
two of them. An example of a docstring under a heading that the site does not know ends as a quote
within a quote. LaTeX outside of a formula stays as it is. None of it is a warning of MkDocs, nor is
a page that loads something from another host, or a signature with a name that is described nowhere.
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
# What is left of a formula that was none; a dollar before a digit is a price.
LATEX = re.compile(r"\$(?!\d)|[_^]\{|\\(?:[A-Za-z]+|[\\|{}])")
# What a tag loads; a link to another page loads nothing.
LOADS = {"img": ("src", "srcset"), "source": ("src", "srcset"), "script": ("src",)}
LOADS |= {"link": ("href",), "iframe": ("src",), "video": ("src", "poster"), "object": ("data",)}
ELSEWHERE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
IN_CSS = re.compile(r"(?:@import\s+|url\()['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
SIGNATURE = re.compile(r'<div class="doc-signature.*?</div>', re.DOTALL)
NOWHERE = re.compile(r'<span title="steepest\.(?:\w+\.)+([A-Z]+[a-z]\w*)">')
WORDS = re.compile(r"""[\w\s.,:;!?()'"’–/-]*""")


class _Text(HTMLParser):
    """The text of a page with the ends of emphasis marked, code left out, and its nested quotes.

    Its formulas are kept apart, and so is what it loads from other hosts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.formulas: list[str] = []
        self.loaded: list[str] = []
        self.quotes = 0
        self._formula = 0
        self._open = {"pre": 0, "code": 0, "script": 0, "style": 0, "nav": 0, "blockquote": 0}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name in LOADS.get(tag, ()):
            if ELSEWHERE.match(values.get(name, "")):
                self.loaded.append(values[name])
        if self._formula:
            self._formula += 1
            self.formulas[-1] += f"<{tag}>"
        elif "arithmatex" in values.get("class", "").split():
            self._formula = 1
            self.formulas.append("")
        if tag in self._open:
            self._open[tag] += 1
            self.quotes += tag == "blockquote" and self._open[tag] > 1
        self._mark(tag, 0)

    def handle_endtag(self, tag: str) -> None:
        self._formula -= bool(self._formula)
        if tag in self._open:
            self._open[tag] -= 1
        self._mark(tag, 1)

    def handle_data(self, data: str) -> None:
        if self._formula:
            self.formulas[-1] += data
            return
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
    for mark in sorted(set(LATEX.findall("".join(page.text)))):
        yield f"{mark} stands in the text: a formula is $…$ or $$…$$, and no other LaTeX"
    for formula in page.formulas:
        whole = re.fullmatch(r"\s*(?:\\\((.+)\\\)|\\\[(.+)\\\])\s*", formula, re.DOTALL)
        if not whole or re.search(r"<\w+>|\$", formula):
            yield f"the formula {formula!r} is broken: tags or half of another one are in it"
    for address in page.loaded:
        yield f"loads {address}: what the site shows is shipped with it"
    for name in sorted({n for s in SIGNATURE.findall(html) for n in NOWHERE.findall(s)}):
        yield f"{name} is in a signature and described nowhere: list it in docs/api/types.md"
    if page.quotes:
        yield f"{page.quotes} quotes within quotes: examples of docstrings stand under `Examples:`"


def main() -> None:
    """Check every page of a built site; the exit code is 1 if one has a fault."""
    root = Path(sys.argv[1])
    pages = sorted(root.rglob("*.html"))
    if not pages:
        raise SystemExit(f"error: no page in {root}")
    found = [f"{p.relative_to(root)}: {f}" for p in pages for f in faults(p.read_text("utf-8"))]
    for sheet in sorted(root.rglob("*.css")):
        addresses = IN_CSS.findall(sheet.read_text("utf-8"))
        found += [f"{sheet.relative_to(root)}: loads {address}" for address in addresses]
    if found:
        raise SystemExit("\n".join(["error: the site is not as it was written", *found]))
    print(f"{len(pages)} pages: no formula eaten, no example lost, nothing loaded from elsewhere")


if __name__ == "__main__":
    main()
