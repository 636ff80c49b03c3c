"""The mesh of devices: stages, replicas, shards of FSDP2, and tensor parallelism."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from steepest._common.errors import invalid

AXES: Mapping[str, str] = {
    "pipeline": "pp",
    "pp": "pp",
    "replicate": "replicate",
    "ddp": "replicate",
    "data": "fsdp",
    "fsdp": "fsdp",
    "shard": "fsdp",
    "tensor": "tp",
    "tp": "tp",
}
"""The names that an axis may have, and what each one is."""

MOST = 2**20
"""Devices in a mesh: a plan has a list of all of them."""


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Devices in four axes, the last one within a node.

    Args:
        pp: stages of a pipeline, each with as many blocks of the model.
        replicate: copies of the model.
        fsdp: shards of a copy along the first axis of every parameter, as FSDP2 cuts.
        tp: shards of every layer along its longer axis; of a stack of experts, by experts.

    Raises:
        ValueError: an axis of less than one device, or more than 2²⁰ devices.

    Examples:
        >>> Mesh.read("data=64,tensor=8")
        Mesh(pp=1, replicate=1, fsdp=64, tp=8)
        >>> print(Mesh(replicate=4, fsdp=8))
        replicate=4,fsdp=8
    """

    pp: int = 1
    replicate: int = 1
    fsdp: int = 1
    tp: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise invalid("mesh", f"{name}={value}", "give each axis one device or more")
        if self.devices > MOST:
            raise invalid("mesh", str(self), f"give at most {MOST} devices")

    @staticmethod
    def read(text: str) -> Mesh:
        """The mesh that a text names.

        Raises:
            ValueError: an axis that is unknown or named twice, or a size that is not whole.
        """
        sizes: dict[str, int] = {}
        for item in text.split(","):
            name, _, size = item.strip().partition("=")
            if name not in AXES or AXES[name] in sizes:
                raise invalid("mesh", text, f"name each axis once, as AXIS=SIZE: {', '.join(AXES)}")
            if not size.isdecimal():
                raise invalid("mesh", text, f"give {name} a whole number of devices")
            sizes[AXES[name]] = int(size)
        return Mesh(**sizes)

    def __str__(self) -> str:
        sizes = [f"{name}={size}" for name, size in vars(self).items() if size > 1]
        return ",".join(sizes) or "fsdp=1"

    @property
    def devices(self) -> int:
        """The number of devices."""
        return self.pp * self.replicate * self.shards

    @property
    def shards(self) -> int:
        """The number of devices that share one copy of the model, or of a stage."""
        return self.fsdp * self.tp

    @property
    def stage(self) -> Mesh:
        """The devices of one stage."""
        return replace(self, pp=1)


def divisors(number: int) -> list[int]:
    """All divisors, ascending.

    Examples:
        >>> divisors(12)
        [1, 2, 3, 4, 6, 12]
    """
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


def meshes(devices: int, node: int) -> Iterator[Mesh]:
    """Every mesh of so many devices in one stage whose tensor parallelism stays within a node.

    Raises:
        ValueError: less than one device, or more than 2²⁰.
    """
    if not 1 <= devices <= MOST:
        raise invalid("devices", devices, f"give a whole number from 1 to {MOST}")
    for tp in divisors(devices):
        if tp <= node and node % tp == 0:
            for fsdp in divisors(devices // tp):
                yield Mesh(replicate=devices // tp // fsdp, fsdp=fsdp, tp=tp)
