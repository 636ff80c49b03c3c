"""Bring finished reproductions into the documentation.

    steepest reproduce --all
    python tools/ledger.py            # or another folder than reproductions/

keeps the claims of each folder, with the settings, the machine and the day they come from, in
`docs/reproductions/NAME.json`, the table of each picture in `docs/reproductions/tables/`, draws the
pictures of `docs/images/` from these tables, and fills the tables of `docs/reproductions.md`. Parts
that were carried out with other settings are found in folders `NAME-…` beside it, as
`quadratics-100`. Without results it draws and fills what is stored. A test compares the page with
these files.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steepest._common.files import Record
from steepest.apps._figures import plot_style, png
from steepest.apps.reproduce.framework.claims import ledger
from steepest.apps.reproduce.table import REPRODUCTIONS

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "reproductions.md"
DATA = DOCS / "reproductions"
TABLES = DATA / "tables"
REGION = re.compile(r"(<!-- results of ([\w-]+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def collect(name: str, parent: Path) -> None:
    """Bring the results of one reproduction in, from as many folders as it was carried out in."""
    beside = sorted(f for f in parent.glob(f"{name}-*") if f.name != f"{name}-quick")
    folders = [f for f in (parent / name, *beside) if (f / "claims.json").exists()]
    if not folders:
        return
    found: dict[str, Record] = {}
    runs = []
    for folder in folders:
        claims = read(folder / "claims.json")
        found.update({claim["id"]: claim for claim in claims})
        known = read(folder / "settings.json")
        parts = [part for part in REPRODUCTIONS[name].parts if (folder / f"{part}.csv").exists()]
        day = datetime.fromtimestamp((folder / "claims.json").stat().st_mtime, UTC).date()
        place = {k: known[k] for k in ("settings", "machine")}
        ids = [claim["id"] for claim in claims]
        runs.append({"parts": parts, "day": str(day), **place, "claims": ids})
        for picture in shown(name):
            if (folder / f"{picture}.json").exists():
                keep(TABLES / f"{name}-{picture}.json", read(folder / f"{picture}.json"))
    order = [c.id for c in REPRODUCTIONS[name].claims if c.id in found]
    data = {"reproduction": name, "runs": runs, "claims": [found[each] for each in order]}
    DATA.mkdir(exist_ok=True)
    text = json.dumps(data, indent=2, ensure_ascii=False)
    (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def keep(path: Path, rows: Sequence[Record]) -> None:
    """Store the table of a picture: a line per row, six digits, more than a picture shows."""
    columns = list(rows[0])
    lines = [[_short(row[c]) for c in columns] for row in rows]
    text = ",\n".join(json.dumps(line, ensure_ascii=False) for line in [columns, *lines])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{text}\n]\n", encoding="utf-8")


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def kept(path: Path) -> list[Record]:
    """The table that `keep` has stored."""
    columns, *lines = read(path)
    return [dict(zip(columns, line, strict=True)) for line in lines]


def draw(path: Path) -> bytes:
    """The picture of a stored table, whose name is that of its reproduction and its own."""
    name = next(n for n in REPRODUCTIONS if path.stem.startswith(f"{n}-"))
    with plot_style():
        return png(REPRODUCTIONS[name].pictures[path.stem.removeprefix(f"{name}-")](kept(path)))


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def shown(name: str) -> Sequence[str]:
    """The pictures of a reproduction that the documentation has."""
    return REPRODUCTIONS[name].shown or tuple(REPRODUCTIONS[name].pictures)


def alternative(draw: Callable[..., object]) -> str:
    """The text in place of a picture: the first line of what draws it."""
    return (inspect.getdoc(draw) or "").partition("\n")[0].removesuffix(".")


def results(name: str) -> str:
    """Pictures, ledger and settings of one reproduction as Markdown."""
    path = DATA / f"{name}.json"
    if not path.exists():
        return "\nNo results yet.\n\n"
    data, r = read(path), REPRODUCTIONS[name]
    pictures = "".join(
        f"![{alternative(r.pictures[p])}](images/{name}-{p}.png)\n\n" for p in shown(name)
    )
    lines = "\n\n".join(origin(run, r.unit) for run in data["runs"])
    return f"\n{pictures}{ledger(data['claims'])}\n{lines}\n\n"


def origin(run: Record, unit: str) -> str:
    """A sentence: which parts of a reproduction, how large, when and on what."""
    settings, machine = run["settings"], run["machine"]
    parts = f"{', '.join(f'`{part}`' for part in run['parts'])}: " if run["parts"] else ""
    count = f"{settings['instances']} instances, " if "instances" in settings else ""
    seeds = ", ".join(map(str, settings["seeds"]))
    where = [run.get("day"), machine.get("processor"), f"torch {machine['torch']}"]
    return (
        f"{parts}{count}{settings['steps']} steps of {settings['batch']} {unit}, seeds {seeds}; "
        f"{', '.join(each for each in where if each)}, threads: {machine['threads']}."
    )


def filled(page: str) -> str:
    """A page with the results that `docs/reproductions/` holds."""
    return REGION.sub(lambda m: f"{m[1]}{results(m[2])}{m[3]}", page)


def main() -> None:
    """Copy what there is, and fill the page."""
    parent = Path(sys.argv[1] if len(sys.argv) > 1 else "reproductions")
    for name in REPRODUCTIONS:
        collect(name, parent)
    for path in sorted(TABLES.glob("*.json")):
        (DOCS / "images" / f"{path.stem}.png").write_bytes(draw(path))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
