"""Check a release before it is made: build it, install it into empty environments, use it there.

Nothing is published. A bill of materials of what the wheel asks for is left in dist/. Without
`--release` what only a release needs is listed, and is not an error:

    python tools/release_check.py
    python tools/release_check.py --release
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent)]
from supply import TOOLS as SUPPLY_TOOLS  # noqa: E402
from supply import check_supply  # noqa: E402
from wheel_smoke import LIBRARY, ROOT, build_from, run  # noqa: E402

URLS = ("Homepage", "Source", "Documentation", "Changelog", "Issues")
"""The entries of `[project.urls]` that a release must have."""

UNRELEASED = "unreleased"
"""The word in CHANGELOG.md in the place of the date of a version that is not released."""

HEADING = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>\S+)$", flags=re.MULTILINE)

# Of the tests, two files that need data of the sdist or none, and the helpers of the suite.
TESTS = ("tests/polar/test_schedule.py", "tests/norms/test_errors.py")
TOOLS = ("pytest", "hypothesis", "beartype", "griffe", "pyyaml", "pytest-xdist")

TRAIN = ("train", "--steps", "3", "--layers", "1", "--width", "32", "--heads", "2")


def project(root: Path = ROOT) -> dict[str, object]:
    """The table `project` of pyproject.toml, where the version stands."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, object] = tomllib.loads(text)["project"]
    return table


def disagreements(root: Path = ROOT) -> list[str]:
    """Places that say another version than pyproject.toml; they are errors at any time."""
    version = project(root)["version"]
    found = []
    cited = re.search(r"^version: (.+)$", (root / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    if cited is None or cited[1] != version:
        found.append(f"CITATION.cff: write `version: {version}`")
    heading = HEADING.search((root / "CHANGELOG.md").read_text("utf-8"))
    if heading is None or heading["version"] != version:
        found.append(f"CHANGELOG.md: the first version is to be `## [{version}] - {UNRELEASED}`")
    return found


def missing(root: Path = ROOT) -> list[str]:
    """The lines that are left to fill in for a release."""
    urls = project(root).get("urls", {})
    assert isinstance(urls, dict), "a table in pyproject.toml"
    found = [
        f'pyproject.toml, [project.urls]: {name} = "https://…"'
        for name in URLS
        if not str(urls.get(name, "")).startswith("https://")
    ]
    version = project(root)["version"]
    cited = (root / "CITATION.cff").read_text("utf-8")
    if not re.search(r"^repository-code: .?https://", cited, flags=re.MULTILINE):
        found.append('CITATION.cff: repository-code: "https://…"')
    if not re.search(r"^date-released: .?\d{4}-\d\d-\d\d", cited, flags=re.MULTILINE):
        found.append("CITATION.cff: date-released: YYYY-MM-DD")
    heading = HEADING.search((root / "CHANGELOG.md").read_text("utf-8"))
    if heading is None or not re.fullmatch(r"\d{4}-\d\d-\d\d", heading["date"]):
        found.append(f"CHANGELOG.md: ## [{version}] - YYYY-MM-DD")
    # An index shows the README without the files beside it.
    pictures = re.findall(
        r'(?:\]\(|src(?:set)?=")(?!https://)([^)"\s]+\.(?:png|svg))', readme(root)
    )
    if pictures:
        found.append(f"README.md: {len(pictures)} pictures by https://, such as {pictures[0]}")
    return found


def readme(root: Path) -> str:
    """The text that an index shows."""
    return (root / "README.md").read_text(encoding="utf-8")


def copy_of_git(folder: Path) -> Path:
    """The files that git knows, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def environment(folder: Path, *packages: str | Path) -> Path:
    """An empty environment with these packages and all they ask for; the folder of its programs."""
    venv.create(folder, with_pip=True, clear=True)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    install(programs, *packages)
    return programs


def install(programs: Path, *packages: str | Path) -> None:
    """Install packages with what they ask for, in the versions that were tested."""
    command = (programs / "python", "-m", "pip", "install", "-q", "--no-input")
    options = ("--disable-pip-version-check", "-c", ROOT / "constraints.txt")
    run(*command, *options, *packages, cwd=programs.parent)


def use(programs: Path, folder: Path) -> None:
    """Train ten lines, ask the program for help, and train with it."""
    print(run(programs / "python", "-I", "-c", LIBRARY, cwd=folder).partition("\n")[0])
    if "train" not in run(programs / "steepest", "--help", cwd=folder):
        raise SystemExit("error: `steepest --help` does not name `train`")
    out = folder / f"run-{programs.parent.name}"
    run(programs / "steepest", *TRAIN, "--out", out, cwd=folder)
    if not (out / "summary.json").is_file():
        raise SystemExit(f"error: `steepest train` has left no summary in {out}")
    print(f"steepest train --steps 3 works in {programs.parent.name}")


def refuse_without_extra(programs: Path, folder: Path) -> None:
    """Use the library without the extra, and see that the program says how to get it."""
    print(run(programs / "python", "-I", "-c", LIBRARY, cwd=folder).partition("\n")[0])
    message = run(programs / "steepest", "train", cwd=folder, code=2)
    if "pip install '.[train]'" not in message or "Traceback" in message:
        raise SystemExit(f"error: without the extra the program says\n{message}")
    print(f"without the extra: {message.strip()}")


def test_from_sdist(sdist: Path, programs: Path, folder: Path) -> None:
    """Run some tests of an unpacked sdist on the library that was installed from it."""
    install(programs, *TOOLS)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    # The sources move aside: what is tested is what was installed.
    (unpacked / "src").rename(unpacked / "sources")
    command = (programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS)
    print(run(*command, cwd=unpacked).strip().splitlines()[-1])


def main() -> None:
    """Check facts, build, check metadata, install, use."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", action="store_true", help="fail for what a release needs")
    asked = parser.parse_args()
    wrong, left = disagreements(), missing()
    for line in wrong:
        print(f"wrong: {line}")
    for line in left:
        print(f"{'missing' if asked.release else 'not yet'}: {line}")
    if wrong or (asked.release and left):
        raise SystemExit("error: the release is not complete")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, dist = copy_of_git(folder / "source"), folder / "dist"
        build_from(source, dist)
        (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        twine = environment(folder / "twine", "twine")
        print(run(twine / "python", "-m", "twine", "check", "--strict", wheel, sdist, cwd=folder))
        programs = environment(folder / "from-wheel", wheel)
        refuse_without_extra(programs, folder)
        audit = environment(folder / "audit", *SUPPLY_TOOLS)
        version, python = str(project()["version"]), programs / "python"
        check_supply(audit, python, version, ROOT / "dist", strict=asked.release)
        install(programs, f"{wheel}[train]")
        use(programs, folder)
        shutil.rmtree(programs.parent)
        programs = environment(folder / "from-sdist", f"{sdist}[train]")
        use(programs, folder)
        test_from_sdist(sdist, programs, folder)
    print(f"steepest {project()['version']} can be built, installed and used")
    if left:
        print(f"not yet: {len(left)} lines to fill in before a release, listed above")


if __name__ == "__main__":
    main()
