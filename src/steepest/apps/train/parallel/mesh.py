"""How the processes of a run share the work: names of `--parallel`, and the grid each one means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from steepest._common.errors import invalid
from steepest.apps._flags import choose

NONE = "none"
PARALLEL = (NONE, "ddp", "fsdp", "tp", "fsdp+tp", "fsdp+tp:N")
TIMEOUT = 300.0
"""Seconds that a process waits for the others before it gives up."""

TENSOR = 2
"""Processes that share the matrices of a block under `fsdp+tp`, unless N says otherwise."""


@dataclass(frozen=True, kw_only=True)
class ProcessGrid:
    """The processes of a run as data × tensor; a process is one place in it.

    Args:
        data: groups over which the windows of a step are divided.
        tensor: processes of a group, over which the matrices of a block are divided.
        sharded: whether each of the `data` groups keeps a part of every parameter (FSDP) instead
            of a copy (DDP).
    """

    data: int = 1
    tensor: int = 1
    sharded: bool = False

    @property
    def in_pieces(self) -> bool:
        """Whether a process holds parts of parameters instead of whole ones."""
        return self.sharded or self.tensor > 1

    def check(self, *, batch: int, heads: int) -> None:
        """Raise unless the windows of a step and the heads of a block can be divided evenly.

        Raises:
            ValueError: they cannot; the message names the flag.
        """
        if batch % self.data:
            share = f"the {self.data} parts of the data cannot have equally many windows"
            raise invalid("batch", batch, f"{share}; give a multiple of {self.data}")
        if heads % self.tensor:
            share = f"{self.tensor} processes cannot have equally many heads"
            raise invalid("heads", heads, f"{share}; give a multiple of {self.tensor}")


def is_known(parallel: str) -> bool:
    """Whether this is a value of `--parallel`.

    Examples:
        >>> is_known("fsdp+tp:4"), is_known("ddp"), is_known("tp:2"), is_known("fsdp+tp:0")
        (True, True, False, False)
    """
    return parallel in PARALLEL[:-1] or re.fullmatch(r"fsdp\+tp:[1-9]\d*", parallel) is not None


def check_parallel(parallel: str) -> None:
    """Raise unless this is a value of `--parallel`.

    Raises:
        ValueError: it is none.
    """
    if not is_known(parallel):
        raise invalid("parallel", parallel, choose(parallel, PARALLEL))


def grid(parallel: str, *, world: int) -> ProcessGrid:
    """The grid that a value of `--parallel` makes of `world` processes.

    Raises:
        ValueError: no grid of that many processes is of this kind.

    Examples:
        >>> grid("fsdp+tp:4", world=8)
        ProcessGrid(data=2, tensor=4, sharded=True)
    """
    kind, _, given = parallel.partition(":")
    tensor = {"tp": world, "fsdp+tp": int(given or TENSOR)}.get(kind, 1)
    if world % tensor:
        raise invalid(
            "parallel",
            parallel,
            f"{world} processes cannot form groups of {tensor}; start a multiple of {tensor} with "
            "torchrun --nproc-per-node, or give fsdp+tp:N with an N that divides them",
        )
    return ProcessGrid(data=world // tensor, tensor=tensor, sharded=kind.startswith("fsdp"))
