"""Cells measured in this process or in several, one thread each, with the same numbers."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from steepest._common.files import Record
from steepest.apps.reproduce.framework.experiment import Cell

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

Measure = Callable[[Record], Record]
Do = Callable[[Measure, Sequence[Cell]], Iterable[tuple[Cell, Record]]]
"""Measures cells, and gives each with its result when it is finished."""


@contextmanager
def workers(jobs: int, *, alone: bool) -> Iterator[Do]:
    """Something that measures cells in `jobs` processes; they end with the block.

    Args:
        jobs: the number of processes; 1 is this process.
        alone: whether a cell has all threads of this process, rather than one.
    """
    if jobs > 1:
        # A fork would copy the state of torch's threads without the threads.
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin)
        try:
            yield lambda measure, cells: _spread(pool, measure, cells)
        finally:
            # Without this, what is queued would still be measured.
            pool.shutdown(cancel_futures=True)
        return
    threads = torch.get_num_threads()
    try:
        if not alone:
            torch.set_num_threads(1)
        yield lambda measure, cells: ((cell, measure(cell.key)) for cell in cells)
    finally:
        torch.set_num_threads(threads)


def _spread(
    pool: ProcessPoolExecutor, measure: Measure, cells: Sequence[Cell]
) -> Iterator[tuple[Cell, Record]]:
    """The results in the order in which they are finished.

    Raises:
        ChildProcessError: a worker was killed.
    """
    try:
        waiting = {pool.submit(measure, cell.key): cell for cell in cells}
        for future in as_completed(waiting):
            # Popped: a long experiment need not keep every result.
            yield waiting.pop(future), future.result()
    except BrokenProcessPool:
        raise ChildProcessError(
            "a process that measures was killed, as happens when memory runs out; what is finished "
            "is kept: the same command goes on from there, with fewer --jobs if need be"
        ) from None


def _begin() -> None:
    """Prepare a worker: one thread, memory that stays, an end with the process that started it."""
    torch.set_num_threads(1)
    _keep_memory()
    # Ctrl-C reaches every process of the terminal; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _keep_memory() -> None:
    """Have freed memory used again, where the C library is glibc, rather than given back.

    The pages of fresh memory cost a step of the quadratics up to 20 % of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)
        mallopt(M_TRIM_THRESHOLD, 2**30)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started by someone"
    parent.join()
    # A killed parent takes no result: nothing is left to do, or to clean up.
    os._exit(1)
