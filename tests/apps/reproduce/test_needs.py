"""What each claim needs: below it nothing is decided, and a small run contradicts no large one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steepest.apps.reproduce.framework.claims import UNDECIDED, Claim, Need, Outcome, UndecidedError
from steepest.apps.reproduce.framework.experiment import Reproduction
from steepest.apps.reproduce.table import REPRODUCTIONS
from tests.apps.reproduce.toy import Invoke, Record
from tools.quick_verdicts import DATA, contradictions

CLAIMS = [(r, claim) for r in REPRODUCTIONS.values() for claim in r.claims]
NAMES = [f"{r.name}: {claim.id}" for r, claim in CLAIMS]
# Inequalities of every step, and what one counterexample contradicts or one look shows.
ANY_SIZE = {
    "depth-variance": {"bound", "isometry", "path", "ball"},
    "warm-start": {"root-floor", "newton", "factor"},
    "spectral-constraint": {"contracts-explicit", "contracts-implicit", "follows"},
    "quadratics": {
        *("always-polar", "grid", "floor", "momentum-diagonal", "noise-leaves"),
        *("newton-schulz-leaves", "nuclear-escapes", "vanishing-escapes", "slope", "logarithm"),
    },
}


def scaled(settings: Any) -> list[Record]:
    """Results of which nothing is known but their settings."""
    return [{"scale": settings.fixed()}]


def known(need: Need, results: Sequence[Record]) -> float | None:
    """What results have of something; None where the settings alone do not tell."""
    try:
        return need.has(results)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, UndecidedError):
        return None


@pytest.mark.parametrize("r", list(REPRODUCTIONS.values()), ids=lambda r: r.name)
def test_every_claim_says_what_decides_it(r: Reproduction[Any]) -> None:
    assert {c.id for c in r.claims if not c.needs} == ANY_SIZE.get(r.name, set())


@pytest.mark.parametrize(("r", "claim"), CLAIMS, ids=NAMES)
def test_below_one_of_its_needs_a_claim_is_not_decided(r: Reproduction[Any], claim: Claim) -> None:
    """Whatever is measured: what agrees, what differs, and what cannot be measured."""

    def broken(_: Sequence[Record]) -> Outcome:
        raise UndecidedError("nothing to see")

    def having(value: float, need: Need) -> Need:
        return replace(need, has=lambda _: value)

    checks = [lambda _, holds=holds: Outcome.of(holds, "seen") for holds in (True, False)]
    for i, short in enumerate(claim.needs):
        for check in (*checks, broken):
            needs = tuple(
                having(math.nextafter(n.least, 0) if j == i else n.least, n)
                for j, n in enumerate(claim.needs)
            )
            row = replace(claim, needs=needs, check=check).judge(scaled(r.quick))
            assert row["verdict"] == UNDECIDED
            assert f"needs {short.what} ≥" in row["measured"] and short.why in row["measured"]
            assert check is broken or "seen" in row["measured"]
    enough = tuple(having(n.least, n) for n in claim.needs)
    for check, verdict in zip(checks, ("agrees", "differs"), strict=True):
        assert replace(claim, needs=enough, check=check).judge([])["verdict"] == verdict


@pytest.mark.parametrize("r", list(REPRODUCTIONS.values()), ids=lambda r: r.name)
def test_the_large_settings_are_large_enough(r: Reproduction[Any]) -> None:
    """And the small ones are too small for something, as far as settings tell."""
    pairs = [
        (known(need, scaled(r.full)), known(need, scaled(r.quick)), need.least)
        for claim in r.claims
        for need in claim.needs
    ]
    told = [(full, quick, least) for full, quick, least in pairs if full is not None]
    assert told
    assert all(full >= least for full, _, least in told)
    assert any(quick < least for _, quick, least in told)


def test_results_that_do_not_say_their_size_decide_nothing() -> None:
    need = Need.setting("steps", 10, "too few")
    claim = Claim(id="a", statement="x.", source="s", expected="e", needs=(need,), check=_agrees)
    for results in ([], [{"value": 1}]):
        row = claim.judge(results)
        assert (row["verdict"], "another folder" in row["measured"]) == (UNDECIDED, True)
    assert claim.judge([{"scale": {"steps": 10}}])["verdict"] == "agrees"
    assert Need.setting("seeds", 2, "why").lacking([{"scale": {"seeds": (4, 9)}}]) is None


def _agrees(_: Sequence[Record]) -> Outcome:
    return Outcome.of(True, "seen")


@pytest.mark.parametrize("r", list(REPRODUCTIONS.values()), ids=lambda r: r.name)
def test_stored_claims_are_those_of_the_code(r: Reproduction[Any]) -> None:
    """Source, statement and expectation; and none is decided with less than it needs."""
    data = json.loads((DATA / f"{r.name}.json").read_text(encoding="utf-8"))
    stored = {claim["id"]: claim for claim in data["claims"]}
    assert list(stored) == [claim.id for claim in r.claims]
    for claim in r.claims:
        for field in ("source", "statement", "expected"):
            assert stored[claim.id][field] == getattr(claim, field)
        (run,) = [run for run in data["runs"] if claim.id in run["claims"]]
        lacking = [
            need
            for need in claim.needs
            if (has := known(need, [{"scale": run["settings"]}])) is not None and has < need.least
        ]
        assert not lacking or stored[claim.id]["verdict"] == UNDECIDED


def test_whose_hypothesis_it_is_and_what_is_second_hand_is_said() -> None:
    sources = {c.id: c.source for r, c in CLAIMS if r.name in ("quadratics", "spectral-constraint")}
    for name, source in sources.items():
        assert name.startswith("lower-") == ("hypothesis of this library" in source)
        second_hand = name.startswith(("wins-", "gd-zero-")) or name in {
            *("captions", "kkt", "kkt-partly", "rate"),
        }
        assert second_hand == source.startswith("secondary")


def test_a_contradiction_is_found(tmp_path: Path) -> None:
    stored = json.loads((DATA / "lr-transfer.json").read_text(encoding="utf-8"))["claims"]
    folder = tmp_path / "lr-transfer"
    folder.mkdir()
    path = folder / "claims.json"
    path.write_text(json.dumps([{**c, "verdict": UNDECIDED} for c in stored]), encoding="utf-8")
    assert contradictions(tmp_path) == []
    turned = "agrees" if stored[1]["verdict"] == "differs" else "differs"
    path.write_text(json.dumps([{**stored[1], "verdict": turned}]), encoding="utf-8")
    (line,) = contradictions(tmp_path)
    assert stored[1]["id"] in line and turned in line


@pytest.mark.slow
@pytest.mark.parametrize("name", list(REPRODUCTIONS))
def test_a_small_run_decides_nothing_that_the_large_one_does_not(
    name: str, reproduce: Invoke, tmp_path: Path
) -> None:
    """Every verdict of `--quick` but "not decided" is that of the documented results."""
    assert reproduce(name, "--quick", "--out", tmp_path / name).exit_code == 0
    assert contradictions(tmp_path) == []
    claims = json.loads((tmp_path / name / "claims.json").read_text(encoding="utf-8"))
    decided = [claim for claim in claims if claim["verdict"] != UNDECIDED]
    assert len(decided) >= (24 if name == "quadratics" else len(ANY_SIZE.get(name, ())))
