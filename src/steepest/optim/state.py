"""The state of an optimizer as plain data, and its way back."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest._common.numerics import real_dtype, widened
from steepest._common.torch_modules import WRAPPERS
from steepest.optim.choices import SLOTS
from steepest.optim.groups import Views, repr_of
from steepest.optim.momentum import BUFFER, CODES, UNITS, average_dtype, loaded
from steepest.optim.skips import KEY, with_record, without_record
from steepest.optim.torch_form import Template, torch_form, without_adamws
from steepest.polar import Schedule

TEXTS = ("views", "momentum_dtype")
"""Keys of which every checkpoint has the text, beside the objects of an optimizer."""

OWN_KEYS = frozenset(("adamw", "first_lr", "views"))
"""Keys of saved groups that are not among the values that a constructor has for groups."""


def as_text(
    state: dict[str, Any],
    views: Mapping[int, Views],
    objects: tuple[str, ...],
    *,
    skipped: int,
    template: Template,
    own: Set[str] = frozenset(),
    torch_keys: Sequence[str] = (),
) -> dict[str, Any]:
    """A state with the views of its groups, their objects as text, and a record of the optimizer.

    Args:
        state: The state as torch makes it.
        views: The views of the parameters of each group that has some, by its place.
        objects: The keys of a group whose values are objects.
        skipped: The number of updates that were left out.
        template: The memory of the groups that torch's distributed checkpoint is given.
        own: The keys that the optimizer gives to its groups.
        torch_keys: Those of the optimizer of torch that it stands in for.
    """
    told = [_told(g, views.get(i), objects) for i, g in enumerate(state["param_groups"])]
    groups = [with_record(group, skipped) for group in told]
    mine = {*own, *OWN_KEYS}
    kept = state["state"]
    # torch asks for a state of every parameter, also of one of which nothing is kept.
    none: dict[Any, dict[str, Any]]
    none = {key: {} for group in groups for key in group["params"] if kept and key not in kept}
    saved = {**state, "state": {**kept, **none}}
    return {**saved, "param_groups": torch_form(groups, mine, torch_keys, template)}


def _told(
    group: Mapping[str, Any], views: Views | None, objects: tuple[str, ...]
) -> dict[str, Any]:
    """A group as a checkpoint has it."""
    told = {**group, "views": views} if views is not None else dict(group)
    texts = {key: repr_of(told[key]) for key in (*TEXTS, *objects) if key in told}
    return {**told, **texts}


def loadable(
    saved: dict[str, Any],
    groups: Sequence[Mapping[str, Any]],
    views: Mapping[int, Views],
    objects: tuple[str, ...],
    check: Callable[[int, Any], None],
    check_tensors: Callable[[int, Mapping[Any, Any], Sequence[Any]], None],
) -> dict[str, Any]:
    """A saved state with the objects of an optimizer, for torch to load; checked, and a copy.

    Args:
        saved: The result of `state_dict`.
        groups: The groups of the optimizer.
        views: The views of the parameters of each group that has some, by its place.
        objects: The keys of a group whose values are objects.
        check: A function that raises for values that the group in a place may not hold.
        check_tensors: A function that raises for what steps of the group in a place do not keep.

    Raises:
        ValueError: it was saved with other objects, or holds what is no state of these groups.
    """
    _check_kind(saved, groups)
    _check_numbers(saved)
    merged = []
    pairs = zip(map(renamed, saved["param_groups"]), groups, strict=True)
    for i, (group, own) in enumerate(pairs):
        told = _told(own, views.get(i), objects)
        check_names(i, group.get("param_names"), own.get("param_names"))
        for key in (*TEXTS, *objects, "adamw"):
            mine = told.get(key)
            # A map may be added to a run, with a state of zeros; one that is gone is an error.
            gone = key in SLOTS and group.get(key) not in (None, "None")
            both = key in group and (key in told or gone)
            if both and mine not in (group[key], renamed_text(key, group)):
                where, theirs, ours = first_difference(group[key], mine)
                raise invalid(
                    f"param_groups[{i}][{key!r}]{where}",
                    theirs,
                    f"saved with this, but the optimizer has {ours}: build it with the saved "
                    f"one, or delete {key!r} from the saved group to change it",
                )
        kept = {k: v for k, v in own.items() if k not in ("params", "param_names")}
        mine = {key: own[key] for key in (*TEXTS, *objects, "param_names") if key in own}
        merged.append({**kept, **group, **mine})
        merged[-1].pop("views", None)
        check(i, {**merged[-1], "params": own["params"]})
        check_tensors(i, saved["state"], group["params"])
    # torch would go on to write into the tensors of the checkpoint.
    used = {key: group for group in merged for key in group["params"]}
    state = {
        key: {k: _copied(v) for k, v in values.items() if _has_use(k, v, used.get(key, {}))}
        for key, values in saved["state"].items()
        if values
    }
    for group, own in zip(saved["param_groups"], groups, strict=True):
        asked = None if own["adamw"] else own["momentum_dtype"]
        for key, p in zip(group["params"], own["params"], strict=False):
            if key in state:
                state[key] = loaded(key, state[key], p, asked)
    return {"state": state, "param_groups": merged}


def _copied(value: Any) -> Any:
    """A tensor of its own; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def _has_use(name: str, value: Any, group: Mapping[str, Any]) -> bool:
    """Whether it is a tensor of the state, and not that of a map which the group does not have.

    torch.optim.SGD saves None in the place of a momentum that it does not have.
    """
    slot = name.partition(".")[0]
    return value is not None and (slot not in SLOTS or group.get(slot) is not None)


