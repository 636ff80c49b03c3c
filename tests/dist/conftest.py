"""The processes of the tests end with them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dist.pool import close_all


@pytest.fixture(scope="session", autouse=True)
def _pools() -> Iterator[None]:
    yield
    close_all()
