"""Muon's successors take the steps of their authors' code."""

import pytest

from steepest.optim.presets import FAMILY
from tools.authors import CASES, RUNS, differences

# Guards against zero that the authors add and we do not, in units of what is divided.
GUARDS = {"NorMuon": 1e-12, "AdaMuon": 1e-10, "MuonEq": 1e-10}


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_the_authors_code(name):
    assert max(differences(name).values()) < GUARDS.get(name, 1e-12)


def test_every_row_is_held_against_its_source():
    assert CASES.keys() == RUNS["runs"].keys()
    assert {name.split(",")[0] for name in CASES} == set(FAMILY)
    assert all(run["source"] and run["changes"] for run in RUNS["runs"].values())
