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
from typing import Any

import torch

from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest.apps.reproduce.framework.experiment import Cell, Experiment

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

Measure = Callable[[Record], Record]
Do = Callable[[Measure, Sequence[Cell]], Iterable[tuple[Cell, Record]]]
"""Measures cells, and gives each with its result when it is finished."""


def processes(experiment: Experiment[Any], wanted: int | None) -> int:
    """The number of processes that measure the cells of an experiment.

    Raises:
        ValueError: fewer than one, or several for cells that use all cores themselves.
    """
    if wanted is not None and (wanted < 1 or (wanted > 1 and not experiment.parallel)):
        remedy = (
            "give a whole number >= 1"
            if wanted < 1
            else f"each cell of {experiment.name} uses all cores; leave it out"
        )
        raise invalid("jobs", wanted, remedy)
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return wanted or (available or 1 if experiment.parallel else 1)


@contextmanager
def workers(jobs: int, *, alone: bool) -> Iterator[Do]:
    """Something that measures cells in `jobs` processes; they end with the block.

    Cells that are to be `alone` come first, in this process.

    Args:
        jobs: the number of processes; 1 is this process.
        alone: whether every cell has all threads of this process, rather than one.
    """
    if jobs == 1:
        yield lambda measure, cells: _in_turn(measure, cells, alone=alone)
        return
    # A fork would copy the state of torch's threads without the threads.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin)

    def do(measure: Measure, cells: Sequence[Cell]) -> Iterator[tuple[Cell, Record]]:
        yield from _in_turn(measure, [c for c in cells if c.alone], alone=True)
        yield from _spread(pool, measure, [c for c in cells if not c.alone])

    try:
        yield do
    finally:
        # Without this, what is queued would still be measured.
        pool.shutdown(cancel_futures=True)


def _in_turn(
    measure: Measure, cells: Sequence[Cell], *, alone: bool
) -> Iterator[tuple[Cell, Record]]:
    """The results of cells that are measured here, those to be alone first."""
    threads = torch.get_num_threads()
    for cell in sorted(cells, key=lambda c: not c.alone):
        try:
            torch.set_num_threads(threads if alone or cell.alone else 1)
            result = measure(cell.key)
        finally:
            torch.set_num_threads(threads)
        yield cell, result


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
