"""Warnings in words: what is off in a run, what number shows it, and what to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.diagnostics.monitor.findings import Observation
from steepest.diagnostics.monitor.pace import Pace
from steepest.diagnostics.monitor.step import StepSnapshot
from steepest.routing import Routing

# Ours, each with its reason.
RANK_ONE = 1.05
"""A nuclear rank below it: at least 97 % of Σσ² is in one direction."""
NARROW = 8
"""Matrices with a smaller side below it have low rank by their shape."""
ALIGNED = 1e-3
"""Every rule descends along its average; a direction that is orthogonal to it does not."""
PER_LAYER = 4.0
"""Growth of activations from layer to layer; the default start of torch.nn.Linear before a ReLU
shrinks them by 2.4."""
DEEP = 4
"""Layers from which on a growth by layer means something."""


class MonitorWarning(UserWarning):
    """Something that a `Monitor` has seen and that is worth a look."""


class Alarm(NamedTuple):
    """A row of the table: what to look for in a layer, and for how long before saying so.

    Args:
        kind: its name.
        patience: the number of observed steps, one after the other, that show it.
        look: the number and the remedy, in words; None if all is well.
    """

    kind: str
    patience: int
    look: Callable[[StepSnapshot], Observation | None]


def _bad(s: StepSnapshot) -> Observation | None:
    if not s.bad:
        return None
    total = s.of.param.numel()
    text = f"{s.bad} of {total} entries of the gradient are NaN or inf"
    remedy = "lower lr, clip gradients, or look for a division or a logarithm of zero in the loss"
    return Observation(s.of.layer, "non-finite gradient", text, s.bad / total, remedy)


def _dead(s: StepSnapshot) -> Observation | None:
    grad = s.tensors.get("grad")
    if grad is None or bool(grad.any()):
        return None
    text = (
        "the gradient is zero in every entry: the units behind it are dead (ReLU below zero for "
        "all inputs) or masked"
    )
    remedy = "lower lr, or start with smaller biases"
    return Observation(s.of.layer, "dead gradient", text, remedy=remedy)


def _still(s: StepSnapshot) -> Observation | None:
    update = s.tensors.get("update")
    if not s.of.group or update is None or bool(update.any()) or s.of.value("lr") == 0:
        return None
    if s.of.param.grad is None:
        text = "it has never moved and has no gradient: it is not part of the loss"
        remedy = "freeze it with requires_grad=False, or use it"
        return Observation(s.of.layer, "no gradient", text, remedy=remedy)
    if s.bad or (grad := s.tensors.get("grad")) is None or not bool(grad.any()):
        return None  # which has a warning of its own
    text = "it has never moved, though it has a gradient: lr is below the rounding of its type"
    remedy = "raise lr, or keep the weights in float32"
    return Observation(s.of.layer, "lr below rounding", text, remedy=remedy)


def _misaligned(s: StepSnapshot) -> Observation | None:
    found = s.quantities.get("alignment")
    if found is None or found >= ALIGNED:
        return None
    text = f"steps do not descend along the average of gradients (alignment {found:.2g})"
    remedy = "look for a wrong sign, `maximize`, or something else that writes to the weights"
    return Observation(s.of.layer, "misaligned", text, 1 - found, remedy)


def _inexact(s: StepSnapshot) -> Observation | None:
    half = torch.finfo(s.of.param.dtype).bits < 32
    if half or s.resolved is None or not s.tensors.keys() >= {"weight", "update"}:
        return None
    found, promised = s.resolved
    moved = float(torch.linalg.vector_norm(s.tensors["update"]))
    rounding = s.digits * float(torch.linalg.vector_norm(s.tensors["weight"]))
    if moved == 0 or found <= 1.1 * promised + 0.01 + 4 * rounding / moved:
        return None
    text = (
        f"steps are {found:.2g} away from the polar factor, while the method promises "
        f"{promised:.2g}: something else writes to the weights, or the method is wrong for this "
        "matrix"
    )
    return Observation(s.of.layer, "polar error", text, found, "try polar=steepest.polar.Svd()")


ALARMS = (
    Alarm("non-finite gradient", 1, _bad),
    Alarm("dead gradient", 2, _dead),
    Alarm("never moves", 3, _still),
    Alarm("misaligned", 2, _misaligned),
    Alarm("polar error", 2, _inexact),
)


class Alarms:
    """Decides what to say, at most once for each layer and cause.

    Args:
        routing: the group where each parameter belongs; None if that is not known.
    """

    def __init__(self, routing: Routing | None) -> None:
        self.routing = routing
        self._said: set[tuple[str, str]] = set()
        self._times: Counter[tuple[str, str]] = Counter()
        self._pace = Pace(routing)
        self._thin: set[str] = set()
        self._sums: dict[str, float] = {}

    def new_warnings(
        self,
        snapshots: Sequence[StepSnapshot],
        activations: Mapping[str, tuple[float, float]],
        *,
        step: int,
        rates: Mapping[Tensor, float],
    ) -> list[Observation]:
        """The findings of a step that no earlier one had.

        Args:
            snapshots: each parameter in this step.
            activations: the root mean square of what went into each module and came out, in the
                order of the forward pass; NaN where there was nothing.
            step: the number of the observed step, from 1.
            rates: the learning rate of each parameter one step before, as far as it is known.
        """
        new = []
        found = (*self._of_layers(snapshots, step, rates), *_of_depth(activations, snapshots))
        for finding in found:
            if finding[:2] not in self._said:
                self._said.add(finding[:2])
                new.append(finding)
        return new

    def _of_layers(
        self, snapshots: Sequence[StepSnapshot], step: int, rates: Mapping[Tensor, float]
    ) -> Iterator[Observation]:
        for s in snapshots:
            name = s.of.layer
            for alarm in ALARMS:
                finding = alarm.look(s)
                self._times[(name, alarm.kind)] += 1
                if finding is None:
                    self._times[(name, alarm.kind)] = 0
                elif self._times[(name, alarm.kind)] >= alarm.patience:
                    yield finding
            for other in (
                self._routed(s),
                self._rank_one(s, step),
                self._pace.look(s, rates),
                self._left_out(s),
            ):
                if other is not None:
                    yield other

    def _routed(self, s: StepSnapshot) -> Observation | None:
        """A parameter that routing would not have given to Muon."""
        if self.routing is None or not s.of.on_muon:
            return None
        place = self.routing[s.of.name]
        if place.target == "matrix" or not place.certain:
            return None
        text = (
            f"{place.reason} on Muon: its rows do not act together as those of a matrix do, and "
            "AdamW is better for it"
        )
        remedy = "give Muon the module, or this in a group with adamw=True"
        return Observation(s.of.layer, f"{place.reason} on Muon", text, remedy=remedy)

    def _rank_one(self, s: StepSnapshot, step: int) -> Observation | None:
        """A gradient that has had rank one from the first step on.

        Later it may have that in the best of runs, for hundreds of steps: while a model has
        learnt how frequent its outputs are, and nothing else yet, all its errors are alike.
        """
        rank = s.quantities.get("grad_nuclear_rank")
        narrow = min((min(x.shape[-2:]) for x in s.of.matrices(s.of.param)), default=0) < NARROW
        if narrow or rank is None or rank >= RANK_ONE:
            self._thin.discard(s.of.layer)
            return None
        if step == 1:
            self._thin.add(s.of.layer)
        elif s.of.layer in self._thin:
            text = (
                f"the gradient has rank one (nuclear rank {rank:.3f}): its inputs or its errors "
                "are all alike"
            )
            remedy = (
                "look for a missing normalisation before it, for a dead layer, or at the batch size"
            )
            return Observation(s.of.layer, "rank one", text, 1 / rank, remedy)
        return None

    def _left_out(self, s: StepSnapshot) -> Observation | None:
        """A parameter that neither this optimizer nor another one moves between observations."""
        if s.of.group or "weight" not in s.tensors:
            return None
        name, total = s.of.layer, float(s.tensors["weight"].abs().sum())
        same, self._sums[name] = self._sums.get(name) == total, total
        self._times[(name, "left out")] = same * (self._times[(name, "left out")] + 1)
        if self._times[(name, "left out")] < 2:
            return None
        text = "it has never moved, and the optimizer does not have it"
        return Observation(name, "left out", text, remedy="add it, or freeze it")


def _of_depth(
    activations: Mapping[str, tuple[float, float]], snapshots: Sequence[StepSnapshot]
) -> Iterator[Observation]:
    """Activations that are not finite, or whose size runs away through the layers."""
    for name, pair in activations.items():
        if any(value == float("inf") for value in pair):
            remedy = "lower lr, or look at what this module divides by"
            yield Observation(name, "activations", "activations are NaN or inf", remedy=remedy)
            return
    weighted = {s.of.layer for s in snapshots if s.of.param.ndim > 1}
    chain = [(name, out) for name, (_, out) in activations.items() if name in weighted and out > 0]
    if len(chain) < DEEP:
        return
    (first, start), (last, end) = chain[0], chain[-1]
    factor = (end / start) ** (1 / (len(chain) - 1))
    if not 1 / PER_LAYER <= factor <= PER_LAYER:
        verb = "grow" if factor > 1 else "shrink"
        text = (
            f"activations {verb} by a factor of {max(factor, 1 / factor):.2g} in each layer from "
            f"{first} (RMS {start:.2g}) to here (RMS {end:.2g})"
        )
        remedy = "normalise between layers, or scale the first weights to keep the variance"
        yield Observation(last, "activations", text, remedy=remedy)
