"""The command line in this process, with a small text and a tiny model."""

from __future__ import annotations

import base64
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner, Result

from steepest.apps.app import app
from steepest.apps.train import trial
from tests.apps.train.tiny import TINY, Invoke, words

BLANK = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mP4DwABAQEAHLCMmQAAAABJRU5ErkJggg=="
)
"""A picture of one white pixel."""


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    """Signals do what they do by themselves, also where the tests run under `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what takes longer than training a tiny model: long samples, waiting for disks."""
    monkeypatch.setattr(trial, "SAMPLE", 20)
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def drawn() -> None:
    """The pictures of the test that asks for this are drawn."""


@pytest.fixture(autouse=True)
def _blank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out drawing, which takes longer than a tiny training, where nobody asks for `drawn`."""

    def savefig(figure: Figure, file: BinaryIO, **_: object) -> None:
        file.write(BLANK)

    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A text of 4 000 characters."""
    path = tmp_path / "words.txt"
    path.write_text(words(4000), encoding="utf-8")
    return path


@pytest.fixture
def steepest(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command line; the result has its exit code, stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["steepest"])

    def call(*arguments: object) -> Result:
        return CliRunner().invoke(
            app, [str(a) for a in arguments], env={"COLUMNS": "200"}, catch_exceptions=False
        )

    return call


@pytest.fixture
def tiny(steepest: Invoke, text_file: Path) -> Invoke:
    """`steepest train` with the tiny model on the small text; later flags win."""

    def call(*arguments: object) -> Result:
        return steepest("train", *TINY, "--data", text_file, *arguments)

    return call


@pytest.fixture
def run(tiny: Invoke, tmp_path: Path) -> Path:
    """A finished run of SGD with a monitor."""
    out = tmp_path / "run"
    assert tiny("--optimizer", "sgd", "--monitor-every", 4, "--out", out).exit_code == 0
    return out
