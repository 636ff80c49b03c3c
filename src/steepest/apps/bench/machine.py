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

from steepest.apps._machine import cpu_name

# Of the many that torch lists, those that decide which type is the fast one.
CAPABILITIES = ("avx2", "avx512_f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_fp16")


def capabilities() -> list[str]:
    """The instructions for matrices that the processor has, as far as torch tells."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    found = ask() if ask is not None else {}
    return [name for name in CAPABILITIES if found.get(name)]


def describe() -> dict[str, Any]:
    """The machine and the command, as plain data."""
    return {
        "cpu": cpu_name(),
        "capabilities": capabilities(),
        # oneDNN, which computes the products, can be told to leave instructions unused.
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "steepest": metadata.version("steepest"),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
