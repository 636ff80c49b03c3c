"""The derivation as a notebook, made from its page.

python tools/notebook.py          print it
python tools/notebook.py --write  write it into notebooks/
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "derivation.md"
NOTEBOOK = ROOT / "notebooks" / "from_steepest_descent_to_muon.ipynb"

CODE = re.compile(r"^```python\n(.*?)^```$\n?", flags=re.MULTILINE | re.DOTALL)
# Links and pictures of a page are relative to docs/, unless they leave the repository.
LOCAL_LINK = re.compile(r"\]\((?!\w+:|#)([^)\s]+)\)")
INSTALL = """\
*Made from `docs/derivation.md` by `python tools/notebook.py --write`: change the page.*

To run this notebook, install the library and Jupyter from a checkout of the repository:

```console
$ python -m venv .venv
$ .venv/bin/pip install . jupyter
$ .venv/bin/jupyter notebook notebooks/from_steepest_descent_to_muon.ipynb
```
"""


def _cell(kind: str, source: str, number: int) -> dict[str, Any]:
    """One cell; its id follows from its place and its text alone."""
    source = source.strip("\n")
    name = hashlib.sha256(f"{number} {kind} {source}".encode()).hexdigest()[:12]
    cell: dict[str, Any] = {
        "cell_type": kind,
        "id": name,
        "metadata": {},
        "source": source.splitlines(True),
    }
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell


def _prose(text: str) -> list[str]:
    """Text between two blocks of code, cut before each section."""
    linked = LOCAL_LINK.sub(lambda found: f"](../docs/{found[1]})", text)
    return [part for part in re.split(r"^(?=## )", linked, flags=re.MULTILINE) if part.strip()]


def notebook(page: str) -> str:
    """The notebook of a page of Markdown, as the text of its file."""
    parts = [("markdown", INSTALL)]
    for place, text in enumerate(CODE.split(page)):
        if place % 2:
            parts.append(("code", text))
        else:
            parts += [("markdown", part) for part in _prose(text)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = {
        "cells": [_cell(kind, text, number) for number, (kind, text) in enumerate(parts)],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    made = notebook(PAGE.read_text(encoding="utf-8"))
    if "--write" in sys.argv[1:]:
        NOTEBOOK.parent.mkdir(exist_ok=True)
        NOTEBOOK.write_text(made, encoding="utf-8")
    else:
        print(made, end="")
