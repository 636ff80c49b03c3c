"""Blocks of ejected files: every class that fills a slot of a row has one, and it is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.apps.eject import rows, source, start
from steepest.apps.eject.blocks import averages, layers, optimizers, polar
from steepest.apps.eject.blocks.row import Row
from steepest.optim import PRESETS, Preset
from tests.apps.eject import written

SLOTS = ("before", "after", "retraction")


@dataclass(frozen=True)
class Damped:
    """An object in a slot, as a row would have it."""

    damping: float = 0.25
    power: int = 2


FACTOR = 3.0


def helper(x: Tensor) -> Tensor:
    return FACTOR * x


def damped(x: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """x over a number that grows.

        u ← 3·u/(count + damping)

    Attributes:
        damping: What the count begins with.
        power: Its power.
    """
    for state in states:
        state["count"] = state.get("count", 0) + 1
    counts = torch.tensor([s["count"] for s in states]).reshape(-1, *[1] * (x.ndim - 1))
    return helper(x) / (counts + group["damping"]) ** group["power"]


def doubled(p: Any, d: Tensor, lr: float, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Move twice.

    W ← W − 2·lr·d
    """
    p.add_(d, alpha=-2 * lr)


def filled(name: str, slot: str, block: Callable[..., Any]) -> str:
    """The file of a row of which a slot is filled."""
    preset = replace(PRESETS[name])
    object.__setattr__(preset, slot, Damped())
    known = {**rows.SLOTS, slot: ({"Damped": block}, rows.SLOTS[slot][1])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "SLOTS", known)
        patch.setitem(PRESETS, name, preset)  # type: ignore[arg-type]
        return start.text(name)


def stepped(file: Any, name: str, count: int) -> list[Tensor]:
    members = written.params(((4, 3), (3, 4)), torch.float64)
    undecayed = {"weight_decay": 0.0} if name == "Muon" else {}
    optimizer = getattr(file, name)(members, lr=0.1, **undecayed)
    for step in range(count):
        for place, p in enumerate(members):
            p.grad = written.gradient(step, 10 + place, p)
        optimizer.step()
    return [p.detach() for p in members]


def test_every_class_in_a_slot_has_a_block() -> None:
    # As soon as rows have slots: the name of a class that is missing here is in the message.
    for preset in PRESETS.values():
        for slot in SLOTS:
            filler = getattr(preset, slot, None)
            assert filler is None or type(filler).__name__ in rows.SLOTS[slot][0]
    assert tuple(rows.SLOTS) == SLOTS


def test_a_class_without_a_block_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = replace(PRESETS["Muon"])
    object.__setattr__(preset, "after", Damped())
    monkeypatch.setitem(PRESETS, "Muon", preset)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Damped has no block"):
        start.text("Muon")


def test_two_blocks_have_names_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = replace(PRESETS["Muon"])
    for slot in ("before", "after"):
        object.__setattr__(preset, slot, Damped())
    known = {s: ({"Damped": damped}, rows.SLOTS[s][1]) for s in SLOTS}
    monkeypatch.setattr(rows, "SLOTS", known)
    monkeypatch.setitem(PRESETS, "Muon", preset)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'damping', 'power'"):
        start.text("Muon")


@pytest.mark.parametrize("slot", ["before", "after"])
@pytest.mark.parametrize("name", ["Muon", "SGD", "Lion", "Scion"])
def test_a_block_comes_with_its_arguments_and_what_it_needs(name: str, slot: str) -> None:
    content = filled(name, slot, damped)
    assert "damping: float = 0.25" in content and "power: int = 2" in content
    assert "u ← 3·u/(count + damping)" in content
    assert "damping: What the count begins with." in content
    assert "FACTOR = 3.0\n" in content and "def helper(" in content
    assert f"def {slot}(" in content and content.count("def damped") == 0
    if slot == "before" and name != "SGD":  # the length of the average does not matter
        return
    first, plain = (
        stepped(file, name, 1) for file in (written.module(content), written.ejected(name))
    )
    start_at = written.params(((4, 3), (3, 4)), torch.float64)
    for p, q, w in zip(first, plain, start_at, strict=True):
        assert torch.allclose(p - w, (q - w) * 3 / 1.25**2)


def test_weights_may_move_in_another_way() -> None:
    for name in ("Muon", "Lion"):
        plain = stepped(written.ejected(name), name, 3)
        content = filled(name, "retraction", doubled)
        assert "W ← W − 2·lr·d\n" in content and "(1 − lr·weight_decay)·W" not in content
        moved = stepped(written.module(content), name, 3)
        start_at = written.params(((4, 3), (3, 4)), torch.float64)
        for p, q, w in zip(moved, plain, start_at, strict=True):
            assert torch.allclose(p - w, 2 * (q - w))


def test_a_key_that_is_not_described_is_found() -> None:
    def untold(x: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
        """x times a number."""
        return x * group["secret"]

    with pytest.raises(AssertionError, match="secret"):
        filled("Muon", "after", untold)


def test_a_row_without_a_block_for_its_norm_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = Preset(norm=PRESETS["Scion"].norm, source="")
    monkeypatch.setitem(PRESETS, "Muon", preset)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no block for its direction"):
        start.text("Muon")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("if row.dual:\n    a = 1\nelse:\n    a = 2\n    b = 3", "a = 2\nb = 3"),
        ("if row.adamw:\n    a = 1\nelse:\n    a = 2", "a = 1"),
        ("if row.dual:\n    a = 1\nb = 2", "b = 2"),
        ("if row.dual:\n    a = 1\nelif b:\n    a = 2", "if b:\n    a = 2"),
        ('if row.dual:\n    a = 1\nelif row.direction == "polar":\n    a = 2', "a = 2"),
        (
            "if row.adamw and b == '':\n    a = 1\nelse:\n    a = 2",
            "if b == '':\n    a = 1\nelse:\n    a = 2",
        ),
        ("if row.dual and b:\n    a = 1\nelif c:\n    a = 2", "if c:\n    a = 2"),
        (
            "if row.dual or row.adamw:\n    if row.dual:\n        a = 1\n    a = 2  # x",
            "a = 2  # x",
        ),
        ("if b:\n    a = 1", "if b:\n    a = 1"),
    ],
)
def test_questions_about_the_row_are_answered(code: str, expected: str) -> None:
    assert source.folded(code, Row()) == expected


def test_blocks_work_where_they_are() -> None:
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    s = torch.linalg.svdvals(polar.polar_factor(x))
    assert torch.allclose(s, torch.ones_like(s), atol=1e-6)
    state: dict[str, Any] = {}
    u = averages.heavy_ball(x, state, {"momentum": 0.5})
    assert torch.allclose(u, x / 2) and torch.allclose(state["momentum_buffer"], x / 2)
    rows_ = layers.dualize(x, {"layer": "embedding"})
    assert torch.allclose(rows_.square().mean(-1), torch.ones(2, 3, dtype=torch.float64))
    # The class is Muon until a row says otherwise.
    values = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9, "nesterov": True}
    members = written.params(((4, 3),), torch.float64)
    optimizer = optimizers.StackedOptimizer(
        members, **values, adjust_lr_fn=None, adamw=False, split=1
    )
    members[0].grad = written.gradient(0, 10, members[0])
    before = members[0].detach().clone()
    optimizer.step()
    moved = torch.linalg.svdvals((members[0].detach() - 0.99 * before) / 0.1)
    assert torch.allclose(moved, torch.full_like(moved, (4 / 3) ** 0.5), atol=1e-6)
