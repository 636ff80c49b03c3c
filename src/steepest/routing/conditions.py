"""The questions that a rule of routing may ask about a place, and the ways to cut what is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import nn

from steepest._common.torch_modules import RECURRENT
from steepest.routing import names
from steepest.routing.places import ModelIndex, ParameterPlace, kind_of
from steepest.views import EXPERTS, MatrixView

Condition: TypeAlias = Callable[[ParameterPlace, ModelIndex], bool]
View: TypeAlias = Callable[[ParameterPlace, ModelIndex], MatrixView]
Rows: TypeAlias = Callable[[ParameterPlace, ModelIndex], int | None]
Layout: TypeAlias = Callable[[ParameterPlace, ModelIndex], "HeadLayout | None"]


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """How a projection is laid out in heads, as its module tells.

    Args:
        heads: the number of heads; of layouts that have several, each of them.
        parts: the rows of every part of every head, in the order of the rows.
        words: the layout in words, for an error.
    """

    heads: tuple[int, ...]
    parts: tuple[int, ...]
    words: str

    def fits(self, rows: int) -> bool:
        """Whether the parts add up to these rows."""
        return sum(self.parts) == rows


EXPERTS_INPUT_FIRST = MatrixView(batch=(0,), rows=(2,), cols=(1,))


def of(*types: type[nn.Module]) -> Condition:
    """The owner is one of these modules."""
    return lambda place, _: isinstance(place.owner, types)


def within(*types: type[nn.Module]) -> Condition:
    """The module that holds the owner is one of these."""
    return lambda place, _: isinstance(place.container, types)


def inside(*types: type[nn.Module]) -> Condition:
    """Some module above the owner is one of these."""
    return lambda place, _: any(isinstance(m, types) for m in place.chain[:-1])


def class_name(pattern: str) -> Condition:
    """The owner's class name contains this."""
    return lambda place, _: bool(re.search(pattern, place.kind))


def given_name(pattern: str) -> Condition:
    """The telling name is this."""
    return lambda place, _: bool(re.fullmatch(pattern, place.given_name, re.I))


def attribute_name(pattern: str) -> Condition:
    """The parameter's own name is this."""
    return lambda place, _: bool(re.fullmatch(pattern, place.attribute_name))


def has_sibling(pattern: str) -> Condition:
    """The same module holds a matrix of this name as well."""
    return lambda place, model: model.sibling(place, pattern) is not None


def axes(low: int, high: int | None = None) -> Condition:
    """The number of axes lies in this range; one number means exactly that."""
    return lambda place, _: low <= place.ndim <= (low if high is None else high)


def either(*conditions: Condition) -> Condition:
    """One condition suffices."""
    return lambda place, model: any(c(place, model) for c in conditions)


def one_row(place: ParameterPlace, _: ModelIndex) -> bool:
    """No more than one axis is longer than 1."""
    return sum(d > 1 for d in place.shape) <= 1


def empty(place: ParameterPlace, _: ModelIndex) -> bool:
    """The parameter has no entries."""
    return 0 in place.shape


def layer(place: ParameterPlace, _: ModelIndex) -> bool:
    """The weight of a linear map or a convolution."""
    return place.layer


def linear_map(place: ParameterPlace, _: ModelIndex) -> bool:
    """The same, or a 2-D parameter of somebody's own module."""
    foreign = not isinstance(place.owner, (*RECURRENT, nn.MultiheadAttention))
    return place.layer or (foreign and place.ndim == 2)


def one_matrix(place: ParameterPlace, model: ModelIndex) -> bool:
    """A linear map in one piece, which a split can cut."""
    return linear_map(place, model) and place.layout.split == 1


def no_layer(place: ParameterPlace, _: ModelIndex) -> bool:
    """Anything but the weight of a linear map or a convolution."""
    return not place.layer


def stored(place: ParameterPlace, _: ModelIndex) -> bool:
    """The weight is computed from this tensor."""
    return place.layer and place.stored


def depthwise(place: ParameterPlace, _: ModelIndex) -> bool:
    """A convolution whose groups have one input or one output channel."""
    groups = getattr(place.owner, "groups", 1)
    return groups > 1 and (place.shape[1] == 1 or place.shape[0] == groups)


def lora(place: ParameterPlace, _: ModelIndex) -> bool:
    """A factor of a low-rank update."""
    return any(re.fullmatch(names.LORA, name, re.I) for name in (place.given_name, *place.path))


def lora_of_embedding(place: ParameterPlace, _: ModelIndex) -> bool:
    """A factor of a low-rank update of an embedding."""
    return bool(re.search(r"(?:^|\.)lora_embedding_[ab]\b", _named(place), re.I))


