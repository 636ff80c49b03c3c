"""The agreement of ranks before a step: that they have one model, and one set of gradients."""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor

from steepest._common.errors import invalid
from steepest.sharding.exchange import RankGroup

NONE, BAD, FINE, DOUBTFUL = range(4)
"""No gradient, one that is not finite, a finite one; fine, but copies may have different ones."""


MARKS = 4
"""Entries beside the codes that tell whether the ranks have one text: 2⁻²⁸ of others have them."""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def marks_of(text: str) -> list[int]:
    """A few numbers of 7 bits for a text, which travel with the codes."""
    return [byte >> 1 for byte in _digest(text)[:MARKS]]


def unlike(argument: str, ranks: RankGroup, remedy: str) -> ValueError:
    """The error for what is not the same on all ranks."""
    return invalid(argument, f"not the same on all {ranks.size} ranks", remedy)


def same_everywhere(
    text: str,
    ranks: RankGroup,
    device: torch.device,
    argument: str,
    remedy: str = "build the same model and the same groups, in one order, on every rank",
) -> None:
    """Raise on every rank unless all of them pass the same text.

    Args:
        text: The text of this rank.
        ranks: The ranks.
        device: The device of the collective.
        argument: The name of the thing that the text describes, for the error.
        remedy: The advice of the error.

    Raises:
        ValueError: they do not.
    """
    digest = int.from_bytes(_digest(text)[:7], "big")
    ends = torch.tensor([digest, -digest], dtype=torch.int64, device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MIN, group=ranks.group)
    low, high = ends.tolist()
    if low != -high:
        raise unlike(argument, ranks, remedy)


def all_reduce_codes(codes: Tensor, ranks: RankGroup) -> tuple[Tensor, Tensor]:
    """The smallest and the largest code that any rank has, for each parameter, and mark.

    Args:
        codes: `NONE`, `BAD`, `FINE` or `DOUBTFUL` for each parameter, and `marks_of` a text; int8.
        ranks: the ranks; each passes as many.
    """
    ends = torch.cat([codes, -codes])
    dist.all_reduce(ends, op=dist.ReduceOp.MIN, group=ranks.group)
    low, high = ends.chunk(2)
    return low, -high


def all_reduce_sum(value: Tensor, ranks: RankGroup) -> Tensor:
    """The sum of the values that the ranks have."""
    value = value.clone()
    dist.all_reduce(value, group=ranks.group)
    return value
