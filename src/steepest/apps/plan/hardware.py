"""Devices and the links between them, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from steepest._common.errors import invalid


def _positive(thing: object) -> None:
    for name, value in vars(thing).items():
        if isinstance(value, int | float) and not (math.isfinite(value) and value > 0):
            raise invalid(name, value, "give a positive number")


@dataclass(frozen=True, kw_only=True)
class Device:
    """An accelerator.

    Args:
        name: the name on the command line.
        half: peak of dense products in float16 and bfloat16, flop/s.
        memory: bytes.
        bandwidth: the bandwidth of its memory, bytes/s.
        utilization: share of a peak that products of matrices reach.

    Raises:
        ValueError: a number that is not positive, a utilization above 1.
    """

    name: str
    half: float
    memory: float
    bandwidth: float
    # Llama 3 405B reached 38 to 43 % on H100s: arXiv 2407.21783, table 4.
    utilization: float = 0.4

    def __post_init__(self) -> None:
        _positive(self)
        if self.utilization > 1:
            raise invalid("utilization", self.utilization, "give a number in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Links:
    """The connections of devices: fast inside a node, slower between nodes.

    Args:
        node: devices in a node.
        inner: bytes/s that a device sends within its node, and receives as many.
        outer: bytes/s that a device sends to other nodes, and receives as many.
        inner_latency: seconds of one hop within a node.
        outer_latency: seconds of one hop between nodes.
        launch: seconds that a collective takes at least.
        message: seconds for each further partner of an all-to-all.

    Raises:
        ValueError: a number that is not positive.
    """

    node: int = 8
    inner: float
    outer: float
    # NCCL, src/graph/tuning.cc: its low-latency protocol over NVLink and over the network, and the
    # base of a ring, which torch's planner of DTensors takes as well.
    inner_latency: float = 0.6e-6
    outer_latency: float = 2.7e-6
    launch: float = 6.6e-6
    # No source: an assumption.
    message: float = 1e-6

    def __post_init__(self) -> None:
        _positive(self)

    def within(self, ranks: int, stride: int = 1) -> int:
        """The number of ranks of a group in a node, its neighbours `stride` devices apart."""
        return max(1, min(ranks, self.node // stride))

    def ring(self, ranks: int, stride: int = 1) -> float:
        """Bytes/s of a device in a ring; rings through all devices of a node use all its ports."""
        local = self.within(ranks, stride)
        return self.inner if local == ranks else min(self.inner, local * self.outer)

    def latency(self, ranks: int, stride: int = 1, *, tree: bool = False) -> float:
        """Seconds of an empty collective: its start, then hops around a ring or along a tree."""
        local = self.within(ranks, stride)
        nodes = math.ceil(ranks / local)
        inner, outer = ranks - nodes, nodes - 1
        if tree:
            inner, outer = math.ceil(math.log2(local)), math.ceil(math.log2(nodes))
        return self.launch + inner * self.inner_latency + outer * self.outer_latency


G, T = 1e9, 1e12
DEVICES: Mapping[str, tuple[Device, Links]] = {
    device.name: (device, links)
    for device, links in (
        # NVIDIA A100 80GB SXM data sheet; DGX A100: a 200 Gb/s port for each GPU.
        (
            Device(name="a100", half=312 * T, memory=80 * G, bandwidth=2.039 * T),
            Links(inner=300 * G, outer=25 * G),
        ),
        # NVIDIA H100 SXM data sheet; DGX H100: a 400 Gb/s port for each GPU.
        (
            Device(name="h100", half=989 * T, memory=80 * G, bandwidth=3.35 * T),
            Links(inner=450 * G, outer=50 * G),
        ),
        # NVIDIA H200 SXM data sheet; DGX H200.
        (
            Device(name="h200", half=989 * T, memory=141 * G, bandwidth=4.8 * T),
            Links(inner=450 * G, outer=50 * G),
        ),
        # NVIDIA DGX B200 data sheet, an eighth of it.
        (
            Device(name="b200", half=2250 * T, memory=180 * G, bandwidth=8 * T),
            Links(inner=900 * G, outer=50 * G),
        ),
    )
}
"""Devices with the links of the machines that they are sold in: products without sparsity, links in
one direction."""


def preset(name: str) -> tuple[Device, Links]:
    """A device and its links.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in DEVICES:
        raise invalid("device", name, f"choose from {', '.join(DEVICES)}")
    return DEVICES[name]
