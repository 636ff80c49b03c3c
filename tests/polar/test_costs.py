"""Tables of costs: what they refuse, and their way to JSON and back."""

import json
from dataclasses import fields

import pytest

from steepest.polar import Auto, CostTable
from steepest.polar.costs import CPU, PRODUCTS_ONLY

PAIRS = ((8, 1e-6), (16, 4e-6))


@pytest.mark.parametrize("table", [CPU, PRODUCTS_ONLY])
def test_json_and_back(table):
    text = json.dumps(table.to_json(), allow_nan=False)
    again = CostTable.from_json(json.loads(text))
    assert again == table and hash(again) == hash(table)
    assert list(table.to_json()) == [f.name for f in fields(CostTable)]
    assert Auto(table=again) == Auto(table=table)


@pytest.mark.parametrize(
    "data",
    [
        [],
        "product",
        {},
        {"eigh": [[8, 1e-6], [16, 4e-6]]},
        {"product": [[8, 1e-6], [16, 4e-6]], "prodct": []},
        {"product": [[8], [16]]},
        {"product": [[8, "long"], [16, 1.0]]},
        {"product": [8, 16]},
        {"product": [[8, 1e-6], [16, 4e-6]], "wide": "twice"},
        {"product": None},
    ],
    ids=str,
)
def test_other_data_is_refused_with_the_remedy(data):
    with pytest.raises(ValueError, match=r"table=.*product, inverse, eigh, svd.*--calibrate"):
        CostTable.from_json(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"product": ((8, 1e-6),)}, "product=.*two or more sizes, ascending"),
        ({"eigh": ((16, 1e-6), (8, 1e-6))}, "eigh=.*ascending"),
        ({"svd": ((8, 1e-6), (8, 1e-6))}, "svd=.*ascending"),
        ({"product": ((8, 0.0), (16, 1e-6))}, "product=.*positive sizes and seconds"),
        ({"product": ((8, 1e-6), (16, float("nan")))}, "product=.*positive sizes and seconds"),
        ({"product": ((0, 1e-6), (16, 1e-6))}, "product=.*positive sizes and seconds"),
        ({"wide": 0.0}, "wide=0.0: give a positive number"),
        ({"wide": float("inf")}, "wide=inf"),
    ],
    ids=str,
)
def test_costs_that_no_table_can_have(changes, message):
    with pytest.raises(ValueError, match=message):
        CostTable(**{"product": PAIRS, **changes})