def lora_of_head(place: ParameterPlace, _: ModelIndex) -> bool:
    """A factor of a low-rank update of an output head."""
    return bool(re.search(rf"(?:^|\.)(?:{names.HEAD})\.{names.LORA}", _named(place), re.I))


def _named(place: ParameterPlace) -> str:
    """The path with the telling name at its end."""
    return ".".join((*place.path, place.given_name))


def in_attention(place: ParameterPlace, model: ModelIndex) -> bool:
    """An attention module holds the layer, or stands above it."""
    kinds = (kind_of(m) for m in place.chain[1:-1])
    return (
        any(re.fullmatch(names.ATTENTION, step, re.I) for step in place.path[:-1])
        or any(re.search(r"(?:Attention|Attn)(?:\dd)?\d*$", name) for name in kinds)
        or (
            model.sibling(place, names.QUERY) is not None
            and model.sibling(place, f"{names.KEY}|{names.KEY_VALUE}") is not None
        )
    )


def not_of_attention(place: ParameterPlace, _: ModelIndex) -> bool:
    """The container is not an attention module."""
    return not place.of_attention


def no_projection(place: ParameterPlace, model: ModelIndex) -> bool:
    """Not one of several projections that a module holds as parameters of its own."""
    called = re.fullmatch(names.QUERY, place.given_name, re.I)
    return called is None or model.sibling(place, names.KEY) is None


def holds_positions(place: ParameterPlace, _: ModelIndex) -> bool:
    """Some module around the parameter is an embedding of positions, by its class."""
    return any(re.search(names.POSITION_CLASS, kind_of(m)) for m in place.chain[-2:])


def hyper_connection(place: ParameterPlace, _: ModelIndex) -> bool:
    """A parameter of hyper-connections, which mixes the streams of the residual."""
    return bool(re.search(r"Hyper(?:Connection|Head)", place.kind)) and place.given_name in (
        *("fn", "hc_fn"),
    )


def router(place: ParameterPlace, model: ModelIndex) -> bool:
    """The router of a mixture of experts: beside its experts, or called a router itself."""
    if not linear_map(place, model) or place.ndim != 2:
        return False
    if re.search(names.ROUTER, kind_of(place.container)) or re.search(names.ROUTER, place.kind):
        return True
    steps = (place.given_name, *place.path[-2:-1])
    called = any(re.fullmatch(names.ROUTER_NAME, step, re.I) for step in steps)
    inside = any(re.fullmatch(names.EXPERTS, step, re.I) for step in place.path)
    return (called and not inside) and any(
        re.fullmatch(names.EXPERTS, name, re.I)
        for module in place.chain[-3:]
        for name, _ in module.named_children()
    )


def experts(place: ParameterPlace, _: ModelIndex) -> bool:
    """The owner is a mixture of experts by the names."""
    text = " ".join((*place.path, place.given_name, place.kind))
    return bool(re.search(r"expert|moe", text, re.I))


def _pair(place: ParameterPlace, model: ModelIndex) -> MatrixView | None:
    """The layout of stacked gate_up and down projections, which their shapes tell together."""
    up, down = model.sibling(place, r"gate_up_proj"), model.sibling(place, r"down_proj")
    if up is None or down is None or up.ndim != 3 or down.ndim != 3:
        return None
    (_, a, b), (_, c, d) = up.shape, down.shape
    if (a, b) == (2 * d, c):
        return EXPERTS
    return EXPERTS_INPUT_FIRST if (b, a) == (2 * c, d) else None


def paired(place: ParameterPlace, model: ModelIndex) -> bool:
    """Both projections of the experts are there and fit each other."""
    return _pair(place, model) is not None


def natural_view(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """The layout as it is."""
    return place.layout


def cut(blocks: int) -> View:
    """The outputs in equal blocks."""
    return lambda place, _: place.cut(blocks)


def experts_input_first(_: ParameterPlace, __: ModelIndex) -> MatrixView:
    """Stacked weights of shape experts × in × out."""
    return EXPERTS_INPUT_FIRST


def as_paired(place: ParameterPlace, model: ModelIndex) -> MatrixView:
    """Stacked experts in the orientation that their shapes tell; gate and up are cut apart."""
    view = _pair(place, model) or EXPERTS
    two = place.given_name.startswith("gate_up")
    return replace(view, split=2, split_dim=view.rows[0]) if two else view


def all_rows(place: ParameterPlace, _: ModelIndex) -> int:
    """Count all rows as query rows: a query projection, or one whose heads equal the query's."""
    return place.outputs
