"""The tables of a comparison for people: on the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from steepest._common.files import Record
from steepest._common.text import table
from steepest.apps._terminal import say
from steepest.apps.compare.names import BASELINE, REFERENCE, TASKS

NONE = "–"


def _or(text: Callable[[Any], str], missing: str = NONE) -> Callable[[Any], str]:
    """A text for a value that may be missing."""
    return lambda value: missing if value is None else text(value)


def chance(p: float) -> str:
    """A p-value with two digits.

    Examples:
        >>> chance(0.0312), chance(0.5), chance(2e-5)
        ('0.031', '0.50', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def _loss(row: Record) -> str:
    if row["loss"] is None:
        return "diverged"
    return f"{row['loss']:.3f} ± {row['half_width']:.3f}"


_p = _or(chance)
_difference = _or(lambda v: f"{v:+.3f}".replace("-", "−"))
_steps = _or(lambda v: f"{v:.0f}", "not reached")
_seconds = _or(lambda v: f"{v:.3g}", "not reached")
_setting = _or(lambda v: f"{v:g}")

RESULTS: dict[str, Callable[[Record], str]] = {
    "optimizer": lambda r: r["optimizer"],
    "val loss": _loss,
    f"− {BASELINE}": lambda r: _difference(r["difference"]),
    "p": lambda r: _p(r["p"]),
    "p, Holm": lambda r: _p(r["p_holm"]),
    f"steps to {BASELINE}": lambda r: _steps(r["steps_to_baseline"]),
    f"seconds to {BASELINE}": lambda r: _seconds(r["seconds_to_baseline"]),
    f"steps to {REFERENCE}": lambda r: _steps(r["steps_to_reference"]),
    f"seconds to {REFERENCE}": lambda r: _seconds(r["seconds_to_reference"]),
    "ms/step": lambda r: _or(lambda v: f"{v:.3g}")(r["step_ms"]),
    f"time / {BASELINE}": lambda r: _or(lambda v: f"{v:.2f}")(r["time_ratio"]),
}
"""The columns of the results, each with its text."""

SHOWN = (
    *("optimizer", "val loss", f"− {BASELINE}", "p, Holm", f"steps to {BASELINE}"),
    f"time / {BASELINE}",
)
"""The columns that a terminal has room for."""

TUNED: dict[str, Callable[[Record], str]] = {
    "optimizer": lambda r: r["optimizer"],
    "lr": lambda r: _setting(r["lr"]),
    "weight decay": lambda r: _setting(r["weight_decay"]),
    "AdamW lr": lambda r: _setting(r["adamw_lr"]),
    "settings tried": lambda r: str(r["tried"]),
    "loss in tuning": lambda r: _or(lambda v: f"{v:.3f}", "diverged")(r["tuning_loss"]),
    "at an edge": lambda r: r["edge"] or NONE,
}
"""The columns of the settings, each with its text."""


def ranked(rows: Sequence[Record]) -> list[Record]:
    """Rows with the lowest loss first; those that have diverged come last."""
    return sorted(rows, key=lambda r: (r["loss"] is None, r["loss"]))


def _by_task(rows: Sequence[Record]) -> dict[str, list[Record]]:
    tasks = dict.fromkeys(r["task"] for r in rows)
    return {task: ranked([r for r in rows if r["task"] == task]) for task in tasks}


def _table(columns: dict[str, Callable[[Record], str]], rows: Sequence[Record]) -> str:
    lines = [tuple(columns), ("---", *["---:"] * (len(columns) - 1))]
    lines += [tuple(text(row) for text in columns.values()) for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def markdown(rows: Sequence[Record], *, heading: str = "##") -> str:
    """Results and settings of every task as Markdown.

    Args:
        rows: the table `comparison`.
        heading: the mark of a heading.
    """
    parts = []
    for task, found in _by_task(rows).items():
        parts += [f"{heading} {task}: {TASKS[task]}\n"]
        parts += [f"{said(found)}\n", _table(RESULTS, found), _table(TUNED, found)]
    return "\n".join(parts)


def said(rows: Sequence[Record]) -> str:
    """A sentence on what the rows of a task are.

    Examples:
        >>> said([{"seeds": 3, "steps": 600}])
        'Runs of 600 steps; means of 3 seeds with their 95 % interval.'
    """
    steps = max(r["steps"] for r in rows)
    return f"Runs of {steps} steps; means of {rows[0]['seeds']} seeds with their 95 % interval."


def show(rows: Sequence[Record], console: Console) -> None:
    """Print what matters most of the results of every task."""
    for task, found in _by_task(rows).items():
        lines = [tuple(RESULTS[name](row) for name in SHOWN) for row in found]
        shown = table(SHOWN, lines, left={"optimizer"})
        say(console, "", f"{task}: {said(found)}", *shown.split("\n"))
