"""A small text and a tiny model, for tests that train."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typer.testing import Result

# A run of this size takes a tenth of a second. float64, so that machines agree to many digits.
TINY = (
    *("--layers", "1", "--width", "16", "--heads", "2", "--context", "8", "--batch", "4"),
    *("--steps", "12", "--eval-every", "4", "--eval-windows", "8", "--checkpoint-every", "5"),
    *("--dtype", "float64", "--device", "cpu", "--monitor-every", "0"),
)

Invoke = Callable[..., Result]


def words(length: int, *, seed: int = 0) -> str:
    """Text with something to learn: random words of a small dictionary."""
    draw = random.Random(seed)
    known = ["the ", "norm ", "of ", "a ", "dual ", "matrix ", "is ", "its ", "trace.\n"]
    text = "".join(draw.choice(known) for _ in range(length))
    return text[:length]


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def history(trial: Path) -> list[tuple[Any, ...]]:
    """The part of a trial's metrics that repeats bit for bit: all but the times."""
    lines = (trial / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    plain = ("step", "loss", "val_loss", "lr")
    return [
        (*(r.get(k) for k in plain), [(k, v) for k, v in r.items() if k.startswith("constraint/")])
        for r in records
    ]


def final_state(trial: Path) -> dict[str, Any]:
    """The newest checkpoint of a trial without its times."""
    content = torch.load(max(trial.glob("step-*.pt")), weights_only=True)
    del content["seconds"]
    return dict(content)


def same(a: Any, b: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
