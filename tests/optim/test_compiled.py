"""The step under torch.compile: one graph, and the results of the step as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steepest._common.numerics import product_settings
from steepest.optim import muon
from tests.optim.compiled import CASES
from tests.optim.suite import every_optimizer, loss, model

ROOT = Path(__file__).resolve().parents[2]


# The others take seconds each.
QUICK = ("muon",)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(QUICK, id="quick"),
        pytest.param(
            tuple(n for n in CASES if n not in QUICK), id="others", marks=pytest.mark.slow
        ),
    ],
)
def test_compiled(names):
    command = [sys.executable, "-m", "tests.optim.compiled", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    outcomes = json.loads(done.stdout)
    assert outcomes.keys() == set(names)
    assert not any(outcomes.values()), "\n".join(outcomes.values())


@every_optimizer
def test_a_later_step_sets_no_attribute(make, monkeypatch):
    """torch 2.10 compiles no step that sets an attribute or makes a Newton–Schulz method."""
    optimizer = make(m := model())

    def step():
        loss(m).backward()
        optimizer.step()

    step()  # the first one makes the state

    def refuse(*arguments):
        raise AssertionError(f"in a step: {arguments}")

    monkeypatch.setattr(type(optimizer), "__setattr__", refuse)
    monkeypatch.setattr(muon, "torch_newton_schulz", refuse)
    step()


def test_what_torch_2_10_cannot_trace_is_called_while_tracing():
    assert product_settings._dynamo_marked_constant
