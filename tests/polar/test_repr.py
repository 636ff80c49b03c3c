"""What schedules, methods and costs print as: short, and different where they differ."""

import dataclasses

import pytest
import torch

from steepest import norms, polar
from steepest.polar import Auto, CostTable, GramNewtonSchulz, NewtonSchulz, Schedule, Zolotarev
from tests.polar.test_methods import METHODS

CONSTANTS = {k: v for k, v in vars(polar).items() if isinstance(v, Schedule)}
DERIVED = [
    polar.polar_express(8),
    polar.polar_express(8, safety=1.02),
    polar.design_schedule(lower=1e-3, error=0.05),
    # Equal in all that is printed as a number.
    polar.design_schedule(lower=1.00001e-3, error=0.05),
]


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_prints_as_its_name(name: str) -> None:
    assert repr(CONSTANTS[name]) == f"polar.{name}"
    assert eval(repr(CONSTANTS[name]), {"polar": polar}) is CONSTANTS[name]


def test_one_changed_coefficient_is_another_text() -> None:
    (a, b, c), *others = polar.JORDAN.coefficients
    changed = dataclasses.replace(polar.JORDAN, coefficients=((a + 1e-6, b, c), *others))
    assert repr(changed) != repr(polar.JORDAN)
    assert repr(changed).startswith("Schedule('jordan', 5 steps, interval [0.001, 1.2], #")


def test_what_is_derived_is_short_and_told_apart() -> None:
    assert len({repr(s) for s in DERIVED}) == len(DERIVED)
    assert max(len(repr(s)) for s in DERIVED) < 80


def test_methods_are_short_and_told_apart() -> None:
    texts = {repr(method) for method in METHODS.values()}
    assert len(texts) == len(set(METHODS.values()))
    assert max(map(len, texts)) < 160


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Auto(), "Auto(error=0.05)"),
        (Auto(error=0.01, resolution=0.1), "Auto(error=0.01, resolution=0.1)"),
        (NewtonSchulz(), "NewtonSchulz(schedule=polar.POLAR_EXPRESS)"),
        (
            GramNewtonSchulz(polar.CANS, torch.bfloat16, tight=True),
            "GramNewtonSchulz(schedule=polar.CANS, dtype=torch.bfloat16, tight=True)",
        ),
        (polar.Svd(), "Svd()"),
        (polar.GramEigh(), "GramEigh()"),
        (Zolotarev(), "Zolotarev(order=4, lower=0.001)"),
        (
            norms.Operator("rms", "rms", polar=Auto()),
            "Operator('rms', 'rms') by Auto(error=0.05)",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_only_what_is_not_at_its_default_is_shown(value: object, text: str) -> None:
    assert repr(value) == text


def test_tables_of_costs_are_told_apart() -> None:
    pairs = ((8, 1e-6), (64, 1e-4))
    tables = [CostTable(product=pairs), CostTable(product=pairs, svd=pairs)]
    tables.append(CostTable(product=((8, 1e-6), (64, 1.001e-4))))
    assert len({repr(Auto(table=t)) for t in tables}) == 3
    assert repr(tables[1]).startswith("CostTable(product, svd: 8…64 rows, #")


def test_a_method_that_is_no_dataclass_prints_as_any_object() -> None:
    class Plain(polar.PolarMethod):
        _factor = accuracy = compute_dtype = None  # type: ignore[assignment]

    assert "Plain object at" in repr(Plain())
