"""The values of a parameter group: their checks, its views and the names in messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Set
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from steepest._common.checks import check_object
from steepest._common.errors import invalid, shape_text
from steepest._common.numerics import host_value, number, widened
from steepest.maps import ConvexMap
from steepest.norms import Geometry, Norm
from steepest.optim.choices import SLOTS
from steepest.optim.foreign import Copies, inside, wrappers_in
from steepest.optim.momentum import EIGHT_BITS, average_dtype
from steepest.optim.options import Group
from steepest.optim.remedies import no_matrix
from steepest.optim.rule import UpdateRule, check_average
from steepest.optim.updates import check_decay
from steepest.retractions import Retraction
from steepest.sharding import RankGroup, is_sharded
from steepest.transforms import Transform
from steepest.views import LINEAR, MatrixView, ParameterViews

Views = tuple[MatrixView | None, ...]
"""The view of each parameter of a group; None for one that a norm takes as it is."""


OR_SHARPNESS = ", the norm of a step, or a sharpness"


def name_of(group: Group, param: Tensor) -> str:
    """The name of a parameter in a message, or its place and shape if it has none."""
    index = next(i for i, p in enumerate(group["params"]) if p is param)
    # Code that edits the parameters of a group may leave their names as they were.
    if len(group.get("param_names", ())) == len(group["params"]):
        return str(group["param_names"][index])
    return f"parameter {index} of its group ({shape_text(param.shape)})"


def check_group(group: Group) -> None:
    """Raise if a hyper-parameter that every optimizer has is out of range.

    Raises:
        ValueError: it is.
    """
    if group["lr"] is None:
        raise invalid("lr", None, "give a learning rate" + OR_SHARPNESS * ("sharpness" in group))
    values = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
    values |= {"momentum": group.get("momentum", 0.0), "eps": group.get("eps", 0.0)}
    for key, value in values.items():
        seen = host_value(value)
        if isinstance(value, Tensor) and value.numel() != 1:
            raise invalid(key, shape_text(value.shape), f"a tensor {key} holds one number")
        # NaN is refused as well, but not a tensor that cannot be looked at.
        if not 0 <= seen < math.inf and not (isinstance(value, Tensor) and math.isnan(seen)):
            raise invalid(key, value, "give a finite number >= 0")
    momentum = values["momentum"]
    if not isinstance(momentum, Tensor) and momentum >= 1:
        raise invalid("momentum", momentum, "give the weight of the past, in [0, 1)")
    if "betas" in group:
        two_weights(group["betas"])
        if not group["adamw"]:
            check_average(group)
    check_momentum(group)
    if group["nonfinite"] not in ("skip", "raise"):
        raise invalid("nonfinite", group["nonfinite"], 'give "skip" or "raise"')


def check_momentum(group: Group) -> None:
    """Raise if the momentum of a group cannot be kept as it is asked.

    Raises:
        ValueError: another type than a real one of floating point or int8, or complex parameters
            and int8.
    """
    dtype = group["momentum_dtype"]
    if dtype == EIGHT_BITS and not group["adamw"]:
        for p in group["params"]:
            if p.is_complex():
                raise invalid(
                    "momentum_dtype",
                    dtype,
                    f"{name_of(group, p)} is complex, and 8 bits hold real numbers: give it a "
                    "floating-point type or None in a group of its own",
                )
    elif dtype not in (None, EIGHT_BITS) and not (dtype.is_floating_point and dtype.itemsize > 1):
        raise invalid(
            "momentum_dtype",
            dtype,
            "give a real floating-point type, torch.int8 for blocks of 8 bits, or None",
        )


def two_weights(betas: Any) -> tuple[float, float]:
    """Two numbers in [0, 1), of any sequence: a configuration has its own kind of list.

    Raises:
        ValueError: something else.
    """
    pair = [number(b) for b in betas] if isinstance(betas, Iterable) else []
    if len(pair) != 2 or not all(0 <= b < 1 for b in pair):
        raise invalid("betas", betas, "give two numbers in [0, 1)")
    return pair[0], pair[1]


def plain_numbers(group: dict[str, Any]) -> None:
    """Make the numbers of a group Python's: a checkpoint takes no others."""
    for key in ("lr", "weight_decay", "momentum", "eps"):
        value = group.get(key)
        if isinstance(value, bool):
            raise invalid(key, value, "give a number")
        if not isinstance(value, Tensor) and not math.isnan(number(value)):
            group[key] = value if type(value) in (int, float) else number(value)
    if "betas" in group:
        group["betas"] = two_weights(group["betas"])


