"""Norms and maps of tensors that four processes hold in parts: as of the whole, for few bytes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

from steepest import maps, norms
from steepest.norms import BlockLayout, Coupling
from steepest.routing.table import route
from steepest.sharding.counter import CollectiveCounter
from tests.routing import zoo
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

FLAT, SQUARE = (4,), (2, 2)


@dataclass(frozen=True)
class Layout:
    """A tensor of this shape on a mesh of four."""

    shape: tuple[int, ...]
    mesh: tuple[int, ...]
    placements: tuple[Placement, ...]


# FSDP2 over tensor parallel cuts a row block of each rank once more.
STRIDED = (_StridedShard(0, split_factor=2), Shard(0))
LAYOUTS = (
    Layout((7, 5), FLAT, (Shard(0),)),
    Layout((3, 4), FLAT, (Shard(0),)),  # one rank holds nothing
    Layout((5, 7), FLAT, (Shard(1),)),
    Layout((4, 2), FLAT, (Shard(1),)),
    Layout((6, 5), SQUARE, (Shard(0), Shard(1))),
    Layout((1, 5), SQUARE, (Shard(0), Shard(1))),
    Layout((8, 5), SQUARE, STRIDED),
    Layout((7, 5), SQUARE, STRIDED),
    Layout((6, 4), SQUARE, (Replicate(), Shard(0))),
    Layout((3, 4, 5), FLAT, (Shard(0),)),  # experts
    Layout((2, 5, 3), SQUARE, (Shard(0), Shard(1))),
    Layout((6, 2, 3, 3), FLAT, (Shard(0),)),
    Layout((3, 2, 3, 3), FLAT, (Shard(0),)),
)
VECTORS = (
    Layout((5,), FLAT, (Shard(0),)),
    Layout((2,), SQUARE, (Shard(0), Shard(0))),
    Layout((), FLAT, (Replicate(),)),
)
KERNELS = tuple(layout for layout in LAYOUTS if len(layout.shape) == 4)

NORMS = (
    *((norm, (*LAYOUTS, *VECTORS)) for norm in (norms.L1(), norms.L2(), norms.Lp(3))),
    *((norm, (*LAYOUTS, *VECTORS)) for norm in (norms.LInf(), norms.RMS())),
    *((norm, LAYOUTS) for norm in (norms.Lp(1, dims=-1), norms.L2(dims=-2), norms.Frobenius())),
    *((norm, LAYOUTS) for norm in (norms.RowNorm(), norms.ColumnNorm(3))),
    *((norm, LAYOUTS) for norm in (norms.RowNorm(math.inf), norms.Operator(1, "rms"))),
    (norms.MaxOver(norms.Frobenius(), BlockLayout("taps", 2)), KERNELS),
)
MAPS = (
    *((K, (*LAYOUTS, *VECTORS)) for K in (maps.L1Map(), maps.Huber(0.7), maps.SmoothL1(0.3))),
    *((K, (*LAYOUTS, *VECTORS)) for K in (maps.FromNorm(norms.L2()), 0.5 * maps.HalfSquare())),
    *((K, LAYOUTS) for K in (maps.GroupRows(), maps.GroupRows() + 0.1 * maps.HalfSquare())),
    *((K, LAYOUTS) for K in (maps.GroupColumns(), maps.Separable(maps.Clip(0.5), maps.Columns()))),
)


def tensors(shape: tuple[int, ...], kind: int, generator: torch.Generator) -> Tensor:
    """Gaussian, with ties for the largest, zero."""
    if kind == 1:
        return torch.randint(-2, 3, shape, generator=generator).double()
    return (kind == 0) * torch.randn(shape, dtype=torch.float64, generator=generator)


def parts(mesh: DeviceMesh, placements: Sequence[Placement], x: Tensor) -> DTensor:
    """The tensor in parts, which each process cuts out by itself."""
    strided = placements == STRIDED
    start = (Replicate(), Shard(0)) if strided else placements
    cut = distribute_tensor(x, mesh, start, src_data_rank=None)
    return cut.redistribute(mesh, placements) if strided else cut


def functions(f: Any) -> dict[str, Callable[[Tensor], Tensor]]:
    """What a norm or a map computes, by name."""
    if isinstance(f, norms.Norm):
        return {
            "direction": lambda x: f.dualize_all([x], check=False)[0],
            "inner": lambda x: f.inner(x, x + 1),
            "norm": f,
            "dual norm": lambda x: f.dual(x, check=False),
            "sharp": lambda x: f.sharp(x, check=False),
        }
    return {
        "direction": lambda x: f.grad_all([x], check=False)[0],
        "value": lambda x: f.value(x, check=False),
    }


def allowed(f: Any, layout: Layout) -> int:
    """Bytes: the largest entry and the length of what f couples, on each mesh axis that cuts it."""
    ndim = len(layout.shape)
    axes = {
        Coupling.ENTRIES: (),
        Coupling.ROWS: (ndim - 1,),
        Coupling.COLUMNS: (ndim - 2,),
        Coupling.SCALAR: tuple(range(ndim - (f.axes or ndim), ndim)),
    }[f.couples]
    cuts = sum(getattr(p, "dim", None) in axes for p in layout.placements)
    numbers = math.prod(n for d, n in enumerate(layout.shape) if d not in axes)
    numbers *= f.matrix_shape(torch.empty(layout.shape)).taps
    # A map over rows or columns asks for their lengths once more.
    return (2 if isinstance(f, norms.Norm) else 4) * 8 * cuts * numbers


def differences(rank: int, world: int) -> list[str]:
    """What does not come out as for the whole tensor, or moves more than it may."""
    generator = torch.Generator().manual_seed(0)
    mesh = {shape: init_device_mesh("cpu", shape) for shape in (FLAT, SQUARE)}
    wrong = []
    # Each norm on an eighth of the layouts, each layout with an eighth of the norms.
    table = enumerate((*NORMS, *MAPS))
    pairs = [(f, layout) for k, (f, layouts) in table for layout in layouts[k % 8 :: 8]]
    for i, (f, layout) in enumerate(pairs):
        x = tensors(layout.shape, i % 3, generator)
        x_parts = parts(mesh[layout.mesh], layout.placements, x)
        direction, *others = functions(f).items()
        for name, function in (direction, others[i % len(others)]):
            expected = function(x)
            with CollectiveCounter() as count:
                result = function(x_parts)
            assert isinstance(result, DTensor)
            own = parts(mesh[layout.mesh], result.placements, expected).to_local()
            good = bool((result.to_local() - own).abs().le(1e-12).all())
            if expected.shape == x.shape:
                good &= result.placements == x_parts.placements
            if name == "direction" and 1 not in layout.shape:
                good &= set(count.calls) <= {"all_reduce"}
                good &= count.total_sent <= allowed(f, layout)
            if not good:
                wrong.append(f"{f} {name} {layout}: {result.placements}, {dict(count.sent)}")
    return wrong


def test_on_a_dtensor_as_on_the_whole() -> None:
    """The same values, in the same parts, for a scalar or one vector a reduction."""
    assert [w for wrong in pool(4).run(differences) for w in wrong] == []


def routings(rank: int, world: int) -> list[str]:
    """The models that are routed in another way once they are sharded."""
    changed = []
    for model in (zoo.GPT2(), zoo.Llama(), zoo.ViT(), zoo.GptOssExperts()):
        before = str(route(model))
        places = Counter(p for _, p in model.named_parameters(remove_duplicate=False))
        for module in model.modules():
            # A tied parameter belongs to the root: sharded in two places it would be two.
            own = list(module.parameters(recurse=False))
            if own and all(places[p] == 1 for p in own) and module is not model:
                fully_shard(module)
        fully_shard(model)
        if str(route(model)) != before:
            changed.append(type(model).__name__)
    return changed


def test_a_sharded_model_is_routed_as_the_whole() -> None:
    """`fully_shard` changes the class of each module, and so the name of the class."""
    assert pool(4).run(routings) == [[]] * 4
