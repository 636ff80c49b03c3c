"""The monitor: its numbers against naive definitions, on any module with any optimizer."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import steepest
from steepest.diagnostics import Monitor
from steepest.diagnostics.monitor import monitor
from steepest.polar import Svd
from tests.refusals import assert_refused

Build = Callable[[nn.Module], Optimizer]


class Tied(nn.Module):
    """A transformer block between an embedding and the head that is tied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(12, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        y: Tensor = self.head(self.block(self.emb(ids))).transpose(1, 2)
        return y


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 5)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, Tensor]] = {
    "conv": (conv_net, torch.randn(6, 1, 4, 4).double(), torch.arange(6) % 5),
    "tied": (Tied, torch.arange(18).reshape(3, 6) % 12, torch.arange(18).reshape(3, 6) * 5 % 12),
}
OPTIMIZERS: dict[str, Build] = {
    "muon": lambda m: steepest.Muon(m, lr=0.02, polar=Svd(), nesterov=True),
    "implicit": lambda m: steepest.Muon(m, lr=0.02, polar=Svd(), nesterov=False, decay="implicit"),
    "cautious": lambda m: steepest.Muon(m, lr=0.02, polar=Svd(), decay="cautious"),
    "lion": lambda m: steepest.Lion(m, lr=1e-3, weight_decay=0.1),
    "descent": lambda m: steepest.SteepestDescent(
        m, steepest.norms.Operator("rms", "rms", polar=Svd()), lr=0.01, weight_decay=0.1
    ),
    "polargrad": lambda m: steepest.SteepestDescent(
        m, steepest.norms.Spectral(polar=Svd()), sharpness=10.0
    ),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.1),
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "torch-muon": lambda m: torch.optim.Muon([p for p in m.parameters() if p.ndim == 2], lr=0.02),
}


def train(
    model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor, *, steps: int = 3
) -> Iterator[dict[str, Tensor]]:
    """Steps; after each the parameters before it."""
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.step()
        yield before


def ranks(x: Tensor) -> dict[str, float]:
    s = torch.linalg.svdvals(x)
    p = s / s.sum()
    return {
        "nuclear_rank": float(s.sum() ** 2 / (s**2).sum()),
        "stable_rank": float((s**2).sum() / s[0] ** 2),
        "effective_rank": math.exp(-float((p * p.clamp(min=1e-300).log()).sum())),
    }


def close(found: Any, expected: float) -> None:
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("model_name", MODELS)
def test_every_number_is_its_naive_definition(model_name: str) -> None:
    make, x, y = MODELS[model_name]
    for name, build in OPTIMIZERS.items():
        model = make().double()
        optimizer = build(model)
        with Monitor(model, optimizer, every=1, quiet=True) as m:
            for before in train(model, optimizer, x, y, steps=2):
                record = m.records[-1]
                for full, p in model.named_parameters():
                    check(record, full.removesuffix(".weight"), p, before[full], m, name)
        assert [r["step"] for r in m.records] == [1, 2]


def check(record: dict[str, Any], layer: str, p: Tensor, w: Tensor, m: Monitor, name: str) -> None:
    found = {k.rpartition("/")[2]: v for k, v in record.items() if k.rpartition("/")[0] == layer}
    assert p.grad is not None
    delta = p.detach() - w
    close(found["weight_rms"], float(w.square().mean().sqrt()))
    close(found["grad_norm"], float(p.grad.norm()))
    if p.ndim < 2:
        size = math.inf if name == "lion" else 2
        if bool(w.any()):
            close(found["update_ratio"], float(delta.norm(size) / w.norm(size)))
        else:
            assert found["update_ratio"] is None
        return
    if "in_proj" not in layer:  # seen as three matrices
        flat = [t.flatten(1) for t in (w, p.grad, delta)]
        close(found["weight_spectral"], float(torch.linalg.matrix_norm(flat[0], 2)))
        for kind, t in zip(("weight", "grad", "update"), flat, strict=True):
            for rank, value in ranks(t).items() if bool(t.any()) else ():
                close(found[f"{kind}_{rank}"], value)
        assert found["weight_sigmas"] == pytest.approx(torch.linalg.svdvals(flat[0]).tolist())
        if m.norms[layer].startswith("Spectral()"):
            close(found["update_ratio"], _norm(flat[2]) / _norm(flat[0]))
    assert found["alignment"] is None or -1 <= found["alignment"] <= 1 + 1e-9


