"""How far Muon's successors are from the code of their authors: tools/authors.json has its weights.

The authors' code was run in float64 with the exact polar factor in the place of its Newton–Schulz
iteration, for six steps of given gradients, on a tall, a wide and a square matrix.

python tools/authors.py          print the table
python tools/authors.py --write  put it into docs/family.md
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import steepest
from steepest import retractions, transforms
from steepest.polar import Svd

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from preset_table import print_or_write  # noqa: E402

PAGE = HERE.parent / "docs" / "family.md"
BEGIN, END = "<!-- authors: tools/authors.py -->", "<!-- end of authors -->"
RUNS: Mapping[str, Any] = json.loads((HERE / "authors.json").read_text(encoding="utf-8"))
"""Gradients, and the runs of the authors' code on them: source, changes and weights."""

Make = Callable[[nn.Parameter], torch.optim.Optimizer]


def _like(name: str, **options: Any) -> Make:
    """A row as the authors' code has it: an exact polar factor, lr 0.02 and decay 0.1."""

    def make(w: nn.Parameter) -> torch.optim.Optimizer:
        values = {"lr": 0.02, "weight_decay": 0.1, "polar": Svd(), **options}
        optimizer: torch.optim.Optimizer = getattr(steepest, name)([w], **values)
        return optimizer

    return make


def _soap(**options: Any) -> Make:
    """SOAPMuon from averages that make its first bases unique, as in the run it is held against."""

    def make(w: nn.Parameter) -> torch.optim.Optimizer:
        before = transforms.Eigenbasis(**options)
        optimizer = _like("SOAPMuon", before=before, weight_decay=0.0)(w)
        m, n = w.shape
        row, col = (0.01 * torch.arange(1, size + 1, dtype=w.dtype).diag() for size in (m, n))
        optimizer.state[w]["before.row_gram"] = row.unsqueeze(0)
        optimizer.state[w]["before.col_gram"] = col.unsqueeze(0)
        optimizer.state[w]["before.second_moment"] = torch.full((1, m, n), 0.01, dtype=w.dtype)
        return optimizer

    return make


CASES: Mapping[str, Make] = {
    "NorMuon": _like("NorMuon"),
    "AdaMuon": _like("AdaMuon"),
    "Muon2": _like("Muon2"),
    "MuonEq": _like("MuonEq"),
    "MuonPlus": _like("MuonPlus"),
    "Aurora": _like("Aurora", before=transforms.BalancedRows()),
    "SOAPMuon": _soap(),
    "SOAPMuon, every 2": _soap(every=2),
    "SOAPMuon, square": _like("SOAPMuon", weight_decay=0.0),
    "Hyperball": _like("Hyperball", weight_decay=0.0),
    "Hyperball, decay": _like("Hyperball", nesterov=False),
    "Muown": _like("Muown", weight_decay=0.0),
    "Muown, decay": _like("Muown"),
    "MuonFloor": _like("MuonFloor", retraction=retractions.UpdateFloor(1.0), weight_decay=0.0),
    "MuonFloor, rows": _like(
        "MuonFloor", retraction=retractions.UpdateFloor(1.0, rows=True), weight_decay=0.0
    ),
    "MuonBrake": _like("MuonBrake", weight_decay=0.0),
    "MuonBrake, decay": _like("MuonBrake"),
}
"""The optimizer of each run, from a parameter."""


def differences(name: str) -> dict[str, float]:
    """The largest relative difference of the weights after a step, for each shape of a run."""
    run = RUNS["runs"][name]
    data = RUNS["gradients"][run["data"]]
    return {
        shape: _apart(CASES[name], data, shape, run["weights"][shape]) for shape in run["weights"]
    }


def _apart(make: Make, data: Mapping[str, Any], shape: str, steps: list[Any]) -> float:
    """The largest relative difference over the steps of one matrix."""
    w = nn.Parameter(torch.tensor(data["weights"][shape], dtype=torch.float64))
    optimizer, found = make(w), 0.0
    for grad, after in zip(data["gradients"][shape], steps, strict=True):
        w.grad = torch.tensor(grad, dtype=torch.float64)
        optimizer.step()
        theirs = torch.tensor(after, dtype=torch.float64)
        found = max(found, float((w.detach() - theirs).norm() / theirs.norm()))
    return found


def table() -> str:
    """The runs with their sources and the largest difference, as Markdown."""
    lines = ["| row | code of its authors | largest relative difference |", "| --- | --- | --- |"]
    for name in CASES:
        source = RUNS["runs"][name]["source"].split("/results/")[0]
        source = source.replace("records/track_3_optimization", "track 3")
        source = re.sub(r"@([0-9a-f]{8})[0-9a-f]{32}", r"@\1", source)
        lines.append(f"| {name} | {source} | {max(differences(name).values()):.0e} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_or_write(table(), BEGIN, END, [PAGE])
