"""The spectrum of every matrix of a model: weights, gradients, momentum, inputs of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steepest._common.errors import invalid
from steepest.diagnostics._preserved_state import PreservedState
from steepest.diagnostics._selected import Model, names_of
from steepest.diagnostics.geometry.layer_products import RecordedCalls, counts, side_by_side
from steepest.diagnostics.spectra.spectrum import Method, Spectrum, of_values, spectrum
from steepest.optim.momentum import average_of
from steepest.routing import matrix_views

What = Literal["weights", "gradients", "momentum"]
"""The matrices of a layer whose spectra are taken."""

WHAT = ("weights", "gradients", "momentum")


def layer_spectra(
    model: Model,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    of: What = "weights",
    method: Method = "auto",
    **options: Any,
) -> dict[str, Spectrum]:
    """The spectrum of each matrix of a model; nothing is changed.

    A parameter is seen as `steepest.routing.matrix_views(model, optimizer=optimizer, tables=True)`
    says: as the matrices that the optimizer moves, else as `route` sees it: a convolution as
    out × (in·k), a fused projection as its parts, which are called "qkv.weight[0]",
    "qkv.weight[1]", … A vector is not a matrix and is left out, as is what does not exist yet or is
    not finite.

    Args:
        model: the module, or (name, parameter) pairs.
        optimizer: any optimizer of torch's kind; needed for its momentum.
        of: "weights", "gradients" as `backward` left them, or "momentum".
        method: the method of `spectrum`.
        options: other arguments of `spectrum`.

    Raises:
        ValueError: another `of`, momentum without an optimizer, or no names.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> model(torch.ones(3, 8)).sum().backward()
        >>> {name: round(s.stable_rank, 3) for name, s in
        ...  layer_spectra(model, of="gradients").items()}
        {'0.weight': 1.0, '2.weight': 1.0}
    """
    if of not in WHAT:
        raise invalid("of", of, 'give "weights", "gradients" or "momentum"')
    if of == "momentum" and optimizer is None:
        raise invalid("optimizer", optimizer, "give the optimizer whose momentum it is")
    names = names_of(model)
    params = {name: param for param, name in names.items()}
    source = model if isinstance(model, nn.Module) else params
    found: dict[str, Spectrum] = {}
    for name, view in matrix_views(source, optimizer=optimizer, tables=True).items():
        x = _tensor(params[name], optimizer, of)
        if x is None or not x.numel() or not bool(torch.isfinite(x).all()):
            continue
        matrices = [one for part in view.matrices(x.detach()) for one in part]
        found |= _each(name, matrices, method, options)
    return found


@torch.no_grad()
def input_spectra(
    model: Model, forward: Callable[[], Any], *, method: Method = "auto", **options: Any
) -> dict[str, Spectrum]:
    """The spectrum of what each weight of a model is multiplied by in a forward pass.

    A layer computes Z = W·A with a column of A, in × samples, for each position of each sample. Its
    stable rank is what the nuclear rank of the gradient is held against in `compare_geometries`.
    The columns of an embedding's A are one-hot, and those of a convolution patches, one A for each
    group. A weight that is used several times has the columns of all uses. Weights that no linear
    layer, convolution, embedding or product is seen to use are left out, and so are inputs that are
    not finite.

    Args:
        model: the module, or (name, parameter) pairs.
        forward: runs the model, without arguments; called once, without a graph. The buffers of a
            module and torch's random numbers are put back.
        method: the method of `spectrum`.
        options: other arguments of `spectrum`.

    Raises:
        ValueError: no names, or as `spectrum`.

    Examples:
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> found = input_spectra(model, lambda: model(torch.eye(8)))
        >>> found["0.weight"].shape, round(found["0.weight"].stable_rank, 3)
        ((8, 8), 8.0)
    """
    names = {name: p for p, name in names_of(model).items() if p.ndim >= 2}
    with PreservedState(model, ()), RecordedCalls(names) as seen:
        forward()
    found: dict[str, Spectrum] = {}
    for name, calls in seen.of.items():
        products = [call.product for call in calls]
        if products and products[0].to_columns is None:
            often = counts(products)
            shape = (len(often), sum(p.source.numel() for p in products))
            values = often.sqrt().sort(descending=True).values[: min(shape)]
            found[name] = of_values(values, shape)
        elif products and bool(torch.isfinite(a := side_by_side(products)).all()):
            found |= _each(name, list(a), method, options)
    return found


def _each(
    name: str, matrices: list[Tensor], method: Method, options: dict[str, Any]
) -> dict[str, Spectrum]:
    """The spectra of the matrices of one parameter, numbered where there are several."""
    return {
        name if len(matrices) == 1 else f"{name}[{i}]": spectrum(one, method=method, **options)
        for i, one in enumerate(matrices)
        if one.numel()
    }


def _tensor(param: Tensor, optimizer: torch.optim.Optimizer | None, of: What) -> Tensor | None:
    """The tensor of a parameter that is looked at; None where there is none."""
    if of == "weights":
        return param
    if of == "gradients":
        return None if param.grad is None else param.grad.to_dense()
    assert optimizer is not None, "checked"
    # `get`: the state of an optimizer makes an entry for anyone who asks.
    state = optimizer.state.get(param, {})
    own = average_of(state)  # of SGD and Muon
    return own if own is not None else state.get("exp_avg")  # of Adam and its kin
