"""Facts that stand in several places: README.md and the pages of docs/ take them from here.

    python tools/facts.py          say which places are out of date; the exit code is 1 if one is
    python tools/facts.py --write  bring them up to date
    python tools/facts.py --collect NAME RUN COMMAND
                                   store the final table of a run as docs/training/NAME.json, with
                                   this machine and the command that it came from, and its
                                   picture as docs/images/NAME.png

A place begins with `<!-- fact: NAME -->` and ends with `<!-- end of fact -->`. What is said there
comes from where it is decided or measured: `pyproject.toml`, `docs/training/` of `steepest train`,
`docs/bench/` of `steepest bench`.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from steepest.apps.bench.machine import describe
from steepest.apps.bench.measure import Result
from steepest.apps.bench.report import number
from steepest.apps.train.report import SummaryRow, cells

ROOT = Path(__file__).resolve().parent.parent
TRAINING, BENCH = ROOT / "docs" / "training", ROOT / "docs" / "bench"
PLACE = re.compile(r"<!-- fact: ([\w-]+) -->(\n?).*?<!-- end of fact -->", re.DOTALL)

COLUMNS = (
    *("optimizer", "val loss", "seconds", "ms/step", "optimizer ms/step", "steps to adamw"),
    "seconds to adamw",
)

# The kinds of processor whose results are stored, and how a reader knows his.
KINDS = {
    "zen5": "AMD Zen 5, fast bfloat16",
    "zen4": "AMD Zen 4, bfloat16 half as fast",
    "zen3": "AMD Zen 3, bfloat16 emulated",
    "amx-hidden": "Intel, AVX-512, matrix units hidden",
    "amx": "Intel with AMX",
}


def pages() -> list[Path]:
    """Every page that may hold a fact."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def collect(name: str, run: Path, command: str) -> None:
    """Store the final table and the picture of a finished run."""
    machine = describe() | {"command": command}
    settings = _read(run / "config.json")
    text = {k: settings["text"][k] for k in ("name", "characters", "sha256")}
    stored = {"machine": machine, "text": text, "rows": _read(run / "summary.json")}
    TRAINING.mkdir(exist_ok=True)
    written = json.dumps(stored, indent=2, ensure_ascii=False)
    (TRAINING / f"{name}.json").write_text(f"{written}\n", encoding="utf-8")
    shutil.copy(run / "loss.png", ROOT / "docs" / "images" / f"{name}.png")


def _rows(name: str) -> dict[str, SummaryRow]:
    found = [SummaryRow(**row) for row in _read(TRAINING / f"{name}.json")["rows"]]
    return {row.optimizer: row for row in found}


def _origin(machine: dict[str, Any]) -> str:
    """The machine of a measurement, for a sentence."""
    number = f" (family {machine['family']}, model {machine['model']})" if machine["family"] else ""
    return (
        f"{machine['cpu']}{number}, "
        f"{machine['threads']} threads, torch {machine['torch']}, {machine['date'][:10]}"
    )


def headline() -> str:
    """The reason to use Muon, as measured."""
    rows = _rows("fair")
    muon, adamw = rows["muon"], rows["adamw"]
    assert muon.steps_to_baseline is not None
    assert muon.seconds_to_baseline is not None
    steps = muon.steps_to_baseline / adamw.steps
    seconds = muon.seconds_to_baseline / adamw.seconds
    machine = _read(TRAINING / "fair.json")["machine"]
    return (
        f"On a character GPT, Muon reaches AdamW's final loss in {steps:.0%} of its steps and "
        f"{seconds:.0%} of its time: each at its best learning rate, means of three seeds, on two "
        f"cores of {machine['cpu']}."
    )


def _training(name: str) -> str:
    """The final table of a stored run, and what it was measured on."""
    stored = _read(TRAINING / f"{name}.json")
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(f"| {' | '.join(cells(row))} |" for row in _rows(name).values()),
    ]
    machine = stored["machine"]
    return "\n".join([*lines, "", f"`{machine['command']}` on {_origin(machine)}."])


def versions() -> str:
    """The Python and torch that the library runs with."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = project["requires-python"].removeprefix(">=")
    (torch,) = (d for d in project["dependencies"] if d.startswith("torch"))
    bounds = re.fullmatch(r"torch>=([\d.]+),<(\d+)\.(\d+)", torch)
    assert bounds, f"dependency {torch!r}: write torch>=A.B,<C.D"
    newest = f"{bounds[2]}.{int(bounds[3]) - 1}"
    return f"Python {python} or newer, torch {bounds[1]} to {newest}."


def _step(result: Result) -> str:
    """A step of this library beside torch's."""
    rows = {row.name: row for row in result.rows}
    ours, theirs = rows["steepest.Muon"], rows["torch.optim.Muon"]
    return f"{number(ours.speed)} × ({number(ours.ms)} against {number(theirs.ms)} ms)"


def step_times() -> str:
    """Whole steps of `steepest.Muon` beside torch's, by kind of processor."""
    lines = [
        "| processor, two threads | GPT of width 128 | GPT of width 256 | measured |",
        "| --- | --- | --- | --- |",
    ]
    for name, kind in KINDS.items():
        stored = _read(BENCH / f"{name}.json")
        results = [Result.from_json(r) for r in stored["results"]]
        steps = {r.set: _step(r) for r in results if r.bench == "steps"}
        cells_of = (steps.get(size, "not measured") for size in ("gpt-128", "gpt-256"))
        lines.append(f"| {kind} | {' | '.join(cells_of)} | {stored['machine']['date'][:10]} |")
    return "\n".join(lines)


FACTS: dict[str, Callable[[], str]] = {
    "headline": headline,
    "fair-table": partial(_training, "fair"),
    "versions": versions,
    "step-times": step_times,
}


def filled(text: str) -> str:
    """A page with the present facts in its places; a block keeps lines of its own."""

    def put(place: re.Match[str]) -> str:
        name, newline = place[1], place[2]
        if name not in FACTS:
            raise SystemExit(f"no fact {name!r}; there are {', '.join(FACTS)}")
        return f"<!-- fact: {name} -->{newline}{FACTS[name]()}{newline}<!-- end of fact -->"

    return PLACE.sub(put, text)


def main() -> None:
    """Check, write or collect."""
    match sys.argv[1:]:
        case ["--collect", name, run, command]:
            collect(name, Path(run), command)
        case ["--write"] | []:
            stale = [p for p in pages() if filled(p.read_text("utf-8")) != p.read_text("utf-8")]
            for page in stale if "--write" in sys.argv else ():
                page.write_text(filled(page.read_text("utf-8")), encoding="utf-8")
            if stale and "--write" not in sys.argv:
                names = ", ".join(str(p.relative_to(ROOT)) for p in stale)
                raise SystemExit(f"out of date: {names}; run: python tools/facts.py --write")
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
