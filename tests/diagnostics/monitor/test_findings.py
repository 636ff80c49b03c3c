"""Findings as lines: one cause in many layers is one line, at one step and over a run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from steepest.diagnostics import Monitor
from steepest.diagnostics.monitor.findings import (
    Observation,
    as_records,
    by_cause,
    line,
    monitor_warnings,
)


@dataclass(frozen=True)
class Case:
    """Findings, and the line they make."""

    found: list[Observation]
    expected: str


def test_lines_name_the_worst_layer_or_the_first_ones() -> None:
    off = [Observation(f"l{i}", "off", f"off by {i}", float(i)) for i in range(15)]
    dead = [Observation(f"l{i}", "dead", "it is dead") for i in range(5)]
    twice = [Observation("a", "two", "first", 1.0), Observation("a", "two", "second", 2.0)]
    for case in (
        Case(off[3:4], "l3: off by 3"),
        Case(off, "15 layers, worst l14: off by 14"),
        Case(off[::-1], "15 layers, worst l14: off by 14"),
        Case(dead, "5 layers (l0, l1, l2, …): it is dead"),
        Case(dead[:2], "2 layers (l0, l1): it is dead"),
        Case(dead[:1], "l0: it is dead"),
        Case(twice, "a: second"),
    ):
        assert line(case.found) == case.expected


def test_causes_keep_their_order() -> None:
    found = [Observation("a", "x", ""), Observation("a", "y", ""), Observation("b", "x", "")]
    assert {c: [f.layer for f in some] for c, some in by_cause(found).items()} == {
        "x": ["a", "b"],
        "y": ["a"],
    }


def test_a_training_has_a_line_for_each_cause_with_its_first_step() -> None:
    def record(step: int, *found: Observation) -> dict[str, object]:
        return {"step": step, "warnings": ["a line"], "findings": as_records(found)}

    a, b, c = (Observation(n, "off", f"off by {i}", float(i)) for i, n in enumerate("abc"))
    dead = Observation("z", "dead", "dead")
    records = [record(1, a), record(3), record(10, b, dead), record(20, c)]
    assert monitor_warnings(records[:1] + records[2:]) == [
        (1, "3 layers, worst c: off by 2"),
        (10, "z: dead"),
    ]


def test_records_without_findings_keep_their_own_lines_each_once() -> None:
    records = [
        {"step": 1, "warnings": ["off"]},
        {"step": 5, "warnings": []},
        {"step": 9, "warnings": ["off", "far"]},
        {"step": 10},
        {"step": 12, "warnings": ["odd"], "findings": ["of another form"]},
        {"step": 13, "warnings": ["odder"], "findings": [{"layer": "without the rest"}]},
    ]
    assert monitor_warnings(records) == [(1, "off"), (9, "far"), (12, "odd"), (13, "odder")]


def test_a_monitor_tells_a_cause_once_and_what_comes_later_as_more() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8, bias=False) for _ in range(6)]
    model, x = nn.ModuleList(layers), torch.randn(20, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=1, quiet=True) as m:
        for step in range(6):
            optimizer.zero_grad()
            # At first one layer has a gradient of zeros, later three more.
            dead = layers[:1] if step < 3 else layers[:4]
            (
                sum((w(x).square().mean() * (w not in dead) for w in layers), torch.zeros(()))
            ).backward()
            optimizer.step()
    assert [text.partition(":")[0] for text in m.warnings] == ["0", "3 more layers (1, 2, 3)"]
    ((step, text),) = monitor_warnings(m.records)
    assert step == 2 and text.startswith("4 layers (0, 1, 2, …): the gradient is zero")
