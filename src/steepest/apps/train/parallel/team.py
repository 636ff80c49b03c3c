"""The processes that torchrun has started for one run, and what they say to each other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from steepest._common.errors import invalid
from steepest.apps._process import is_launched
from steepest.apps.train.parallel.mesh import NONE, TIMEOUT, ProcessGrid, grid

T = TypeVar("T")

COMMAND = "torchrun --nproc-per-node 2 -m steepest train --parallel"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A process, as its launcher describes it.

    Args:
        rank: number of the process in the run.
        world: processes of the run.
        local_rank: number of the process on this machine.
        local_world: processes on this machine.
        run_id: torchrun's ID of the launch, which other launches may have as well; empty without
            torchrun.
        restarts: the number of times that torchrun has started them again.
        max_restarts: the number of times that it would.
        token: a secret of this launch alone, the same for all its processes and for those that
            torchrun starts again; empty where it starts none again.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    run_id: str = ""
    restarts: int = 0
    max_restarts: int = 0
    token: str = ""

    @property
    def started(self) -> bool:
        """Whether a launcher has started this process."""
        return bool(self.run_id) or self.world > 1

    def check(self, parallel: str) -> None:
        """Raise unless `--parallel` fits the way this process was started.

        Raises:
            ValueError: one process was told to share, or several were not told how.
        """
        if parallel != NONE and not self.started:
            remedy = f"needs several processes; start them with {COMMAND} {parallel}"
            raise invalid("parallel", parallel, remedy)
        if parallel == NONE and self.world > 1:
            raise invalid(
                "parallel",
                parallel,
                f"{self.world} processes would each train alone, in one folder; add "
                "--parallel ddp, fsdp, tp or fsdp+tp, or start steepest without torchrun",
            )


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """Read the environment; torchrun and other launchers set the first four names.

    Raises:
        ValueError: a name has no whole number, or the number of a process is none of the run.

    Sources:
        https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
    """

    def number(name: str, least: int, below: int | None = None) -> int:
        text = environment.get(name, str(least))
        if not text.isdecimal() or int(text) < least or (below is not None and int(text) >= below):
            wanted = f">= {least}" if below is None else f"from {least} to {below - 1}"
            raise invalid(
                name,
                text,
                f"this variable of the environment is to be a whole number {wanted}; unset it, or "
                f"let torchrun set it: {COMMAND} fsdp",
            )
        return int(text)

    if not is_launched(environment):
        return Launch()
    world, local_world = number("WORLD_SIZE", 1), number("LOCAL_WORLD_SIZE", 1)
    return Launch(
        rank=number("RANK", 0, world),
        world=world,
        local_rank=number(
            "LOCAL_RANK", 0, local_world if "LOCAL_WORLD_SIZE" in environment else None
        ),
        local_world=local_world,
        run_id=environment.get("TORCHELASTIC_RUN_ID", ""),
        restarts=number("TORCHELASTIC_RESTART_COUNT", 0),
        max_restarts=number("TORCHELASTIC_MAX_RESTARTS", 0),
    )


def shared_token(
    started: Launch, environment: Mapping[str, str] = os.environ, *, timeout: float = TIMEOUT
) -> str:
    """The token of a launch: the first process that asks makes it, and all others get the same.

    It lies in the store of torchrun itself, which ends with the launch.

    Args:
        started: the launch as the launcher tells it.
        environment: the names in which torchrun says where its store is.
        timeout: seconds to wait for the store.

    Returns:
        The token; empty if torchrun starts nothing again, or its store ends with the processes, as
        `TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1` has it.
    """
    if not started.max_restarts or environment.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        return ""
    store = TCPStore(
        environment["MASTER_ADDR"],
        int(environment["MASTER_PORT"]),
        is_master=False,
        wait_for_workers=False,
        timeout=timedelta(seconds=timeout),
    )
    found: bytes = store.compare_set("steepest/launch", "", secrets.token_hex(16))
    return found.decode()


@dataclass(kw_only=True, eq=False)
class Team:
    """The processes of a run; the default is one process by itself, which says nothing to anybody.

    Every process must call the same methods in the same order.

    Args:
        rank: number of this process; that of number 0 alone prints and writes.
        size: the number of processes.
        grid: the grid in which they share the work.
        mesh: the grid as torch has it, with the axes "data" and "tensor"; None for one process
            without a process group.
        group: the process group in which they talk, of the team alone; None for one process.
    """

    rank: int = 0
    size: int = 1
    grid: ProcessGrid = field(default_factory=ProcessGrid)
    mesh: DeviceMesh | None = None
    group: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    @property
    def part(self) -> int:
        """The part of the data that this process sees, of `grid.data`."""
        return self.rank // self.grid.tensor

    def gathered(self, value: T) -> list[T]:
        """The value of each process, in the order of their numbers; plain data."""
        if self.group is None:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self.group)
        return found

    def agreed(self, make: Callable[[], T]) -> T:
        """The result of `make` on this process, if it raises nothing on any.

        Raises:
            ValueError, OSError: what the first process that failed has raised; all of them raise
                it.
        """
        error: Exception | None = None
        try:
            value = make()
        except (ValueError, OSError) as caught:
            error = caught
        for found in self.gathered(error):
            if found is not None:
                raise found
        return value

    def first(self, make: Callable[[], T]) -> T:
        """The result of `make` on process 0, which alone calls it; raises what it raises there."""
        own = self.agreed(lambda: make() if self.leads else None)
        return self.gathered(own)[0]  # type: ignore[return-value]

    def sums(self, *values: float) -> list[float]:
        """The sum over the processes of each value."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most(self, value: int) -> int:
        """The largest of the values that the processes have."""
        return int(self._reduced([value], dist.ReduceOp.MAX)[0])

    def _reduced(self, values: Any, operation: Any) -> list[float]:
        if self.group is None:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, operation, group=self.group)
        found: list[float] = tensor.tolist()
        return found

    def disband(self) -> None:
        """End the process groups of a run that has ended well; nothing may be said after it.

        A thread of gloo gives the tensors of the last exchange back to Python, and aborts the
        process if the interpreter ends at that moment. A group waits for its threads when nothing
        holds it any more; FSDP's caches hold the groups of the mesh for ever, and nothing else this
        one, in which the last exchange has been. The command line ends without the interpreter
        (`leave_after`); this is for training that is called from Python.
        """
        self.group = None
        dist.destroy_process_group()


