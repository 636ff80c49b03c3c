"""The mesh on which a training step takes the least time, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from steepest.apps.plan.batch import LocalBatch
from steepest.apps.plan.costs import WAYS, Task, exchange, timed
from steepest.apps.plan.memory import least_recomputed
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


def recommended(tasks: Sequence[Task], batch: LocalBatch, *, least: bool) -> Plan:
    """The plan of the task whose training step takes the least time, of those that fit; and why."""
    plans = []
    for task in tasks:
        cost = timed(exchange(task), task)
        one = least_recomputed(task, cost, batch) if least else batch
        plans.append(Plan(task=task, batch=one, training=step(task, one), costs=(cost,)))
    plans.sort(key=_seconds)
    fitting = [p for p in plans if p.fits(p.costs[0])]
    ranked = fitting or sorted(plans, key=lambda p: p.memory(p.costs[0]).total)
    best = planned(ranked[0].task, ranked[0].batch, least=False)
    return replace(best, reason=_reason(ranked, plans, len(fitting)))


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
            f"{scaled(best.memory(best.costs[0]).total, 'B')} per device. Take more devices."
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


def _by_how_much(plan: Plan, best: Plan) -> str:
    """A mesh, and how its step differs from that of the best one."""
    return f"{plan.task.mesh} {_seconds(plan) / _seconds(best) - 1:+.1%}"
