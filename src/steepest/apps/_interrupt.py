"""Ctrl-C while modules are imported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


def _leave(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


@contextmanager
def imports() -> Iterator[None]:
    """Let Ctrl-C end the process at once, and in silence, while the block imports modules.

    Nothing has been begun that could be finished. An exception would not do: what the interpreter
    raises in the middle of a compiled module comes back as an ImportError without a cause.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
