"""A tiny run with a monitor, trained once for the tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from steepest.apps.app import app
from steepest.apps.train import trial
from tests.apps.train.tiny import TINY, contents, words


def call(*arguments: object) -> Result:
    """`steepest` with these arguments, on a wide terminal."""
    given = [str(a) for a in arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200"}, catch_exceptions=False)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of 4 000 characters."""
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text(words(4000), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def run(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of Muon and AdamW, with the records of a monitor for Muon alone."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "SAMPLE", 20)
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr("sys.argv", ["steepest"])
        result = call("train", *TINY, "--data", text, "--monitor-every", 4, "--out", folder)
        assert result.exit_code == 0, result.stderr
        (folder / "adamw" / "seed-0" / "monitor.jsonl").unlink()
        yield folder


@pytest.fixture(scope="session")
def diagnosed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The page of the run, and what the command said."""
    before, out = contents(run), tmp_path_factory.mktemp("page") / "page.html"
    result = call("diagnose", run, "--out", out, "--windows", 2)
    assert contents(run) == before, "the run has changed"
    return out, result
