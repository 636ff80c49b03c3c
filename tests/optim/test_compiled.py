"""The step under torch.compile: one graph, and the results of the step as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.optim.compiled import CASES

ROOT = Path(__file__).resolve().parents[2]


# The others take seconds each.
QUICK = ("muon", "page")


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
