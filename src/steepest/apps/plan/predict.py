"""A plan: what Muon costs on a mesh, and the mesh on which a training step takes the least time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from steepest._common.errors import invalid
from steepest._common.text import table
from steepest.apps.plan.costs import WAYS, Cost, Task, exchange, timed
from steepest.apps.plan.hardware import Device, Links, preset
from steepest.apps.plan.mesh import Mesh, meshes
from steepest.apps.plan.models import Model
from steepest.apps.plan.modules import model_of
from steepest.apps.plan.training import Step, step

TITLES: Mapping[str, str] = {"exchange": "this library"}
"""The name of a way to step in the table, if its own says too little there."""

TABLE = ("optimizer", "flop", "sent", "got", "calls", "state", "time", "share", "limited by")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a training step on one mesh; `print(plan)` shows the table.

    Args:
        task: model and machine.
        tokens: the tokens of a step.
        training: forward and backward pass.
        costs: each way to step.
        reason: the reason for this mesh, if it was searched for.
    """

    task: Task
    tokens: int
    training: Step
    costs: tuple[Cost, ...]
    reason: str = ""

    def __getitem__(self, name: str) -> Cost:
        """The cost of a way, by its name."""
        return next(cost for cost in self.costs if cost.name == name)

    def seconds(self, cost: Cost) -> float:
        """A whole training step."""
        return self.training.seconds + cost.seconds

    def share(self, cost: Cost) -> float:
        """The optimizer's share of it."""
        return cost.seconds / self.seconds(cost)

    def memory(self, cost: Cost) -> float:
        """Bytes of weights, gradients, state, activations, and of what a step needs meanwhile."""
        trained = 2 * cost.weights * self.task.itemsize + cost.state
        return trained + max(cost.temporary, self.training.activations)

    def fits(self, cost: Cost) -> bool:
        """Whether a device has that memory."""
        return self.memory(cost) <= self.task.device.memory

    def limit(self, cost: Cost) -> str:
        """The obstacle, or the part that takes longest."""
        if cost.refused:
            return "refused"
        return cost.limit if self.fits(cost) else "memory"

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table under `TABLE`."""
        return [
            (
                TITLES.get(c.name, c.name),
                *([scaled(c.flops, ""), scaled(c.sent, "B"), scaled(c.received, "B")]),
                *([str(c.calls), scaled(c.state, "B"), scaled(c.seconds, "s")]),
                f"{self.share(c):.1%}",
                self.limit(c),
            )
            if not c.refused
            else (TITLES.get(c.name, c.name), *["–"] * 7, self.limit(c))
            for c in self.costs
        ]

    def head(self) -> list[str]:
        """Lines on what the table is about."""
        model, mesh, machine = self.task.model, self.task.mesh, self.task.device
        size = scaled(model.parameters, "").replace("G", "B")
        used, there = (scaled(x, "B") for x in (self.memory(self.costs[0]), machine.memory))
        passes = scaled(self.training.seconds, "s")
        matrices = f"{size} parameters, {model.matrices:,} matrices"
        return [
            f"{model.name}: {matrices}; {self.tokens:,} tokens per step",
            f"{mesh.devices:,} × {machine.name}, {self.task.links.node} in a node: {mesh}",
            f"forward and backward {passes}; memory with Muon {used} of {there}",
        ]

    def notes(self) -> list[str]:
        """Sentences on what the table does not say."""
        cost = self.costs[0]
        out = [self.reason] if self.reason else []
        if cost.busy < 0.995:
            out.append(f"{cost.busy:.1%} of the ranks take polar factors, the others none.")
        if cost.most == 1 and cost.limit == "flops" and not self.task.at_home:
            out.append(
                f"The busiest owner has one parameter, {scaled(cost.parts['flops'], 's')}: more "
                "devices do not make it faster."
            )
        for c in self.costs:
            if c.refused:
                out.append(f"{c.name}: {c.refused}.")
            elif not self.fits(c):
                out.append(f"{c.name}: needs {scaled(self.memory(c), 'B')} of memory.")
        return out

    def __str__(self) -> str:
        lines = table(TABLE, self.rows(), left={TABLE[0], TABLE[8]})
        return "\n".join([*self.head(), "", lines, "", *self.notes()]).rstrip()

    def to_json(self) -> dict[str, Any]:
        """Plain data: all numbers of the plan."""
        return {
            "model": self.task.model.name,
            "source": self.task.model.source,
            "parameters": self.task.model.parameters,
            "mesh": asdict(self.task.mesh),
            "device": asdict(self.task.device),
            "links": asdict(self.task.links),
            "itemsize": self.task.itemsize,
            "tokens": self.tokens,
            "training": {**asdict(self.training), "seconds": self.training.seconds},
            "reason": self.reason,
            "optimizers": [self._cost(c) for c in self.costs],
        }

    def _cost(self, c: Cost) -> dict[str, Any]:
        if c.refused:
            return {"name": c.name, "refused": c.refused}
        return {
            "name": c.name,
            "flops": c.flops,
            "sent": c.sent,
            "received": c.received,
            "calls": c.calls,
            "handed": sum(x.handed for x in c.collectives),
            "state": c.state,
            "temporary": c.temporary,
            "memory": self.memory(c),
            "fits": self.fits(c),
            "busy": c.busy,
            "parts": dict(c.parts),
            "seconds": c.seconds,
            "share": self.share(c),
            "limit": self.limit(c),
        }


def scaled(value: float, unit: str) -> str:
    """A quantity with three digits at most.

    Examples:
        >>> [scaled(v, "B") for v in (0, 512, 1.45e9, 98.7e9, 3.3e12)]
        ['0 B', '512 B', '1.4 GB', '99 GB', '3.3 TB']
        >>> scaled(0.00234, "s"), scaled(5e-7, "s"), scaled(4096.0, "s")
        ('2.3 ms', '0.5 µs', '4096 s')
    """
    power = 0
    while abs(value) >= 999.5 and unit != "s" and power < 6:
        value, power = value / 1000, power + 1
    while 0 < abs(value) < 0.9995 and unit == "s" and power > -2:
        value, power = value * 1000, power - 1
    prefix = {-2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}[power]
    digits = (
        f"{value:.0f}"
        if value == 0 or abs(value) >= 9.95 or value == int(value)
        else f"{value:.1f}"
    )
    return f"{digits} {prefix}{unit}".strip()


def planned(task: Task, tokens: int) -> Plan:
    """The plan for one mesh."""
    costs = tuple(timed(way(task), task) for way in WAYS)
    return Plan(task=task, tokens=tokens, training=step(task, tokens), costs=costs)


def plan(
    model: str | nn.Module | Model,
    *,
    mesh: str | Mesh | None = None,
    devices: int | None = None,
    device: str | Device = "h100",
    links: Links | None = None,
    tokens: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Plan:
    """Predict what Muon costs on many devices, by this library's exchange and by the alternatives.

        step = max(products, sharding) + tensor + experts + optimizer
        optimizer = max(factors, communication) + min(factors, communication)/buckets + streaming

    Args:
        model: the name of a table, such as "llama-8b", or a module, also on the meta device.
        mesh: such as "data=64,tensor=8". None: the fastest mesh of `devices`, of those that fit.
        devices: the number of devices; not needed beside `mesh`.
        device: the name of a preset, or a device.
        links: the links between the devices. None: those that the preset is sold with.
        tokens: the tokens of a step. None: as in the model's source.
        dtype: type of parameters, gradients and states.

    Raises:
        ValueError: an unknown name; a mesh of another number of devices, or neither of the two; a
            number that is not positive.

    Examples:
        >>> model = nn.TransformerEncoderLayer(512, nhead=8, device="meta")
        >>> plan(model, mesh="fsdp=2", tokens=4096)["exchange"].calls
        3

    Sources:
        The time of a message: Alexandrov et al., LogGP (SPAA 1995), without its overheads.
    """
    table = model_of(model)
    found, wires = preset(device) if isinstance(device, str) else (device, None)
    links = links or wires
    if links is None:
        raise invalid("links", links, "give Links(inner=…, outer=…) with a device of your own")
    tokens = table.tokens if tokens is None else tokens
    if tokens < 1:
        raise invalid("tokens", tokens, "give a whole number >= 1")

    def task(mesh: Mesh) -> Task:
        return Task(model=table, mesh=mesh, device=found, links=links, itemsize=dtype.itemsize)

    if mesh is None:
        if devices is None:
            raise invalid("mesh", mesh, "give a mesh, or the number of devices to search one for")
        return recommended([task(m) for m in meshes(devices, links.node)], tokens)
    mesh = Mesh.read(mesh) if isinstance(mesh, str) else mesh
    if devices not in (None, mesh.devices):
        raise invalid(
            "mesh", str(mesh), f"its axes multiply to {mesh.devices}, not to devices={devices}"
        )
    return planned(task(mesh), tokens)


def recommended(tasks: list[Task], tokens: int) -> Plan:
    """The plan of the task whose training step takes the least time, of those that fit; and why."""
    plans = [
        Plan(task=t, tokens=tokens, training=step(t, tokens), costs=(timed(exchange(t), t),))
        for t in tasks
    ]
    fitting = [p for p in plans if p.fits(p.costs[0])]
    fitting.sort(key=lambda p: p.seconds(p.costs[0]))
    ranked = fitting or sorted(plans, key=lambda p: p.memory(p.costs[0]))
    best = planned(ranked[0].task, tokens)
    return replace(best, reason=_reason(ranked, len(fitting), len(plans)))


def _reason(ranked: list[Plan], fitting: int, tried: int) -> str:
    """The reason why the first of these plans is best."""
    best = ranked[0]
    cost = best.costs[0]
    if not fitting:
        return (
            f"No mesh fits: {best.task.mesh} needs the least memory, "
            f"{scaled(best.memory(cost), 'B')} per device. Take more devices."
        )
    seconds = best.seconds(cost)
    others: Mapping[bool, list[Plan]] = {
        same: [p for p in ranked[1:] if (p.task.mesh.tp == best.task.mesh.tp) is same]
        for same in (True, False)
    }
    compared = [
        f"{p.task.mesh} {p.seconds(p.costs[0]) / seconds - 1:+.1%}"
        for p in (each[0] for each in others.values() if each)
    ]
    text = f"{best.task.mesh}: {fitting} of {tried} meshes fit, and none is faster"
    text += f" ({'; '.join(compared)})." if compared else "."
    return text
