"""The agreement of ranks on which gradients are there, and which are finite, before a step."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import host_value, is_known, widened
from steepest.norms import Coupling
from steepest.optim.foreign import Copies
from steepest.optim.groups import Views, name_of
from steepest.optim.momentum import average_dtype
from steepest.optim.options import Group
from steepest.optim.rule import UpdateRule
from steepest.optim.updates import Flag
from steepest.sharding import (
    RankGroup,
    all_reduce_codes,
    is_sharded,
    layout_of,
    local,
    same_everywhere,
)
from steepest.sharding.agree import BAD, DOUBTFUL, FINE, MARKS, NONE, marks_of, unlike

AVERAGE = ("nesterov", "betas", "constraint")
"""Keys of a group that decide on the tensors that travel, and on their types."""


@dataclass(frozen=True)
class RanksOfCopies:
    """The ranks that hold copies of parameters which are not sharded.

    Args:
        replicas: Those that hold copies of all of them and divide the work; None if unknown.
        copies: The modules that average gradients, as far as they are known.
    """

    replicas: RankGroup | None = None
    copies: Sequence[Copies] = ()

    def by_param(self) -> dict[Tensor, RankGroup]:
        """The ranks of each parameter of these modules."""
        return {p: one.ranks for one in self.copies for p in one.params()}


@dataclass(frozen=True, eq=False)
class ReplicatedParams:
    """Parameters that the ranks of a group hold together.

    Args:
        ranks: The ranks.
        names: Names of the parameters, for a message.
        params: The parameters.
        plans: The rest of what decides on the way of each: its group, view and type of momentum.
        values: The values of their groups, by the number of the group and the key.
        alone: The parameters that each rank steps by itself: nothing of them is sent.
    """

    ranks: RankGroup
    names: list[str] = field(default_factory=list)
    params: list[Tensor] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    values: dict[tuple[int, str], str] = field(default_factory=dict)
    alone: set[Tensor] = field(default_factory=set)

    def values_of(self, groups: Sequence[Group]) -> dict[tuple[int, str], str]:
        """The values that the groups of the parameters have now, as in `values`."""
        numbers = {number for number, _ in self.values if number < len(groups)}
        return {(n, key): text for n in sorted(numbers) for key, text in _values(groups[n])}

    def waits_for(self, param: Tensor) -> bool:
        """Whether others may wait for a parameter that has no gradient here."""
        return param.requires_grad and param not in self.alone


def replicated_params(
    groups: Sequence[Group],
    rules: Sequence[UpdateRule | None],
    views: Mapping[int, Views],
    copies: RanksOfCopies,
    choices: str,
    wrong: ValueError | None = None,
) -> list[ReplicatedParams]:
    """The parameters that several ranks step together, by groups of ranks; every rank has to ask.

    Args:
        groups: The parameter groups.
        rules: The rule of each group; None if AdamW has it.
        views: The views of the parameters of each group that has a rule, by its number.
        copies: The ranks that hold copies of the parameters that are not sharded.
        choices: Whatever else decides on what is sent, as text.
        wrong: The error for which this rank takes no step.

    Raises:
        ValueError: that error; or the ranks do not have the same parameters, values of groups or,
            as copies, gradients.
    """
    found: dict[RankGroup, ReplicatedParams] = {}
    averaged = copies.by_param()
    for number, (group, rule) in enumerate(zip(groups, rules, strict=True)):
        divided = rule is not None and rule.couples is Coupling.MATRIX
        own = views[number] if rule is not None else (None,) * len(group["params"])
        for p, view in zip(group["params"], own, strict=True):
            ranks = copies.replicas or averaged.get(p)
            if is_sharded(p):
                ranks = RankGroup.of_mesh(p.device_mesh)
            if ranks is not None and p.numel():
                one = found.setdefault(ranks, ReplicatedParams(ranks))
                one.names.append(name_of(group, p))
                one.params.append(p)
                if not is_sharded(p) and not (divided and copies.replicas):
                    one.alone.add(p)
                asked = None if group["adamw"] else group["momentum_dtype"]
                dtype = None if group["adamw"] else average_dtype(p, asked)
                average = [key for key in AVERAGE if group.get(key)]
                one.plans.append(f"{number} {view} {dtype} {asked} {average} {choices}")
                one.values.update(((number, key), x) for key, x in _values(group))
    # From small to large, so that a larger one hears of what its parts have found.
    sets = sorted(found.values(), key=lambda one: one.ranks.size)
    for one in sets:
        try:
            _agree(one, wrong)
        except ValueError as error:
            wrong = wrong or error
    if wrong:
        raise wrong
    return sets


KEPT = frozenset(("params", "param_names", "estimate", "known", "first_lr"))
"""Keys of a group that hold what is in it, what its steps have found, and what it began with."""

# Gradients of different data differ by more, and sums in another order by less.
ALIKE = 1e-3
"""Difference of the sums of a gradient on two ranks, over its norm, up to which it is the same; or
the rounding unit of its type, if that is larger."""

SUMS, BLOCK = 16, 1024
"""The number of sums, with different signs, by which gradients are compared; and of entries after
which the signs come again, all of them or none turned."""

SMALL = 1e-6
"""Share of the largest norm below which a gradient may be made of rounding errors."""


VALUES = sorted(Group.__optional_keys__ - KEPT)
"""Keys of a group whose values its steps are made of, alike on all ranks."""


def _values(group: Group) -> Iterator[tuple[str, str]]:
    """The values of a group that its steps are made of, as text; NaN for what is on a device."""
    held = dict(group)
    for key in VALUES:
        value = held.get(key)
        yield key, str(host_value(value) if isinstance(value, Tensor) else value)


def _agree(one: ReplicatedParams, wrong: ValueError | None) -> None:
    """Raise on every rank unless all of them have the same parameters, values and gradients.

    Args:
        one: The parameters.
        wrong: The error for which this rank takes no step.

    Raises:
        ValueError: they do not, or a rank takes no step.
    """
    rows = [
        (name, tuple(p.shape), str(p.dtype), str(getattr(p, "placements", "")))
        for name, p in zip(one.names, one.params, strict=True)
    ]
    ranks, device = one.ranks, one.params[0].device
    try:
        same_everywhere(repr((rows, one.plans, one.values, str(wrong))), ranks, device, "params")
    except ValueError:
        # All ranks are here: they can find out together what differs.
        try:
            same_everywhere(str(wrong), ranks, device, "step")
        except ValueError:
            remedy = "its error says why"
            raise invalid("step", "refused on another rank", remedy) from None
        same_everywhere(repr((rows, one.plans, [*one.values])), ranks, device, "params")
        for (_, key), text in one.values.items():
            same_everywhere(text, ranks, device, key)
        raise
    _check_copies(one)


def _check_copies(one: ReplicatedParams) -> None:
    """Raise on every rank if ranks that hold copies of a parameter have different gradients.

    Raises:
        ValueError: the sums of the gradients differ.
    """
    regions = [
        layout_of(p).regions if is_sharded(p) else (None,) * one.ranks.size for p in one.params
    ]
    parts = [list(dict.fromkeys(each)) for each in regions]
    if all(len(each) == one.ranks.size for each in parts):
        return
    device = one.params[0].device
    # Of a part that is not here nothing is known, and one that is not finite is never compared.
    ends = torch.full((len(parts), max(map(len, parts)), 2 * SUMS + 1), math.inf, device=device)
    for i, (p, each, own) in enumerate(zip(one.params, regions, parts, strict=True)):
        here, grad = own.index(each[one.ranks.rank]), p.grad
        if grad is not None and getattr(grad, "placements", ()) == getattr(p, "placements", ()):
            own_ends = _signed_sums(local(grad))
            ends[i, here] = torch.where(torch.isfinite(own_ends).all(), own_ends, -math.inf)
        else:
            ends[i, here] = -math.inf
    dist.all_reduce(ends, op=dist.ReduceOp.MIN, group=one.ranks.group)
    known = torch.isfinite(ends).all(2)
    least, most, size = ends[..., :SUMS], -ends[..., SUMS:-1], -ends[..., -1]
    limits = [max(ALIKE, torch.finfo(p.dtype).eps) for p in one.params]
    limit = torch.tensor(limits, device=device)[:, None] * size
    largest = torch.where(known, size, 0).amax()
    far = known & ((most - least).amax(2) > limit) & (size > SMALL * largest)
    if bool(far.any()):
        name = one.names[int(far.any(1).int().argmax())]
        raise invalid(
            "grad",
            f"not the same on all ranks that hold copies ({name})",
            "average the gradients: call the DistributedDataParallel module itself, outside of "
            "no_sync, or all-reduce them before the step",
        )


def _signed_sums(x: Tensor) -> Tensor:
    """Sums of the entries with random signs, their negatives, and the negative norm.

    The signs are the same on all ranks. The sums of two gradients are as far from each other as the
    gradients are, each of them up to a normal random number.
    """
    flat = (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).reshape(-1)
    flat = flat.to(widened(flat.dtype))
    rows = -(-flat.numel() // BLOCK)
    draw = torch.Generator().manual_seed(0)
    turns = torch.randint(2, (BLOCK + rows, SUMS), generator=draw) * 2 - 1
    signs, turned = turns.to(flat).split([BLOCK, rows])
    blocks = torch.nn.functional.pad(flat, (0, rows * BLOCK - flat.numel())).view(rows, BLOCK)
    sums = (blocks @ signs * turned).sum(0)
    return torch.cat([sums, -sums, -torch.linalg.vector_norm(flat)[None]]).float()


def all_reduce_finite(
    flags: Mapping[Tensor, Flag],
    sets: Sequence[ReplicatedParams],
    strict: Set[Tensor],
    doubtful: Collection[RankGroup] = (),
    groups: Sequence[Group] = (),
    *,
    loaded: bool = False,
) -> dict[Tensor, Flag]:
    """All-reduce the flags: a parameter is stepped only if its gradient is finite on every rank.

    A rank that doubts that gradients are averaged says so in the same all-reduce, and all compare
    them. Marks of the values of the groups travel with it. On an accelerator, which is not waited
    for, each rank goes by its own doubt, and looks at the marks only once its groups were loaded.

    Args:
        flags: Whether each gradient that is here is finite.
        sets: The parameters that ranks hold together, small groups of ranks first.
        strict: The parameters of which one that is not finite is an error.
        doubtful: Ranks whose gradients this one may not have averaged with theirs.
        groups: The parameter groups.
        loaded: Whether a state has been loaded since the last step.

    Raises:
        ValueError: copies have different gradients, groups different values, or some ranks no
            gradient of a parameter; which an accelerator is not waited for, to leave it alone.
        FloatingPointError: other ranks raise one, for parameters that this one does not hold.
    """
    out = dict(flags)
    missing: list[str] = []
    worst = FINE if all(flag for p, flag in flags.items() if p in strict) else BAD
    wrong: ValueError | None = None
    for one in sets:
        doubts = one.ranks in doubtful
        last = DOUBTFUL if doubts and worst == FINE else worst
        values = one.values_of(groups)
        (low, high), lasts, marks = _exchanged(one, flags, [last, *marks_of(repr(values))])
        if known := is_known(marks):
            least, most = lasts.flatten().tolist()
            missing += _take(one, low.tolist(), high.tolist(), out)
            worst, doubts = NONE if missing else min(least, FINE), most == DOUBTFUL
        else:
            trained = zip(one.params, (low == FINE).unbind(), strict=True)
            out.update((p, flag) for p, flag in trained if p in flags or one.waits_for(p))
            worst = min(int(lasts[0]), FINE) if strict else worst
        error = _difference(one) if doubts else None
        if error is None and (known or loaded) and not torch.equal(*marks):
            error = _other_value(one, values if known else {})
        if error:
            wrong, worst = error, NONE
    if wrong is not None or missing or worst == NONE:
        names = ", ".join(missing) or "of parameters that others hold"
        remedy = "run the same layers on every rank, or freeze it on all"
        raise wrong or invalid("grad", f"missing on some ranks ({names})", remedy)
    if strict and worst == BAD and all(out[p] for p in strict if p in out):
        raise FloatingPointError(
            "gradients of parameters that other ranks hold have NaN or inf entries: see there"
        )
    return out


def _exchanged(
    one: ReplicatedParams, flags: Mapping[Tensor, Flag], more: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The smallest and the largest number of all ranks: codes of flags, their worst, and marks."""
    codes = _codes([*map(flags.get, one.params)], more, one)
    ends = torch.stack(all_reduce_codes(codes, one.ranks))
    flags_of, worst, marks = ends.split([len(one.params), 1, MARKS], dim=1)
    return flags_of, worst, marks


