"""The name of the processor, for whatever states a measurement."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def cpu_entries() -> dict[str, str]:
    """The entries of Linux on the first processor, by its own keys; none elsewhere."""
    found: dict[str, str] = {}
    if CPUINFO.is_file():
        for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip(), value.strip())
    return found


def cpu_name() -> str:
    """The name of the processor, as its maker writes it."""
    return cpu_entries().get("model name") or platform.processor() or platform.machine()
