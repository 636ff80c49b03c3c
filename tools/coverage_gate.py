"""Line and branch coverage, each package and each kind by itself; below the floor is an error."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

FLOOR = 95.0
PACKAGES = ("steepest/polar", "steepest/optim", "steepest/routing", "steepest/modular_norm")
KINDS = {
    "lines": ("covered_lines", "num_statements"),
    "branches": ("covered_branches", "num_branches"),
}


def read() -> dict[str, dict[str, int]]:
    """Sums of the counts in `.coverage`, by package."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        command = [sys.executable, "-m", "coverage", "json", "--quiet", "-o", str(report)]
        subprocess.run(command, check=True)
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    sums: dict[str, dict[str, int]] = {p: defaultdict(int) for p in PACKAGES}
    for name, entry in files.items():
        for package in PACKAGES:
            if f"/{package}/" in f"/{Path(name).as_posix()}":
                for key in (key for pair in KINDS.values() for key in pair):
                    sums[package][key] += entry["summary"][key]
    return sums


def main() -> int:
    """Print one line a package; 1 if a figure is below the floor."""
    failed = False
    for package, counts in read().items():
        line = f"coverage of {package}:"
        for kind, (covered, total) in KINDS.items():
            share = 100.0 * counts[covered] / counts[total] if counts[total] else 0.0
            failed |= share < FLOOR
            line += f" {kind} {share:.1f} %"
        print(line)
    if failed:
        command = f"{sys.executable} -m coverage report"
        print(f"error: below {FLOOR:g} %; `{command}` lists what no test reaches", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
