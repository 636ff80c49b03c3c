"""The findings of `tools/gpu_check.py`: numbers, tables and pictures in a folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gpu.checks import ADAMW, DTYPES, FAILED, METHODS, PASSED, Check
from steepest._common.files import write_atomic, write_json
from steepest.apps.bench import peers
from steepest.apps.bench.execute import BENCHES
from steepest.apps.bench.floor import type_name
from steepest.apps.bench.measure import MEASURED, ContenderRow, Result
from steepest.apps.bench.picture import draw
from steepest.apps.bench.report import HEADINGS, cells, number, reason
from steepest.apps.bench.verdict import verdict, verdicts


@dataclass
class Report:
    """The findings so far, and the files that hold them.

    Args:
        out: the folder.
        machine: the machine they were made on.
    """

    out: Path
    machine: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    results: list[tuple[Result, dict[str, int]]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def add(self, checks: Iterable[Check]) -> None:
        """Take checks over, and say each."""
        for check in checks:
            self.checks.append(check)
            print(f"{check.status:>18}  {check.part}: {check.name}: {check.reason}", flush=True)

    @property
    def failed(self) -> list[Check]:
        """The checks that have failed."""
        return [c for c in self.checks if c.status == FAILED]

    def write(self) -> None:
        """Numbers, tables and pictures, each file whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        data = {
            "machine": self.machine,
            "peers": peers.versions(),
            "checks": [asdict(c) for c in self.checks],
            "verdicts": verdicts([judged(r) for r, _ in self.results]),
            "results": [{**r.to_json(), "flops": f} for r, f in self.results],
            "left_out": self.left_out,
        }
        write_json(self.out / "check.json", data)
        write_atomic(self.out / "check.md", markdown(self).encode())
        for bench in BENCHES:
            if found := [r for r, _ in self.results if r.bench == bench]:
                write_atomic(self.out / f"{bench}.png", draw(found))


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(x.replace('|', '∣') for x in line)} |" for line in lines)


def origin(report: Report) -> str:
    """The machine and the command, in two sentences."""
    about = report.machine
    gpu = f"driver {about['driver']}, CUDA {about['cuda']}, " if about["gpu"] else "no GPU, "
    gpu += f"class {about['class']}, "
    where = about["gpu"] or about["cpu"]
    others = ", ".join(f"{k} {v}" for k, v in peers.versions().items() if v) or "no peers"
    return (
        f"{where}: {gpu}torch {about['torch']}, {others}; {about['date'][:10]}. "
        f"`{about['command']}`"
    )


def accuracies(checks: Sequence[Check]) -> str:
    """The share of the stated error that is used: a row for each method, a column for each type."""
    found = {c.name: c for c in checks if c.part == "accuracy"}
    types = [type_name(d) for d in DTYPES]

    def cell(check: Check | None) -> str:
        if check is None or "share" not in check.numbers:
            return "–" if check is None else "refused" if check.status == PASSED else FAILED
        share = number(check.numbers["share"], 2)
        return share if check.status == PASSED else f"**{share}**"

    rows = [[name, *(cell(found.get(f"{name}, {t}")) for t in types)] for name in METHODS]
    return table(["method", *types], rows)


def times(result: Result, flops: Mapping[str, int]) -> str:
    """The rows of a set, with the flops of the products and how many are done per second."""

    def cell(row: ContenderRow) -> list[str]:
        if row.status != MEASURED or row.ms is None:
            return [row.name, reason(row), *["–"] * len(HEADINGS)]
        count = flops.get(row.name) or None
        speed = count / row.ms / 1e9 if count else None
        return [*cells(row), number(count / 1e9 if count else None), number(speed)]

    return table([*HEADINGS, "GFLOP", "TFLOP/s"], map(cell, result.rows))


def judged(result: Result) -> Result:
    """The result as its verdict sees it: AdamW, which has no polar factor, is not of the race."""
    return replace(result, rows=tuple(r for r in result.rows if r.name != ADAMW))


def markdown(report: Report) -> str:
    """All of it as a page."""
    texts = ["# A check of a device", origin(report), "## Checks"]
    others = [c for c in report.checks if c.part != "accuracy" or c.status == FAILED]
    texts.append(table(["part", "what", "", "why"], [_said(c) for c in others]))
    if any(c.part == "accuracy" for c in report.checks):
        texts += [
            "## The share of the stated error that is used, at most",
            accuracies(report.checks),
        ]
    for result, flops in report.results:
        note = "" if result.bench == "steps" else "; no whole step, equal shapes stacked"
        texts.append(f"## {result.bench}, {result.set}: {result.rounds} rounds{note}")
        texts += [" ".join(verdict(judged(result))), times(result, flops)]
    if report.left_out:
        texts += ["## Left out, for the budget was spent", ", ".join(report.left_out)]
    return "\n\n".join(texts) + "\n"


def _said(check: Check) -> list[str]:
    status = f"**{check.status}**" if check.status == FAILED else check.status
    return [check.part, check.name, status, check.reason]
