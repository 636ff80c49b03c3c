"""What the dictionary of a parameter group holds, beyond what torch says."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from steepest._types import invalid, shape_text
from steepest.norms import Geometry
from steepest.views import LINEAR, MatrixView, conv

Group = dict[str, Any]

# KellerJordan/Muon, muon.py: learning rate and betas of the AdamW half of MuonWithAuxAdam.
REST_LR = 3e-4
REST_BETAS = (0.9, 0.95)


def name_of(group: Group, param: Tensor) -> str:
    """What to call a parameter in a message: its name, or its place and shape."""
    index = next(i for i, p in enumerate(group["params"]) if p is param)
    if "param_names" in group:
        return str(group["param_names"][index])
    return f"parameter {index} of its group ({shape_text(param.shape)})"


def number(value: object) -> float:
    """A number as it is, NaN for anything else: no comparison with it holds."""
    return float(value) if isinstance(value, int | float) else float("nan")


def momentum_dtype(group: Group, param: Tensor) -> torch.dtype:
    """The type of a momentum buffer: as asked for, complex for a complex parameter."""
    dtype: torch.dtype = group["momentum_dtype"] or param.dtype
    return dtype.to_complex() if param.is_complex() and not dtype.is_complex else dtype


def text_of(value: Any) -> str | list[str]:
    """An object of a group, or several, as a checkpoint names them."""
    return [repr(v) for v in value] if isinstance(value, tuple | list) else repr(value)


def views_of(group: Group, views: Any, norm: Geometry) -> tuple[MatrixView | None, ...]:
    """One view for each parameter of a group, checked; None where the norm takes whole tensors."""
    params = group["params"]
    if norm.axes != 2:
        return _no_views(group, views, norm)
    if isinstance(views, MatrixView):
        views = [views] * len(params)
    if views is not None and len(views) != len(params):
        raise invalid("views", len(views), f"give one view, or {len(params)}: one a parameter")
    out = []
    for i, p in enumerate(params):
        view = views[i] if views is not None else _default_view(group, p)
        try:
            view.shapes(p.shape)
        except ValueError as error:
            raise ValueError(f"view of {name_of(group, p)}: {error}") from None
        out.append(view)
    return tuple(out)


def _no_views(group: Group, views: Any, norm: Geometry) -> tuple[None, ...]:
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


def _default_view(group: Group, param: Tensor) -> MatrixView:
    if param.ndim == 2:
        return LINEAR
    if param.ndim in (4, 5):
        return conv(param.ndim - 2)
    raise invalid(
        "params",
        f"{name_of(group, param)}, {shape_text(param.shape)}",
        "it is not a matrix: pass the module, so that its parameters are routed, or put it into a "
        "group with rest=True for AdamW"
        + (", or say with `views` which axes are rows and columns" if param.ndim > 2 else ""),
    )
