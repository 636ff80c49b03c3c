"""The command line in this process, with a reproduction that takes no time among the others."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner, Result

from steepest.apps.app import app
from steepest.apps.reproduce.names import TITLES
from steepest.apps.reproduce.table import REPRODUCTIONS
from tests.apps.reproduce import toy
from tests.apps.reproduce.toy import Invoke


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setitem(REPRODUCTIONS, "toy", toy.TOY)  # type: ignore[misc]
    monkeypatch.setitem(TITLES, "toy", toy.TOY.title)  # type: ignore[misc]
    toy.measured.clear()


@pytest.fixture
def reproduce() -> Invoke:
    """Call `steepest reproduce`; the result has its exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(
            app,
            ["reproduce", *map(str, arguments)],
            env={"COLUMNS": "200"},
            catch_exceptions=False,
        )

    return call
