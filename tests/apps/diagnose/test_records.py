"""Records of a monitor as tables."""

from __future__ import annotations

import math

import numpy as np

from steepest.apps.diagnose.recorded import sides_of
from steepest.apps.diagnose.records import Curves, grid, sigmas, split

RECORDS = [
    {"step": 1, "time": 0.5, "a/b/rms_out": 2.0, "c/rms_out": None, "warnings": ["off"]},
    {"step": 5, "time": 0.6, "warnings": []},
    {"step": 9, "time": 0.7, "c/rms_out": 4, "a/b/rms_out": math.nan, "warnings": ["off", "far"]},
]


def test_a_key_is_split_at_its_last_slash() -> None:
    assert split("a/b/rms_out") == ("a/b", "rms_out")
    assert split("step") == ("", "step")


def test_a_grid_has_the_numbers_where_they_were_and_nothing_else() -> None:
    found = grid(RECORDS, "rms_out")
    assert found is not None
    assert found.layers == ("a/b", "c")
    assert found.steps.tolist() == [1, 9]
    np.testing.assert_array_equal(found.values, [[2.0, math.nan], [math.nan, 4.0]])
    assert found.last() == {"a/b": 2.0, "c": 4.0}
    assert grid(RECORDS, "time") is None
    assert grid(RECORDS, "rms_in") is None


def test_singular_values_are_kept_by_layer_and_step() -> None:
    records = [
        {"step": 1, "a/weight_sigmas": [3.0, 1.0]},
        {"step": 2, "a/weight_sigmas": [4.0, 2.0], "b/weight_sigmas": [], "c/weight_sigmas": None},
        {"step": 3, "a/weight_sigmas": [None, 1.0]},
    ]
    found = sigmas(records)
    assert found is not None
    assert {k: {s: v.tolist() for s, v in r.items()} for k, r in found.values.items()} == {
        "a": {1: [3.0, 1.0], 2: [4.0, 2.0]}
    }
    assert sigmas(RECORDS) is None


def test_sides_are_those_of_the_model_or_as_many_as_there_are_values() -> None:
    assert sides_of({"a.weight": (8, 3, 5, 5), "b": (4,)}, None) == {"a": 8}
    values = {"a": {1: np.ones(5)}, "b": {1: np.ones(64)}}
    assert sides_of({}, Curves(what="", values=values, limits={})) == {"a": 5}
