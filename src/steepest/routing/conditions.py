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
    HEAD_BY_HEAD_HOST,
    HEAD_PATH,
    HIDDEN,
    KEY,
    LORA,
    NO_END,
    OUTPUT,
    QUERY,
    VALUE,
)
from steepest.routing.places import HEADS, KV_HEADS, Site, Survey, kind_of
from steepest.views import EXPERTS, MatrixView

Condition: TypeAlias = Callable[[Site, Survey], bool]
View: TypeAlias = Callable[[Site, Survey], MatrixView]
Rows: TypeAlias = Callable[[Site, Survey], int]

EXPERTS_INPUT_FIRST = MatrixView(batch=(0,), rows=(2,), cols=(1,))


def of(*types: type[nn.Module]) -> Condition:
    """The owner is one of these modules."""
    return lambda site, _: isinstance(site.owner, types)


def within(*types: type[nn.Module]) -> Condition:
    """The module that holds the owner is one of these."""
    return lambda site, _: isinstance(site.host, types)


def inside(*types: type[nn.Module]) -> Condition:
    """Some module above the owner is one of these."""
    return lambda site, _: any(isinstance(m, types) for m in site.chain[:-1])


def kind(pattern: str) -> Condition:
    """The owner's class name contains this."""
    return lambda site, _: bool(re.search(pattern, site.kind))


def label(pattern: str) -> Condition:
    """The telling name is this."""
    return lambda site, _: bool(re.fullmatch(pattern, site.label, re.I))


def leaf(pattern: str) -> Condition:
    """The parameter's own name is this."""
    return lambda site, _: bool(re.fullmatch(pattern, site.leaf))


def beside(pattern: str) -> Condition:
    """The same module holds a matrix of this name as well."""
    return lambda site, model: model.beside(site, pattern) is not None


def axes(low: int, high: int | None = None) -> Condition:
    """The number of axes lies in this range; one number means exactly that."""
    return lambda site, _: low <= site.ndim <= (low if high is None else high)


def either(*conditions: Condition) -> Condition:
    """One condition suffices."""
    return lambda site, model: any(c(site, model) for c in conditions)


def one_row(site: Site, _: Survey) -> bool:
    """No more than one axis is longer than 1."""
    return sum(d > 1 for d in site.shape) <= 1


def empty(site: Site, _: Survey) -> bool:
    """The parameter has no entries."""
    return 0 in site.shape


def layer(site: Site, _: Survey) -> bool:
    """The weight of a linear map or a convolution."""
    return site.layer


def linear_map(site: Site, _: Survey) -> bool:
    """The same, or a 2-D parameter of somebody's own module."""
    foreign = not isinstance(site.owner, (*RECURRENT, nn.MultiheadAttention))
    return site.layer or (foreign and site.ndim == 2)


def one_matrix(site: Site, model: Survey) -> bool:
    """A linear map in one piece, which a split can cut."""
    return linear_map(site, model) and site.layout.split == 1


def no_layer(site: Site, _: Survey) -> bool:
    """Anything but the weight of a linear map or a convolution."""
    return not site.layer


def stored(site: Site, _: Survey) -> bool:
    """The weight is computed from this tensor."""
    return site.layer and site.stored


def depthwise(site: Site, _: Survey) -> bool:
    """A convolution whose groups have one input or one output channel."""
    groups = getattr(site.owner, "groups", 1)
    return groups > 1 and (site.shape[1] == 1 or site.shape[0] == groups)


def lora(site: Site, _: Survey) -> bool:
    """A factor of a low-rank update."""
    return any(re.fullmatch(LORA, name, re.I) for name in (site.label, *site.path))


def lora_of_table(site: Site, _: Survey) -> bool:
    """A factor of a low-rank update of an embedding or an output head."""
    path = ".".join((*site.path, site.label))
    return bool(re.search(rf"lora_embedding_[ab]\b|(?:^|\.)(?:{HEAD})\.{LORA}", path, re.I))


def in_attention(site: Site) -> bool:
    """An attention module stands above the owner."""
    above = site.path[:-1]
    kinds = (kind_of(m) for m in site.chain[1:-1])
    return any(re.fullmatch(ATTENTION, step, re.I) for step in above) or any(
        re.search(r"(?:Attention|Attn)(?:\dd)?\d*$", name) for name in kinds
    )


def named_head(site: Site, model: Survey) -> bool:
    """An output head by its own name, or the last layer of a container of such a name."""
    if not linear_map(site, model) or in_attention(site):
        return False
    if re.search(HEAD_PATH, ".".join(site.path)) or re.fullmatch(HEAD, site.label, re.I):
        return True
    if any(re.fullmatch(name, site.label, re.I) for name in (QUERY, KEY, VALUE, NO_END)):
        return False
    return any(
        _ends(site, model, i)
        for i, step in enumerate(site.path[:-1], start=1)
        if re.fullmatch(HEAD, step, re.I)
    )


def _ends(site: Site, model: Survey, depth: int) -> bool:
    """The output of the module `depth` steps down the path, or of a member if it is a list."""
    depth += isinstance(site.chain[depth], nn.ModuleList | nn.ModuleDict)
    end = model.end(site.path[:depth], END)
    return end == site.path and not model.twin(site, above=depth)


