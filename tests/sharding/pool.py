"""Processes of a gloo group that stay for the whole session, one set for each number of them.

    losses = pool(4).run(train, "fsdp")  # train(rank, 4, "fsdp") on each rank

A function that is run is one of a module of the tests. What it raises comes back with its
traceback, a process that has died or does not answer is reported, and the next run starts new ones.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from tests import warned

TIMEOUT = 60.0
"""Seconds for a collective; a run has twice as many, the start of its processes included."""

GRACE = 2.0
"""Seconds that the others have once one rank has failed: they may be waiting for it."""

# Imported once, by the process that all others are forked from.
PRELOAD = [
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "steepest",
    "pytest",
    "tests.sharding.wells",
]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOAD)


@dataclass(frozen=True)
class Failure:
    """What a rank has brought instead of a result: the type of its error, and the traceback."""

    rank: int
    kind: str
    text: str


class PoolError(Exception):
    """A rank has failed, died or not answered."""


class Pool:
    """`world` processes in one group; see the module."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._workers: list[tuple[ForkServerProcess, Connection]] = []

    def run(
        self, function: Callable[..., Any], *args: Any, timeout: float = 2 * TIMEOUT
    ) -> list[Any]:
        """`function(rank, world, *args)` on every rank; the results in order.

        Raises:
            PoolError: with the traceback of every rank that has none.
        """
        results = self.outcomes(function, *args, timeout=timeout)
        failures = [r for r in results if isinstance(r, Failure)]
        if failures:
            raise PoolError("\n".join(f"rank {f.rank}: {f.kind}\n{f.text}" for f in failures))
        return results

    def outcomes(
        self, function: Callable[..., Any], *args: Any, timeout: float = 2 * TIMEOUT
    ) -> list[Any]:
        """As `run`, with a `Failure` in the place of a result that there is not."""
        if not all(process.is_alive() for process, _ in self._workers):
            self._stop()
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send_bytes(pickle.dumps((function, args)))
        results: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        while len(results) < self.world:
            waiting = {c: r for r, (_, c) in enumerate(self._workers) if r not in results}
            ready = wait(list(waiting), timeout=deadline - time.monotonic())
            if not ready:
                results |= {r: Failure(r, "TimeoutError", "no answer") for r in waiting.values()}
            for connection in ready:
                rank = waiting[connection]
                results[rank] = _receive(connection, rank)
                if isinstance(results[rank], Failure):
                    deadline = min(deadline, time.monotonic() + GRACE)
        if any(isinstance(r, Failure) for r in results.values()):
            self._stop()
        return [results[rank] for rank in range(self.world)]

    def close(self) -> None:
        """Let the processes end by themselves."""
        for process, connection in self._workers:
            connection.close()
            process.join(GRACE)
        self._stop()

    def _start(self) -> None:
        store = Path(tempfile.mkdtemp(prefix="steepest-tests-")) / "store"
        for rank in range(self.world):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(
                target=_serve, args=(theirs, rank, self.world, str(store)), daemon=True
            )
            process.start()
            theirs.close()  # or the end of the process would not be seen
            self._workers.append((process, ours))

    def _stop(self) -> None:
        for process, connection in self._workers:
            process.kill()
            process.join()
            connection.close()
        self._workers = []


_POOLS: dict[int, Pool] = {}


def pool(world: int) -> Pool:
    """The pool of `world` processes; they start with the first run."""
    return _POOLS.setdefault(world, Pool(world))


def close_all() -> None:
    """End every process."""
    while _POOLS:
        _POOLS.popitem()[1].close()


def _receive(connection: Connection, rank: int) -> Any:
    try:
        return pickle.loads(connection.recv_bytes())
    except (EOFError, ConnectionError):
        return Failure(rank, "ProcessExit", "the process has died")


def _serve(connection: Connection, rank: int, world: int, store: str) -> None:
    """Carry out what comes in, until the other side is gone."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # no other machine, no look-up of this one's name
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warned.ignore()
    # Linear layers give views of three-dimensional results; nothing here writes into them.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module")
    gc.freeze()  # what was imported is no garbage and wraps nothing
    limit = timedelta(seconds=TIMEOUT)
    distributed_c10d.default_pg_timeout = limit  # of the groups that a mesh makes
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    while True:
        try:
            function, args = pickle.loads(connection.recv_bytes())
        except EOFError:
            break
        try:
            torch.manual_seed(0)
            answer = function(rank, world, *args)
        except Exception as error:
            answer = Failure(rank, type(error).__name__, traceback.format_exc())
        # Not `send`, which shares the memory of tensors.
        connection.send_bytes(pickle.dumps(answer))
    os._exit(0)  # the group cannot be left in order: the others may be gone
