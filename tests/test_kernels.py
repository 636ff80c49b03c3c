"""The command that runs the tests under other kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tools import kernels


@pytest.mark.parametrize("name", kernels.KERNELS)
def test_one_set_of_kernels_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_CBWR", "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    found = kernels.environment(name)
    every = {variable for each in kernels.KERNELS.values() for variable in each}
    assert {k: v for k, v in found.items() if k in every} == kernels.KERNELS[name]
    assert found["PATH"] == os.environ["PATH"]


def test_the_kernels_are_used() -> None:
    code = "import torch; print(torch.backends.cpu.get_cpu_capability())"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=kernels.environment("aten-default"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "DEFAULT"


def test_a_failure_under_one_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(kernel: str, workers: int, paths: list[str]) -> int:
        return int(kernel == "aten-avx2")

    monkeypatch.setattr(kernels, "run", run)
    assert kernels.main(["--kernels", "mkl-compatible", "aten-avx2"]) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "MKL_CBWR=COMPATIBLE" in first
    assert "passed" in first
    assert "failed (pytest ended with 1)" in second
    assert kernels.main(["--kernels", "mkl-compatible"]) == 0
