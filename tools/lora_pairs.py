"""Low-rank fine-tuning of a small network with four optimizers, each at its best learning rate.

    python tools/lora_pairs.py          two minutes on one core; prints the table
    python tools/lora_pairs.py --write  and puts it into docs/faq.md

A network of three linear layers learns a random teacher with AdamW, or with Muon. Then the hidden
weights of the teacher change by matrices of rank 2, and adapters of rank 4 follow on other data.
The loss is that on 2048 new examples, over what it is before fine-tuning; means over three seeds.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn

import steepest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faq.md"
BEGIN, END = "<!-- lora: tools/lora_pairs.py -->", "<!-- end of lora -->"

sys.path[:0] = [str(ROOT / "tools")]
from preset_table import between  # noqa: E402

WIDTHS = (32, 64, 64, 8)
RANK, SCALE, STEPS, SEEDS = 4, 2.0, 200, 3
BATCHES = (64, 4)

Make = Callable[[nn.Module, float], torch.optim.Optimizer]


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank update."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = nn.Linear(base.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, base.out_features, bias=False)
        self.scaling = SCALE
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The layer, updated."""
        y: Tensor = self.base(x) + self.scaling * self.lora_B(self.lora_A(x))
        return y


def adamw(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """AdamW for all factors, without decay."""
    factors = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(factors, lr=lr, weight_decay=0.0)


def muon(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Muon for each factor by itself."""
    factors = [p for p in model.parameters() if p.requires_grad]
    return steepest.Muon(factors, lr=lr, weight_decay=0.0)


OPTIMIZERS: dict[str, tuple[Make, float]] = {
    "AdamW": (adamw, 2.0**-6),
    "Muon, each factor by itself": (muon, 2.0**-5),
    "LoRAMuon": (lambda m, lr: steepest.LoRAMuon(m, lr=lr), 2.0**-2),
    "LoRAMuon, cross_term=False": (
        lambda m, lr: steepest.LoRAMuon(m, lr=lr, cross_term=False),
        2.0**-2,
    ),
}
"""The optimizers with a learning rate to begin with; the search goes on from there."""


def network(seed: int) -> nn.Sequential:
    """Three linear layers with a nonlinearity between them."""
    torch.manual_seed(seed)
    layers = [part for m, n in pairwise(WIDTHS) for part in (nn.Linear(m, n), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def linear(model: nn.Sequential) -> dict[int, nn.Linear]:
    """The linear layers of a network, by their places."""
    return {i: layer for i, layer in enumerate(model) if isinstance(layer, nn.Linear)}


def teacher(seed: int, *, changed: bool) -> nn.Sequential:
    """A network with larger weights, whose hidden ones may be changed by matrices of rank 2."""
    found = network(1000 + seed).requires_grad_(False)
    torch.manual_seed(2000 + seed)
    for layer in linear(found).values():
        layer.weight *= 2
        rows, cols = layer.weight.shape
        update = torch.randn(rows, 2) @ torch.randn(2, cols) / math.sqrt(rows * cols)
        if changed:
            layer.weight += 2 * update
    return found


def batches(seed: int, size: int, goal: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and what the teacher makes of them."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        x = torch.randn(size, WIDTHS[0], generator=generator)
        yield x, goal(x)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, goal: nn.Module, *, size: int, seed: int
) -> float:
    """The loss on new examples after training with a rate that falls to zero."""
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    data = batches(seed, size, goal)
    for _ in range(STEPS):
        x, y = next(data)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        schedule.step()
    return loss(model, goal, seed)


@torch.no_grad()
def loss(model: nn.Module, goal: nn.Module, seed: int) -> float:
    """The loss on new examples."""
    x, y = next(batches(5000 + seed, 2048, goal))
    value = float((model(x) - y).square().mean())
    return value if math.isfinite(value) else math.inf


def pretrained(seed: int, by: str) -> nn.Sequential:
    """A network that has learnt the first teacher."""
    model, goal = network(seed), teacher(seed, changed=False)
    hidden = {"4.weight": "matrix"}
    optimizer = (
        torch.optim.AdamW(model.parameters(), lr=4e-3)
        if by == "AdamW"
        else steepest.Muon(model, lr=0.05, adamw_lr=4e-3, overrides=hidden)
    )
    train(model, optimizer, goal, size=128, seed=seed)
    return model


def tuned(make: Make, lr: float, by: str, size: int) -> tuple[float, list[float]]:
    """The best learning rate, by factors of 2, and the losses of the seeds there."""
    starts = {s: pretrained(s, by).state_dict() for s in range(SEEDS)}
    known: dict[float, list[float]] = {}

    def at(rate: float) -> float:
        if rate not in known:
            known[rate] = [run(make, rate, starts[s], s, size) for s in range(SEEDS)]
        return mean(known[rate])

    while at(lr / 2) < at(lr):
        lr /= 2
    while at(lr * 2) < at(lr):
        lr *= 2
    return lr, known[lr]


def run(make: Make, lr: float, start: dict[str, Tensor], seed: int, size: int) -> float:
    """The loss after fine-tuning over that before it."""
    model = network(seed)
    model.load_state_dict(start)
    goal = teacher(seed, changed=True)
    before = loss(model, goal, seed)
    torch.manual_seed(seed)
    for place, layer in linear(model).items():
        model[place] = Adapted(layer)
    return train(model, make(model, lr), goal, size=size, seed=7000 + seed) / before


def table() -> str:
    """The table in Markdown."""
    columns = [(by, size) for size in BATCHES for by in ("AdamW", "Muon")]
    head = [f"pretrained by {by}, batches of {size}" for by, size in columns]
    lines = [f"| | {' | '.join(head)} |", "| --- |" + " --- |" * len(columns)]
    for name, (make, lr) in OPTIMIZERS.items():
        cells = []
        for by, size in columns:
            best, losses = tuned(make, lr, by, size)
            cells.append(
                f"{mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f}), lr {best:.2g}"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = table()
    print(found)
    if "--write" in sys.argv[1:]:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(between(text, BEGIN, END, found), encoding="utf-8")