def at_the_end(site: Site, model: Survey) -> bool:
    """The last layer of the model, unless it is known as a hidden one."""
    hidden = re.fullmatch(HIDDEN, site.label, re.I) or "pooler" in site.path
    return (
        site.layer
        and model.end() == site.path
        and not hidden
        and not in_attention(site)
        and not model.twin(site)
    )


def named_output(site: Site, _: Survey) -> bool:
    """Called an output, or the end of a `Sequential` so called."""
    names = [site.label]
    if len(site.path) > 1 and isinstance(site.host, nn.Sequential):
        names.append(site.path[-2])
    return any(re.fullmatch(OUTPUT, name, re.I) for name in names)


def indexed(site: Site, model: Survey) -> bool:
    """The layer has as many outputs as an embedding of the model has rows, and as many inputs."""
    return model.indexed(site)


def headless(_: Site, model: Survey) -> bool:
    """No output head was recognised anywhere."""
    return not model.tied_head and not model.any(named_head)


def thirds(site: Site, _: Survey) -> bool:
    """Query, key and value of equal size: three times as many outputs as inputs."""
    # `to_qkv` is cut by chunk(3) wherever it occurs, whatever the inner width is.
    return site.outputs == 3 * site.inputs or (site.label == "to_qkv" and site.outputs % 3 == 0)


def halves(site: Site, _: Survey) -> bool:
    """Key and value of equal size."""
    return site.outputs % 2 == 0 and (site.label != "c_attn" or site.outputs == 2 * site.inputs)


def even(site: Site, _: Survey) -> bool:
    """The outputs divide into two halves."""
    return site.outputs % 2 == 0


def head_size(site: Site) -> int:
    """Rows of one head of a fused projection, from the numbers of heads the module tells; or 0."""
    heads = site.told(HEADS) or 0
    total = heads + 2 * (site.told(KV_HEADS) or heads)
    return site.outputs // total if heads and site.outputs % total == 0 else 0


def head_by_head(site: Site, model: Survey) -> bool:
    """Query, key and value alternate, head after head."""
    host = re.search(HEAD_BY_HEAD_HOST, kind_of(site.host))
    return bool(re.fullmatch(HEAD_BY_HEAD, site.label, re.I)) or (
        host is not None and site.label == "c_attn" and not grouped(site, model)
    )


def heads_told(site: Site, _: Survey) -> bool:
    """The module tells its heads, and they fit."""
    return head_size(site) > 0


def grouped(site: Site, _: Survey) -> bool:
    """The module tells that it has fewer key and value heads than query heads."""
    fewer = site.told(KV_HEADS) not in (None, site.told(HEADS))
    return fewer and head_size(site) > 0


def experts(site: Site, _: Survey) -> bool:
    """The owner is a mixture of experts by the names."""
    text = " ".join((*site.path, site.label, site.kind))
    return bool(re.search(r"expert|moe", text, re.I))


def _pair(site: Site, model: Survey) -> MatrixView | None:
    """The layout of stacked gate_up and down projections, which their shapes tell together."""
    up, down = model.beside(site, r"gate_up_proj"), model.beside(site, r"down_proj")
    if up is None or down is None or up.ndim != 3 or down.ndim != 3:
        return None
    (_, a, b), (_, c, d) = up.shape, down.shape
    if (a, b) == (2 * d, c):
        return EXPERTS
    return EXPERTS_INPUT_FIRST if (b, a) == (2 * c, d) else None


def paired(site: Site, model: Survey) -> bool:
    """Both projections of the experts are there and fit each other."""
    return _pair(site, model) is not None


def whole(site: Site, _: Survey) -> MatrixView:
    """The layout as it is."""
    return site.layout


def cut(blocks: int) -> View:
    """The outputs in equal blocks."""
    return lambda site, _: site.cut(blocks)


def experts_input_first(_: Site, __: Survey) -> MatrixView:
    """Stacked weights of shape experts × in × out."""
    return EXPERTS_INPUT_FIRST


def cut_by_head(site: Site, _: Survey) -> MatrixView:
    """One block for each head of each projection."""
    return site.cut(site.outputs // head_size(site))


def cut_by_group(site: Site, _: Survey) -> MatrixView:
    """Query, key and value of grouped-query attention."""
    size = head_size(site)
    queries = size * (site.told(HEADS) or 0)
    return site.cut((queries, *[(site.outputs - queries) // 2] * 2))


def as_paired(site: Site, model: Survey) -> MatrixView:
    """Stacked experts in the orientation that their shapes tell; gate and up are cut apart."""
    view = _pair(site, model) or EXPERTS
    two = site.label.startswith("gate_up")
    return replace(view, split=2, split_dim=view.rows[0]) if two else view


def own(site: Site, _: Survey) -> int:
    """Count all rows as query rows: a query projection, or one whose heads equal the query's."""
    return site.outputs


def third(site: Site, _: Survey) -> int:
    """The first third of the rows."""
    return site.outputs // 3


def told_rows(site: Site, _: Survey) -> int:
    """The number of rows that the module's heads need."""
    return head_size(site) * (site.told(HEADS) or 0)


def unknown(_: Site, __: Survey) -> int:
    """Zero: the number of query rows cannot be told."""
    return 0


def beside_query(site: Site, model: Survey) -> int:
    """The rows of the query projection beside a key, a value, or both."""
    query = model.beside(site, QUERY)
    return query.outputs if query else 0
