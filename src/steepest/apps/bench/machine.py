"""The machine that a measurement was made on."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from steepest._common.cpuinfo import cpu_entries
from steepest.apps._machine import cpu_name
from steepest.polar import processor_class

CPU = torch.device("cpu")

# Of the many that torch lists, those that decide which type is the fast one.
CAPABILITIES = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")

# What chooses the kernels of torch's libraries, or the number of their threads: with some of
# these set a processor does not compute as it does by itself.
VARIABLES = (
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ATEN_CPU_CAPABILITY",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_DEBUG_CPU_TYPE",
    "OPENBLAS_CORETYPE",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
)


def capabilities() -> list[str]:
    """The instructions for matrices that the processor has, as far as torch tells."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    found = ask() if ask is not None else {}
    return [name for name in CAPABILITIES if found.get(name)]


def processor(device: torch.device = CPU) -> dict[str, Any]:
    """The processor: its name, its number in its maker's counting if known, and what it has.

    Args:
        device: the device that is measured, whose class is the one by which `Auto` chooses.
    """
    entries = cpu_entries()
    return {
        "cpu": cpu_name(),
        "vendor": entries.get("vendor_id"),
        "family": entries.get("cpu family"),
        "model": entries.get("model"),
        "stepping": entries.get("stepping"),
        "capabilities": capabilities(),
        "class": processor_class(device),
        "isa": torch.backends.cpu.get_cpu_capability(),
    }


def environment() -> dict[str, str]:
    """The variables among `VARIABLES` that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def describe(device: torch.device = CPU) -> dict[str, Any]:
    """The machine and the command, as plain data.

    Args:
        device: the device that is measured.
    """
    return {
        **processor(device),
        "environment": environment(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "steepest": metadata.version("steepest"),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
    }


def _program() -> list[str]:
    """The words of the call of this program, for a reader on another machine."""
    name = Path(sys.argv[0]).name
    return ["python", "-m", "steepest"] if name == "__main__.py" else [name]
