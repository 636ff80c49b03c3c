"""Tensors that are kept of each matrix beside its momentum: their place in a state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest.optim.member import Member
from steepest.sharding import (
    Layout,
    RankGroup,
    is_sharded,
    local,
    placements_along,
    sharded_as,
)
from steepest.transforms import StateShapes


@dataclass(frozen=True)
class KeptTensor:
    """A tensor that is kept of the matrices in one part of a parameter.

    Args:
        part: The part of the parameter.
        name: The name that the rule gives it.
        shape: Its shape, (matrices, *shape of one); on this rank if each has its own matrices.
        of_matrix: Whether there are as many numbers as in a matrix, rather than in a row.
    """

    part: int
    name: str
    shape: tuple[int, ...]
    of_matrix: bool

    @property
    def key(self) -> str:
        """Its key in the state of the parameter."""
        return f"{self.name}.{self.part}" if self.part else self.name

    def placements(self, member: Member) -> tuple[Any, ...] | None:
        """Its placements on the mesh of the parameter; None where each rank has all of it.

        Ranks that hold matrices of their own hold what is kept of these. Of matrices that lie on
        several ranks what is large is cut along the rows; a number for each row is everywhere.
        """
        param = member.param
        if not is_sharded(param) or param.device_mesh.size() == 1:
            return None
        own = member.like.shape != param.shape
        if not (own or self.of_matrix):
            return None
        return placements_along(param, 0 if own else 1)

    def whole_shape(self, member: Member) -> tuple[int, ...]:
        """Its shape over all ranks together."""
        if member.like.shape == member.param.shape:
            return self.shape
        assert member.view is not None, "maps take matrices"
        return (member.view.shapes(member.param.shape)[self.part][0], *self.shape[1:])

    def layout(self, member: Member, ranks: RankGroup) -> Layout:
        """The part of it that each rank has, of a matrix that lies on all of them."""
        placements = self.placements(member)
        if placements is None or not is_sharded(member.param):
            return Layout.replicated(self.shape, ranks.size)
        return Layout.of(self.shape, member.param.device_mesh.shape, placements)

    def on_this_rank(self, member: Member, whole: Tensor) -> Tensor:
        """This rank's part of it, of which every rank has the whole."""
        placements, param = self.placements(member), member.param
        if placements is None or not is_sharded(param):
            return whole
        ranks = RankGroup.of_mesh(param.device_mesh)
        return self.layout(member, ranks).take(whole, ranks.rank)

    def new(self, member: Member) -> Tensor:
        """Zeros in its shape, laid out as it is kept."""
        param, shape = member.param, self.whole_shape(member)
        dtype, device = member.compute_dtype, member.like.device
        placements = self.placements(member)
        if placements is None or not is_sharded(param):
            return torch.zeros(shape, dtype=dtype, device=device)
        local = self.shape
        if member.like.shape == param.shape:
            ranks = RankGroup.of_mesh(param.device_mesh)
            local = self.layout(member, ranks).shapes[ranks.rank]
        zeros = torch.zeros(local, dtype=dtype, device=device)
        return sharded_as(zeros, param, placements, shape)


Shapes = Callable[[int, int], StateShapes]
"""The shapes of what is kept of a rows × columns matrix, by name."""


def kept_tensors(member: Member, shapes: Shapes) -> Iterator[KeptTensor]:
    """The tensors that are kept of a parameter, part by part."""
    for part, (count, m, n) in enumerate(member.shapes):
        for name, shape in shapes(m, n).items():
            large = torch.Size(shape).numel() > max(m, n)
            yield KeptTensor(part, name, (count, *shape), large)


def recalled(
    member: Member, kept: KeptTensor, state: MutableMapping[Tensor, dict[str, Any]]
) -> Tensor:
    """A tensor that is kept, as the state has it; made where it is not there."""
    own = state[member.param]
    if kept.key not in own:
        own[kept.key] = kept.new(member)
    found: Tensor = own[kept.key]
    return found


def recall(
    member: Member, shapes: Shapes, state: MutableMapping[Tensor, dict[str, Any]]
) -> list[dict[str, Tensor]]:
    """This rank's part of what is kept of each part of a parameter, by name."""
    found: list[dict[str, Tensor]] = [{} for _ in member.shapes]
    for kept in kept_tensors(member, shapes):
        found[kept.part][kept.name] = local(recalled(member, kept, state))
    return found
