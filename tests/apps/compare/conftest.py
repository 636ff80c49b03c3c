"""`steepest compare` in this process, on tasks that take no time."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner, Result

from steepest.apps.app import app
from steepest.apps.compare.tasks import TASKS
from tests.apps.compare import fakes
from tests.apps.compare.fakes import FAKE, Invoke


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both tasks are made-up ones."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    for name in TASKS:
        monkeypatch.setitem(TASKS, name, FAKE)  # type: ignore[misc]
    fakes.started.clear()


@pytest.fixture
def compare() -> Invoke:
    """Call `steepest compare`; the result has its exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(
            app,
            ["compare", *map(str, arguments)],
            env={"COLUMNS": "200"},
            catch_exceptions=False,
        )

    return call
