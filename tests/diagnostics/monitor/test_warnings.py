"""Every warning of the monitor, provoked; and a healthy training, which has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import steepest
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.model import GPT
from steepest.apps.train.optimizers import recipe
from steepest.diagnostics import Monitor, MonitorWarning
from steepest.norms import Spectral
from steepest.polar import JORDAN, Auto, NewtonSchulz, PolarMethod, Svd

Loss = Callable[[nn.Module], Tensor]


def said(model: nn.Module, optimizer: Optimizer, loss: Loss, *, steps: int = 4) -> list[str]:
    """The warnings of a few steps, all of which are observed."""
    with Monitor(model, optimizer, every=1, quiet=True) as m:
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(model)
            if value.requires_grad:
                value.backward()
            optimizer.step()
        assert [text for r in m.records for text in r["warnings"]] == m.warnings
    return m.warnings


def gpt() -> GPT:
    return GPT(ModelConfig(layers=2, width=64, heads=2, context=16), vocabulary=60, seed=0)


def text_loss(model: nn.Module) -> Tensor:
    windows = (torch.arange(17) * torch.randint(1, 4, (8, 1)) + torch.randint(20, (8, 1))) % 20
    assert isinstance(model, GPT)
    return model.loss(windows)


def tuned(name: str, factor: float) -> list[str]:
    torch.manual_seed(0)
    model, r = gpt(), recipe(name).tuned
    settings = type(r)(
        lr=factor * r.lr,
        weight_decay=r.weight_decay,
        adamw_lr=None if r.adamw_lr is None else factor * r.adamw_lr,
    )
    optimizer = recipe(name).build(model, settings)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 20))
    with Monitor(model, optimizer, every=40, quiet=True) as m:
        for _ in range(40):
            optimizer.zero_grad()
            text_loss(model).backward()
            optimizer.step()
            warmup.step()
    return m.warnings


def test_a_tuned_training_has_none_and_ten_times_its_learning_rate_has() -> None:
    for name in ("muon", "adamw"):
        assert tuned(name, 1.0) == [], name
        found = tuned(name, 10.0)
        assert any("far too large" in text and "divide it by ten" in text for text in found), name


def test_a_learning_rate_that_does_nothing_is_seen() -> None:
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    x = torch.randn(4, 8)
    found = said(model, optimizer, lambda m: m(x).square().mean())
    assert len(found) == 1, found
    assert (
        found[0].startswith("2 layers, worst bias: no observed step")
        and "far too small" in found[0]
    )


def test_an_embedding_and_a_head_on_muon_are_named() -> None:
    model = gpt()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = {"params": [p for p in model.parameters() if p.ndim < 2], "adamw": True}
    groups: list[dict[str, Any]] = [{"params": matrices}, rest]
    ours = steepest.Muon(groups, lr=0.002)
    for optimizer in (ours, torch.optim.Muon(matrices, lr=0.002)):
        found = [t for t in said(model, optimizer, text_loss, steps=1) if "on Muon" in t]
        assert [t.partition(":")[0] for t in found] == ["2 layers (tok_emb, pos_emb)", "head"]
        assert all("adamw=True" in t for t in found)


def test_a_gradient_of_rank_one_is_seen_once() -> None:
    model = nn.Linear(10, 12, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(1, 10)
    found = said(model, optimizer, lambda m: m(x).square().sum(), steps=5)
    assert len(found) == 1 and "rank one (nuclear rank 1.000)" in found[0]
    many = torch.randn(30, 10)
    assert said(model, optimizer, lambda m: m(many).square().mean()) == []


def test_a_gradient_whose_rank_falls_to_one_for_a_while_is_no_fault() -> None:
    """As of a model that learns how frequent its outputs are, before anything else."""
    torch.manual_seed(0)
    model = nn.Linear(10, 12, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    direction, x = torch.randn(10), torch.randn(30, 10)
    alike = iter([0.0] * 2 + [1.0] * 6)

    def loss(m: nn.Module) -> Tensor:
        share = next(alike)
        batch = share * direction * (1 + torch.arange(30.0)[:, None]) + (1 - 0.5 * share) * x
        return m(batch).square().mean()

    def ones(found: list[str]) -> list[str]:
        return [text for text in found if "rank one" in text]

    with Monitor(model, optimizer, every=1, quiet=True) as m:
        for _ in range(8):
            optimizer.zero_grad()
            loss(model).backward()
            optimizer.step()
    ranks = [r["weight/grad_nuclear_rank"] for r in m.records]
    assert min(ranks[:2]) > 2 and min(ranks[2:]) > 1.0001 and max(ranks[2:]) < 1.05
    assert ones(m.warnings) == []
    # From the first step on it is no matter of training.
    alike = iter([1.0] * 3)
    assert len(ones(said(model, optimizer, loss, steps=3))) == 1


def test_a_dead_layer_is_seen() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        next(iter(model.children())).bias.fill_(-100.0)  # type: ignore[union-attr,operator]
    x = torch.randn(20, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    found = said(model, optimizer, lambda m: m(x).square().mean())
    assert any("layers (0, 0.bias, 2): the gradient is zero in every entry" in t for t in found)


def test_gradients_that_are_not_finite_are_counted() -> None:
    model = nn.Linear(8, 2)
    scale = torch.ones(2)
    scale[1] = math.nan
    groups: list[dict[str, Any]] = [
        {"params": [model.weight]},
        {"params": [model.bias], "adamw": True},
    ]
    optimizer = steepest.Muon(groups, lr=1e-3)
    found = said(model, optimizer, lambda m: (m(torch.ones(3, 8)) * scale).sum())
    assert "2 layers, worst weight: 8 of 16 entries of the gradient are NaN or inf" in found[0]


def test_what_never_moves_is_seen_with_its_reason() -> None:
    parts = {k: nn.Linear(8, 8, bias=False) for k in ("used", "idle", "left")}
    model = nn.ModuleDict(parts)
    x = torch.randn(20, 8)
    optimizer = torch.optim.SGD([parts["used"].weight, parts["idle"].weight], lr=1e-3)
    found = said(
        model,
        optimizer,
        lambda _: parts["left"](parts["used"](x)).square().mean(),
    )
    assert any(t.startswith("idle: ") and "has no gradient" in t for t in found)
    assert any(t.startswith("left: ") and "the optimizer does not have it" in t for t in found)
    assert not any(t.startswith("used: ") for t in found)


def test_two_optimizers_for_one_model_are_no_fault() -> None:
    model = gpt()
    hidden = [p for n, p in model.named_parameters() if "blocks" in n and p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is h for h in hidden)]
    muon = torch.optim.Muon(hidden, lr=0.002)
    adamw = torch.optim.AdamW(others, lr=1e-3)
    muon.register_step_post_hook(lambda *_: adamw.step())
    assert said(model, muon, text_loss) == []


def test_activations_that_run_away_through_the_layers_are_seen() -> None:
    for gain, verb in ((8.0, "grow"), (0.1, "shrink")):
        layers = [nn.Linear(16, 16, bias=False) for _ in range(6)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight, gain)
        model = nn.Sequential(*layers)
        x = torch.randn(30, 16)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-12)
        found = said(model, optimizer, lambda m: m(x).square().mean(), steps=1)  # noqa: B023
        assert len(found) == 1 and f"activations {verb} by a factor of" in found[0]


def test_activations_that_are_not_finite_are_seen() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    x = torch.full((3, 4), math.inf)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = said(model, optimizer, lambda m: m(x).sum(), steps=1)
    assert any("activations are NaN or inf" in t for t in found)


def test_steps_against_the_average_are_seen() -> None:
    model = nn.Linear(8, 8, bias=False)
    x = torch.randn(20, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    before: list[Tensor] = []

    def keep(*_: object) -> None:
        before.append(model.weight.detach().clone())

    def ascend(*_: object) -> None:
        with torch.no_grad():
            model.weight.copy_(2 * before[-1] - model.weight)

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(ascend)
    found = said(model, optimizer, lambda m: m(x).square().mean())
    assert any("do not descend along the average" in t for t in found)


def test_steps_that_are_no_polar_factors_are_seen() -> None:
    model = nn.Linear(8, 8, bias=False)
    x = torch.randn(20, 8)
    optimizer = steepest.Muon(model.parameters(), lr=1e-3, polar=Svd())
    assert said(model, optimizer, lambda m: m(x).square().mean()) == []

    def grow(*_: object) -> None:
        model.weight.data.mul_(1.001)

    optimizer.register_step_post_hook(grow)
    found = said(model, optimizer, lambda m: m(x).square().mean())
    assert any("away from the polar factor, while the method promises" in t for t in found)


class Blunt(Svd):
    """A method that keeps its word for σ₁ alone: the others come out as they were over σ₁."""

    def _factor(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x / torch.linalg.matrix_norm(x, 2, keepdim=True)


# Of these nobody says how long a step is before it is taken.
BY_GRADIENT: dict[str, Callable[[nn.Module, PolarMethod], Optimizer]] = {
    "spectral": lambda m, polar: steepest.SpectralDescent(m, lr=0.02, norm=Spectral(polar=polar)),
    "polargrad": lambda m, polar: steepest.PolarGrad(m, lr=0.02, norm=Spectral(polar=polar)),
    "estimate": lambda m, polar: steepest.SteepestDescent(
        [{"params": [p]} for p in m.parameters()], Spectral(polar=polar), sharpness="estimate"
    ),
}


def concentrated(*, bias: bool = False) -> tuple[nn.Module, Loss]:
    """A gradient with singular values far below what a method resolves."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(48, 48, bias=bias), nn.Tanh(), nn.Linear(48, 4, bias=bias))
    x, y = torch.randn(128, 48) * 0.7 ** torch.arange(48.0), torch.randint(4, (128,))
    return model, lambda m: nn.functional.cross_entropy(m(x), y)


