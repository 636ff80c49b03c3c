"""The facts that a plan needs about a module of one's own."""

from __future__ import annotations

from collections import Counter

from torch import nn

from steepest import route
from steepest._common.errors import invalid
from steepest._common.text import printable
from steepest.apps.plan.models import MODELS, MatrixStack, Model, Weights

TOKENS = 2**20
"""Tokens of a step of a module, unless another number is asked for."""


def of_module(module: nn.Module) -> Model:
    """The table of a module, which may lie on the meta device; `steepest.route` says what is what.

    For a token tensor parallelism is taken to add up half the shorter side of each parameter, which
    is right for a block of four weights as wide as the model, such as GPT-2's.
    """
    found: Counter[tuple[tuple[int, ...], tuple[MatrixStack, ...]]] = Counter()
    routing = [a for a in route(module) if not a.frozen]
    for a in routing:
        if a.view is not None:
            found[a.shape, tuple(a.view.shapes(a.shape))] += 1
    if not found:
        raise invalid("model", type(module).__name__, "it has no hidden matrix for Muon")
    weights = tuple(Weights(count=n, shape=s, parts=p) for (s, p), n in found.items())
    others = [a for a in routing if a.target in ("table", "vector")]
    heads = [a.numel for a in others if a.target == "table"]
    return Model(
        name=printable(type(module).__name__),
        source="steepest.route",
        weights=weights,
        rest=(sum(a.numel for a in others), len(others)),
        active=heads[-1] if heads else 0,
        tokens=TOKENS,
        blocks=max([1, *(len(m) for m in module.modules() if isinstance(m, nn.ModuleList))]),
        added=sum(w.count * min(w.shape[-2:]) for w in weights) // 2,
    )


def model_of(model: str | nn.Module | Model) -> Model:
    """The table that is meant.

    Raises:
        ValueError: there is none of this name, or a module without a hidden matrix.
    """
    if isinstance(model, nn.Module):
        return of_module(model)
    if isinstance(model, Model):
        return model
    if model not in MODELS:
        raise invalid("model", model, f"choose from {', '.join(MODELS)}, or pass an nn.Module")
    return MODELS[model]