def _norm(x: Tensor) -> float:
    return float(torch.linalg.matrix_norm(x, 2))


def test_our_steps_are_the_duality_map_of_their_average_whatever_the_decay() -> None:
    make, x, y = MODELS["conv"]
    for name in ("muon", "implicit", "cautious", "lion", "descent", "polargrad"):
        model = make().double()
        optimizer = OPTIMIZERS[name](model)
        with Monitor(model, optimizer, every=1, quiet=True) as m:
            list(train(model, optimizer, x, y, steps=4))
        views = optimizer.parameter_views()  # type: ignore[attr-defined]
        moved = {view.param for view in views if view.geometry is not None}
        names = [n.removesuffix(".weight") for n, p in model.named_parameters() if p in moved]
        assert names
        for record in m.records:
            for layer in names:
                close(record[f"{layer}/alignment"], 1.0)
                assert record.get(f"{layer}/polar_error", 0.0) < 1e-6, (name, layer)


def test_polar_error_of_an_inexact_method_is_its_distance_from_the_factor() -> None:
    w = nn.Linear(12, 12, bias=False).double()
    method = steepest.polar.NewtonSchulz(steepest.polar.JORDAN)
    optimizer = steepest.Muon(w.parameters(), lr=0.02, momentum=0.0, nesterov=False, polar=method)
    with Monitor(w, optimizer, every=1, quiet=True) as m:
        optimizer.zero_grad()
        w(torch.randn(40, 12).double()).square().sum().backward()
        optimizer.step()
    assert w.weight.grad is not None
    u, _, vh = torch.linalg.svd(w.weight.grad)
    expected = (method(w.weight.grad) - u @ vh).norm() / math.sqrt(12)
    assert expected > 0.05
    close(m.records[0]["weight/polar_error"], float(expected))


def test_activations_are_those_of_training_in_the_order_of_the_forward_pass() -> None:
    make, x, y = MODELS["conv"]
    model = make().double()
    assert isinstance(model, nn.Sequential)
    optimizer = torch.optim.AdamW(model.parameters())
    halves = x[:3], 3 * x[3:]
    with Monitor(model, optimizer, every=1) as m:
        with torch.no_grad():
            model(100 * x)
        for half in halves:
            F.cross_entropy(model(half), y[:3]).backward()
        with torch.no_grad():
            expected = [model[0](half).square().mean() for half in halves]
        optimizer.step()
    keys = [k.removesuffix("/rms_in") for k in m.records[0] if k.endswith("/rms_in")]
    assert keys == [str(i) for i in range(5)]
    close(m.records[0]["0/rms_in"], float(torch.cat(halves).square().mean().sqrt()))
    close(m.records[0]["0/rms_out"], float((sum(expected) / 2) ** 0.5))


def test_integer_inputs_have_no_size() -> None:
    make, x, y = MODELS["tied"]
    model = make()
    optimizer = torch.optim.AdamW(model.parameters())
    with Monitor(model, optimizer, every=1) as m:
        list(train(model, optimizer, x, y, steps=1))
    assert m.records[0]["emb/rms_in"] is None
    assert m.records[0]["emb/rms_out"] > 0
    assert "head/update_ratio" not in m.records[0], "the tied weight has one name"


def test_a_monitor_changes_nothing_and_leaves_nothing() -> None:
    make, x, y = MODELS["tied"]
    plain, watched = make(), make()
    watched.load_state_dict(plain.state_dict())
    runs = []
    for model in (plain, watched):
        optimizer = steepest.Muon(model)
        with contextmanager(lambda: iter([None]))() if model is plain else _two(model, optimizer):
            list(train(model, optimizer, x, y, steps=4))
        runs.append(list(model.parameters()))
        assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not any(module._forward_hooks for module in watched.modules())


@contextmanager
def _two(model: nn.Module, optimizer: Optimizer) -> Iterator[None]:
    with Monitor(model, optimizer, every=2) as one, Monitor(model, optimizer, every=3) as two:
        yield
    assert [r["step"] for r in one.records] == [1, 2, 4]
    assert [r["step"] for r in two.records] == [1, 3]


