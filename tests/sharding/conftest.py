"""The processes of the tests end with them."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import forkserver

import pytest

from tests.sharding.pool import close_all

# Its imports take as long as the collection of the tests, and a core of their own.
forkserver.ensure_running()


@pytest.fixture(scope="session", autouse=True)
def _pools() -> Iterator[None]:
    yield
    close_all()
