"""The findings on a run: what is wrong, how sure, and what to change, most important first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from steepest.apps.diagnose import geometry_rules, layer_rules, loss_rules
from steepest.apps.diagnose.evidence import Evidence, Finding

Rule: TypeAlias = Callable[[Evidence], Finding | Iterable[Finding] | None]

RULES: tuple[Rule, ...] = (
    loss_rules.diverged,
    loss_rules.skipped,
    layer_rules.monitored,
    loss_rules.rising,
    layer_rules.growth,
    loss_rules.constant_schedule,
    loss_rules.unfinished,
    layer_rules.balls,
    geometry_rules.try_muon,
    geometry_rules.try_other,
    layer_rules.table_rate,
    loss_rules.spike,
    layer_rules.low_rank_momentum,
    loss_rules.falling,
    loss_rules.slow_optimizer,
)
"""The order of importance: what spoils a run, then what holds it back, then what costs a little."""


def findings(e: Evidence) -> list[Finding]:
    """All that the rules find, in the order of `RULES`; empty where nothing is to be changed."""
    found: list[Finding] = []
    for rule in RULES:
        result = rule(e)
        found += [result] if isinstance(result, Finding) else result or ()
    return found


def unjudged(e: Evidence) -> list[str]:
    """The things that could not be judged, each with the way to have it judged."""
    found = []
    if not e.monitor:
        found.append(
            "Layer by layer nothing is judged, as there are no records of a monitor: "
            + ("train with --monitor-every 100" if e.config else "attach a steepest Monitor")
        )
    if e.config is None and not e.metrics:
        found.append("The loss is not judged, as there are no records of it: compare it yourself")
    if e.verdict is None and e.directions is None:
        found.append("The geometry is not judged, as nothing was computed: see the sections below")
    return found
