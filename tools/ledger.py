"""Bring finished reproductions into the documentation.

    steepest reproduce --all
    python tools/ledger.py            # or another folder than reproductions/

copies each `claims.json`, with the settings and the machine it comes from, to
`docs/reproductions/NAME.json` and its picture to `docs/images/`, and fills the tables of
`docs/reproductions.md`. A test compares that page with these files.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from steepest.lab.claims import ledger
from steepest.lab.table import REPRODUCTIONS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "reproductions.md"
DATA = DOCS / "reproductions"
REGION = re.compile(r"(<!-- results of ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def collect(name: str, folder: Path) -> None:
    """Copy the results of one reproduction, if it has been carried out."""
    if not (folder / "claims.json").exists():
        return
    settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    claims = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    DATA.mkdir(exist_ok=True)
    text = json.dumps({**settings, "claims": claims}, indent=2, ensure_ascii=False)
    (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    for picture in shown(name):
        shutil.copy(folder / f"{picture}.png", DOCS / "images" / f"{name}-{picture}.png")


def shown(name: str) -> Sequence[str]:
    """The pictures of a reproduction that the documentation has."""
    return REPRODUCTIONS[name].shown or tuple(REPRODUCTIONS[name].pictures)


def alternative(draw: Callable[..., object]) -> str:
    """What is said in place of a picture: the first line of what draws it."""
    return (inspect.getdoc(draw) or "").partition("\n")[0].removesuffix(".")


def results(name: str) -> str:
    """Pictures, ledger and settings of one reproduction as Markdown."""
    path = DATA / f"{name}.json"
    if not path.exists():
        return "\nNo results yet.\n\n"
    data = json.loads(path.read_text(encoding="utf-8"))
    r, machine, settings = REPRODUCTIONS[name], data["machine"], data["settings"]
    pictures = "".join(
        f"![{alternative(r.pictures[p])}](images/{name}-{p}.png)\n\n" for p in shown(name)
    )
    seeds = ", ".join(map(str, settings["seeds"]))
    count = f"{settings['instances']} instances, " if "instances" in settings else ""
    origin = (
        f"{count}{settings['steps']} steps of {settings['batch']} {r.unit}, seeds {seeds}; "
        f"torch {machine['torch']}, threads: {machine['threads']}.\n"
    )
    return f"\n{pictures}{ledger(data['claims'])}\n{origin}\n"


def filled(page: str) -> str:
    """A page with the results that `docs/reproductions/` holds."""
    return REGION.sub(lambda m: f"{m[1]}{results(m[2])}{m[3]}", page)


def main() -> None:
    """Copy what there is, and fill the page."""
    parent = Path(sys.argv[1] if len(sys.argv) > 1 else "reproductions")
    for name in REPRODUCTIONS:
        collect(name, parent / name)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
