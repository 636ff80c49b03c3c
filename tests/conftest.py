"""What every test runs under: checked tensor shapes, fixed seeds, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is imported, and inherited by the processes that tests start: results must not
# depend on how many cores this machine has.
os.environ["OMP_NUM_THREADS"] = "1"

import jaxtyping
import pytest
import torch
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

from tests import checking, warned

# Annotations of shapes are checked here only; a user of the library pays nothing for them. The hook
# looks the decorator up when it has put it in front of a function.
jaxtyping.jaxtyped = checking.jaxtyped
install_import_hook("steepest", f"{checking.__name__}.typechecked")

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# One setting wherever the tests run, so that what passes here passes there; hypothesis itself looks
# at the variable CI.
settings.register_profile("default", max_examples=20, derandomize=True, database=None, **_COMMON)
settings.register_profile("nightly", max_examples=1000, derandomize=False, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_configure(config: pytest.Config) -> None:
    """Leave torch alone with the warnings that are about itself."""
    for line in warned.for_pytest():
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same random state, whatever ran before it."""
    torch.set_num_threads(1)
    # `torch.manual_seed` writes down who called it, for accelerators, which takes a millisecond.
    torch.default_generator.manual_seed(0)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations unchecked, as for a user: the library's own errors answer to wrong types."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
