"""Every rule on made-up records: one case where it fires, and one, near it, where it must not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from steepest.apps.diagnose import findings as module
from steepest.apps.diagnose import geometry_rules, layer_rules, loss_rules
from steepest.apps.diagnose.evidence import Evidence, Finding
from steepest.apps.diagnose.findings import RULES, findings, unjudged
from steepest.apps.train.config import Config, OptimizerConfig
from steepest.diagnostics import (
    ConstraintReport,
    ConstraintRow,
    DirectionReport,
    LayerVerdict,
    QuadraticModel,
    Verdict,
)

TUNED = {
    "muon": OptimizerConfig(lr=0.04, weight_decay=0.1, adamw_lr=4e-3),
    "adamw": OptimizerConfig(lr=4e-3, weight_decay=0.01),
}
HIDDEN = frozenset({"a", "b"})


def config(*names: str, **settings: Any) -> Config:
    return Config(optimizers={name: TUNED[name] for name in names}, **{"steps": 100, **settings})


def curve(losses: Sequence[float | None], *, every: int = 10, batch: float = -0.01) -> list[Any]:
    """Validation losses from step 0 on, and minibatches that go by `batch` a step in between."""
    records = [
        {"step": s, "loss": 5.0 + batch * s, "step_ms": 100.0, "optimizer_ms": 10.0}
        for s in range(1, every * (len(losses) - 1) + 1)
    ]
    return [
        {"step": 0, "val_loss": losses[0]},
        *(
            r | ({"val_loss": losses[r["step"] // every]} if r["step"] % every == 0 else {})
            for r in records
        ),
    ]


STEADY = [4.0, 3.0, 2.5, 2.3, 2.2, 2.1, 2.05, 2.03, 2.01, 2.0, 1.995]
FINE = Evidence(metrics=curve(STEADY), config=config("muon"), optimizer="muon", hidden=HIDDEN)


def with_curve(losses: Sequence[float | None], **given: Any) -> Evidence:
    return replace(FINE, metrics=curve(losses, **given))


def warned(cause: str, badness: float | None = None, **more: Any) -> Evidence:
    one = {"layer": "a", "cause": cause, "text": "off", "badness": badness, "remedy": "mend it"}
    return replace(FINE, monitor=[{"step": 3, "findings": [one | more]}])


def watched(quantity: str, **values: Sequence[float]) -> Evidence:
    """Records of a monitor with a quantity of layers over steps."""
    rows = [
        {
            "step": 10 * i,
            **{f"{name.replace('_', '.')}/{quantity}": row[i] for name, row in values.items()},
        }
        for i in range(len(next(iter(values.values()))))
    ]
    return replace(FINE, monitor=rows, tables=frozenset({"head"}), sides={"a": 16, "b": 16})


def falls(**decreases: float) -> DirectionReport:
    rows = {
        (name, ""): QuadraticModel(
            gradient_correlation=-1.0, sharpness=1.0, norm=1.0, best_step=1.0, best_decrease=fall
        )
        for name, fall in decreases.items()
    }
    return DirectionReport(loss=1.0, rows=rows)


def gains(*best: float) -> Verdict:
    def row(ratio: float) -> LayerVerdict:
        return LayerVerdict(
            layer="a",
            shape=(4, 4),
            calls=1,
            nuclear_rank=4.0,
            spread=2.0,
            guaranteed_euclidean=1.0,
            guaranteed_spectral=2.0,
            best_euclidean=1.0,
            best_spectral=ratio,
        )

    return Verdict(loss=1.0, rows=tuple(map(row, best)))


def ball(filled: float) -> ConstraintReport:
    row = ConstraintRow(
        name="a.weight",
        shape=(4, 4),
        domain="Spectral()",
        norm=filled,
        radius=1.0,
        distance=0.0,
        kkt=None,
        note="",
    )
    return ConstraintReport(rows=(row,))


ADAMW = replace(FINE, config=config("adamw"), optimizer="adamw")
MIXED = replace(FINE, config=config("muon", "adamw"), optimizer="muon")
GAIN = {"verdict": gains(2.0, 3.0), "directions": falls(muon=3.0, adam=1.5, gradient=1.0)}
LOSS = {"verdict": gains(0.5, 0.7), "directions": falls(muon=0.6, gradient=1.0)}

CASES: Mapping[Callable[..., Any], tuple[Evidence, str, str, Evidence]] = {
    loss_rules.diverged: (
        with_curve([4.0, 3.0, None]),
        "has diverged",
        "--lr muon=0.013",
        with_curve([4.0, 3.0]),
    ),
    loss_rules.skipped: (
        replace(FINE, skipped=5),
        "5 updates were skipped",
        "--lr muon",
        FINE,
    ),
    loss_rules.rising: (
        with_curve([4.0, 2.5, 2.0, 2.02, 2.05, 2.1]),
        "memorising its text",
        "stop at step 20",
        with_curve([4.0, 2.5, 2.0, 2.01, 2.02, 2.03]),
    ),
    loss_rules.spike: (
        with_curve([4.0, 2.5, 2.9, 2.4, 2.3]),
        "jumped to 1.16 times",
        "--lr muon=0.02",
        with_curve([4.0, 2.5, 2.7, 2.4, 2.3]),
    ),
    loss_rules.constant_schedule: (
        replace(FINE, config=config("muon", schedule="constant")),
        "never settle",
        "--schedule linear",
        replace(ADAMW, config=config("adamw", schedule="constant")),
    ),
    loss_rules.falling: (
        with_curve([*STEADY[:-1], 1.9]),
        "still falling at the end: by 5.0%",
        "--steps 200",
        FINE,
    ),
    loss_rules.unfinished: (
        with_curve(STEADY[:6]),
        "step 50 of 100",
        "--resume",
        FINE,
    ),
    loss_rules.slow_optimizer: (
        replace(FINE, metrics=[r | {"optimizer_ms": 40.0} for r in FINE.metrics[1:]]),
        "takes 40% of the time",
        "--batch",
        FINE,
    ),
    layer_rules.monitored: (
        warned("dead gradient"),
        "Step 3: a: off",
        "mend it",
        replace(FINE, monitor=[{"step": 3, "findings": [], "warnings": []}]),
    ),
    layer_rules.growth: (
        watched("rms_out", b_0=[1.0], b_1=[2.5], b_2=[6.0], b_3=[15.0]),
        "grow by a factor of 2.5 per block in b,",
        "scale down",
        watched("rms_out", b_0=[1.0], b_1=[1.4], b_2=[1.7], b_3=[2.0]),
    ),
    layer_rules.table_rate: (
        watched("update_ratio", a=[0.01] * 3, b=[0.02] * 3, head=[0.3] * 3),
        "changes head 20 times as much",
        "--adamw-lr muon=0.0013",
        watched("update_ratio", a=[0.01] * 3, b=[0.02] * 3, head=[0.1] * 3),
    ),
    layer_rules.low_rank_momentum: (
        watched("momentum_nuclear_rank", a=[1.5], b=[9.0]),
        "1 layer is essentially one direction",
        "--batch",
        watched("momentum_nuclear_rank", a=[2.5], b=[9.0]),
    ),
    layer_rules.balls: (
        replace(FINE, constraint=ball(0.97)),
        "holds 1 weight back",
        "--weight-decay muon=0.05",
        replace(FINE, constraint=ball(0.9)),
    ),
    geometry_rules.try_muon: (
        replace(ADAMW, **GAIN),
        "Along Muon's direction the loss falls 2 times as far as along Adam",
        "--optimizer muon --optimizer adamw",
        replace(MIXED, **GAIN, optimizer="adamw"),
    ),
    geometry_rules.try_other: (
        replace(FINE, **LOSS),
        "falls 0.6 times as far as along the gradient",
        "--optimizer adamw",
        replace(FINE, **GAIN),
    ),
}


def results(rule: Callable[..., Any], evidence: Evidence) -> list[Finding]:
    found = rule(evidence)
    return [found] if isinstance(found, Finding) else list(found or ())


def test_every_rule_has_a_case() -> None:
    assert list(CASES.keys() ^ set(RULES)) == []


@pytest.mark.parametrize("rule", CASES, ids=lambda rule: rule.__name__)
def test_a_rule_fires_where_it_should_and_nowhere_else(rule: Callable[..., Any]) -> None:
    bad, what, advice, good = CASES[rule]
    (found,) = results(rule, bad)
    assert what in found.what and advice in found.advice
    assert found.confidence in ("certain", "likely", "a hint") and found.why
    # Both are parts of a sentence that the page ends.
    assert not (found.what + found.advice).endswith(".")
    assert results(rule, good) == []
    assert found in findings(bad)


def test_a_run_without_fault_has_no_findings() -> None:
    assert findings(FINE) == [] and findings(Evidence()) == []


def test_what_spoils_a_run_comes_first() -> None:
    bad = replace(
        warned("large lr", 2.0), metrics=with_curve([4.0, 3.0, None]).metrics, constraint=ball(0.97)
    )
    assert [f.confidence for f in findings(bad)] == ["certain", "likely", "certain"]
    assert "diverged" in findings(bad)[0].what and "holds" in findings(bad)[-1].what


def test_a_loss_that_rises_with_its_minibatches_is_an_lr_that_is_too_large() -> None:
    (found,) = results(loss_rules.rising, with_curve([4.0, 2.5, 2.0, 2.02, 2.05, 2.1], batch=0.01))
    assert "memorising" not in found.what and "--lr muon=0.013" in found.advice


def test_a_few_skipped_updates_are_no_reason_to_change_anything() -> None:
    (found,) = results(loss_rules.skipped, replace(FINE, skipped=1))
    assert not found.change and found.advice.startswith("they are few")
    (many,) = results(loss_rules.skipped, replace(FINE, skipped=5))
    assert many.change


def test_an_advantage_that_one_of_two_tests_does_not_show_is_none() -> None:
    for given in ({"verdict": gains(1.1)}, {"directions": falls(muon=1.6, adam=1.5, gradient=1.0)}):
        assert results(geometry_rules.try_muon, replace(ADAMW, **{**GAIN, **given})) == []
    (found,) = results(geometry_rules.try_muon, replace(ADAMW, **GAIN))
    assert found.confidence == "a hint" and "weak guide" in found.why


def test_warnings_of_one_cause_are_one_finding_with_the_worst_and_its_remedy() -> None:
    one, two = (
        {"layer": n, "cause": "large lr", "text": f"off by {k}", "badness": k, "remedy": f"do {k}"}
        for n, k in (("a", 2.0), ("b", 3.0))
    )
    found = results(
        layer_rules.monitored,
        replace(FINE, monitor=[{"step": 5, "findings": [one]}, {"step": 9, "findings": [two]}]),
    )
    assert [(f.what, f.advice) for f in found] == [
        ("Step 5: 2 layers, worst b: off by 3.0", "do 3.0")
    ]
    old = replace(FINE, monitor=[{"step": 4, "warnings": ["a: off; halve it"]}])
    assert [(f.what, f.advice) for f in results(layer_rules.monitored, old)] == [
        ("Step 4: a: off", "halve it")
    ]
    short = replace(FINE, monitor=[{"step": 4, "warnings": ["a: off"]}])
    (bare,) = results(layer_rules.monitored, short)
    assert "look at this layer" in bare.advice


def test_a_warm_up_and_missing_numbers_judge_nothing() -> None:
    nan = math.nan
    silent = watched("update_ratio", a=[nan, nan], b=[nan, nan], head=[0.3, 0.3])
    assert results(layer_rules.table_rate, silent) == []
    own = replace(FINE, config=None, optimizer="")
    assert findings(own) == [] and module.unjudged(own)


def test_what_is_not_judged_says_how_to_get_it() -> None:
    assert any("--monitor-every 100" in text for text in unjudged(FINE))
    assert any("steepest Monitor" in text for text in unjudged(Evidence()))
    full = replace(FINE, monitor=[{"step": 1}], **GAIN)
    assert unjudged(full) == []
