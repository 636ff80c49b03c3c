"""The numerical tests under other kernels of the same libraries, as other processors have them.

    python tools/kernels.py [PATH ...] [--workers 2] [--kernels NAME ...]

A processor chooses how MKL, ATen and oneDNN round. These environments make them choose otherwise,
each for a process of its own, so that one machine stands for several.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NUMERICAL = tuple(
    f"tests/{name}" for name in ("polar", "norms", "maps", "modular_norm", "optim", "diagnostics")
)
KERNELS = {
    "mkl-compatible": {"MKL_CBWR": "COMPATIBLE"},
    "mkl-avx2-strict": {"MKL_CBWR": "AVX2,STRICT"},
    "aten-default": {"ATEN_CPU_CAPABILITY": "default"},
    "aten-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "onednn-avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "onednn-avx512-bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
}


def environment(kernel: str) -> dict[str, str]:
    """The environment of this process with the kernels of one name and no others."""
    others = {variable for each in KERNELS.values() for variable in each}
    own = {key: value for key, value in os.environ.items() if key not in others}
    return {**own, "OMP_NUM_THREADS": "1", **KERNELS[kernel]}


def run(kernel: str, workers: int, paths: Sequence[str]) -> int:
    """pytest under one set of kernels; its exit status."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), "--dist", "worksteal"]
    done = subprocess.run([*command, *paths], cwd=ROOT, env=environment(kernel), check=False)
    return done.returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Run them one after the other; 1 if a test has failed under any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--workers", type=int, default=2, help="processes of pytest")
    parser.add_argument("paths", nargs="*", default=list(NUMERICAL), metavar="PATH")
    given = parser.parse_args(argv)
    rows = []
    for kernel in given.kernels:
        start = time.monotonic()
        status = run(kernel, given.workers, given.paths)
        setting = " ".join(f"{k}={v}" for k, v in KERNELS[kernel].items())
        word = "passed" if status == 0 else f"failed (pytest ended with {status})"
        rows.append((status, f"{kernel:20}{setting:38}{word}, {time.monotonic() - start:.0f} s"))
    print("\n".join(line for _, line in rows))
    return int(any(status for status, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
