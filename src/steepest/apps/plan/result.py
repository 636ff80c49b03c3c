"""The plan of one mesh: times, bytes and memory, as a table and as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from steepest._common.text import table
from steepest.apps.plan.batch import LocalBatch
from steepest.apps.plan.costs import Cost, Task, timed
from steepest.apps.plan.hardware import MESSAGE
from steepest.apps.plan.memory import Memory, memory
from steepest.apps.plan.training import TrainingStep
from steepest.apps.plan.units import scaled

TITLES: Mapping[str, str] = {"exchange": "this library"}
"""The name of a way to step in the table and below it, if its own says too little there."""

TABLE = ("optimizer", "flop", "sent", "got", "calls", "state", "time", "share", "limited by")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The cost of a training step on one mesh; `print(plan)` shows the table.

    Args:
        task: model and machine.
        batch: the tokens of a step, and how they are taken.
        training: forward and backward pass.
        costs: each way to step.
        reason: the reason for this mesh, if it was searched for.
    """

    task: Task
    batch: LocalBatch
    training: TrainingStep
    costs: tuple[Cost, ...]
    reason: str = ""

    def __getitem__(self, name: str) -> Cost:
        """The cost of a way, by its name."""
        return next(cost for cost in self.costs if cost.name == name)

    @property
    def tokens(self) -> int:
        """The tokens of a step."""
        return self.batch.tokens

    def seconds(self, cost: Cost) -> float:
        """A whole training step."""
        return self.training.seconds + cost.seconds

    def share(self, cost: Cost) -> float:
        """The optimizer's share of it."""
        return cost.seconds / self.seconds(cost)

    def memory(self, cost: Cost) -> Memory:
        """The bytes of a device at the moment when it holds the most."""
        return memory(self.task, cost, self.batch)

    def fits(self, cost: Cost) -> bool:
        """Whether a device has that memory."""
        return self.memory(cost).total <= self.task.device.memory

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
        passes = scaled(self.training.seconds, "s")
        matrices = f"{size} parameters, {model.matrices:,} matrices"
        rounds, batch = self.batch.rounds(mesh), self.batch
        at_once = f"{batch.at_once(mesh):,.0f} tokens"
        taken = f"{rounds} × {at_once}" if rounds > 1 else at_once
        return [
            f"{model.name}: {matrices}; {self.tokens:,} tokens per step",
            f"{mesh.devices:,} × {machine.name}, {self.task.links.node} in a node: {mesh}",
            f"forward and backward {passes}: {taken}, recomputation {batch.recompute}",
            self.breakdown(self.costs[0]),
        ]

    def breakdown(self, cost: Cost) -> str:
        """The parts of the memory in a line."""
        found = self.memory(cost)
        parts = " + ".join(
            f"{name} {scaled(value, 'B')}" for name, value in found.parts.items() if value
        )
        there = scaled(self.task.device.memory, "B")
        total = scaled(found.total, "B")
        return f"memory with Muon {total} of {there}, most at the {found.moment}: {parts}"

    @property
    def assumed(self) -> float:
        """The share that the step of the optimizer grows by if `MESSAGE` is twice as much."""
        stage, cost = self.task.stage, self.costs[0]
        if stage.links.message != MESSAGE:
            return 0.0
        links = replace(stage.links, message=2 * MESSAGE)
        return timed(cost, replace(stage, links=links)).seconds / cost.seconds - 1

    def notes(self) -> list[str]:
        """Sentences on what the table does not say."""
        cost = self.costs[0]
        out = [self.reason] if self.reason else []
        mesh, batch = self.task.mesh, self.batch
        if batch.share(mesh) < batch.length:
            out.append(
                f"A device, or a tensor parallel group, gets {batch.share(mesh):,.0f} tokens, less "
                f"than a sequence of {batch.length:,}: that takes context parallelism, which is "
                "not counted."
            )
        if not self.task.model.divided(mesh.tp):
            out.append(
                f"tp={mesh.tp} is more than the {self.task.model.kv_heads} heads of keys and "
                "values: that takes copies of them, which are not counted."
            )
        if cost.busy < 0.995:
            out.append(f"{cost.busy:.1%} of the ranks take polar factors, the others none.")
        if cost.most == 1 and cost.limit == "flops" and not self.task.stage.at_home:
            out.append(
                f"The busiest owner has one parameter, {scaled(cost.parts['flops'], 's')}: more "
                "devices do not make it faster."
            )
        if self.assumed >= 0.01:
            out.append(
                f"An all-to-all is assumed to take {scaled(MESSAGE, 's')} (message) for each "
                "further partner: with twice as much, the optimizer takes "
                f"{self.assumed:.0%} longer."
            )
        for c in self.costs:
            name = TITLES.get(c.name, c.name)
            if c.refused:
                out.append(f"{name}: {c.refused}.")
            elif not self.fits(c):
                out.append(f"{name}: needs {scaled(self.memory(c).total, 'B')} of memory.")
        return out

    def __str__(self) -> str:
        lines = table(TABLE, self.rows(), left={TABLE[0], TABLE[-1]})
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
            "exchanged": self.task.exchanged,
            "batch": asdict(self.batch),
            "training": {**asdict(self.training), "seconds": self.training.seconds},
            "reason": self.reason,
            "optimizers": [self._cost(c) for c in self.costs],
        }

    def _cost(self, c: Cost) -> dict[str, Any]:
        if c.refused:
            return {"name": c.name, "refused": c.refused}
        found = self.memory(c)
        return {
            "name": c.name,
            "flops": c.flops,
            "sent": c.sent,
            "received": c.received,
            "calls": c.calls,
            "handed": sum(x.handed for x in c.collectives),
            "state": c.state,
            "temporary": c.temporary,
            "memory": found.total,
            "moment": found.moment,
            "bytes": dict(found.parts),
            "fits": self.fits(c),
            "busy": c.busy,
            "parts": dict(c.parts),
            "seconds": c.seconds,
            "share": self.share(c),
            "limit": self.limit(c),
        }
