"""The frameworks offline, the seed of each test, and the account of what was run."""

from __future__ import annotations

import platform
import time
from importlib import metadata

import pytest
import torch

from tests.frameworks import offline

assert offline.SETTINGS["HF_HUB_OFFLINE"] == "1"

from tests.frameworks.rows import FRAMEWORKS, ROWS  # noqa: E402

STARTED = time.monotonic()
OUTCOMES: dict[str, set[str]] = {}


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known that ties a test to rows of the table."""
    config.addinivalue_line("markers", "row(*names): rows of tests/frameworks/rows.py it shows")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Keep how the tests of each row ended."""
    report = yield
    for mark in item.iter_markers("row"):
        report.user_properties += [("row", name) for name in mark.args]
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how a test ended, whichever process ran it."""
    if report.when == "call" or report.outcome != "passed":
        for key, name in report.user_properties:
            if key == "row":
                ended = "xfailed" if hasattr(report, "wasxfail") else report.outcome
                OUTCOMES.setdefault(name, set()).add(ended)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say versions, rows and minutes, where rows were run."""
    there = {dist.metadata["Name"] for dist in metadata.distributions()}
    if not OUTCOMES or there.isdisjoint(FRAMEWORKS.values()):
        return
    minutes = (time.monotonic() - STARTED) / 60
    versions = []
    for package in ("torch", *FRAMEWORKS.values()):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} is not installed")
    passed = [name for name, ended in OUTCOMES.items() if ended == {"passed"}]
    other = {name: ended for name, ended in OUTCOMES.items() if ended != {"passed"}}
    say = terminalreporter.write_line
    terminalreporter.section("frameworks")
    say(f"{platform.python_implementation()} {platform.python_version()}, {', '.join(versions)}")
    for name, ended in sorted(other.items()):
        say(f"{name}: {', '.join(sorted(ended))}")
    say(f"{len(passed)} of {len(ROWS)} rows passed in {minutes:.1f} minutes")


@pytest.fixture(autouse=True)
def _small_and_seeded(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own for what a framework writes, one thread, one seed."""
    monkeypatch.chdir(str(tmp_path))
    torch.set_num_threads(1)
    torch.manual_seed(0)