def _check_kind(saved: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise for the state of an AdamW where an optimizer has matrices."""
    for i, group in enumerate(saved["param_groups"]):
        own = groups[i] if i < len(groups) else None
        told = group.get("adamw", group.get("rest"))
        if "amsgrad" in group and not told and (own is None or not own["adamw"]):
            raise invalid(
                f"param_groups[{i}]",
                "saved by an optimizer such as torch.optim.AdamW",
                "its averages are not the momentum of matrices: begin with a new optimizer and the "
                "weights of the checkpoint",
            )
    if len(saved["param_groups"]) != len(groups):
        raise invalid(
            "param_groups",
            len(saved["param_groups"]),
            f"a different number of parameter groups than the {len(groups)} of this optimizer: "
            "build it with the same options, of which embedding_lr and its like, layer_decay and "
            "added groups change it",
        )


def _check_numbers(saved: Mapping[str, Any]) -> None:
    """Raise unless each parameter of a state has a number of its own, and there is no other state.

    Under names of another kind users keep what they like, as torch lets them.
    """
    known: dict[Any, int] = {}
    for i, group in enumerate(saved["param_groups"]):
        for key in group["params"]:
            if key in known:
                raise invalid(
                    f"param_groups[{i}]['params']",
                    key,
                    f"param_groups[{known[key]}] has a parameter of this number already, and the "
                    "state of one would be that of two: give each its own",
                )
            known[key] = i
    kinds = set(map(type, known))
    for key, values in saved["state"].items():
        if key not in known and values and type(key) in kinds:
            raise invalid(
                f"state[{key!r}]",
                "the state of a parameter",
                "no group has a parameter of this number: delete it from the saved state, or load "
                "the state that was saved with these groups",
            )


def first_difference(saved: Any, own: Any) -> tuple[str, Any, Any]:
    """The place in two lists where they differ first, and what is there; the values themselves."""
    if not (isinstance(saved, list) and isinstance(own, list)):
        return "", saved, own
    pairs = list(itertools.zip_longest(saved, own))
    place = next((j for j, (a, b) in enumerate(pairs) if a != b), 0)
    return f"[{place}]", *pairs[place]


def check_names(number: int, saved: Sequence[str] | None, own: Sequence[str] | None) -> None:
    """Raise if a group was saved with other parameters, as far as names tell.

    What wrappers put into a name says nothing: a run may go on with `torch.compile` or data
    parallelism that it began without, or the other way round, and as a part of a larger model.

    Args:
        number: The place of the group.
        saved: The names in the saved group.
        own: The names in the optimizer.

    Raises:
        ValueError: both have names, and they differ by more than one prefix of all.
    """
    if not saved or not own or len(saved) != len(own):
        return  # torch compares the numbers
    pairs = [(plain_name(a), plain_name(b)) for a, b in zip(saved, own, strict=True)]
    # The prefix that one of them has before every name of the other, if there is one.
    prefix = {a.removesuffix(b) for a, b in pairs}, {b.removesuffix(a) for a, b in pairs}
    if any(len(found) == 1 and next(iter(found))[-1:] in ("", ".") for found in prefix):
        return
    for a, b in pairs:
        if a != b:
            raise invalid(
                f"param_groups[{number}]['param_names']",
                a,
                f"saved with this where the optimizer has {b!r}: give the parameters in the same "
                "order, or delete 'param_names' from the saved group to load by place",
            )


def plain_name(name: str) -> str:
    """A name without the parts that wrappers of modules put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


OLD_NAMES = {
    "norm": {"Factor(": "ShapeFactor(", "Cut(": "BlockLayout("},
    "K": {"Factor(": "ShapeFactor(", "L1(": "L1Map(", "Nuclear(": "NuclearMap("},
}
"""Names in the text of saved objects, old and new, for each key of a group."""


USUAL = r"resolution=0\.003|table=None|dtype=None|segments=None|tight=False|refine=0|degree=0"
"""Fields of polar methods at their default, which their text had once."""


def renamed_text(key: str, group: Mapping[str, Any]) -> Any:
    """The text of a saved object, as that of today."""
    text = group[key]
    if not isinstance(text, str):
        return text
    for old, new in OLD_NAMES.get(key, {}).items():
        text = re.sub(rf"\b{re.escape(old)}", new, text)
    text = re.sub(r"\bSchedule\((name=.*?, prescale=\([^()]*\))\)", _schedule, text)
    text = re.sub(rf"(, |(?<=\())({USUAL})(?=[,)])", "", text)
    return text.replace("(, ", "(")


def _schedule(found: re.Match[str]) -> str:
    """A schedule that was written with all of its coefficients."""
    call = ast.parse(f"Schedule({found[1]})", mode="eval").body
    assert isinstance(call, ast.Call), "the pattern is that of a call"
    return repr(Schedule(**{str(k.arg): ast.literal_eval(k.value) for k in call.keywords}))


def renamed(group: dict[str, Any]) -> dict[str, Any]:
    """A saved group whose keys have the names of today.

    Before the release groups held `rest` for `adamw`, and Lion's weights as `past` and `momentum`.
    """
    group = without_adamws(group)
    if KEY in group:
        group[KEY] = without_record(group[KEY])
    if "rest" in group:
        group["adamw"] = group.pop("rest")
    if isinstance(group.get("betas"), list):  # torch makes them one on their way through ranks
        group["betas"] = tuple(group["betas"])
    past = group.pop("past", None)
    if past is not None and not group.get("adamw"):
        group["betas"] = (past, group.pop("momentum"))
        group.pop("nesterov", None)
    return group


def restore_dtypes(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Undo two side effects of `Optimizer.load_state_dict`.

    It casts momentum and what maps keep to the type of the parameter, and leaves AdamW's `step` on
    the host.
    """
    groups: list[dict[str, Any]] = saved["param_groups"]
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        for p, key in zip(own["params"], group["params"], strict=True):
            for name, value in saved["state"].get(key, {}).items():
                dtype = _kept_dtype(name, p, own.get("momentum_dtype"))
                if dtype is not None:
                    optimizer.state[p][name] = value.to(p.device, dtype, copy=True)
            # `get`: a state makes an entry for anyone who asks, which stays when a framework puts
            # another parameter in the place of this one.
            state = optimizer.state.get(p, {})
            if own["adamw"] and "step" in state:
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(p.device)


def _kept_dtype(name: str, param: Tensor, asked: torch.dtype | None) -> torch.dtype | None:
    """The type in which a step has a tensor of the state; None where torch knows it.

    Args:
        name: The key of the tensor.
        param: The parameter.
        asked: The `momentum_dtype` of its group.
    """
    if name == CODES:
        return torch.int8
    average = average_dtype(param, asked)
    if name in (BUFFER, UNITS):
        return average
    return real_dtype(widened(average)) if name.partition(".")[0] in SLOTS else None
