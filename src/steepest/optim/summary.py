"""The text of an optimizer: a line for each group, with what holds now and nothing unused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from steepest.norms import Coupling, Norm
from steepest.optim.choices import SLOTS, ShapeRule
from steepest.optim.groups import Views
from steepest.optim.options import ADAMW_EPS, Group
from steepest.optim.routed import RoutedOptimizer
from steepest.optim.rule import UpdateRule
from steepest.polar import JORDAN_QUINTIC

WIDTH = 100

FACTORS: Mapping[ShapeRule, str] = {
    "original": "√max(1, out/in)",
    "match_rms_adamw": "0.2·√max(out, in)",
    "spectral_unclamped": "√(out/in)",
}
"""The factor of Muon's learning rate, as `shape_factor` computes it."""

KINDS = {"hidden": ("matrix", "matrices"), "constant": ("constant", "constants")}
"""The parameters of a kind, one and several; of the others they are called as the kind."""


def summary(optimizer: RoutedOptimizer) -> str:
    """The name of an optimizer and its groups, by their place in `param_groups`."""
    kinds = _kinds(optimizer)
    lines: list[str] = []
    for place, group in enumerate(optimizer.param_groups):
        try:
            pieces = list(_pieces(optimizer, place, kinds))
        except (KeyError, ValueError) as error:
            # A group may hold what no step accepts, and a debugger shows it none the less.
            pieces = [f"{len(group['params'])} parameters", f"which the next step refuses: {error}"]
        lines += _wrapped(f"  {place}: ", pieces)
    return "\n".join([f"{type(optimizer).__name__}(", *lines, ")"])


def _kinds(optimizer: RoutedOptimizer) -> dict[Tensor, str]:
    """The kind of each parameter that a routing knows."""
    if optimizer._routed is None:
        return {}
    routing = optimizer._routed.now(optimizer.param_groups)
    return {p: a.kind for a, p in zip(routing, routing.parameters, strict=True)}


def _pieces(optimizer: RoutedOptimizer, place: int, kinds: Mapping[Tensor, str]) -> Iterator[str]:
    """The parts of the line of a group."""
    group = optimizer.param_groups[place]
    if group["adamw"]:
        yield f"AdamW, {_count(group, kinds)}"
        yield f"lr {_rate(group)}"
        yield f"betas {_numbers(group['betas'])}"
        if group["eps"] != ADAMW_EPS:
            yield f"eps {_number(group['eps'])}"
    else:
        rule = optimizer._rule(place)
        yield _count(group, kinds, optimizer._views[place], axes=rule.geometry.axes)
        yield optimizer._norm_name(rule)
        maps = {key: dict(group).get(key) for key in SLOTS}
        yield from (f"{key} {value}" for key, value in maps.items() if value is not None)
        yield from _method(group, rule)
        yield from _length(group)
        yield from _average(group)
    yield from _decay(group)
    if group["maximize"]:
        yield "maximize"
    if group["nonfinite"] != "skip":
        yield f"nonfinite {group['nonfinite']}"
    if group["momentum_dtype"] is not None and not group["adamw"]:
        yield f"momentum in {str(group['momentum_dtype']).removeprefix('torch.')}"


def _count(
    group: Group, kinds: Mapping[Tensor, str], views: Views = (), *, axes: int | None = None
) -> str:
    """How many parameters of which kinds a group has; of how many matrices, if that differs."""
    unknown = "hidden" if axes == 2 else "tensor"
    found = Counter(kinds.get(p, unknown) for p in group["params"])
    names = {kind: KINDS.get(kind, (kind, f"{kind}s")) for kind in found}
    parts = [f"{count} {names[kind][count > 1]}" for kind, count in found.items()]
    text = " and ".join(parts) or "no parameters"
    seen = zip(group["params"], views, strict=False)
    matrices = sum(b for p, view in seen if view for b, _, _ in view.shapes(p.shape))
    if axes == 2 and matrices != len(group["params"]):
        text = f"{len(group['params'])} parameters of {matrices} matrices"
    frozen = sum(not p.requires_grad for p in group["params"])
    return f"{text} ({frozen} frozen)" if frozen else text


def _method(group: Group, rule: UpdateRule) -> Iterator[str]:
    """The polar method of a norm of singular values; a map has it in its own text."""
    if group.get("polar", "") is None:
        yield f"polar torch's Newton–Schulz, ns_steps {group['ns_steps']}"
        if tuple(group["ns_coefficients"]) != JORDAN_QUINTIC:
            yield f"ns_coefficients {_numbers(group['ns_coefficients'])}"
    elif rule.geometry.couples is Coupling.MATRIX and isinstance(rule.geometry, Norm):
        yield f"polar {rule.geometry.polar!r}" if rule.geometry.polar else "exact, by SVD"


def _rate(group: Group) -> str:
    """The learning rate, and the first one if a schedule has changed it."""
    now, first = _number(group["lr"]), _number(group.get("first_lr", group["lr"]))
    return now if now == first else f"{now} (first {first})"


def _length(group: Group) -> Iterator[str]:
    """The learning rate with what else the length of a step is made of."""
    scale, sharpness = group.get("scale", "unit"), group.get("sharpness")
    if "adjust_lr_fn" in group:
        yield f"lr {_rate(group)} × {FACTORS[group['adjust_lr_fn'] or 'original']}"
    elif scale != "linesearch":
        yield f"lr {_rate(group)}"
    if scale == "linesearch":
        yield "length by line search"
    elif sharpness == "estimate":
        estimate = group.get("estimate")
        known = f": {_number(estimate)} now" if estimate is not None and group["known"] else ""
        yield f"sharpness estimated{known}"
    elif scale == "dual":
        # 1 is the sharpness of optimizers whose lr is 1/λ.
        yield "scale dual norm" + ("" if sharpness == 1 else f", sharpness {_number(sharpness)}")


def _average(group: Group) -> Iterator[str]:
    """The momentum or the two weights; nothing for the gradient itself."""
    if "betas" in group:
        yield f"betas {_numbers(group['betas'])}"
    elif group["momentum"]:
        yield f"momentum {_number(group['momentum'])}{' (Nesterov)' if group['nesterov'] else ''}"


def _decay(group: Group) -> Iterator[str]:
    """The weight decay of a kind, and the projection."""
    kind = "" if group["decay"] == "explicit" or group["adamw"] else f" ({group['decay']})"
    number = _number(group["weight_decay"])
    yield "no decay" if number == "0" else f"weight_decay {number}{kind}"
    if group["constraint"] and not group["adamw"]:
        yield "projected on its ball"


def _number(value: Any) -> str:
    """A number, or a tensor of one, with the digits that a reader wants."""
    return f"{float(value):.4g}"


def _numbers(values: Any) -> str:
    return f"({', '.join(map(_number, values))})"


def _wrapped(head: str, pieces: list[str]) -> Iterator[str]:
    """The pieces with commas between them, in lines of at most `WIDTH` where they allow it."""
    line, indent = head + pieces[0], " " * len(head)
    for piece in pieces[1:]:
        if len(line) + len(piece) + 3 > WIDTH:
            yield f"{line},"
            line = indent + piece
        else:
            line = f"{line}, {piece}"
    yield line