@pytest.mark.parametrize("name", BY_GRADIENT)
@pytest.mark.parametrize("polar", [Auto(error=0.05), Auto(error=1e-3), NewtonSchulz(JORDAN), Svd()])
def test_directions_that_a_method_damps_do_not_count_as_its_error(
    name: str, polar: PolarMethod
) -> None:
    model, loss = concentrated()
    found = said(model, BY_GRADIENT[name](model, polar), loss, steps=5)
    assert not any("polar factor" in text for text in found), found


@pytest.mark.parametrize("name", BY_GRADIENT)
def test_a_wrong_method_is_seen_whatever_the_length_of_its_steps(name: str) -> None:
    model, loss = concentrated()
    found = said(model, BY_GRADIENT[name](model, Blunt()), loss)
    assert any("away from the polar factor" in text for text in found), found


@pytest.mark.parametrize("factor", [-1.0, 0.5, 3.0])
def test_a_step_may_have_any_length_but_no_other_sign(factor: float) -> None:
    model, loss = concentrated()
    optimizer = BY_GRADIENT["spectral"](model, Svd())
    before: dict[Tensor, Tensor] = {}

    def keep(*_: object) -> None:
        before.update({p: p.detach().clone() for p in model.parameters()})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def change(*_: object) -> None:
        for p in model.parameters():
            p.copy_(before[p] + factor * (p - before[p]))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(change)
    found = [t for t in said(model, optimizer, loss) if "polar factor" in t]
    assert len(found) == (factor < 0), found


