"""Run the test suite under other releases of torch, each in an environment of its own.

    python tools/torch_versions.py                     # both ends of the supported range
    python tools/torch_versions.py 2.14.1 --tests tests/optim tests/sharding --slow

Python and pip are all it needs. An environment is deleted when its tests have ended, however they
ended; `--keep` leaves it there. Everything but torch has the versions of constraints.txt.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# The first release that the range in pyproject.toml admits, and the last that was there to be run.
TESTED = ("2.10.0", "2.14.1")

CORE_FOLDERS = (
    *("_common", "polar", "norms", "maps", "routing", "modular_norm", "optim", "sharding"),
    *("transforms", "retractions"),
    *("diagnostics", "testing"),
)
# What a user of the library meets; the applications are in the other folders of tests.
CORE = (
    *(f"tests/{name}" for name in CORE_FOLDERS),
    *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("test_*.py")),
)

EXTRAS = ("train", "reproduce", "dev", "docs")

STOPS = (signal.SIGINT, signal.SIGTERM)

# Measured on Linux: 7.4 GiB with torch 2.10.0 and its CUDA parts, and what pip unpacks meanwhile.
NEEDED_GIB = 12


def version(text: str) -> str:
    """A release of torch from the command line.

    Raises:
        argparse.ArgumentTypeError: it is none, such as a range or an option of pip.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?(\+\w+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a release of torch: write it as 2.14.1")
    return text


def tests(text: str) -> str:
    """A folder, a file or a test from the command line, known to be there before pip is asked.

    Raises:
        argparse.ArgumentTypeError: it is not there.
    """
    if text.startswith("-") or not (ROOT / text.split("::")[0]).exists():
        raise argparse.ArgumentTypeError(f"{text!r} is not in {ROOT}: name files or folders there")
    return text


def requirements() -> list[str]:
    """The requirements of the library and its extras, but for torch."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    return sorted({line for line in listed if not is_torch(line)})


def is_torch(line: str) -> bool:
    """Whether a line of requirements is about torch itself."""
    return re.match(r"torch\s*([=<>!~;@]|$)", line) is not None


def install(torch: str, folder: Path) -> Path:
    """Make an environment with this torch and the checkout in it; the path of its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(x for x in pinned if not is_torch(x)), encoding="utf-8")
    unpacked = folder / "tmp"
    unpacked.mkdir()
    pip = [str(python), "-m", "pip", "install", "--no-input", "--no-cache-dir", "--quiet"]
    env = {**os.environ, "TMPDIR": str(unpacked)}
    wanted = [f"torch=={torch}", *requirements()]
    subprocess.run([*pip, "-c", str(constraints), *wanted], check=True, env=env)
    # Without its requirements: a release outside the range of pyproject.toml can be tried as well.
    here = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    subprocess.run([*pip, *here], check=True, env=env)
    return python


def run(python: Path, folder: Path, chosen: Sequence[str], slow: bool) -> tuple[str, bool]:
    """Run tests with an environment's Python; their counts in words, and whether all passed."""
    report = folder / "report.xml"
    command = [str(python), "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml")]
    command += ["-p", "no:cacheprovider", f"--junitxml={report}"]
    if slow:
        command += ["-m", "slow or not slow"]
    # A PYTHONPATH would come before what was installed here.
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run([*command, *chosen], check=False, cwd=ROOT, env=env)
    if not report.is_file():
        return f"pytest ended with code {done.returncode} and no report", False
    return counts(report), done.returncode == 0


def counts(report: Path) -> str:
    """How many tests of a report passed, failed and were skipped."""
    suite = next(ET.parse(report).iter("testsuite"))
    total, failed, broken, skipped = (
        int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")
    )
    passed = total - failed - broken - skipped
    return f"{passed} passed, {failed} failed, {broken} errors, {skipped} skipped"


def stop(number: int, _: object) -> None:
    """End the program by way of its clean-up, which would otherwise leave gigabytes there."""
    # `timeout` and impatient people send a second one, which would end the clean-up.
    for each in STOPS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


def attempt(torch: str, arguments: argparse.Namespace) -> tuple[str, bool]:
    """Install one release of torch, run the tests and clean up; a line for the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"steepest-torch-{torch}-", dir=arguments.folder))
    started = time.monotonic()
    print(f"== torch {torch}: an environment in {folder}", flush=True)
    try:
        python = install(torch, folder)
        found, good = run(python, folder, arguments.tests, arguments.slow)
    except subprocess.CalledProcessError as error:
        step = "pip" if "pip" in error.cmd else "venv"
        found, good = f"nothing was run: {step} ended with code {error.returncode}", False
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    where = f", in {folder}" if arguments.keep else ""
    return f"torch {torch}: {found}; {time.monotonic() - started:.0f} s{where}", good


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description="Run the test suite under other releases of torch, "
        "each in an environment that is deleted afterwards."
    )
    parser.add_argument(
        "versions",
        nargs="*",
        type=version,
        metavar="VERSION",
        help=f"releases of torch, such as 2.12.1 (default: {' '.join(TESTED)})",
    )
    parser.add_argument(
        "--tests",
        nargs="+",
        type=tests,
        default=list(CORE),
        metavar="PATH",
        help="files and folders, seen from the checkout (default: the core, without applications)",
    )
    parser.add_argument("--slow", action="store_true", help="run the tests marked slow as well")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help=f"where the environments are made; {NEEDED_GIB} GiB have to be free (default: "
        "%(default)s)",
    )
    arguments = parser.parse_args(argv)
    if not arguments.folder.is_dir():
        parser.error(f"--folder={arguments.folder}: it is not a folder: make it, or name another")
    free = shutil.disk_usage(arguments.folder).free / 2**30
    if free < NEEDED_GIB:
        parser.error(
            f"--folder={arguments.folder}: {free:.1f} GiB are free there, and torch with its CUDA "
            f"parts takes up to {NEEDED_GIB}: free some, or name another folder"
        )
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line a release; 1 if the tests of one did not pass."""
    arguments = parsed(argv)
    for number in STOPS:
        signal.signal(number, stop)
    lines = [attempt(torch, arguments) for torch in arguments.versions or TESTED]
    print("\n".join(line for line, _ in lines))
    return 0 if all(good for _, good in lines) else 1


if __name__ == "__main__":
    raise SystemExit(main())
