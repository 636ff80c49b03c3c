"""A bill of materials of a release, and the vulnerabilities that are known of it.

    python tools/supply.py ENVIRONMENT OUT

ENVIRONMENT holds what the wheel asks for, OUT is the folder for the bill. Without a connection to a
service of advisories nothing is known, and it says so: with `--strict` that is an error.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from wheel_smoke import ROOT, run  # noqa: E402

TOOLS = ("pip-audit", "cyclonedx-bom")
SERVICES = ("osv", "pypi")
"""The services that pip-audit asks, until one has answered for every package."""

NAME = "steepest"
INSTALLERS = frozenset({NAME, "pip", "setuptools", "wheel"})
"""Packages of an environment that the wheel does not ask for."""

LIST = """
import json, importlib.metadata as m
print(json.dumps({d.metadata["Name"]: d.version for d in m.distributions()}))
"""

ACCEPTED: dict[str, str] = {}
"""Advisories that a release is made in spite of, each with the reason why it does no harm here."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The vulnerabilities that are known in an environment, and where none could be looked up.

    Args:
        clean: packages without a known vulnerability.
        found: a line for each vulnerability.
        unknown: packages that no service has answered for.
        why: the reason for that.
    """

    clean: tuple[str, ...] = ()
    found: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    why: str = ""

    def lines(self) -> list[str]:
        """The result in words; what was not checked is never called clean."""
        said = [f"vulnerable: {line}" for line in self.found]
        if self.unknown:
            named = ", ".join(self.unknown)
            said.append(f"not checked for vulnerabilities: {named} ({self.why})")
        if self.clean:
            said.append(f"no vulnerability is known of {', '.join(self.clean)}")
        return said

    def fails(self, *, strict: bool) -> bool:
        """Whether it is an error; what was not checked is one if asked to be strict."""
        return bool(self.found) or (strict and bool(self.unknown))


def installed(python: Path) -> dict[str, str]:
    """The packages that the wheel asks for, with the versions that an index has."""
    listed: dict[str, str] = json.loads(run(python, "-I", "-c", LIST, cwd=python.parent))
    return {
        name: version.partition("+")[0]  # an index has no local builds
        for name, version in sorted(listed.items(), key=lambda pair: pair[0].lower())
        if name.lower() not in INSTALLERS
    }


def asked(tools: Path, packages: dict[str, str], service: str) -> tuple[list[Any], str]:
    """The answer of a service, package by package; none, and why, where it did not answer."""
    with tempfile.TemporaryDirectory() as name:
        pins = Path(name) / "pins.txt"
        pins.write_text("".join(f"{k}=={v}\n" for k, v in packages.items()), encoding="utf-8")
        command = [tools / "python", "-m", "pip_audit", "-r", pins, "--no-deps", "--disable-pip"]
        command += ["-f", "json", "--progress-spinner", "off", "--vulnerability-service", service]
        try:
            done = subprocess.run(
                [str(c) for c in command], capture_output=True, text=True, check=False, timeout=300
            )
        except subprocess.TimeoutExpired:
            return [], f"{service}: no answer in 300 s"
    try:
        return list(json.loads(done.stdout)["dependencies"]), ""
    except (ValueError, KeyError, TypeError):
        last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        return [], f"{service}: {last.partition(': ')[0]}"


def audited(
    packages: dict[str, str],
    ask: Callable[[dict[str, str], str], tuple[list[Any], str]],
    services: Sequence[str] = SERVICES,
) -> Audit:
    """Ask the services for vulnerabilities, each for what those before it did not answer.

    Args:
        packages: names and versions.
        ask: gives the answer of a service.
        services: the names of the services.
    """
    left, clean, found, why = dict(packages), [], [], []
    for service in services if left else ():
        answers, reason = ask(left, service)
        for answer in answers:
            name = next((k for k in left if _same(k, answer["name"])), None)
            if name is None or "skip_reason" in answer:
                continue
            left.pop(name)
            new = [v for v in answer["vulns"] if not {v["id"], *v["aliases"]} & ACCEPTED.keys()]
            found += [_line(name, packages[name], v) for v in new]
            clean += [] if new else [name]
        if left and not reason:
            reason = f"{service}: knows nothing of them"
        why.append(reason)
        if not left:
            break
    reasons = "; ".join(filter(None, why)) if left else ""
    return Audit(clean=tuple(clean), found=tuple(found), unknown=tuple(left), why=reasons)


def _same(one: str, other: str) -> bool:
    """Whether two names are of one package, as an index takes them."""
    return one.lower().replace("_", "-").replace(".", "-") == other.lower().replace(
        "_", "-"
    ).replace(".", "-")


def _line(name: str, version: str, vulnerability: dict[str, Any]) -> str:
    aliases = ", ".join(vulnerability["aliases"])
    fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
    known = vulnerability["id"] + (f" ({aliases})" if aliases else "")
    return f"{name} {version}: {known}, fixed in {fixed}"


def write_bill(tools: Path, python: Path, version: str, folder: Path) -> Path:
    """Write the bill of materials of an environment, in CycloneDX's JSON.

    Raises:
        SystemExit: it does not name what it has to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{version}.cdx.json"
    run(
        *(tools / "python", "-m", "cyclonedx_py", "environment", "--output-format", "JSON"),
        *("--pyproject", ROOT / "pyproject.toml", "--mc-type", "library", "--validate"),
        *("--output-reproducible", "--output-file", path, python),
        cwd=folder,
    )
    check_bill(json.loads(path.read_text(encoding="utf-8")), version)
    return path


