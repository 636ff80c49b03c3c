"""Verdicts in words: they agree with their own tests and with the routing."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steepest.diagnostics import LayerVerdict, Verdict, compare_geometries


def made_up(**numbers):
    given = {"nuclear_rank": 4.0, "spread": 2.0, "guaranteed_euclidean": 1.0, **numbers}
    ratio = given["nuclear_rank"] / given["spread"]
    return LayerVerdict(
        layer="a", shape=(4, 4), calls=1, guaranteed_spectral=ratio, stable_rank=2.0, **given
    )


@pytest.mark.parametrize(
    ("numbers", "favours", "words"),
    [
        (
            {"measured_euclidean": 1.0, "measured_spectral": 1.9},
            "spectral",
            "suits Muon: expect about 1.9 times the progress of a gradient step (measured over",
        ),
        (
            {"best_euclidean": 1.0, "best_spectral": 3.0},
            "spectral",
            "about 3 times the progress of a gradient step (each step at its best length; guar",
        ),
        ({"measured_euclidean": -2.0, "measured_spectral": 1.0}, "spectral", "(guaranteed)"),
        (
            {"nuclear_rank": 1.5, "spread": 3.0},
            "euclidean",
            "suits a gradient step: expect about 2 times the progress of Muon",
        ),
        # A test that contradicts the guarantee leaves no verdict, and nothing says both.
        (
            {"measured_euclidean": 2.0, "measured_spectral": 1.0},
            "neither",
            "Muon ahead 2 times; measured over short steps: a gradient step ahead 2 times; nothing",
        ),
        (
            {"nuclear_rank": 1.5, "spread": 3.0, "best_euclidean": 1.0, "best_spectral": 1.2},
            "neither",
            "each step at its best length: Muon ahead 1.2 times; nothing to change",
        ),
        ({"nuclear_rank": 2.05}, "neither", "guaranteed: about equal; nothing to change"),
        ({"nuclear_rank": 1.001, "spread": 1.0}, "neither", "rank one, so both steps agree"),
        ({"routed": "embedding"}, "neither", "not judged: AdamW's by the routing: embe"),
    ],
)
def test_sentences(numbers, favours, words):
    row = made_up(**numbers)
    assert row.favours == favours and words in row.sentence


def test_summaries():
    silent = LayerVerdict(layer="b", shape=(2, 2), calls=0, note="why", best_spectral=float("inf"))
    verdict = Verdict(loss=1.0, rows=(made_up(), silent, made_up(routed="head")))
    assert len(verdict) == 3 and verdict["b"].sentence == "not judged: why"
    plain = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert plain["rows"][0]["favours"] == "spectral" and plain["rows"][1]["best_spectral"] is None
    assert plain["summary"] == (
        "The one layer that could be judged suits Muon. Expect about 2 times the progress of a "
        "gradient step along Muon's direction here (median over these layers). Not judged: b (why)"
        "; a (AdamW's by the routing: head)."
    )
    assert "weak guide" in verdict.caveat and verdict.caveat in str(verdict)
    both = Verdict(loss=1.0, rows=(made_up(), made_up(best_euclidean=1.0, best_spectral=3.0)))
    assert both.summary.startswith("All 2 layers that could be judged suit Muon.")
    rows = (made_up(), made_up(nuclear_rank=1.5, spread=3.0), made_up(nuclear_rank=2.0))
    assert Verdict(loss=1.0, rows=rows).summary.startswith(
        "Of 3 layers that could be judged 1 suit Muon, 1 a gradient step, and 1 are undecided."
    )


def test_what_the_routing_gives_to_adamw_has_numbers_and_no_verdict():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12))
    ids = torch.randint(12, (40,))
    verdict = compare_geometries(model, lambda m, x: F.cross_entropy(m(x), (x + 1) % 12), ids)
    row = verdict["0"]
    assert row.nuclear_rank is not None and row.routed and not row.judged
    assert row.favours == "neither" and "AdamW" in row.sentence
    assert verdict["1"].judged and "0 (" in verdict.summary.partition("Not judged: ")[2]
