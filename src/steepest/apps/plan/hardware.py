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
        utilization: share of the peak that a training step reaches.
        factors: share of the peak that the products of polar factors reach.
        source: the data sheet of these numbers, a URL; empty for a device of one's own.

    Raises:
        ValueError: a number that is not positive, a share above 1.
    """

    name: str
    half: float
    memory: float
    bandwidth: float
    # Llama 3 405B reached 38 to 43 % on H100s, and recomputed nothing: arXiv 2407.21783, table 4
    # and section 3.3.2.
    utilization: float = 0.4
    # Amsel et al., Dion3 (13 August 2026), appendix E, on an H100: nine matrices 8192 × 28672, six
    # 8192 × 8192 and six 1024 × 8192 take 897 ms, which is 4.96e14 flop by 5 standard steps.
    factors: float = 0.56
    source: str = ""

    def __post_init__(self) -> None:
        _positive(self)
        for name in ("utilization", "factors"):
            if getattr(self, name) > 1:
                raise invalid(name, getattr(self, name), "give a number in (0, 1]")


MESSAGE = 1e-6
"""Seconds for each further partner of an all-to-all. No source, as nothing published tells partners
apart: an assumption, which a plan says wherever it counts."""


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
        all_to_all: the same for an all-to-all.
        message: seconds for each further partner of an all-to-all.
        source: the description of the machine, a URL; empty for one of one's own.

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
    # Amsel et al., Dion3, appendix D.3, figure 21: the least time on four H100s, of which 15 to
    # 17 µs are the host's.
    all_to_all: float = 25e-6
    message: float = MESSAGE
    source: str = ""

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
NVIDIA, AMD = "https://www.nvidia.com", "https://www.amd.com"
DEVICES: Mapping[str, tuple[Device, Links]] = {
    device.name: (device, links)
    for device, links in (
        # NVLink 600 GB/s both ways; DGX A100: a 200 Gb/s port for each GPU.
        (
            Device(
                name="a100",
                half=312 * T,
                memory=80 * G,
                bandwidth=2.039 * T,
                source=f"{NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a100/pdf/"
                "nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf",
            ),
            Links(
                inner=300 * G, outer=25 * G, source="https://docs.nvidia.com/dgx/dgxa100-user-guide"
            ),
        ),
        # 1 979 Tflop/s with sparsity, NVLink 900 GB/s both ways; DGX H100: 400 Gb/s for each GPU.
        (
            Device(
                name="h100",
                half=989 * T,
                memory=80 * G,
                bandwidth=3.35 * T,
                source="https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet",
            ),
            Links(
                inner=450 * G, outer=50 * G, source="https://docs.nvidia.com/dgx/dgxh100-user-guide"
            ),
        ),
        (
            Device(
                name="h200",
                half=989 * T,
                memory=141 * G,
                bandwidth=4.8 * T,
                source=f"{NVIDIA}/en-us/data-center/h200",
            ),
            Links(
                inner=450 * G, outer=50 * G, source="https://docs.nvidia.com/dgx/dgxh100-user-guide"
            ),
        ),
        # An eighth of a DGX B200: 1 440 GB, 64 TB/s; 4.5 Pflop/s with sparsity. Its user guide:
        # NVLink 14.4 TB/s both ways, eight cards of 400 Gb/s.
        (
            Device(
                name="b200",
                half=2250 * T,
                memory=180 * G,
                bandwidth=8 * T,
                source=f"{NVIDIA}/en-us/data-center/dgx-b200",
            ),
            Links(
                inner=900 * G, outer=50 * G, source="https://docs.nvidia.com/dgx/dgxb200-user-guide"
            ),
        ),
        # A 72nd of the rack: 360 Pflop/s with sparsity, 13.4 TB, 576 TB/s, NVLink 130 TB/s both
        # ways. The user guide: 72 GPUs in a domain of NVLink, four cards of 400 Gb/s for four GPUs.
        (
            Device(
                name="gb200",
                half=2500 * T,
                memory=186 * G,
                bandwidth=8 * T,
                source=f"{NVIDIA}/en-us/data-center/gb200-nvl72",
            ),
            Links(
                node=72,
                inner=900 * G,
                outer=50 * G,
                source="https://docs.nvidia.com/dgx/dgxgb200-user-guide",
            ),
        ),
        # Seven links of 128 GB/s both ways to the seven others; machines of eight have a 400 Gb/s
        # port for each.
        (
            Device(
                name="mi300x",
                half=1307.4 * T,
                memory=192 * G,
                bandwidth=5.3 * T,
                source=f"{AMD}/en/products/accelerators/instinct/mi300/mi300x.html",
            ),
            Links(
                inner=448 * G,
                outer=50 * G,
                source=f"{AMD}/en/products/accelerators/instinct/mi300/platform.html",
            ),
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
