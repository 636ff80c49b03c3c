"""Learning rates that are far too large or far too small for a layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from steepest.diagnostics.monitor.findings import Observation
from steepest.diagnostics.monitor.parameters import MonitoredParam
from steepest.diagnostics.monitor.step import StepSnapshot
from steepest.routing import Routing

# Ours, each with its reason.
LARGE = 0.5
"""A step that is more than half as large as the layer needs to be leaves little of what it knew."""
SHARE = 0.25
"""The size that a layer needs, in parts of a root mean square of 1/√(number of its inputs): there,
outputs are as large as inputs. Many start below it and grow, and to grow is not a fault. With it,
the steps of the optimizers of `steepest train` that fix the length of a step are at most 0.4 of
that at their tuned learning rates once they have warmed up (Muown's; Muon's 0.2), and above 0.6 at
ten times as much."""
SMALL = 1e-5
"""A smaller update in every observed step moves a layer by less than 10 % in 10 000 steps."""
PATIENCE = 3
"""Observed steps after which a learning rate is too small."""


class Pace:
    """Judges the learning rate of each layer.

    Args:
        routing: the group where each parameter belongs; None if that is not known.
    """

    def __init__(self, routing: Routing | None) -> None:
        self._routing = routing
        self._start: dict[str, float] = {}
        self._reach: dict[str, float] = {}
        self._lowest: dict[str, float] = {}
        self._warmed: set[str] = set()
        self._highest: dict[str, float] = {}
        self._largest: dict[str, float] = {}
        self._times: Counter[str] = Counter()
        self._from_zero: set[str] = set()

    def look(self, s: StepSnapshot, rates: Mapping[Tensor, float]) -> Observation | None:
        """Find what is wrong with the learning rate of a layer, if anything.

        Args:
            s: the layer.
            rates: the learning rates of the step before; of the first one nothing is known.
        """
        rms = s.quantities["weight_rms"]
        if rms is not None:
            self._start.setdefault(s.of.layer, rms)
        # The steps of LBFGS, which has a history, are as long as its curvature says.
        if not s.of.group or "history_size" in s.of.group:
            return None
        lr, past = s.of.value("lr"), rates.get(s.of.param)
        for rate in (past, lr):
            if rate is not None and rate > self._lowest.setdefault(s.of.layer, rate):
                self._warmed.add(s.of.layer)
        # Without the step before nobody knows whether a warm-up has begun.
        large = None if past is None else self._large(s, lr, rising=lr > past)
        return large or self._small(s, lr)

    def _large(self, s: StepSnapshot, lr: float, *, rising: bool) -> Observation | None:
        name, update, weight = s.of.layer, s.tensors.get("update"), s.tensors.get("weight")
        if update is None or weight is None or lr == 0:
            return None
        step, size = _rms(update), self._size(s)
        if _follows(s.of):
            size = max(size, _rms(weight), _rms(weight + update))
        elif _is_adaptive(s.of):
            # Adam's steps are short while it remembers larger gradients, and grow again.
            self._reach[name] = max(step / lr, self._reach.get(name, 0.0))
            step = self._reach[name] * lr
        # In a warm-up steps are not yet as long as they are meant to be.
        if rising or step <= LARGE * size:
            return None
        key = "adamw_lr" if s.of.adamw else "lr"
        after, remedy = "", "divide it by ten, or warm up"
        if name in self._warmed:
            after = ", after its warm-up,"
            remedy = "divide it by ten; a longer warm-up only puts that off"
        text = (
            f"{key} = {lr:.3g}{after} is far too large for it: steps change it by up to "
            f"{step / size:.2g} of its size (RMS {step:.2g} of {size:.2g})"
        )
        return Observation(name, f"large {key}", text, step / size, remedy)

    def _size(self, s: StepSnapshot) -> float:
        """The root mean square against which a step counts: at the start, or what is needed.

        Steps of a fixed length make the weights grow to that length, whatever it is, so their
        present size says nothing. A length that follows the gradient falls when the weights have
        arrived, and there it counts as well.
        """
        start, needed = self._start.get(s.of.layer, 0.0), 1 / math.sqrt(s.of.fan_in)
        # A norm for the head, as Scion has it, is there to let the logits grow.
        place = None if self._routing is None else self._routing[s.of.name]
        own = place is not None and place.target == "table" and s.of.geometry is not None
        return max(start, needed if own or _follows(s.of) else SHARE * needed)

    def _small(self, s: StepSnapshot, lr: float) -> Observation | None:
        name, ratio = s.of.layer, s.quantities["update_ratio"]
        if ratio is None:
            # A layer that starts at zero has to change by much.
            self._from_zero.add(name)
        if ratio is None or name in self._from_zero:
            return None
        if lr > self._highest.get(name, 0.0):  # a warm-up is meant to begin with small steps
            self._highest[name], self._times[name] = lr, 0
        self._largest[name] = largest = max(ratio, self._largest.get(name, 0.0))
        self._times[name] += 1
        if not (0 < largest < SMALL and self._times[name] >= PATIENCE):
            return None
        text = (
            f"no observed step changes it by more than {largest:.1g} of its norm: "
            f"lr = {lr:.3g} is far too small for it"
        )
        return Observation(name, "small lr", text, 1 / largest, "multiply it by ten")


def _follows(w: MonitoredParam) -> bool:
    """Whether the length of a step follows the gradient, and is not lr's alone."""
    if w.geometry is not None:
        return w.K is None and not w.mapped
    return not ("ns_steps" in w.group or _is_adaptive(w))


def _is_adaptive(w: MonitoredParam) -> bool:
    """Whether AdamW or another of torch's optimizers divides by what it remembers of gradients."""
    remembered = {"exp_avg", "exp_avg_sq", "exp_inf", "square_avg"} & w.state.keys()
    return w.adamw or bool(remembered)


def _rms(x: Tensor) -> float:
    """The root mean square of the entries."""
    return float(torch.linalg.vector_norm(x)) / math.sqrt(x.numel())
