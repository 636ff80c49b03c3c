"""`steepest train` in several processes, as torchrun starts them, without the cost of torchrun."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from torch.distributed import TCPStore

import steepest
from steepest._common.files import Record
from steepest.apps.app import app
from steepest.apps.train import command, execute, trial
from steepest.polar import Svd

EXACT = partial(steepest.Muon, polar=Svd())

# The server has the imports, and a process that it forks needs none.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["tests.apps.train.processes", "steepest.apps.train.parallel.placement", "torch._dynamo"]
)

WAIT = 90.0
"""Seconds for a run of a tiny model; a test that hangs fails after them."""


class Signal(NamedTuple):
    """What a process gets, and after which step: from outside it would come at any, or too late."""

    number: int
    step: int


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of a run, and where their output goes."""

    running: list[BaseProcess]
    logs: list[Path]

    def codes(self) -> list[int | None]:
        """Their exit codes, when they have ended."""
        for process in self.running:
            process.join(WAIT)
        return [process.exitcode for process in self.running]

    def out(self, rank: int) -> str:
        """What a process has printed, without gloo's count of connections in torch 2.10."""
        lines = self.logs[rank].read_text(encoding="utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("[Gloo] Rank "))


def _raise(at: Signal) -> None:
    """Have this process get a signal when it has taken a step."""
    train_step = trial.Trainer.train_step

    def signalled(trainer: trial.Trainer) -> Record:
        record = train_step(trainer)
        if record["step"] == at.step:
            os.kill(os.getpid(), at.number)
        return record

    trial.Trainer.train_step = signalled  # type: ignore[method-assign]


def _run(
    environment: Mapping[str, str], log: Path, arguments: list[str], at: Signal | None
) -> None:
    os.environ.update(environment)
    sys.argv = ["steepest"]
    handle = log.open("w", encoding="utf-8")
    os.dup2(handle.fileno(), 1)
    os.dup2(handle.fileno(), 2)
    sys.stdout = sys.stderr = handle
    # What takes longer than the training of a tiny model, and a Muon that amplifies no rounding.
    trial.SAMPLE = 5
    command.GRACE = 0.0
    execute.write_picture = lambda *_: None  # type: ignore[assignment]
    execute.write_spectra = lambda *_: []  # type: ignore[assignment]
    os.fsync = lambda _: None  # type: ignore[assignment]
    steepest.Muon = EXACT  # type: ignore[assignment,misc]
    if at is not None:
        _raise(at)
    app(arguments)


def launch_store() -> TCPStore:
    """The store of a launch, as torchrun has one that survives the processes."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def kept(store: TCPStore) -> dict[str, object]:
    """The names by which torchrun tells its processes of its store, and that it starts them again.

    Args:
        store: the store of the launch.
    """
    return {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "TORCHELASTIC_MAX_RESTARTS": 3,
    }


@contextmanager
def started(
    world: int,
    folder: Path,
    *arguments: object,
    attempt: int = 0,
    last: Signal | None = None,
    store: TCPStore | None = None,
) -> Iterator[Processes]:
    """`torchrun --nproc-per-node WORLD -m steepest ARGUMENTS`; all are gone after the block.

    Args:
        world: how many processes.
        folder: for their output.
        arguments: of `steepest`.
        attempt: how often torchrun has started them before.
        last: the signal that the last process gets.
        store: that of the launch, which survives its processes; None for a launch without one.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **({} if store is None else kept(store)),
        "WORLD_SIZE": world,
        "LOCAL_WORLD_SIZE": world,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port if store is None else store.port,
        "TORCHELASTIC_RUN_ID": "tests",
        "TORCHELASTIC_RESTART_COUNT": attempt,
        "OMP_NUM_THREADS": 1,
        "COLUMNS": 200,
    }
    logs = [folder / f"log-{rank}" for rank in range(world)]
    running = []
    for rank, log in enumerate(logs):
        own = {**common, "RANK": rank, "LOCAL_RANK": rank}
        texts = {k: str(v) for k, v in own.items()}
        at = last if rank == world - 1 else None
        process = CONTEXT.Process(target=_run, args=(texts, log, [str(a) for a in arguments], at))
        process.start()
        running.append(process)
    try:
        yield Processes(running=running, logs=logs)
    finally:
        for process in running:
            process.kill()
            process.join()
