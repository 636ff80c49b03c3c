"""Parameters of every shape, each in a quadratic well of its own: nobody needs anybody's gradient.

    loss(t) = Σ over the parameters of ‖W − target(t)‖²/2,    gradient = W − target(t)

Of one step only what the optimizer does passes between the processes, so that many of them can be
tried. The targets move, and the momentum with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from steepest.views import EXPERTS, LINEAR, MatrixView, conv
from tests.sharding.models import mesh

# Name → (shape, how it is matrices). Rows that no number of processes divides, and fewer of them
# than processes; `qkv` is cut across its three matrices.
SHAPES: Mapping[str, tuple[tuple[int, ...], MatrixView | None]] = {
    "wide": ((6, 9), LINEAR),
    "low": ((3, 5), LINEAR),
    "qkv": ((18, 4), MatrixView(split=3)),
    "conv": ((5, 3, 2, 2), conv(2)),
    "experts": ((4, 5, 3), EXPERTS),
    "bias": ((7,), None),
}

Placed = tuple[DeviceMesh, Sequence[Placement]] | None
Named = list[tuple[str, nn.Parameter]]


def placed(layout: str, world: int, number: int, ndim: int) -> Placed:
    """The mesh and the placements of a parameter; None where every process has the whole."""
    across = Shard(number % 2 if ndim > 1 else 0)  # rows and columns in turn
    match layout:
        case "one":
            return None
        case "replicated":
            return mesh(dp=world), [Replicate()]
        case "fsdp":
            return mesh(dp=world), [Shard(0)]
        case "hsdp":
            return mesh(replicate=world // 2, shard=2), [Replicate(), Shard(0)]
        case "tp":
            return mesh(tp=world), [across]
    return mesh(dp=world // 2, tp=2), [Shard(0), across]


class Wells:
    """The parameters on their processes.

    Args:
        layout: "one", "replicated", "fsdp", "hsdp", "tp" or "fsdp+tp".
        world: number of processes.
        dtype: of the parameters.
        shapes: name → (shape, view).
    """

    def __init__(
        self,
        layout: str,
        world: int,
        dtype: torch.dtype,
        shapes: Mapping[str, tuple[tuple[int, ...], MatrixView | None]] = SHAPES,
    ) -> None:
        self.dtype, self.shapes = dtype, shapes
        self._placed = {
            name: placed(layout, world, i, len(shape))
            for i, (name, (shape, _)) in enumerate(shapes.items())
        }
        self.params = {name: nn.Parameter(self._drawn(name, -1)) for name in shapes}

    def _drawn(self, name: str, step: int) -> Tensor:
        """A tensor made from the name and the step, in its place; no process tells another."""
        number = list(self.shapes).index(name)
        generator = torch.Generator().manual_seed(1000 * (step + 1) + number)
        whole = torch.randn(self.shapes[name][0], generator=generator, dtype=torch.float64)
        if self._placed[name] is None:
            return whole.to(self.dtype)
        # Without a source every rank cuts its part out of what it has.
        return distribute_tensor(whole.to(self.dtype), *self._placed[name], src_data_rank=None)

    def matrices(self) -> list[dict[str, Any]]:
        """Groups for a norm of matrices: those that are some, and the rest for AdamW."""
        matrices = {n: v for n, (_, v) in self.shapes.items() if v is not None}
        return [
            {"params": self.named(matrices), "views": tuple(matrices.values())},
            {"params": self.named(n for n in self.shapes if n not in matrices), "adamw": True},
        ]

    def named(self, names: Iterable[str] | None = None) -> Named:
        """(name, parameter) pairs."""
        return [(n, self.params[n]) for n in (self.shapes if names is None else names)]

    def pull(self, step: int) -> list[float]:
        """Set the gradients; what each well adds to the loss in the part that is here."""
        here = []
        for name, p in self.params.items():
            p.grad = p.detach() - self._drawn(name, step) / (1 + step)
            part = p.grad.to_local() if isinstance(p.grad, DTensor) else p.grad
            here.append(part.square().sum().item() / 2)
        return here


def replicas(layout: str, world: int) -> int:
    """How many processes have the same part."""
    return {"replicated": world, "hsdp": world // 2}.get(layout, 1)
