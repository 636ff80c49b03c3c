"""The name of the processor, for whatever states a measurement."""

from __future__ import annotations

import platform

from steepest._common.cpuinfo import cpu_entries


def cpu_name() -> str:
    """The name of the processor, as its maker writes it."""
    return cpu_entries().get("model name") or platform.processor() or platform.machine()