def _take(
    one: ReplicatedParams, low: list[int], high: list[int], out: dict[Tensor, Flag]
) -> list[str]:
    """Take the flags of all ranks; the names of gradients that are missing on some of them."""
    missing = []
    for name, p, least, most in zip(one.names, one.params, low, high, strict=True):
        if least == NONE < most:
            missing.append(name)
        elif most > NONE:
            out[p] = least == FINE
    return missing


def _difference(one: ReplicatedParams) -> ValueError | None:
    """The error for copies that have different gradients; every rank has to ask."""
    try:
        _check_copies(one)
    except ValueError as error:
        return error
    return None


def _other_value(one: ReplicatedParams, values: Mapping[tuple[int, str], str]) -> ValueError:
    """The error for groups that have other values on other ranks.

    Args:
        one: The parameters of the groups.
        values: The values that the groups have here, among which the ranks look for it together;
            none where not all of them ask.
    """
    remedy = (
        "write the same numbers into the groups and load the same state on every rank; a schedule "
        "that follows a loss needs the mean over the ranks"
    )
    try:
        for (_, key), text in values.items():
            same_everywhere(text, one.ranks, one.params[0].device, key, remedy)
    except ValueError as error:
        return error
    return unlike("param_groups", one.ranks, remedy)


def _codes(flags: Sequence[Flag | None], more: Sequence[int], one: ReplicatedParams) -> Tensor:
    """A code for each flag, of which None stands for no gradient, and some more numbers."""
    device = one.params[0].device
    codes = [NONE if flag is None else FINE if flag is True else BAD for flag in flags]
    judged = [flag for flag in flags if isinstance(flag, Tensor)]
    if not judged:
        return torch.tensor([*codes, *more], dtype=torch.int8, device=device)
    # Numbers of the host are filled in on the device: to copy them there would wait for it.
    every = dict.fromkeys((NONE, BAD, FINE, *more))
    known = {c: torch.full((), c, dtype=torch.int8, device=device) for c in every}
    fine = iter(torch.where(torch.stack(judged), known[FINE], known[BAD]).unbind())
    pairs = zip(flags, codes, strict=True)
    found = [next(fine) if isinstance(f, Tensor) else known[c] for f, c in pairs]
    return torch.stack([*found, *(known[c] for c in more)])
