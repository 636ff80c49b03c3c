"""`steepest plan`: what Muon costs on many devices, as a table, a picture and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from steepest._common.errors import invalid
from steepest._common.files import write_atomic, write_json
from steepest.apps._terminal import fail, os_text, say
from steepest.apps.plan.hardware import DEVICES, Device, Links, preset
from steepest.apps.plan.models import MODELS
from steepest.apps.plan.picture import COUNTS, draw
from steepest.apps.plan.picture import table as lines
from steepest.apps.plan.predict import TABLE, Plan
from steepest.apps.plan.predict import plan as predict

NUMBERS: Mapping[str, Callable[[str], Any]] = {
    field.name: int if field.name == "node" else float
    for kind in (Device, Links)
    for field in fields(kind)
    if field.name != "name"
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

ModelName = Annotated[
    str, typer.Option("--model", help=f"One of {', '.join(MODELS)}.", metavar="NAME")
]
MeshText = Annotated[
    str | None,
    typer.Option(
        "--mesh",
        help="Sizes of the axes replicate, fsdp (or data) and tp (or tensor): data=64,tensor=8.",
        metavar="AXIS=N,…",
        show_default="the fastest mesh of --devices that fits",
    ),
]
Devices = Annotated[int | None, typer.Option(help="How many devices.", show_default="as the mesh")]
DeviceName = Annotated[
    str, typer.Option("--device", help=f"One of {', '.join(DEVICES)}.", metavar="NAME")
]
Tokens = Annotated[
    int | None, typer.Option(help="Tokens of a step.", show_default="as the model's source")
]
Dtype = Annotated[
    str,
    typer.Option(help=f"Of parameters, gradients and states: {', '.join(DTYPES)}.", metavar="NAME"),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder for plan.png, plan.csv and plan.json; made if it is missing."),
]


Numbers = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help=f"Replace a number of the device or its links (repeatable): {', '.join(NUMBERS)}.",
        metavar="NAME=VALUE",
    ),
]


def machine(name: str, numbers: Sequence[str]) -> tuple[Device, Links]:
    """A preset with some of its numbers replaced.

    Raises:
        ValueError: there is no such device or number, or a value is none, or not positive.
    """
    device, links = preset(name)
    for text in numbers:
        key, _, value = text.partition("=")
        if key not in NUMBERS:
            raise invalid("set", text, f"write NAME=VALUE with one of {', '.join(NUMBERS)}")
        try:
            given = NUMBERS[key](value)
        except ValueError:
            raise invalid("set", text, "give a number, such as 4.5e11") from None
        if hasattr(device, key):
            device = replace(device, **{key: given})
        else:
            links = replace(links, **{key: given})
    return device, links


def shown(plan: Plan) -> Table:
    """The table of a plan for the terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for i, heading in enumerate(TABLE):
        table.add_column(heading, justify="left" if i in (0, 8) else "right", no_wrap=True)
    for i, row in enumerate(plan.rows()):
        table.add_row(*row, style="bold" if i == 0 else None)
    return table


def plan(
    model: ModelName = "gpt2-small",
    mesh: MeshText = None,
    devices: Devices = None,
    device: DeviceName = "h100",
    tokens: Tokens = None,
    dtype: Dtype = "float32",
    numbers: Numbers = None,
    out: Out = None,
) -> None:
    """Predict what Muon and AdamW cost on many devices, and which mesh to take."""
    console = Console()
    try:
        if dtype not in DTYPES:
            raise invalid("dtype", dtype, f"choose from {', '.join(DTYPES)}")
        found, links = machine(device, numbers or ())

        def on(mesh: str | None, devices: int | None) -> Plan:
            return predict(
                model,
                mesh=mesh,
                devices=devices,
                device=found,
                links=links,
                tokens=tokens,
                dtype=DTYPES[dtype],
            )

        chosen = on(mesh, devices if mesh or devices is not None else links.node)
        for line in chosen.head():
            say(console, line)
        console.print(shown(chosen))
        for line in chosen.notes():
            say(console, line)
        if out is not None:
            for path in _written(out, chosen, [on(None, count) for count in COUNTS]):
                say(console, str(path))
    except ValueError as error:
        raise fail(error) from None
    except OSError as error:
        raise fail(os_text(error)) from None


def _written(out: Path, chosen: Plan, plans: list[Plan]) -> list[Path]:
    """Write the picture and the numbers."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / name for name in ("plan.png", "plan.csv", "plan.json")]
    write_atomic(paths[0], draw(plans))
    write_atomic(paths[1], lines(plans))
    data = {"plan": chosen.to_json(), "devices": [p.to_json() for p in plans]}
    write_json(paths[2], data)
    return paths
