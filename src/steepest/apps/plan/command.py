"""`steepest plan`: its flags, and the machine that they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

from steepest._common.errors import invalid, refusal
from steepest.apps._flags import OneOf, Place, Whole, Words, choose, flag, start
from steepest.apps.plan.batch import RECOMPUTE
from steepest.apps.plan.hardware import DEVICES, Device, Links, preset
from steepest.apps.plan.mesh import MOST, Mesh
from steepest.apps.plan.models import MODELS

NUMBERS: Mapping[str, Callable[[str], Any]] = {
    field.name: int if field.name == "node" else float
    for kind in (Device, Links)
    for field in fields(kind)
    if field.name not in ("name", "source")
}
UNITS: Mapping[str, str] = {
    "half": "peak flop/s in bfloat16",
    "memory": "bytes",
    "bandwidth": "bytes/s of it",
    "utilization": "share of the peak that training reaches",
    "factors": "share of it that polar factors reach",
    "node": "devices per node",
    "inner": "bytes/s within a node",
    "outer": "bytes/s between nodes",
    "inner_latency": "seconds per hop",
    "outer_latency": "seconds per hop",
    "launch": "seconds per collective",
    "all_to_all": "seconds per all-to-all",
    "message": "seconds per further partner",
}
EXAMPLE: Mapping[Any, str] = {int: "8", float: "4.5e11"}
DTYPES = ("float32", "bfloat16")
EXAMPLES = (
    ("plan", "GPT-2 small on one node of eight H100s."),
    ("plan --model llama-8b --devices 64", "The fastest mesh of 64 devices."),
    ("plan --model llama-8b --mesh data=8,tensor=8", "A mesh of your own."),
    ("plan --model moe-1t --devices 3072 --set outer=2.5e10", "Slower links between nodes."),
)

ModelName = Annotated[str, flag(f"{', '.join(MODELS)}.", "--model", kind=OneOf(MODELS))]
MeshText = Annotated[
    str | None,
    flag(
        "Sizes of the axes pp (or pipeline), replicate, fsdp (or data) and tp (or tensor).",
        "--mesh",
        kind=Words(Mesh.read, ("pipeline=", "replicate=", "data=", "tensor=")),
        default="the fastest mesh of --devices that fits",
        metavar="AXIS=N,…",
    ),
]
Devices = Annotated[
    int | None, flag("Number of devices.", kind=Whole(1, MOST), default="as the mesh")
]
DeviceName = Annotated[str, flag(f"{', '.join(DEVICES)}.", "--device", kind=OneOf(DEVICES))]
Tokens = Annotated[
    int | None,
    # Ours: a thousand times the largest step that has been published.
    flag("Tokens per step.", kind=Whole(1, 2**40), default="that of the model's source"),
]
Length = Annotated[
    int | None,
    # Ours: a thousand times the longest sequence of the tables.
    flag("Tokens per sequence.", kind=Whole(1, 2**23), default="that of the model's source"),
]
Sequences = Annotated[
    int | None,
    flag(
        "Sequences that a device, or a tensor parallel group, takes at a time.",
        kind=Whole(1, 2**20),
        default="as many as have 8192 tokens",
    ),
]
Recompute = Annotated[
    str | None,
    flag(
        f"Activations to compute again in the backward pass: {', '.join(RECOMPUTE)}.",
        kind=OneOf(RECOMPUTE),
        default="the least that fits",
    ),
]
Dtype = Annotated[
    str, flag(f"Of parameters, gradients and states: {', '.join(DTYPES)}.", kind=OneOf(DTYPES))
]
ExchangeDtype = Annotated[
    str | None,
    flag(
        f"In which averages and directions travel: {', '.join(DTYPES)}; by default --dtype, "
        "float32 at least.",
        kind=OneOf(DTYPES),
    ),
]
Out = Annotated[
    Path | None,
    flag(
        "Folder for plan.png, plan.csv and plan.json; made if it is missing.",
        kind=Place(),
        metavar="FOLDER",
    ),
]
Numbers = Annotated[
    list[str] | None,
    flag(
        "Replace a number of the device or its links (repeatable): "
        f"{', '.join(f'{name} ({unit})' for name, unit in UNITS.items())}.",
        "--set",
        kind=Words(known=tuple(f"{name}=" for name in NUMBERS)),
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
        key, equals, value = text.partition("=")
        key = key.strip().lower()
        if key not in NUMBERS or not equals:
            known = ", ".join(NUMBERS) if key in NUMBERS else choose(key, NUMBERS)
            raise invalid("set", text, f"write NAME=VALUE: {known}")
        try:
            given = NUMBERS[key](value)
        except ValueError:
            kind = "a whole number" if NUMBERS[key] is int else "a number"
            raise invalid("set", text, f"give {kind}, such as {EXAMPLE[NUMBERS[key]]}") from None
        try:
            if hasattr(device, key):
                device = replace(device, **{key: given})
            else:
                links = replace(links, **{key: given})
        except ValueError as error:
            found = refusal(error)
            raise invalid("set", text, found.remedy if found else str(error)) from None
    return device, links


def plan(
    model: ModelName = "gpt2-small",
    mesh: MeshText = None,
    devices: Devices = None,
    device: DeviceName = "h100",
    tokens: Tokens = None,
    length: Length = None,
    sequences: Sequences = None,
    recompute: Recompute = None,
    dtype: Dtype = "float32",
    exchange_dtype: ExchangeDtype = None,
    numbers: Numbers = None,
    out: Out = None,
) -> None:
    """Predict what Muon and AdamW cost on many devices, and which mesh to take."""
    found, links = machine(device, numbers or ())
    start(
        "plan",
        model=model,
        mesh=mesh,
        devices=devices,
        device=found,
        links=links,
        tokens=tokens,
        length=length,
        sequences=sequences,
        recompute=recompute,
        dtype=dtype,
        exchange_dtype=exchange_dtype,
        out=out,
    )