def check_bill(bill: dict[str, Any], version: str) -> None:
    """Raise unless a bill is of this version and has what it asks for, each with a version.

    Raises:
        SystemExit: something is missing.
    """
    main = bill["metadata"]["component"]
    parts = {c["name"]: c.get("version", "") for c in bill["components"]}
    missing = [name for name in ("torch", "jaxtyping") if not parts.get(name)]
    if (main["name"], main.get("version")) != (NAME, version) or missing:
        raise SystemExit(
            f"error: the bill of materials is of {main['name']} {main.get('version')}, "
            f"without {', '.join(missing) or 'nothing'}"
        )
    edges = {d["ref"]: d.get("dependsOn", []) for d in bill["dependencies"]}
    if len(edges.get(main["bom-ref"], [])) < 2:
        raise SystemExit("error: the bill of materials does not say what depends on what")


def check_supply(tools: Path, python: Path, version: str, folder: Path, *, strict: bool) -> None:
    """Write the bill, ask for vulnerabilities, and say what came of it.

    Args:
        tools: the folder of the programs of an environment with `TOOLS`.
        python: the Python of the environment with the wheel.
        version: the version of the wheel.
        folder: the folder for the bill.
        strict: whether a package that was not checked is an error.

    Raises:
        SystemExit: a vulnerability is known, or nothing could be known and that is an error.
    """
    print(f"bill of materials: {write_bill(tools, python, version, folder)}")
    audit = audited(installed(python), lambda packages, service: asked(tools, packages, service))
    for line in audit.lines():
        print(line)
    if audit.fails(strict=strict):
        raise SystemExit("error: vulnerabilities are known, or could not be looked up")


def main() -> None:
    """Check an environment that is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "environment", type=Path, help="with the wheel, and with pip-audit and cyclonedx-bom"
    )
    parser.add_argument("out", type=Path, help="the folder for the bill of materials")
    parser.add_argument("--strict", action="store_true", help="what is not checked is an error")
    given = parser.parse_args()
    programs = given.environment / ("Scripts" if sys.platform == "win32" else "bin")
    version = json.loads(run(programs / "python", "-I", "-c", LIST, cwd=ROOT))[NAME]
    check_supply(programs, programs / "python", version, given.out, strict=given.strict)


if __name__ == "__main__":
    main()
