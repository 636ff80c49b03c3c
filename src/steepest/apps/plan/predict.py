"""A plan: what Muon costs on a mesh, and the mesh on which a training step takes the least time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from steepest._common.errors import invalid
from steepest.apps.plan.batch import AT_ONCE, RECOMPUTE, LocalBatch
from steepest.apps.plan.costs import Task
from steepest.apps.plan.hardware import Device, Links, preset
from steepest.apps.plan.mesh import Mesh
from steepest.apps.plan.models import Model
from steepest.apps.plan.modules import model_of
from steepest.apps.plan.recommend import planned, recommended
from steepest.apps.plan.result import Plan


def plan(
    model: str | nn.Module | Model,
    *,
    mesh: str | Mesh | None = None,
    devices: int | None = None,
    device: str | Device = "h100",
    links: Links | None = None,
    tokens: int | None = None,
    length: int | None = None,
    sequences: int | None = None,
    recompute: str | None = None,
    dtype: torch.dtype = torch.float32,
    exchange_dtype: torch.dtype | None = None,
) -> Plan:
    """Predict what Muon costs on many devices, by this library's exchange and by the alternatives.

        step = max(products, sharding) + tensor + experts + pipeline + optimizer
        optimizer = max(factors, communication) + min(factors, communication)/buckets + streaming

    Args:
        model: the name of a table, such as "llama-8b", or a module, also on the meta device.
        mesh: such as "data=64,tensor=8". None: the fastest mesh of `devices`, of those that fit.
        devices: the number of devices; not needed beside `mesh`.
        device: the name of a preset, or a device.
        links: the links between the devices. None: those that the preset is sold with.
        tokens: the tokens of a step. None: as in the model's source.
        length: the tokens of a sequence. None: as in the model's source.
        sequences: the sequences that a device takes forward at a time, or the devices of a tensor
            parallel group. None: as many as have 8192 tokens, one at least.
        recompute: the activations that the backward pass computes again, "none", "selective" or
            "full". None: the least that fits.
        dtype: type of parameters, gradients and states.
        exchange_dtype: type in which averages and directions travel. None: that of the parameters,
            float32 at least, as in the optimizers.

    Raises:
        ValueError: an unknown name; a mesh of another number of devices, or neither of the two, or
            whose tensor parallel ranks would have unequal heads; a number that is not positive.

    Examples:
        >>> model = nn.TransformerEncoderLayer(512, nhead=8, device="meta")
        >>> plan(model, mesh="fsdp=2", tokens=4096)["exchange"].calls
        3

    Sources:
        The time of a message: Alexandrov et al., LogGP (SPAA 1995), without its overheads.
    """
    table = model_of(model)
    machine, wires = _machine(device, links)
    batch = _batch(table, tokens, length, sequences, recompute)
    task = _task(table, machine, wires, dtype, exchange_dtype)
    least = recompute is None
    if mesh is not None:
        found = _mesh(mesh, devices)
        table.check_heads(found.tp)
        return planned(replace(task, mesh=found), batch, least=least)
    if devices is None:
        raise invalid("mesh", mesh, "give a mesh, or the number of devices to search one for")
    return recommended(task, devices, batch, least=least)


def _task(
    model: Model, device: Device, links: Links, dtype: torch.dtype, exchanged: torch.dtype | None
) -> Task:
    """The task on one device."""
    return Task(
        model=model,
        mesh=Mesh(),
        device=device,
        links=links,
        itemsize=dtype.itemsize,
        exchanged=exchanged.itemsize if exchanged else 0,
    )


def _machine(device: str | Device, links: Links | None) -> tuple[Device, Links]:
    if isinstance(device, str):
        found, wires = preset(device)
        return found, links or wires
    if links is None:
        raise invalid("links", links, "give Links(inner=…, outer=…) with a device of your own")
    return device, links


def _batch(
    model: Model, tokens: int | None, length: int | None, sequences: int | None, way: str | None
) -> LocalBatch:
    length = model.length if length is None else length
    return LocalBatch(
        tokens=model.tokens if tokens is None else tokens,
        length=length,
        sequences=max(1, AT_ONCE // max(1, length)) if sequences is None else sequences,
        recompute=RECOMPUTE[0] if way is None else way,
    )


def _mesh(mesh: str | Mesh, devices: int | None) -> Mesh:
    mesh = Mesh.read(mesh) if isinstance(mesh, str) else mesh
    if devices not in (None, mesh.devices):
        remedy = f"its axes multiply to {mesh.devices}, not to devices={devices}"
        raise invalid("mesh", str(mesh), remedy)
    return mesh