def test_only_due_steps_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    make, x, y = MODELS["conv"]
    model = make().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, every=100, step=199, quiet=True) as m:
        list(train(model, optimizer, x, y, steps=1))
        assert m.seconds > 0
        spent = m.seconds
        monkeypatch.setattr(monitor, "snapshot", None)
        list(train(model, optimizer, x, y, steps=5))
    assert m.seconds == spent
    assert [r["step"] for r in m.records] == [200]
    assert 0 < m.overhead < 1


def test_steps_before_the_first_due_one_are_looked_at_more_often() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with Monitor(model, optimizer, every=20) as m:
        list(train(model, optimizer, torch.randn(4, 3), torch.arange(4) % 2, steps=41))
    assert [r["step"] for r in m.records] == [1, 3, 10, 20, 40]


def test_files_hold_each_step_once_and_go_on(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.randn(4, 3), torch.arange(4) % 2
    for step, steps in ((0, 5), (4, 4)):
        with Monitor(model, optimizer, every=2, out=tmp_path, step=step) as m:
            for _ in train(model, optimizer, *data, steps=steps):
                lines = (tmp_path / "monitor.jsonl").read_text().splitlines()
            m.sync()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 4, 6, 8]
    assert m.records == [json.loads(line) for line in lines]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("weight/update_ratio")
    assert [(e.step, e.value) for e in events] == [
        (r["step"], pytest.approx(r["weight/update_ratio"])) for r in m.records
    ]


def test_tensorboard_is_asked_for_only_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monkeypatch.setattr(monitor, "find_spec", lambda _: None)
    assert_refused(
        lambda: Monitor(model, optimizer, out=tmp_path), "tensorboard", "pip install tensorboard"
    )
    assert not model._forward_hooks
    Monitor(model, optimizer, out=tmp_path, tensorboard=False).close()
    assert [p.name for p in tmp_path.iterdir()] == ["monitor.jsonl"]


def test_bad_arguments_are_refused() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    assert_refused(lambda: Monitor(model, optimizer, every=0), "every=0", ">= 1")
    assert_refused(lambda: Monitor(model, optimizer, step=-1), "step=-1", "already taken")


def test_large_matrices_have_randomised_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steepest.diagnostics.spectra._batched.EXACT", 100)
    model = nn.Linear(200, 120, bias=False)
    optimizer = steepest.Muon(model.parameters(), lr=0.02)
    with Monitor(model, optimizer, every=1) as m:
        model(torch.randn(300, 200)).square().sum().backward()
        weight = model.weight.detach().clone()
        optimizer.step()
    record = m.records[0]
    assert record["weight/weight_spectral"] == pytest.approx(_norm(weight), rel=0.05)
    for rank, value in ranks(weight.double()).items():
        assert record[f"weight/weight_{rank}"] == pytest.approx(value, rel=0.15)
    assert record["weight/polar_error"] is None and "weight/weight_sigmas" not in record


def test_a_failure_inside_leaves_the_next_step_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    data = torch.randn(4, 3), torch.arange(4) % 2
    with Monitor(model, optimizer, every=1) as m:
        with monkeypatch.context() as patch:
            patch.setattr(monitor, "snapshot", None)
            with pytest.raises(TypeError):
                list(train(model, optimizer, *data, steps=1))
        list(train(model, optimizer, *data, steps=1))
    assert [r["step"] for r in m.records] == [2]
    assert model.state_dict().keys() == {"weight", "bias"}


def test_a_copy_of_a_watched_model_is_not_watched(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=1, out=tmp_path, tensorboard=False, quiet=True) as monitor:
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert other(torch.ones(1, 4)).shape == (1, 4)
        model(torch.full((1, 4), 100.0)).sum().backward()
        optimizer.step()
    assert monitor.records[0]["0/rms_in"] == pytest.approx(100.0)


def test_inputs_given_by_keyword_are_seen() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(input=x)

    model = Keyword()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with Monitor(model, optimizer, every=1, quiet=True) as monitor:
        model(torch.full((3, 4), 2.0)).sum().backward()
        optimizer.step()
    assert monitor.records[0]["inner/rms_in"] == pytest.approx(2.0)
