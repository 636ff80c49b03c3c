"""Show a plan: a table on the terminal, and files if they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.table import Table

from steepest._common.files import write_atomic, write_json
from steepest.apps._console import Terminal
from steepest.apps._folder import held
from steepest.apps._terminal import say
from steepest.apps.plan.hardware import Links
from steepest.apps.plan.picture import COUNTS, draw
from steepest.apps.plan.picture import table as lines
from steepest.apps.plan.predict import plan as predict
from steepest.apps.plan.result import TABLE, Plan

DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shown(plan: Plan) -> Table:
    """The table of a plan for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for i, heading in enumerate(TABLE):
        table.add_column(heading, justify="left" if i in (0, 8) else "right", no_wrap=True)
    for i, row in enumerate(plan.rows()):
        table.add_row(*row, style="bold" if i == 0 else None)
    return table


def start(
    *,
    mesh: str | None,
    devices: int | None,
    links: Links,
    dtype: str,
    exchange_dtype: str | None,
    out: Path | None,
    **task: Any,
) -> None:
    """Carry out `steepest plan`; the other arguments are those of `plan`.

    Raises:
        ValueError: an argument does not fit the others, or another process writes into the folder.
        OSError: a file could not be written.
    """
    with nullcontext() if out is None else held(out):
        types = {"dtype": DTYPES[dtype], "exchange_dtype": DTYPES.get(exchange_dtype or "")}
        _carried_out(mesh, devices, links, out, {**types, **task})


def _carried_out(
    mesh: str | None,
    devices: int | None,
    links: Links,
    out: Path | None,
    task: Mapping[str, Any],
) -> None:
    console = Terminal()

    def on(mesh: str | None, devices: int | None) -> Plan:
        return predict(mesh=mesh, devices=devices, links=links, **task)

    chosen = on(mesh, devices if mesh or devices is not None else links.node)
    for line in chosen.head():
        say(console, line)
    console.print(shown(chosen))
    for line in chosen.notes():
        say(console, line)
    if out is not None:
        for path in _written(out, chosen, [on(None, count) for count in COUNTS]):
            say(console, str(path))


def _written(out: Path, chosen: Plan, plans: list[Plan]) -> list[Path]:
    """Write the picture and the numbers."""
    paths = [out / name for name in ("plan.png", "plan.csv", "plan.json")]
    write_atomic(paths[0], draw(plans))
    write_atomic(paths[1], lines(plans))
    data = {"plan": chosen.to_json(), "devices": [p.to_json() for p in plans]}
    write_json(paths[2], data)
    return paths
