"""Tables of costs: what they refuse, and their way to JSON and back."""

import json
from dataclasses import fields

import pytest

from steepest.polar import Auto, CostTable
from steepest.polar._measured import AVX2_ONE
from steepest.polar.tables import table_of

PAIRS = ((8, 1e-6), (16, 4e-6))


GIVEN = CostTable(product=PAIRS, bfloat16=PAIRS, source='by "hand", µs')


@pytest.mark.parametrize("table", [AVX2_ONE, table_of("accelerator", several=True), GIVEN])
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
        {"product": [[8, 1e-6], [16, 4e-6]], "wide": [[8, 1e-6], [16, 4e-6]]},
        {"product": [[8, 1e-6], [16, 4e-6]], "half": 0.5},
        {"product": [[8, 1e-6], [16, 4e-6]], "bfloat16": 0.5},
        {"product": [[8, 1e-6], [16, 4e-6]], "float16": "ab"},
        {"product": 1e-6},
        {"product": None},
    ],
    ids=str,
)
def test_other_data_is_refused_with_the_remedy(data):
    with pytest.raises(
        ValueError, match=r"table=.*product, bfloat16, float16, inverse, .*--calibrate"
    ):
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
        ({"bfloat16": ((8, 1e-6),)}, "bfloat16=.*two or more sizes, ascending"),
        ({"float16": ((8, 1e-6), (16, -1.0))}, "float16=.*positive sizes and seconds"),
        ({"source": 7}, "source=7: give a text"),
        ({"wide": 0.0}, "wide=0.0: give a positive number"),
        ({"wide": float("inf")}, "wide=inf"),
    ],
    ids=str,
)
def test_costs_that_no_table_can_have(changes, message):
    with pytest.raises(ValueError, match=message):
        CostTable(**{"product": PAIRS, **changes})


def test_a_file_whose_source_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"source=\[\]: give a text"):
        CostTable.from_json({"product": [list(pair) for pair in PAIRS], "source": []})
