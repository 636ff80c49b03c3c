"""The name of the processor, for whatever states a measurement."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_name() -> str:
    """The name of the processor, as its maker writes it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