SINGLE = Team()


def take_device(started: Launch) -> None:
    """Let "cuda" mean the GPU of the local rank, before anything else puts something on the first.

    Without as many GPUs nothing is done here, and `launched_workers` raises if they are asked for.
    """
    if started.started and started.local_rank < torch.accelerator.device_count():
        torch.accelerator.set_device_index(started.local_rank)


def is_lost(error: BaseException) -> bool:
    """Whether this error says that another process has gone or has not answered in time."""
    # gloo raises plain RuntimeErrors that name its own sources.
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


@contextmanager
def launched_workers(
    parallel: str, *, device: str, started: Launch, timeout: float = TIMEOUT
) -> Iterator[Team]:
    """The team of this process, for as long as the block lasts.

    Args:
        parallel: a value of `--parallel`; "none" makes a team of one.
        device: the device to compute on; "cuda" is the GPU of the local rank.
        started: the launch as the launcher tells it.
        timeout: seconds that a process waits for the others.

    Raises:
        ValueError: the processes do not make a grid of this kind, or share one GPU.
    """
    if parallel == NONE:
        yield SINGLE
        return
    shape = grid(parallel, world=started.world)
    place = torch.device(device)
    devices = 1 if ":" in device else torch.accelerator.device_count()
    if place.type != "cpu" and started.local_world > devices:
        remedy = f"{started.local_world} processes would share {devices}; start fewer of them, or "
        raise invalid("device", device, f"{remedy}give --device cpu")
    wait = timedelta(seconds=timeout)
    # torchrun keeps its store when it starts the processes again, and in it the addresses of those
    # that are gone, which gloo would try to reach.
    store, rank, size = next(rendezvous("env://", timeout=wait))
    dist.init_process_group(
        dist.get_default_backend_for_device(place),
        store=PrefixStore(f"attempt {started.restarts}", store),
        rank=rank,
        world_size=size,
        timeout=wait,
    )
    mesh = init_device_mesh(
        place.type, (shape.data, shape.tensor), mesh_dim_names=("data", "tensor")
    )
    group = dist.new_group(backend="gloo", timeout=wait)
    team = Team(rank=rank, size=size, grid=shape, mesh=mesh, group=group)
    del group
    yield team
    # After an error the others may be gone, and waiting for them would only delay it.
    team.disband()
