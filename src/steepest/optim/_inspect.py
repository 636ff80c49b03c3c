"""What is known of the gradients before a step: which are there, and which are finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from steepest._types import invalid
from steepest.dist import Team, agreed, is_sharded, local_like, same_everywhere
from steepest.dist.agree import BAD, FINE, NONE
from steepest.norms import Couples, Geometry
from steepest.optim._groups import Group, momentum_dtype, name_of
from steepest.optim.rule import Flag, finite, is_known, looked_at


def inspected(group: Group) -> dict[Tensor, Flag]:
    """Whether the gradient of each parameter of a group is finite, of those that have one.

    Raises:
        ValueError: a sparse gradient.
    """
    ok: dict[Tensor, Flag] = {}
    params = [p for p in group["params"] if p.grad is not None and p.numel()]
    for p in params:
        if p.grad.layout != torch.strided:
            raise invalid(
                "grad",
                f"sparse ({name_of(group, p)})",
                "give dense gradients: for an embedding, sparse=False",
            )
    for device in dict.fromkeys(p.device for p in params):
        mine = [p for p in params if p.device == device]
        dtypes = [p.dtype if group["rest"] else momentum_dtype(group, p) for p in mine]
        flags = finite([local_like(p.grad, p) for p in mine], dtypes)
        ok.update(zip(mine, looked_at(flags), strict=True))
    return ok


@dataclass(frozen=True, eq=False)
class Shared:
    """Parameters that the ranks of a team hold together.

    Args:
        team: the ranks.
        names: of the parameters, for a message.
        params: the parameters.
    """

    team: Team
    names: list[str]
    params: list[Tensor]


def shared(
    groups: Sequence[Group], replicas: Team | None, geometry: Callable[[Group], Geometry]
) -> list[Shared]:
    """The parameters that several ranks step together, by teams; every rank has to ask.

    Raises:
        ValueError: the ranks do not have the same ones.
    """
    found: dict[Team, Shared] = {}
    for group in groups:
        divided = not group["rest"] and geometry(group).couples is Couples.MATRIX
        for p in group["params"]:
            team = Team.of_mesh(p.device_mesh) if is_sharded(p) else replicas if divided else None
            if team is not None and p.numel():
                one = found.setdefault(team, Shared(team, [], []))
                one.names.append(name_of(group, p))
                one.params.append(p)
    for one in found.values():
        rows = [
            (name, tuple(p.shape), str(p.dtype), str(getattr(p, "placements", "")))
            for name, p in zip(one.names, one.params, strict=True)
        ]
        same_everywhere(repr(rows), one.team, one.params[0].device, "params")
    return list(found.values())


def agree(ok: Mapping[Tensor, Flag], sets: Sequence[Shared]) -> dict[Tensor, Flag]:
    """`ok` with the word of all ranks: a gradient that is not finite on one of them is on none.

    Args:
        ok: of the parameters that have a gradient here.
        sets: what ranks hold together.

    Raises:
        ValueError: a parameter has a gradient on some ranks and none on others. Known, and raised
            on all ranks, in the memory of the host; an accelerator is not waited for, and such a
            parameter is left alone.
    """
    out = dict(ok)
    for one in sets:
        low, high = agreed(_codes([ok.get(p) for p in one.params], one.params[0].device), one.team)
        if not is_known(low):
            trained = zip(one.params, (low == FINE).unbind(), strict=True)
            out.update((p, flag) for p, flag in trained if p.requires_grad)
            continue
        ends = zip(one.names, one.params, low.tolist(), high.tolist(), strict=True)
        for name, p, least, most in ends:
            if least == NONE < most:
                raise invalid(
                    "grad",
                    f"missing on some ranks ({name})",
                    "run the same layers on every rank, or freeze it on all",
                )
            if most > NONE:
                out[p] = least == FINE
    return out


def _codes(flags: Sequence[Flag | None], device: torch.device) -> Tensor:
    """A code for each flag; None is no gradient."""
    known = [NONE if flag is None else FINE if flag is True else BAD for flag in flags]
    codes = torch.tensor(known, dtype=torch.int8, device=device)
    if judged := [i for i, flag in enumerate(flags) if isinstance(flag, Tensor)]:
        fine = torch.stack([flag for flag in flags if isinstance(flag, Tensor)])
        codes[judged] = torch.where(fine, FINE, BAD).to(torch.int8)
    return codes
