"""The table of the norms of layers: who reads it, and what its columns have in common."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import steepest
from steepest import norms
from steepest.optim import PRESETS
from steepest.routing.layer_norms import EMBEDDING, HEAD, LAYER_NORMS, LayerNorms, layer_kind
from tools import layer_table

LAYERS = {
    "linear": (nn.Linear(5, 4), "weight"),
    "matrix": (nn.Bilinear(3, 4, 5), "weight"),
    "convolution": (nn.Conv2d(4, 6, 3), "weight"),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), "weight"),
    "depthwise": (nn.Conv1d(4, 4, 3, groups=4), "weight"),
    "embedding": (nn.EmbeddingBag(9, 4), "weight"),
    "gain": (nn.LayerNorm(4), "weight"),
    "bias": (nn.Conv2d(4, 6, 3), "bias"),
    "vector": (nn.LSTM(4, 4), "bias_hh_l0"),
}


def test_the_page_is_made_from_the_rows() -> None:
    text = layer_table.PAGE.read_text(encoding="utf-8")
    assert layer_table.replaced(text) == text, "run: python tools/layer_table.py --write"


def test_every_kind_has_a_module_and_every_row_a_kind() -> None:
    # Only routing knows a head.
    assert {*LAYERS, "head"} == LAYER_NORMS.keys()
    for kind, (module, leaf) in LAYERS.items():
        assert layer_kind(module, leaf, getattr(module, leaf).shape) == kind


@pytest.mark.parametrize("row", LAYER_NORMS.values(), ids=LAYER_NORMS)
def test_a_row_says_why_its_columns_differ(row: LayerNorms) -> None:
    norm = {user: row.norm(user, row.example) for user in ("scion", "modular", "monitor")}
    assert norm["scion"] is not None and norm["monitor"] is not None, "both have every layer"
    assert bool(row.why) == (len(set(norm.values())) > 1)
    assert all(n is None or n.polar is None for n in norm.values()), "methods are the user's"


def test_what_the_columns_have_in_common() -> None:
    w = torch.randn(7, 5, dtype=torch.float64)
    # A multiple of σ₁, which a ratio of two norms loses.
    linear = LAYER_NORMS["linear"]
    ratios = [linear.norm(u, w.shape)(w) / norms.Spectral()(w) for u in ("scion", "monitor")]
    assert float(ratios[0]) == pytest.approx((5 / 7) ** 0.5) and float(ratios[1]) == 1
    assert float(EMBEDDING(w)) == pytest.approx(float(norms.Operator(1, "rms")(w.mT)))
    assert float(HEAD(w)) == pytest.approx(5 * float(norms.Operator(1, float("inf"))(w)))
    # A gain is a diagonal matrix, and a filter a channel moves its output by its taps.
    gain = LAYER_NORMS["gain"].norm("modular", (5,))
    assert float(gain(w[0])) == pytest.approx(float(norms.Operator("rms", "rms")(w[0].diag())))
    filters = torch.full((4, 1, 3), -2.0)
    assert float(LAYER_NORMS["depthwise"].norm("modular", filters.shape)(filters)) == 6
    assert linear.norm("scion", w.shape) == PRESETS["Scion"].norm.with_polar(None)


@pytest.mark.parametrize("kind", ["embedding", "gain", "vector", "linear", "head", "convolution"])
def test_a_row_that_changes_changes_scion_modular_and_the_monitor(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each user reads the table when it is asked, and none has a norm of its own beside it."""
    other = norms.Scaled(norms.RowNorm() if kind in ("embedding", "head") else norms.L2(), 3.0)
    row = LAYER_NORMS[kind]
    changed = LayerNorms(
        layer=row.layer, scion=other, modular=other, monitor=other, step=row.step, why=""
    )
    monkeypatch.setitem(LAYER_NORMS, kind, changed)  # type: ignore[arg-type]
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.Conv1d(4, 4, 3, bias=False), nn.LayerNorm(4), nn.Linear(4, 9)
    )
    names = {"embedding": "0", "convolution": "1", "gain": "2", "head": "3", "linear": "3"}
    if kind not in ("linear", "gain"):  # its hidden norm is an argument, its vectors are alike
        scion = steepest.Scion(model, lr=0.1)
        found = [v.geometry for v in scion.parameter_views()]
        assert other in [g.with_polar(None) for g in found if isinstance(g, norms.Norm)]
    if kind not in ("head", "vector"):
        # Around the norm of a layer is its share of the whole.
        assert steepest.modular(model).blocks[f"{names[kind]}.weight"].norm == other
        adamw = torch.optim.AdamW(model.parameters())
        monitor = steepest.diagnostics.Monitor(model, adamw)
        assert monitor.norms[names[kind]].startswith(str(other))
        monitor.close()
