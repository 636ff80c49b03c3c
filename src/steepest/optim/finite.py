"""What is known of the gradients before a step: which are there, and which are finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import is_known
from steepest.norms import Couples, Geometry
from steepest.optim.groups import Group, momentum_dtype, name_of
from steepest.optim.updates import Flag, finite, looked_at
from steepest.sharding import Team, agreed, is_sharded, local_like, same_everywhere
from steepest.sharding.agree import BAD, FINE, NONE


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
        dtypes = [p.dtype if group["adamw"] else momentum_dtype(group, p) for p in mine]
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
        plans: what else decides on the way of each: its group, its view, the type that travels.
    """

    team: Team
    names: list[str] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)


def shared(
    groups: Sequence[Group], replicas: Team | None, geometry: Callable[[Group], Geometry]
) -> list[Shared]:
    """The parameters that several ranks step together, by teams; every rank has to ask.

    Raises:
        ValueError: the ranks do not have the same ones.
    """
    found: dict[Team, Shared] = {}
    for number, group in enumerate(groups):
        divided = not group["adamw"] and geometry(group).couples is Couples.MATRIX
        views = group.get("views") or [None] * len(group["params"])
        for p, view in zip(group["params"], views, strict=True):
            team = Team.of_mesh(p.device_mesh) if is_sharded(p) else replicas if divided else None
            if team is not None and p.numel():
                one = found.setdefault(team, Shared(team))
                one.names.append(name_of(group, p))
                one.params.append(p)
                dtype = None if group["adamw"] else momentum_dtype(group, p)
                one.plans.append(f"{number} {view} {dtype}")
    # From small to large, so that a larger team hears of what its parts have found.
    sets = sorted(found.values(), key=lambda one: one.team.size)
    wrong: ValueError | None = None
    for one in sets:
        rows = [
            (name, tuple(p.shape), str(p.dtype), str(getattr(p, "placements", "")))
            for name, p in zip(one.names, one.params, strict=True)
        ]
        try:
            text = repr((rows, one.plans, str(wrong)))
            same_everywhere(text, one.team, one.params[0].device, "params")
        except ValueError as error:
            wrong = error
    if wrong:
        raise wrong
    return sets


def agree(
    ok: Mapping[Tensor, Flag], sets: Sequence[Shared], strict: Set[Tensor]
) -> dict[Tensor, Flag]:
    """`ok` with the word of all ranks: a gradient that is not finite on one of them is on none.

    Args:
        ok: of the parameters that have a gradient here.
        sets: what ranks hold together, small teams first.
        strict: the parameters of which one that is not finite is an error. With the flags of a
            team travels whether one of its ranks has to raise one, so that none waits for it.

    Raises:
        ValueError: a parameter has a gradient on some ranks and none on others. Known, and raised
            on all ranks, in the memory of the host; an accelerator is not waited for, and such a
            parameter is left alone.
        FloatingPointError: other ranks raise one, for parameters that this one does not hold.
    """
    out = dict(ok)
    missing: list[str] = []
    worst = FINE if all(flag for p, flag in ok.items() if p in strict) else BAD
    for one in sets:
        flags = [*(ok.get(p) for p in one.params), {NONE: None, BAD: False, FINE: True}[worst]]
        low, high = agreed(_codes(flags, one.params[0].device), one.team)
        if not is_known(low):
            trained = zip(one.params, (low[:-1] == FINE).unbind(), strict=True)
            out.update((p, flag) for p, flag in trained if p.requires_grad)
            worst = int(low[-1]) if strict else worst
            continue
        *lows, worst = low.tolist()
        ends = zip(one.names, one.params, lows, high.tolist()[:-1], strict=True)
        for name, p, least, most in ends:
            if least == NONE < most:
                missing.append(name)
                worst = NONE
            elif most > NONE:
                out[p] = least == FINE
    if missing or worst == NONE:
        raise invalid(
            "grad",
            f"missing on some ranks ({', '.join(missing) or 'of parameters that others hold'})",
            "run the same layers on every rank, or freeze it on all",
        )
    if strict and worst == BAD and all(out[p] for p in strict if p in out):
        raise FloatingPointError(
            "gradients of parameters that other ranks hold have NaN or inf entries: see there"
        )
    return out


def _codes(flags: Sequence[Flag | None], device: torch.device) -> Tensor:
    """A code for each flag; None is no gradient."""
    codes = [NONE if flag is None else FINE if flag is True else BAD for flag in flags]
    judged = [flag for flag in flags if isinstance(flag, Tensor)]
    if not judged:
        return torch.tensor(codes, dtype=torch.int8, device=device)
    # Numbers of the host are filled in on the device: to copy them there would wait for it.
    known = {c: torch.full((), c, dtype=torch.int8, device=device) for c in (NONE, BAD, FINE)}
    fine = iter(torch.where(torch.stack(judged), known[FINE], known[BAD]).unbind())
    pairs = zip(flags, codes, strict=True)
    return torch.stack([next(fine) if isinstance(f, Tensor) else known[c] for f, c in pairs])
