"""The bill of materials and known vulnerabilities: nothing is clean that was not asked for."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import supply
from tools.release_check import project
from tools.supply import Audit, asked, audited, check_bill, installed

PACKAGES = {"torch": "2.13.0", "jaxtyping": "0.3.11"}
OLD = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.14"], "description": ""}


def answer(name: str, *vulnerabilities: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1", "vulns": list(vulnerabilities)}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "not found"}


def services(**answers: Any) -> Any:
    """A service that is named gives its answers; any other cannot be reached."""

    def ask(packages: dict[str, str], service: str) -> tuple[list[Any], str]:
        if service not in answers:
            return [], f"{service}: ConnectionError"
        return [a for a in answers[service] if a["name"].lower() in packages], ""

    return ask


def test_what_every_service_knows_nothing_of_is_not_checked() -> None:
    """A mirror without advisories answers too, and its answer is no clean bill."""
    for ask in (services(), services(pypi=[skipped("torch"), skipped("jaxtyping")])):
        found = audited(PACKAGES, ask)
        assert found.clean == found.found == () and set(found.unknown) == PACKAGES.keys()
        (line,) = found.lines()
        assert line.startswith("not checked for vulnerabilities: torch, jaxtyping (osv: Conn")
        assert not found.fails(strict=False) and found.fails(strict=True)


def test_what_one_service_knows_is_checked_and_the_rest_is_asked_elsewhere() -> None:
    ask = services(osv=[answer("Torch")], pypi=[answer("jaxtyping", OLD)])
    found = audited(PACKAGES, ask)
    assert found == Audit(
        clean=("torch",),
        found=("jaxtyping 0.3.11: PYSEC-1 (CVE-1), fixed in 2.14",),
    )
    assert found.fails(strict=False)


def test_clean_is_what_was_asked() -> None:
    found = audited(PACKAGES, services(osv=[answer("torch"), answer("jaxtyping")]))
    assert found.lines() == ["no vulnerability is known of torch, jaxtyping"]
    assert not found.fails(strict=True)


def test_an_accepted_vulnerability_has_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(supply.ACCEPTED, "CVE-1", "of a part that is not used here")
    assert not audited(PACKAGES, services(osv=[answer("torch", OLD)])).found
    assert all(reason for reason in supply.ACCEPTED.values())


@pytest.mark.parametrize(
    ("out", "err", "why"),
    [
        ("", "Traceback\n  deep\nrequests.ConnectionError: no host\n", "requests.ConnectionError"),
        ("[]", "", "it said nothing"),
        ("", "", "it said nothing"),
    ],
)
def test_a_service_that_fails_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str, err: str, why: str
) -> None:
    done = subprocess.CompletedProcess([], 1, stdout=out, stderr=err)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert asked(tmp_path, PACKAGES, "osv") == ([], f"osv: {why}")


def test_a_service_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: Any, timeout: float, **__: Any) -> Any:
        raise subprocess.TimeoutExpired("pip-audit", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert asked(tmp_path, PACKAGES, "osv") == ([], "osv: no answer in 300 s")


def test_an_index_is_asked_for_public_versions_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = '{"torch": "2.13.0+cpu", "steepest": "0.1.0", "pip": "26", "Jinja2": "3.1"}'
    monkeypatch.setattr(supply, "run", lambda *_, **__: listed)
    assert installed(Path("python")) == {"Jinja2": "3.1", "torch": "2.13.0"}


def bill(**changes: Any) -> dict[str, Any]:
    main = {"name": "steepest", "version": str(project()["version"]), "bom-ref": "root"}
    parts = [{"name": k, "version": v} for k, v in PACKAGES.items()]
    edges = [{"ref": "root", "dependsOn": ["a", "b"]}]
    made = {"metadata": {"component": main}, "components": parts, "dependencies": edges}
    return {**made, **changes}


def test_a_bill_is_of_this_version_and_whole() -> None:
    check_bill(bill(), str(project()["version"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"components": [{"name": "torch", "version": "2.13.0"}]},
        {"components": [{"name": "torch"}, {"name": "jaxtyping", "version": "1"}]},
        {"metadata": {"component": {"name": "steepest", "version": "0.0.1", "bom-ref": "root"}}},
        {"metadata": {"component": {"name": "other", "version": "0.1.0", "bom-ref": "root"}}},
        {"dependencies": [{"ref": "root"}]},
    ],
)
def test_another_bill_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SystemExit, match="bill of materials"):
        check_bill(bill(**changes), str(project()["version"]))
