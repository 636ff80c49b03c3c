"""The norm of a layer: one table for Scion, the modular norm and the monitor.

They agree where all of them ask the same question. Where they do not, the row says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from steepest._common.torch_modules import CONVS, EMBEDDINGS, NORMALIZATIONS
from steepest.norms import (
    RMS,
    ColumnNorm,
    Conv,
    LInf,
    Norm,
    Operator,
    RowNorm,
    Scaled,
    ShapeFactor,
    Spectral,
)

User: TypeAlias = Literal["scion", "modular", "monitor"]
Column: TypeAlias = Norm | Callable[[Sequence[int]], Norm] | None
"""A norm, one that depends on the shape of the parameter, or None: it has to be stated."""

# torch stores one row a word, so 1 → RMS of the transpose: the largest RMS of a row.
EMBEDDING = Scaled(RowNorm(), ShapeFactor(cols=-0.5))
# One input is a column: the largest entry, times the number of inputs.
HEAD = Scaled(ColumnNorm(float("inf")), ShapeFactor(cols=1.0))


@dataclass(frozen=True, kw_only=True)
class LayerNorms:
    """One row: a kind of layer, and the norm of its parameter for each user.

    Args:
        layer: the kind in words.
        scion: the norm in which `steepest.Scion` moves it.
        modular: the norm that `steepest.modular` gives it.
        monitor: the norm in which `steepest.diagnostics.Monitor` measures its steps, where the
            optimizer does not say one.
        step: the effect of a step of length 1, in Scion.
        why: the reason why the columns differ; empty where they do not.
        example: a shape, for a norm that depends on it.
    """

    layer: str
    scion: Column
    modular: Column
    monitor: Column
    step: str
    why: str = ""
    example: tuple[int, ...] = (64, 32)

    def norm(self, user: User, shape: Sequence[int]) -> Norm | None:
        """The norm of a parameter of this shape; None where the user has to be told."""
        column: Column = getattr(self, user)
        return column if isinstance(column, Norm | None) else column(shape)


def _kernel(shape: Sequence[int]) -> Norm:
    """The norm of a kernel out × in × taps that couples all channels."""
    return Conv(len(shape) - 2)


def _filters(shape: Sequence[int]) -> Norm:
    """The norm of one filter a channel: each amplifies by at most Σ|tap| ≤ taps·(largest entry)."""
    return Scaled(LInf(), float(math.prod(shape[2:])))


RATIO = "the monitor divides by the norm of the weights, in which a factor of the shape is lost"
TOLD = "`modular` asks for the norm"

LAYER_NORMS: Mapping[str, LayerNorms] = {
    "linear": LayerNorms(
        layer="linear, attention projection",
        scion=Operator("rms", "rms"),
        modular=Operator("rms", "rms"),
        monitor=Spectral(),
        step="turns all directions of the matrix alike",
        why=RATIO,
    ),
    "matrix": LayerNorms(
        layer="other matrix: gates, experts, transposed convolutions",
        scion=Operator("rms", "rms"),
        modular=None,
        monitor=Spectral(),
        step="as above",
        why=f"{TOLD}, since the type of the module does not tell; else as above",
    ),
    "convolution": LayerNorms(
        layer="convolution",
        scion=_kernel,
        modular=_kernel,
        monitor=Spectral(),
        step="turns all directions of each tap alike",
        why="the monitor has the singular values of out × (in·k) in any case",
        example=(64, 32, 3, 3),
    ),
    "grouped": LayerNorms(
        layer="convolution in groups of several channels",
        scion=Operator("rms", "rms"),
        modular=None,
        monitor=Spectral(),
        step="as a linear layer, each group by itself",
        why=f"{TOLD}; {RATIO}",
        example=(64, 16, 3, 3),
    ),
    "depthwise": LayerNorms(
        layer="depthwise convolution",
        scion=RMS(),
        modular=_filters,
        monitor=Spectral(),
        step="its gradient over its root mean square",
        why="Scion has one norm for all that is not a matrix; `modular` needs what a filter does "
        "to its channel; the monitor shows how alike the filters are",
        example=(64, 1, 3, 3),
    ),
    "embedding": LayerNorms(
        layer="embedding",
        scion=EMBEDDING,
        modular=EMBEDDING,
        monitor=EMBEDDING,
        step="moves every word that occurred, however rare, by one length",
    ),
    "head": LayerNorms(
        layer="output head",
        scion=HEAD,
        modular=Operator("rms", "rms"),
        monitor=Spectral(),
        step="moves every entry by one length",
        why="only routing knows that a linear layer is the head, and only Scion steps it by that",
    ),
    "gain": LayerNorms(
        layer="gain of a normalisation, of PReLU",
        scion=RMS(),
        modular=LInf(),
        monitor=RMS(),
        step="its gradient over its root mean square",
        why="a gain is a diagonal matrix, whose norm RMS → RMS is its largest entry, which is what "
        "`modular` has to bound",
    ),
    "bias": LayerNorms(
        layer="bias",
        scion=RMS(),
        modular=RMS(),
        monitor=RMS(),
        step="its gradient over its root mean square",
    ),
    "vector": LayerNorms(
        layer="other vector: positions, tokens, scales",
        scion=RMS(),
        modular=None,
        monitor=RMS(),
        step="its gradient over its root mean square",
        why=TOLD,
    ),
}
"""The norms of layers by their kind."""

WEIGHTS: Mapping[type[nn.Module], str] = {
    nn.Linear: "linear",
    **dict.fromkeys(EMBEDDINGS, "embedding"),
    **dict.fromkeys((nn.PReLU, *NORMALIZATIONS), "gain"),
}
"""The kind of the `weight` of a module, where its type alone tells."""


def layer_kind(module: nn.Module, attribute_name: str, shape: Sequence[int]) -> str:
    """The kind of layer that a module's own parameter belongs to, a key of `LAYER_NORMS`.

    The type of the module decides, so a head is "linear".

    Args:
        module: the module that holds the parameter.
        attribute_name: the name of the parameter in the module.
        shape: the shape of the parameter.

    Examples:
        >>> layer_kind(nn.Conv2d(4, 4, 3, groups=4), "weight", (4, 1, 3, 3))
        'depthwise'
        >>> layer_kind(nn.LSTM(4, 4), "weight_hh_l0", (16, 4))
        'matrix'
    """
    if attribute_name == "bias" and isinstance(module, (nn.Linear, *CONVS, *NORMALIZATIONS)):
        return "bias"
    if attribute_name == "weight" and isinstance(module, CONVS):
        if module.groups == 1:
            return "convolution"
        return "depthwise" if shape[1] == 1 and shape[0] == module.groups else "grouped"
    for owner, kind in WEIGHTS.items():
        if attribute_name == "weight" and isinstance(module, owner):
            return kind
    return "matrix" if len(shape) > 1 else "vector"
