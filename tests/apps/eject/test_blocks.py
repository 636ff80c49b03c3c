"""Blocks of ejected files: every class that fills a slot of a row has one, and it is followed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from steepest.apps.eject import rows, source, start
from steepest.apps.eject.blocks import averages, layers, optimizers, polar, slots
from steepest.apps.eject.blocks.row import Row
from steepest.optim import PRESETS, Preset
from steepest.optim.choices import SLOTS
from steepest.transforms import Composed
from tests.apps.eject import written


@dataclass(frozen=True)
class Damped:
    """An object in a slot, as a row would have it."""

    damping: float = 0.25
    power: int = 2


FACTOR = 3.0


def helper(x: Tensor) -> Tensor:
    return FACTOR * x


def damped(d: Tensor, states: list[dict[str, Any]], group: dict[str, Any]) -> Tensor:
    """d over a number that grows.

        d ← 3·d/(count + damping)^power

    Attributes:
        damping: What the count begins with.
        power: Its power.
    """
    for state in states:
        state["count"] = state.get("count", 0) + 1
    counts = torch.tensor([s["count"] for s in states]).reshape(-1, 1, 1, 1)
    return helper(d) / (counts + group["damping"]) ** group["power"]


def doubled(w: Tensor, d: Tensor, group: dict[str, Any]) -> Tensor:
    """Move twice.

    W ← W − 2·lr·d
    """
    return w - 2 * group["lr"] * d


def filled(name: str, slot: str, filler: Any, block: Callable[..., Any]) -> str:
    """The file of a row of which a slot is filled."""
    preset = replace(PRESETS[name], **{slot: filler})
    known = {**rows.KNOWN, slot: {**rows.KNOWN[slot], "Damped": block}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "KNOWN", known)
        patch.setitem(PRESETS, name, preset)  # type: ignore[arg-type]
        return start.text(name)


def stepped(file: Any, name: str, count: int) -> list[Tensor]:
    members = written.params(((4, 3), (3, 4)), torch.float64)
    optimizer = getattr(file, name)(members, lr=0.1, weight_decay=0.0)
    for step in range(count):
        for place, p in enumerate(members):
            p.grad = written.gradient(step, 10 + place, p)
        optimizer.step()
    begun = written.params(((4, 3), (3, 4)), torch.float64)
    return [(p - q).detach() for p, q in zip(members, begun, strict=True)]


def test_every_class_in_a_slot_has_a_block() -> None:
    for name, preset in PRESETS.items():
        for slot, known in rows.KNOWN.items():
            filler = getattr(preset, slot)
            for each in getattr(filler, "maps", [filler] if filler else []):
                assert type(each).__name__ in known, f"{name} needs a block in slots.py"
    assert tuple(rows.KNOWN) == SLOTS


# What a block has no use for: another polar method, and a number that no row has before.
UNREAD = {"BalancedRows": {"polar"}, "NormalizedRows": {"eps"}}


def test_every_attribute_is_an_argument() -> None:
    for name, one in written.ROWS.items():
        for slot, known in rows.KNOWN.items():
            filler = getattr(one.preset, slot)
            for each in getattr(filler, "maps", [filler] if filler else []):
                kind = type(each).__name__
                unread = UNREAD.get(kind, set()) if slot == "before" else set()
                _, _, read = source.described(source.function_text(known[kind]))
                assert vars(each).keys() - unread == read.keys(), (
                    f"{name}: {kind} has another attribute"
                )
                assert "eps" not in unread or each.eps == 0


def test_every_block_has_a_row() -> None:
    used = {
        (slot, type(each).__name__)
        for preset in PRESETS.values()
        for slot in SLOTS
        if (filler := getattr(preset, slot)) is not None
        for each in getattr(filler, "maps", [filler])
    }
    assert used == {(slot, name) for slot, known in rows.KNOWN.items() for name in known}
    assert slots.PULL.keys() <= slots.RETRACTION.keys()


@pytest.mark.parametrize("slot", SLOTS)
def test_a_class_without_a_block_is_refused(slot: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "Muon", replace(PRESETS["Muon"], **{slot: Damped()}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no block for Damped"):
        start.text("Muon")


def test_two_blocks_that_read_one_name_are_refused() -> None:
    both = Composed()
    object.__setattr__(both, "maps", (Damped(), Damped()))
    assert "d = damped(d, states, group)" in filled("Muon", "after", both, damped)
    object.__setattr__(both, "maps", (Damped(), Damped(damping=0.5)))
    with pytest.raises(ValueError, match="another block reads another damping"):
        filled("Muon", "after", both, damped)


def test_rows_without_a_polar_factor_have_no_slots() -> None:
    with pytest.raises(ValueError, match="only rows of polar factors"):
        filled("Lion", "after", Damped(), damped)


def test_a_block_comes_with_its_arguments_and_what_it_needs() -> None:
    content = filled("Muon", "after", Damped(), damped)
    assert "        damping: float = 0.25,\n        power: int = 2,\n" in content
    assert "        d ← 3·d/(count + damping)^power\n" in content
    assert "        damping: What the count begins with.\n" in content
    assert "FACTOR = 3.0\n" in content and "def helper(" in content and "filled" not in content
    assert "        d = damped(d, states, group)\n" in content
    first, plain = (
        stepped(written.module(content), "Muon", 1),
        stepped(written.ejected("Muon"), "Muon", 1),
    )
    for p, q in zip(first, plain, strict=True):
        assert torch.allclose(p, q * 3 / 1.25**2)


def test_weights_may_move_in_another_way() -> None:
    content = filled("Muon", "retraction", Damped(), doubled)
    assert "W ← W − 2·lr·d\n" in content and "(1 − lr·weight_decay)·W" not in content
    # Without the factor of the shape, since the block does not take it.
    assert "shape_factor" not in content and "adjust_lr_fn" not in content
    moved, plain = (
        stepped(f, "Muon", 3) for f in (written.module(content), written.ejected("Muon"))
    )
    assert torch.allclose(moved[0], 2 * plain[0] / (4 / 3) ** 0.5)
    assert torch.allclose(moved[1], 2 * plain[1])


def test_a_key_that_is_not_described_is_found() -> None:
    def untold(d: Tensor, group: dict[str, Any]) -> Tensor:
        """d times a number."""
        return d * group["secret"]

    with pytest.raises(AssertionError, match="secret"):
        filled("Muon", "after", Damped(), untold)


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
