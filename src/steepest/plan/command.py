"""`steepest plan`: what Muon costs on many devices, as a table, a picture and numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from steepest._files import write_atomic, write_json
from steepest._terminal import fail, os_text, say
from steepest._types import invalid
from steepest.plan.hardware import DEVICES, Device, Links, preset
from steepest.plan.models import MODELS
from steepest.plan.picture import COUNTS, draw
from steepest.plan.picture import table as lines
from steepest.plan.predict import TABLE, Plan
from steepest.plan.predict import plan as predict

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


def _number(help_: str) -> type:
    return Annotated[float | None, typer.Option(help=help_, show_default="as the device")]  # type: ignore[return-value]


Flops = _number("Peak of dense products in half precision, flop/s.")
Memory = _number("Memory of a device, bytes.")
Bandwidth = _number("Speed of that memory, bytes/s.")
Utilization = _number("Share of the peak that is reached.")
Node = Annotated[int | None, typer.Option(help="Devices in a node.", show_default="as the device")]
Inner = _number("What a device sends within its node, bytes/s.")
Outer = _number("What a device sends to other nodes, bytes/s.")
InnerLatency = _number("One hop within a node, seconds.")
OuterLatency = _number("One hop between nodes, seconds.")
Launch = _number("Start of a collective, seconds.")
Message = _number("Each further partner of an all-to-all, seconds.")


def machine(name: str, **given: float | None) -> tuple[Device, Links]:
    """A preset with some of its numbers replaced.

    Raises:
        ValueError: there is none of this name, or a number is not positive.
    """
    device, links = preset(name)
    numbers = {key: value for key, value in given.items() if value is not None}
    own = {key: value for key, value in numbers.items() if hasattr(device, key)}
    rest = {key: value for key, value in numbers.items() if key not in own}
    return replace(device, **own), replace(links, **rest)  # type: ignore[arg-type]


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
    out: Out = None,
    flops: Flops = None,
    memory: Memory = None,
    bandwidth: Bandwidth = None,
    utilization: Utilization = None,
    node: Node = None,
    inner: Inner = None,
    outer: Outer = None,
    inner_latency: InnerLatency = None,
    outer_latency: OuterLatency = None,
    launch: Launch = None,
    message: Message = None,
) -> None:
    """Predict what Muon and AdamW cost on many devices, and which mesh to take."""
    console = Console()
    try:
        if dtype not in DTYPES:
            raise invalid("dtype", dtype, f"choose from {', '.join(DTYPES)}")
        found, links = machine(
            device,
            half=flops,
            memory=memory,
            bandwidth=bandwidth,
            utilization=utilization,
            node=node,
            inner=inner,
            outer=outer,
            inner_latency=inner_latency,
            outer_latency=outer_latency,
            launch=launch,
            message=message,
        )

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