def test_warnings_are_emitted_unless_quiet() -> None:
    model = nn.Linear(10, 12, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=1) as m:
        model(torch.randn(1, 10)).square().sum().backward()
        optimizer.step()
        with pytest.warns(MonitorWarning, match="rank one"):
            optimizer.step()
    assert len(m.warnings) == 1


def test_what_an_optimizer_is_meant_to_do_is_no_reason_for_a_warning() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))

    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))

    def loss(m: nn.Module) -> Tensor:
        return m(x).square().mean()

    uphill = model()
    optimizer: Optimizer = torch.optim.SGD(uphill.parameters(), lr=1e-3, maximize=True)
    assert said(uphill, optimizer, loss) == []

    start = model()  # of a long warm-up
    optimizer = torch.optim.SGD(start.parameters(), lr=1e-6)
    with Monitor(start, optimizer, every=1, quiet=True) as m:
        for _ in range(6):
            optimizer.zero_grad()
            loss(start).backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] *= 1.5
    assert m.warnings == []

    newton = model()
    optimizer = torch.optim.LBFGS(newton.parameters(), lr=0.1, max_iter=4)
    with Monitor(newton, optimizer, every=1, quiet=True) as m:
        for _ in range(6):

            def closure() -> Tensor:
                optimizer.zero_grad()
                value = loss(newton)
                value.backward()
                return value

            optimizer.step(closure)
    assert m.records[-1]["0/alignment"] is None
    assert not any("descend" in text for text in m.warnings)


def test_a_dead_gradient_is_not_blamed_on_rounding() -> None:
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    texts = said(model, optimizer, lambda m: 0 * m(torch.ones(2, 4)).sum(), steps=6)
    assert [text[:45] for text in texts] == ["2 layers (weight, bias): the gradient is zero"]
