"""The facts that a plan needs about a module of one's own."""

from __future__ import annotations

from collections import Counter

from torch import nn

from steepest import route
from steepest._common.errors import invalid
from steepest._common.text import printable
from steepest.apps.plan.blocks import BlockCost, KeptNumbers
from steepest.apps.plan.models import MODELS, MatrixStack, Model, Weights

TOKENS = 2**20
"""Tokens of a step of a module, unless another number is asked for."""


def _block(weights: tuple[Weights, ...], blocks: int) -> BlockCost:
    """The activations of a piece, as far as the shapes of its weights tell.

    Input and result of every layer are kept, which is right for GPT's block, and 2 % short of
    Llama's. A token meets its share of a stack of experts.
    """
    sizes = [
        (w.count * (w.share * w.shape[0] if w.stacked else 1) / blocks, *w.sides) for w in weights
    ]
    width = min(min(out, into) for _, out, into in sizes)
    results = sum(n * out for n, out, _ in sizes)
    inputs = sum(n * into for n, _, into in sizes)
    widest = max(max(out, into) for _, out, into in sizes)
    return BlockCost(
        width=width,
        none=KeptNumbers(divided=round(inputs + results)),
        selective=KeptNumbers(divided=round(width + results / 2)),
        working=2 * widest + width,
        repeated=sum(n * out * into for n, out, into in sizes) / 2,
    )


def of_module(module: nn.Module) -> Model:
    """The table of a module, which may lie on the meta device; `steepest.route` says what is what.

    For a token tensor parallelism is taken to add up half the shorter side of each parameter, which
    is right for a block of four weights as wide as the model, such as GPT-2's. Attention is taken
    to be as wide as the shorter side of a layer, if there is any by its name.
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
    tables = [a for a in others if a.target == "table"]
    blocks = max([1, *(len(m) for m in module.modules() if isinstance(m, nn.ModuleList))])
    block = _block(weights, blocks)
    attention = any("attn" in n or "attention" in n for n, _ in module.named_modules())
    return Model(
        name=printable(type(module).__name__),
        source="steepest.route",
        weights=weights,
        rest=(sum(a.numel for a in others), len(others)),
        active=tables[-1].numel if tables else 0,
        tokens=TOKENS,
        blocks=blocks,
        added=sum(w.count * min(w.shape[-2:]) for w in weights) // 2,
        block=block,
        scores=2 * block.width * blocks if attention else 0,
        vocabulary=tables[-1].shape[0] if tables else 0,
        root=sum(a.numel for a in tables),
        tied=len(tables) == 1,
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
