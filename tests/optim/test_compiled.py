"""The step under torch.compile: one graph, and the results of the step as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.optim.compiled import CASES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def outcomes():
    command = [sys.executable, "-m", "tests.optim.compiled"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", CASES)
def test_compiled(outcomes, case):
    assert not outcomes[case], outcomes[case]
