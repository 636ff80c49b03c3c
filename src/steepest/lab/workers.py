"""Cells measured in this process or in several, one thread each, with the same numbers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager

import torch

from steepest._files import Record
from steepest.lab.experiment import Cell

Measure = Callable[[Record], Record]
Do = Callable[[Measure, Sequence[Cell]], Iterable[tuple[Cell, Record]]]
"""Measures cells, and gives each with its result when it is finished."""


@contextmanager
def workers(jobs: int, *, alone: bool) -> Iterator[Do]:
    """Something that measures cells in `jobs` processes; they end with the block.

    Args:
        jobs: how many; 1 is this process.
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
    """The results in the order in which they are finished."""
    waiting = {pool.submit(measure, cell.key): cell for cell in cells}
    for future in as_completed(waiting):
        # Popped: a long experiment need not keep every result.
        yield waiting.pop(future), future.result()


def _begin() -> None:
    """Prepare a worker: one thread, and an end when the process that started it ends."""
    torch.set_num_threads(1)
    # Ctrl-C reaches every process of the terminal; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has been started by someone"
    parent.join()
    # A killed parent takes no result: nothing is left to do, or to clean up.
    os._exit(1)
