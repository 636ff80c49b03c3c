"""The questions that a rule of routing may ask about a place, and the ways to cut what is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from torch import nn

from steepest._common.torch_modules import RECURRENT
from steepest.routing.names import (
    ATTENTION,
    END,
    HEAD,
    HEAD_BY_HEAD,
    HEAD_BY_HEAD_CONTAINER,
    HEAD_PATH,
    HIDDEN,
    KEY,
    LORA,
    NO_END,
    OUTPUT,
    QUERY,
    VALUE,
)
from steepest.routing.places import HEADS, KV_HEADS, ModelIndex, ParameterPlace, kind_of
from steepest.views import EXPERTS, MatrixView

Condition: TypeAlias = Callable[[ParameterPlace, ModelIndex], bool]
View: TypeAlias = Callable[[ParameterPlace, ModelIndex], MatrixView]
Rows: TypeAlias = Callable[[ParameterPlace, ModelIndex], int]

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
    return any(re.fullmatch(LORA, name, re.I) for name in (place.given_name, *place.path))


def lora_of_embedding(place: ParameterPlace, _: ModelIndex) -> bool:
    """A factor of a low-rank update of an embedding."""
    return bool(re.search(r"(?:^|\.)lora_embedding_[ab]\b", _named(place), re.I))


def lora_of_head(place: ParameterPlace, _: ModelIndex) -> bool:
    """A factor of a low-rank update of an output head."""
    return bool(re.search(rf"(?:^|\.)(?:{HEAD})\.{LORA}", _named(place), re.I))


def _named(place: ParameterPlace) -> str:
    """The path with the telling name at its end."""
    return ".".join((*place.path, place.given_name))


def in_attention(place: ParameterPlace) -> bool:
    """An attention module stands above the owner."""
    above = place.path[:-1]
    kinds = (kind_of(m) for m in place.chain[1:-1])
    return any(re.fullmatch(ATTENTION, step, re.I) for step in above) or any(
        re.search(r"(?:Attention|Attn)(?:\dd)?\d*$", name) for name in kinds
    )


def named_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """An output head by its own name, or the last layer of a container of such a name."""
    if not linear_map(place, model) or in_attention(place):
        return False
    if re.search(HEAD_PATH, ".".join(place.path)) or re.fullmatch(HEAD, place.given_name, re.I):
        return True
    if any(re.fullmatch(name, place.given_name, re.I) for name in (QUERY, KEY, VALUE, NO_END)):
        return False
    return any(
        _ends(place, model, i)
        for i, step in enumerate(place.path[:-1], start=1)
        if re.fullmatch(HEAD, step, re.I)
    )


def _ends(place: ParameterPlace, model: ModelIndex, depth: int) -> bool:
    """The output of the module `depth` steps down the path, or of a member if it is a list."""
    depth += isinstance(place.chain[depth], nn.ModuleList | nn.ModuleDict)
    end = model.end(place.path[:depth], END)
    return end == place.path and not model.has_twin_block(place, above=depth)


def at_the_end(place: ParameterPlace, model: ModelIndex) -> bool:
    """The last layer of the model, unless it is known as a hidden one."""
    hidden = re.fullmatch(HIDDEN, place.given_name, re.I) or "pooler" in place.path
    return (
        place.layer
        and model.end() == place.path
        and not hidden
        and not in_attention(place)
        and not model.has_twin_block(place)
    )


def named_output(place: ParameterPlace, _: ModelIndex) -> bool:
    """Called an output, or the end of a `Sequential` so called."""
    names = [place.given_name]
    if len(place.path) > 1 and isinstance(place.container, nn.Sequential):
        names.append(place.path[-2])
    return any(re.fullmatch(OUTPUT, name, re.I) for name in names)


def indexed(place: ParameterPlace, model: ModelIndex) -> bool:
    """The layer has as many outputs as an embedding of the model has rows, and as many inputs."""
    return model.indexed(place)


def headless(_: ParameterPlace, model: ModelIndex) -> bool:
    """No output head was recognised anywhere."""
    return not model.tied_head and not model.any(named_head)


def is_fused_qkv(place: ParameterPlace, _: ModelIndex) -> bool:
    """Query, key and value of equal size: three times as many outputs as inputs."""
    # `to_qkv` is cut by chunk(3) wherever it occurs, whatever the inner width is.
    return place.outputs == 3 * place.inputs or (
        place.given_name == "to_qkv" and place.outputs % 3 == 0
    )


def is_fused_kv(place: ParameterPlace, _: ModelIndex) -> bool:
    """Key and value of equal size."""
    return place.outputs % 2 == 0 and (
        place.given_name != "c_attn" or place.outputs == 2 * place.inputs
    )


def even(place: ParameterPlace, _: ModelIndex) -> bool:
    """The outputs divide into two halves."""
    return place.outputs % 2 == 0


def head_size(place: ParameterPlace) -> int:
    """Rows of one head of a fused projection, from the numbers of heads the module tells; or 0."""
    heads = place.config_number(HEADS) or 0
    total = heads + 2 * (place.config_number(KV_HEADS) or heads)
    return place.outputs // total if heads and place.outputs % total == 0 else 0


def head_by_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """Query, key and value alternate, head after head."""
    named = re.search(HEAD_BY_HEAD_CONTAINER, kind_of(place.container))
    return bool(re.fullmatch(HEAD_BY_HEAD, place.given_name, re.I)) or (
        named is not None and place.given_name == "c_attn" and not grouped(place, model)
    )


def has_head_counts(place: ParameterPlace, _: ModelIndex) -> bool:
    """The module tells its heads, and they fit."""
    return head_size(place) > 0


def grouped(place: ParameterPlace, _: ModelIndex) -> bool:
    """The module tells that it has fewer key and value heads than query heads."""
    fewer = place.config_number(KV_HEADS) not in (None, place.config_number(HEADS))
    return fewer and head_size(place) > 0


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


def cut_by_head(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """One block for each head of each projection."""
    return place.cut(place.outputs // head_size(place))


def cut_by_group(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """Query, key and value of grouped-query attention."""
    size = head_size(place)
    queries = size * (place.config_number(HEADS) or 0)
    return place.cut((queries, *[(place.outputs - queries) // 2] * 2))


def as_paired(place: ParameterPlace, model: ModelIndex) -> MatrixView:
    """Stacked experts in the orientation that their shapes tell; gate and up are cut apart."""
    view = _pair(place, model) or EXPERTS
    two = place.given_name.startswith("gate_up")
    return replace(view, split=2, split_dim=view.rows[0]) if two else view


def all_rows(place: ParameterPlace, _: ModelIndex) -> int:
    """Count all rows as query rows: a query projection, or one whose heads equal the query's."""
    return place.outputs


def first_third_of_rows(place: ParameterPlace, _: ModelIndex) -> int:
    """The first third of the rows."""
    return place.outputs // 3


def rows_of_heads(place: ParameterPlace, _: ModelIndex) -> int:
    """The number of rows that the module's heads need."""
    return head_size(place) * (place.config_number(HEADS) or 0)


def unknown(_: ParameterPlace, __: ModelIndex) -> int:
    """Zero: the number of query rows cannot be told."""
    return 0


def rows_of_sibling_query(place: ParameterPlace, model: ModelIndex) -> int:
    """The rows of the query projection beside a key, a value, or both."""
    query = model.sibling(place, QUERY)
    return query.outputs if query else 0
