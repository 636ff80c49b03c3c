"""Bring the results of `steepest bench` into the documentation.

    steepest bench --out bench
    python tools/bench_table.py NAME bench

copies `bench/bench.json`, without the folder in its command, to `docs/bench/NAME.json`, draws the
pictures of `docs/images/` and fills the tables of `docs/bench.md` from all files in `docs/bench/`.
Without arguments it only draws and fills them. A test compares that page with these files.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from steepest.apps.bench.execute import BENCHES, RESULTS
from steepest.apps.bench.measure import Result
from steepest.apps.bench.picture import draw
from steepest.apps.bench.report import markdown
from steepest.apps.bench.verdict import lines

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "bench.md"
DATA = DOCS / "bench"
IMAGES = DOCS / "images"
BEGIN, END = "<!-- results: tools/bench_table.py -->", "<!-- end of results -->"
REGION = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)


def picture(name: str, bench: str) -> str:
    """The file of a picture in `docs/images/`."""
    return f"bench-{name}-{bench}.png"


def collect(name: str, folder: Path) -> None:
    """Copy the results in a folder under a name."""
    DATA.mkdir(exist_ok=True)
    data = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    # Where somebody kept results is not part of the command that gives them.
    data["machine"]["command"] = re.sub(r" --out[ =]('[^']*'|\S+)", "", data["machine"]["command"])
    text = json.dumps(data, indent=2, ensure_ascii=False)
    (DATA / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def redraw(path: Path) -> None:
    """Draw the pictures of stored results."""
    results = [Result.from_json(r) for r in json.loads(path.read_text(encoding="utf-8"))["results"]]
    for bench in BENCHES:
        of_bench = [r for r in results if r.bench == bench]
        if of_bench:
            (IMAGES / picture(path.stem, bench)).write_bytes(draw(of_bench))


def origin(data: dict[str, Any]) -> str:
    """The origin of the numbers, in a sentence."""
    machine, plan = data["machine"], data["plan"]
    extra = f", {', '.join(machine['capabilities'])}" if machine["capabilities"] else ""
    number = f", family {machine['family']}, model {machine['model']}" if machine["family"] else ""
    # Results that were stored before have none.
    kind = f", class {machine['class']}" if machine.get("class") else ""
    limited = "".join(f", `{name}={value}`" for name, value in machine["environment"].items())
    peers = ", ".join(f"{k} {v}" for k, v in data["peers"].items() if v) or "no peers"
    return (
        f"{machine['cpu']}{number}{extra}{limited}{kind}; threads: {machine['threads']}; torch "
        f"{machine['torch']}, {peers}; {machine['date'][:10]}; errors on {plan['data']}. "
        f"`{machine['command']}`"
    )


def section(path: Path) -> str:
    """Tables and pictures of one file."""
    data = json.loads(path.read_text(encoding="utf-8"))
    results = [Result.from_json(r) for r in data["results"]]
    parts = [f"### {path.stem}", origin(data), "\n".join(f"- {line}" for line in lines(results))]
    for bench in BENCHES:
        of_bench = [r for r in results if r.bench == bench]
        if of_bench:
            title = f"Speed of {bench} against {of_bench[0].baseline}"
            parts += [f"![{title}](images/{picture(path.stem, bench)})", markdown(of_bench)]
    return "\n\n".join(parts)


def filled(page: str) -> str:
    """A page with the results that `docs/bench/` holds."""
    found = [section(path) for path in sorted(DATA.glob("*.json"), key=lambda p: p.stem)] or [
        "No results yet."
    ]
    text = "\n\n".join(found)
    return REGION.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page)


def main() -> None:
    """Copy what is named, and fill the page."""
    arguments = sys.argv[1:]
    if len(arguments) not in (0, 2):
        raise SystemExit("usage: python tools/bench_table.py [NAME FOLDER]")
    if arguments:
        collect(arguments[0], Path(arguments[1]))
    for path in sorted(DATA.glob("*.json")):
        redraw(path)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
