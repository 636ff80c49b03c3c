"""The mesh on which a training step takes the least time, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from steepest.apps.plan.batch import AT_ONCE, RECOMPUTE, LocalBatch
from steepest.apps.plan.costs import WAYS, Task, exchange, sharded, timed
from steepest.apps.plan.memory import least_recomputed, memory
from steepest.apps.plan.mesh import MOST, meshes
from steepest.apps.plan.result import Plan
from steepest.apps.plan.training import step
from steepest.apps.plan.units import scaled

PIECES = {
    "products": "products of matrices",
    "sharding": "gathering weights and adding up gradients",
    "tensor": "the sums of tensor parallelism",
    "experts": "sending tokens to experts",
    "pipeline": "the bubble of the pipeline",
    "optimizer": "the optimizer",
}
"""The pieces of a training step in words."""


def planned(task: Task, batch: LocalBatch, *, least: bool) -> Plan:
    """The plan for one mesh; with `least`, recomputation is the least that fits."""
    costs = tuple(timed(way(task.stage), task.stage) for way in WAYS)
    if least:
        batch = least_recomputed(task, costs[0], batch)
    return Plan(task=task, batch=batch, training=step(task, batch), costs=costs)


def recommended(task: Task, devices: int, batch: LocalBatch, *, least: bool) -> Plan:
    """The plan of the mesh whose training step takes the least time, of those that fit; and why."""
    plans = []
    for on in _searched(task, devices):
        cost = timed(exchange(on), on)
        one = least_recomputed(on, cost, batch) if least else batch
        plans.append(Plan(task=on, batch=one, training=step(on, one), costs=(cost,)))
    plans.sort(key=_seconds)
    fitting = [p for p in plans if p.fits(p.costs[0])]
    ranked = fitting or sorted(plans, key=lambda p: p.memory(p.costs[0]).total)
    best = planned(ranked[0].task, ranked[0].batch, least=False)
    return replace(best, reason=_reason(ranked, plans, len(fitting)))


def _searched(task: Task, devices: int) -> list[Task]:
    """The task on every mesh of so many devices that divides its heads."""
    found = meshes(devices, task.links.node)
    return [replace(task, mesh=mesh) for mesh in found if task.model.divided(mesh.tp)]


def _fits(tasks: Sequence[Task], batch: LocalBatch) -> bool:
    """Whether a batch fits on one of these meshes; owners are looked for where the rest fits."""
    return any(
        all(memory(on, way(on), batch).total <= on.device.memory for way in (sharded, exchange))
        for on in tasks
    )


def _seconds(plan: Plan) -> float:
    return plan.seconds(plan.costs[0])


def _bound(plan: Plan) -> str:
    """The piece of a training step that takes longest, and its share."""
    training = plan.training
    pieces = {name: getattr(training, name) for name in PIECES if name != "optimizer"}
    # The shorter of the two is hidden behind the longer one.
    del pieces["sharding" if training.products >= training.sharding else "products"]
    pieces["optimizer"] = plan.costs[0].seconds
    longest = max(pieces, key=lambda name: pieces[name])
    return f"{PIECES[longest]}, {pieces[longest] / _seconds(plan):.0%} of a step"


def _reason(ranked: Sequence[Plan], plans: Sequence[Plan], fitting: int) -> str:
    """The reason why the first of the ranked plans is best."""
    best = ranked[0]
    mesh = best.task.mesh
    if not fitting:
        return (
            f"No mesh fits: {mesh} needs the least memory, "
            f"{scaled(best.memory(best.costs[0]).total, 'B')} per device. {_remedies(plans)}"
        )
    others = {
        same: [p for p in ranked[1:] if (p.task.mesh.tp == mesh.tp) is same]
        for same in (True, False)
    }
    compared = [f"{_by_how_much(each[0], best)}" for each in others.values() if each]
    text = f"{mesh}: {fitting} of {len(plans)} meshes fit, and none is faster"
    text += f" ({'; '.join(compared)}). " if compared else ". "
    faster = [p for p in plans if not p.fits(p.costs[0]) and _seconds(p) < _seconds(best)]
    text += f"What binds it is {_bound(best)}"
    if faster:
        needs = scaled(faster[0].memory(faster[0].costs[0]).total, "B")
        text += f", and memory: {_by_how_much(faster[0], best)}, but takes {needs}"
    return f"{text}."


def _fewer(number: int) -> list[int]:
    """A half of a number, a quarter, and so on down to one."""
    return [number >> i for i in range(1, number.bit_length())]


def _more(devices: int) -> list[int]:
    """Two, three, four, six, … times as many devices, up to a thousand times."""
    times = (n << i for i in range(10) for n in (2, 3))
    return sorted(devices * n for n in times if devices * n <= MOST)


def _shorter(batch: LocalBatch, length: int) -> LocalBatch:
    """The batch in shorter sequences, of which a device takes more by default."""
    return replace(batch, length=length, sequences=max(batch.sequences, AT_ONCE // length))


def _remedies(plans: Sequence[Plan]) -> str:
    """The flags of which each alone makes the model fit, where no mesh does."""
    task, batch = plans[0].task, plans[0].batch
    here = [p.task for p in plans]
    tries: Mapping[str, Iterable[tuple[int | str, bool]]] = {
        "sequences": (
            (n, _fits(here, replace(batch, sequences=n))) for n in _fewer(batch.sequences)
        ),
        "length": ((n, _fits(here, _shorter(batch, n))) for n in _fewer(batch.length)),
        "recompute": ((way, _fits(here, replace(batch, recompute=way))) for way in RECOMPUTE),
        "devices": ((n, _fits(_searched(task, n), batch)) for n in _more(task.mesh.devices)),
    }
    first = {flag: next((n for n, fits in found if fits), None) for flag, found in tries.items()}
    helps = [f"--{flag} {n}" for flag, n in first.items() if n is not None]
    if not helps:
        return "Up to a thousand times as many do not help; take devices with more memory."
    return f"{'Each of these' if helps[1:] else 'This'} makes it fit: {', '.join(helps)}."


def _by_how_much(plan: Plan, best: Plan) -> str:
    """A mesh, and how its step differs from that of the best one."""
    return f"{plan.task.mesh} {_seconds(plan) / _seconds(best) - 1:+.1%}"
