"""Learning rates that are far too large or too small, and those that only look so."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import steepest
from steepest.diagnostics import Monitor
from steepest.norms import Spectral

Build = Callable[[nn.Module], Optimizer]


def watched(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    rates: Sequence[float],
    *,
    every: int = 1,
) -> list[tuple[int, str]]:
    """The steps of the warnings and their lines, with these multiples of the learning rates."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    with Monitor(model, optimizer, every=every, quiet=True) as m:
        for rate in rates:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = rate * peak
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    return [(r["step"], text) for r in m.records for text in r["warnings"]]


def net(width: int = 32) -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 8))
    x, y = torch.randn(64, width), torch.randint(8, (64,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


def pace(found: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    return [(step, text) for step, text in found if "far too" in text]


# A tuned learning rate of each for this net; all but SGD fix the length of a step.
TUNED: dict[str, tuple[float, Build]] = {
    "adamw": (3e-3, lambda m: torch.optim.AdamW(m.parameters(), lr=1.0)),
    "rmsprop": (1e-3, lambda m: torch.optim.RMSprop(m.parameters(), lr=1.0)),
    "muon": (0.03, lambda m: steepest.Muon(m, lr=1.0, weight_decay=0.0, adamw_lr=3e-3)),
    "lion": (1e-3, lambda m: steepest.Lion(m, lr=1.0)),
    "normalized": (0.1, lambda m: steepest.NormalizedSGD(m, lr=1.0)),
    "sgd": (0.5, lambda m: torch.optim.SGD(m.parameters(), lr=1.0, momentum=0.9)),
}


def built(name: str, model: nn.Module, factor: float) -> Optimizer:
    lr, build = TUNED[name]
    optimizer = build(model)
    for group in optimizer.param_groups:
        group["lr"] = factor * (3e-3 if group.get("adamw") else lr)
    return optimizer


@pytest.mark.parametrize("name", TUNED)
def test_a_rate_that_is_far_too_large_is_seen_when_it_has_been_reached(name: str) -> None:
    warm = [*(k / 8 for k in range(1, 9)), *[1.0] * 4]
    model, loss = net()
    assert pace(watched(model, built(name, model, 1.0), loss, warm)) == []
    if name == "sgd":  # its steps may end as soon as they have saturated the net
        return
    model, loss = net()
    found = pace(watched(model, built(name, model, 100.0), loss, warm))
    step, text = found[0]
    # The eighth step has the peak, and the ninth is the first that does not rise.
    assert step == 9, found
    assert "after its warm-up, is far too large" in text and "a longer warm-up" in text


def test_a_constant_rate_that_is_far_too_large_is_seen_at_the_second_look() -> None:
    model, loss = net()
    found = pace(watched(model, built("adamw", model, 100.0), loss, [1.0] * 3))
    assert [step for step, _ in found] == [2]
    assert "divide it by ten, or warm up" in found[0][1]
    # The worst of the layers speaks for all of them.
    assert found[0][1].startswith("4 layers, worst ")
    # So it is with the steps that are looked at in a long run.
    model, loss = net()
    found = pace(watched(model, built("adamw", model, 100.0), loss, [1.0] * 12, every=100))
    assert [step for step, _ in found] == [3]


def test_the_rate_of_the_rest_has_a_line_of_its_own() -> None:
    model, loss = net()
    optimizer = steepest.Muon(model, lr=3.0, adamw_lr=0.3)
    found = [text for _, text in pace(watched(model, optimizer, loss, [1.0] * 3))]
    assert [any(f" {key} = " in text for text in found) for key in ("lr", "adamw_lr")] == [True] * 2


def lora(rank: int = 4) -> tuple[nn.Module, Callable[[], Tensor]]:
    class Adapted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = nn.Linear(32, 32)
            self.base.requires_grad_(False)
            self.a = nn.Linear(32, rank, bias=False)
            self.b = nn.Linear(rank, 32, bias=False)
            nn.init.zeros_(self.b.weight)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.base(x) + self.b(self.a(x))
            return y

    torch.manual_seed(0)
    model, x = Adapted(), torch.randn(64, 32)
    return model, lambda: nn.functional.mse_loss(model(x), x.roll(1, 1))


def tiny_start() -> tuple[nn.Module, Callable[[], Tensor]]:
    """Every parameter far smaller than what it grows to: biases and gains of 1e-6 as well."""
    model, loss = net()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1e-6)
    return model, loss


def gains() -> tuple[nn.Module, Callable[[], Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 8))
    norm = model[1]
    assert isinstance(norm, nn.LayerNorm)
    nn.init.zeros_(norm.weight)  # as at the end of a residual branch
    x, y = torch.randn(64, 32), torch.randint(8, (64,))
    return model, lambda: nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "rmsprop"])
@pytest.mark.parametrize("start", [lora, tiny_start, gains])
def test_a_weight_that_starts_near_zero_has_to_change_by_much(
    start: Callable[[], tuple[nn.Module, Callable[[], Tensor]]], name: str
) -> None:
    model, loss = start()
    found = watched(model, built(name, model, 1.0), loss, [1.0] * 6)
    assert pace(found) == []


def test_weights_that_grow_to_large_targets_are_no_fault() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(8, 4), torch.randn(64, 8)
    y = 100 * (x @ torch.randn(8, 4)) + 100
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = watched(model, optimizer, lambda: nn.functional.mse_loss(model(x), y), [1.0] * 20)
    assert pace(found) == []


def test_steps_that_grow_without_end_are_seen_though_their_length_follows_the_gradient() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(8, 4), torch.randn(64, 8)

    def loss() -> Tensor:
        return model(x).square().sum()  # with curvature 2·σ₁(x)², some 200

    for optimizer in (
        torch.optim.SGD(model.parameters(), lr=0.1),
        steepest.SteepestDescent(
            [{"params": [model.weight]}, {"params": [model.bias], "adamw": True, "lr": 1e-3}],
            Spectral(),
            sharpness=5.0,
        ),
    ):
        found = pace(watched(model, optimizer, loss, [1.0] * 4))
        assert any("far too large" in text for _, text in found), found


def test_a_short_step_of_adam_does_not_hide_a_long_one() -> None:
    """After gradients that were a thousand times as large Adam's steps are short for a while."""
    model, _ = net()
    x, y = torch.randn(64, 32), torch.randint(8, (64,))
    sizes = iter([1.0] * 3 + [1e-3] * 4)

    def loss() -> Tensor:
        return next(sizes) * nn.functional.cross_entropy(model(x), y)

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3, betas=(0.9, 0.999))
    rates = [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    found = pace(watched(model, optimizer, loss, rates))
    assert [step for step, _ in found][:1] == [7]


def test_a_schedule_that_falls_has_no_fault_at_its_end() -> None:
    model, loss = net()
    rates = [1.0, *(math.cos(k * math.pi / 2 / 20) for k in range(20)), 0.0]
    for name in ("adamw", "muon"):
        assert pace(watched(model, built(name, model, 1.0), loss, rates)) == []