def check_ball(group: Group, ball: Norm | None) -> None:
    """Raise if a group cannot be constrained as it is asked; before every step.

    Args:
        group: A group of parameters that move in a norm or along a map.
        ball: The norm in whose ball decay keeps them; None if there is none.

    Raises:
        ValueError: another constraint than "project", or a projection without a ball or with
            weight_decay = 0.
    """
    constraint, weight_decay = group["constraint"], host_value(group["weight_decay"])
    if constraint not in (None, "project"):
        raise invalid("constraint", constraint, 'give "project" or None')
    if constraint is None:
        return
    if weight_decay <= 0:
        raise invalid(
            "weight_decay",
            weight_decay,
            "the ball to project on has radius 1/weight_decay: give it > 0, or constraint=None",
        )
    if ball is None:
        raise invalid(
            "constraint",
            constraint,
            "these steps have no ball: their length follows the gradient. Take steps of "
            'length lr (scale="unit", or a K with a domain), or constraint=None',
        )


def check_rule(group: Group, rule: UpdateRule) -> None:
    """Raise if a rule does not fit the decay of a group, its constraint or its maps.

    Raises:
        ValueError: it does not.
    """
    check_decay(group["lr"], group["weight_decay"], group["decay"])
    check_ball(group, rule.ball)
    check_maps(group, rule)


def check_maps(group: Group, rule: UpdateRule) -> None:
    """Raise if a group asks for maps or a retraction that it cannot have.

    Raises:
        ValueError: something that is no map or no retraction; a norm that takes no matrices, steps
            whose length follows the gradient, or complex parameters; a retraction beside another
            kind of decay, or beside a projection.
    """
    held: dict[str, Any] = dict(group)
    for key, value in ((k, held[k]) for k in SLOTS if held.get(k) is not None):
        kind, home = (
            (Retraction, "retractions") if key == "retraction" else (Transform, "transforms")
        )
        check_object(key, value, kind, f"give an object of steepest.{home} or None")
        if rule.geometry.axes != 2:
            raise invalid(key, value, f"{rule.geometry} takes no matrices: leave {key} out")
        if group.get("scale", "unit") != "unit":
            raise invalid(key, value, 'its steps have a length of their own: scale="unit"')
        if any(p.is_complex() for p in group["params"]):
            raise invalid(key, value, "it takes real parameters")
    if rule.retraction is None:
        return
    if group["decay"] != "explicit":
        raise invalid("decay", group["decay"], f'with {rule.retraction} give "explicit"')
    if group["constraint"] is not None:
        raise invalid("constraint", group["constraint"], f"with {rule.retraction} give None")


def choose_polar(group: Group, views: Views, geometry: Geometry) -> None:
    """Have the methods of polar factors chosen before a step, which may be traced."""
    polar, smooth = geometry.polar, isinstance(geometry, ConvexMap)
    for p, view in zip(group["params"], views, strict=True):
        dtype = widened(average_dtype(p, group["momentum_dtype"]))
        for _, m, n in view.shapes(p.shape) if view else []:
            if polar and m and n:
                # Smooth maps of singular values take that of [X, δI].
                for sizes in ((m, n), (n, m), *([(min(m, n), m + n)] if smooth else [])):
                    polar.choose(*sizes, dtype, p.device)


def repr_of(value: Any) -> str | list[str]:
    """An object of a group, or several, as a checkpoint names them."""
    if isinstance(value, str):
        return value
    return [repr(v) for v in value] if isinstance(value, tuple | list) else repr(value)


Replicas = tuple[RankGroup | None, tuple[Copies, ...]]
"""The ranks that hold copies, None if unknown; and the modules that average gradients."""


def replicas_of(module: nn.parallel.DistributedDataParallel) -> Replicas:
    """The ranks that hold copies of a module; None where it is not copied as a whole."""
    if dist.get_world_size(module.process_group) == 1:
        return None, ()
    # Parameters that torch was told to ignore differ from rank to rank.
    same = not module.parameters_to_ignore
    return RankGroup.of_group(module.process_group) if same else None, (Copies(module),)


def modules_of(found: Iterable[Replicas]) -> tuple[Copies, ...]:
    """The modules that average gradients, of several wrappers."""
    return tuple(one for _, copies in found for one in copies)


def trained_copies(params: Iterable[Tensor]) -> set[Tensor]:
    """The parameters of which ranks may hold copies: those that are trained and not sharded."""
    return {p for p in params if p.requires_grad and not is_sharded(p)}


def named_replicas(replicas: Any, members: Set[Tensor]) -> Replicas:
    """The ranks that hold copies, from what a user names them by; None if there is only one.

    Args:
        replicas: A `DistributedDataParallel` module, one that computes the same or that contains
            it, a process group or None.
        members: The parameters of the optimizer.

    Raises:
        ValueError: something else, or a module that holds none of the parameters.
    """
    if replicas is None:
        return None, ()
    module = inside(replicas) if isinstance(replicas, nn.Module) else None
    if module is not None and (wraps := wrappers_in(module)):
        held = [{*wrap.module.parameters()} for wrap in wraps]
        own = [replicas_of(w) for w, params in zip(wraps, held, strict=True) if params & members]
        if not own:
            name = type(getattr(module, "module", module)).__name__
            raise invalid("replicas", name, "it has other parameters")
        # What a module has beside its wrappers is nobody's copy.
        same = all(ranks == own[0][0] for ranks, _ in own)
        whole = module is wraps[0] or trained_copies(members) <= set[Tensor]().union(*held)
        return own[0][0] if same and whole else None, modules_of(own)
    if isinstance(replicas, dist.ProcessGroup):
        several = dist.get_world_size(replicas) > 1
        return RankGroup.of_group(replicas) if several else None, ()
    remedy = "give the DistributedDataParallel module, a process group or None"
    raise invalid("replicas", type(replicas).__name__, remedy)


def module_params(params: Any, geometry: Geometry, argument: str) -> Any:
    """Return every named parameter if `params` is a module and the norm is for entries.

    Otherwise return `params` unchanged.

    Raises:
        ValueError: a module, and a geometry that is neither for entries nor for matrices.
    """
    if not isinstance(params, nn.Module) or geometry.axes == 2:
        return params
    if geometry.axes is None:
        return list(params.named_parameters())
    raise invalid(argument, geometry, "it does not fit every parameter: give groups")


def views_of(group: Group, views: Any, norm: Geometry, optimizer: type) -> Views:
    """One view for each parameter of a group, checked; None where the norm takes whole tensors.

    Args:
        group: The group.
        views: One view for all, or one for each, of which None stands for the usual one.
        norm: The norm or map of the group.
        optimizer: The class of the optimizer.

    Raises:
        ValueError: a view does not fit its parameter, or one without a view is not a matrix.
    """
    params = group["params"]
    if norm.axes != 2:
        return _no_views(group, views, norm)
    if isinstance(views, MatrixView):
        views = [views] * len(params)
    elif isinstance(views, ParameterViews):
        views = views.of(params)
    if views is not None and len(views) != len(params):
        raise invalid("views", len(views), f"give one view, or {len(params)}: one per parameter")
    out = []
    for i, p in enumerate(params):
        view = views[i] if views is not None else None
        view = view or _default_view(group, p, optimizer)
        try:
            view.shapes(p.shape)
        except ValueError as error:
            raise ValueError(f"view of {name_of(group, p)}: {error}") from None
        out.append(view)
    return tuple(out)


def _no_views(group: Group, views: Any, norm: Geometry) -> Views:
    if views is not None:
        raise invalid("views", views, f"{norm} takes tensors as they are: leave views out")
    for p in group["params"]:
        if p.ndim < (norm.axes or 0):
            raise invalid(
                "params",
                f"{name_of(group, p)}, {shape_text(p.shape)}",
                f"{norm} acts on {norm.axes} axes: give it another norm in a group of its own",
            )
    return (None,) * len(group["params"])


def _default_view(group: Group, param: Tensor, optimizer: type) -> MatrixView:
    if param.ndim == 2:
        return LINEAR
    name = name_of(group, param).partition(" (")[0]
    raise no_matrix(optimizer, param, name, group["lr"])
