"""Projections with several parts in one weight: how their parts, and their heads, are told."""

from __future__ import annotations

import re

from steepest.routing import names
from steepest.routing.conditions import Condition, HeadLayout, one_matrix
from steepest.routing.places import HEAD_DIM, HEADS, KV_HEADS, ModelIndex, ParameterPlace, kind_of
from steepest.views import MatrixView

KEY_HEADS = ("num_k_heads", "num_key_heads", "linear_num_key_heads")
VALUE_HEADS = ("num_v_heads", "num_value_heads", "linear_num_value_heads")
KEY_SIZE = ("head_k_dim", "key_head_dim", "linear_key_head_dim")
VALUE_SIZE = ("head_v_dim", "value_head_dim", "linear_value_head_dim")
INNER = ("d_ssm", "d_inner", "intermediate_size")
GROUPS = ("n_groups", "ngroups", "num_groups")
STATE = ("ssm_state_size", "d_state", "state_size")
STATE_HEADS = ("num_heads", "nheads", "n_heads")


def even(place: ParameterPlace, _: ModelIndex) -> bool:
    """The outputs divide into two halves."""
    return place.outputs % 2 == 0


def _beside(place: ParameterPlace, model: ModelIndex) -> int:
    """How many times what the projection out of the block reads; 0 if it cannot tell."""
    out = model.sibling(place, names.OUT)
    if out is None or not out.layer or place.outputs % out.inputs:
        return 0
    return place.outputs // out.inputs


def _is_in_proj(place: ParameterPlace) -> bool:
    """An `in_proj` of something else than attention, whose number of parts is not a convention."""
    return place.given_name.lower() == "in_proj" and not place.of_attention


def _alternates(place: ParameterPlace) -> bool:
    """The class is known to store its parts row by row or head by head."""
    return bool(re.search(names.ALTERNATING_CONTAINER, kind_of(place.container)))


def parts_beside(number: int) -> Condition:
    """An `in_proj` with so many parts, of which the projection out of the block reads one."""

    def holds(place: ParameterPlace, model: ModelIndex) -> bool:
        return not _alternates(place) and _is_in_proj(place) and _beside(place, model) == number

    return holds


def is_fused_qkv(place: ParameterPlace, model: ModelIndex) -> bool:
    """Query, key and value of equal size."""
    if _is_in_proj(place) or _alternates(place) or place.outputs % 3:
        return False
    # `to_qkv` is cut by chunk(3) wherever it occurs, whatever the inner width is.
    if place.given_name.lower() == "to_qkv" or _beside(place, model) == 3:
        return True
    if place.outputs == 3 * place.inputs:
        return _beside(place, model) in (0, 3)
    heads, size = place.config_number(HEADS), place.config_number(HEAD_DIM)
    return place.outputs == 3 * (heads or 0) * (size or 0)


def one_query_row(place: ParameterPlace, _: ModelIndex) -> bool:
    """One row of scores, then key and value: the separable attention of MobileViT 2."""
    return place.outputs == 2 * place.inputs + 1


def cut_after_one(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """The row of scores, the keys and the values."""
    return place.cut((1, place.inputs, place.inputs))


def _fused_kv_parts(place: ParameterPlace, model: ModelIndex) -> int:
    """Number of parts for keys and values: 2, 1 if they are one matrix, 0 if nothing tells."""
    rows = place.outputs
    query = model.sibling(place, names.QUERY) or model.sibling(place, names.QUERY_UP)
    if place.given_name == "c_attn":
        return 2 if rows == 2 * place.inputs else 0
    if rows % 2 == 0 and (
        place.given_name.lower() == "to_kv"
        or rows == 2 * place.inputs
        or (query is not None and rows == 2 * query.outputs)
    ):
        return 2
    heads, size = place.config_number(HEADS), place.config_number(HEAD_DIM)
    if size is None and query is not None and heads and query.outputs % heads == 0:
        size = query.outputs // heads
    if size is None:
        return 0
    told = place.config_number(KV_HEADS)
    if told:
        return {2 * told * size: 2, told * size: 1}.get(rows, 0)
    return {size: 1, 2 * size: 2, 2 * (heads or 0) * size: 2}.get(rows, 0)


def is_fused_kv(place: ParameterPlace, model: ModelIndex) -> bool:
    """Key and value of equal size."""
    return _fused_kv_parts(place, model) == 2


def is_shared_kv(place: ParameterPlace, model: ModelIndex) -> bool:
    """One matrix for key and value, since there are too few rows for both."""
    return _fused_kv_parts(place, model) == 1


def head_size(place: ParameterPlace) -> int:
    """Rows of one head of a fused projection, from the numbers of heads the module tells; or 0."""
    heads = place.config_number(HEADS) or 0
    total = heads + 2 * (place.config_number(KV_HEADS) or heads)
    size = place.outputs // total if heads and place.outputs % total == 0 else 0
    told = place.config_number(HEAD_DIM)
    return size if told is None or told == size else 0


def grouped(place: ParameterPlace, _: ModelIndex) -> bool:
    """The module tells that it has fewer key and value heads than query heads."""
    fewer = place.config_number(KV_HEADS) not in (None, place.config_number(HEADS))
    return fewer and head_size(place) > 0


def head_by_head(place: ParameterPlace, model: ModelIndex) -> bool:
    """Query, key and value alternate, head after head."""
    named = re.search(names.HEAD_BY_HEAD_CONTAINER, kind_of(place.container))
    fused = re.fullmatch(names.FUSED, place.given_name, re.I)
    return bool(re.fullmatch(names.HEAD_BY_HEAD, place.given_name, re.I)) or (
        named is not None and fused is not None and not grouped(place, model)
    )


def has_head_counts(place: ParameterPlace, _: ModelIndex) -> bool:
    """The module tells its heads, and they fit."""
    return head_size(place) > 0


def _own_numbers(place: ParameterPlace, *attributes: tuple[str, ...]) -> tuple[int, ...]:
    """Numbers of the module itself, one for each list of attributes; empty if one is missing."""
    found = [place.own_number(some) for some in attributes]
    return tuple(n for n in found if n) if all(found) else ()


def state_space_parts(place: ParameterPlace) -> tuple[int, ...]:
    """Rows of z, x, B, C and Δt in the `in_proj` of Mamba 2, or ()."""
    for inner in INNER:
        told = _own_numbers(place, (inner,), GROUPS, STATE, STATE_HEADS)
        if told and _is_in_proj(place):
            size, groups, state, heads = told
            parts = (size, size, groups * state, groups * state, heads)
            if sum(parts) == place.outputs:
                return parts
    return ()


def linear_layout(place: ParameterPlace, _: ModelIndex) -> HeadLayout | None:
    """Query, key, value and gate of a gated delta net, whose module tells four numbers."""
    told = _own_numbers(place, KEY_HEADS, VALUE_HEADS, KEY_SIZE, VALUE_SIZE)
    if not told or told[1] % told[0]:
        return None
    keys, values, key, value = told
    each = values // keys
    words = f"{keys} heads of {key} for query and key, {values} of {value} for value"
    if place.given_name == "in_proj_qkvz":
        parts = (key, key, *[value] * (2 * each)) * keys
    else:
        parts = (*[key] * (2 * keys), *[value] * values)
    return HeadLayout(heads=(keys, values), parts=parts, words=words)


def is_linear(place: ParameterPlace, model: ModelIndex) -> bool:
    """A fused projection of linear attention whose parts the module tells."""
    layout = linear_layout(place, model)
    return layout is not None and layout.fits(place.outputs)


def cut_linear(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """Query, key and value; with a gate they alternate between the key heads."""
    keys, values, key, value = _own_numbers(place, KEY_HEADS, VALUE_HEADS, KEY_SIZE, VALUE_SIZE)
    if place.given_name == "in_proj_qkvz":
        rows = values // keys * value
        return place.cut((key, key, rows, rows) * keys)
    return place.cut((keys * key, keys * key, values * value))


def short_key_parts(place: ParameterPlace) -> tuple[int, ...]:
    """Rows of query, key and value of each head where keys are shorter than values, or ()."""
    told = _own_numbers(place, HEADS, ("key_dim",), ("val_dim", "d"))
    if not told:
        return ()
    heads, key, value = told
    if re.fullmatch(names.FUSED, place.given_name, re.I):
        parts = (key, key, value) * heads
    elif re.fullmatch(names.KEY_VALUE, place.given_name, re.I):
        parts = (key, value) * heads
    else:
        return ()
    return parts if sum(parts) == place.outputs else ()


def tells_parts(place: ParameterPlace, _: ModelIndex) -> bool:
    """The module tells the sizes of all parts, and they add up."""
    return bool(state_space_parts(place) or short_key_parts(place))


def cut_as_told(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """The parts that the module tells."""
    return place.cut(state_space_parts(place) or short_key_parts(place))


def cut_by_head(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """One block for each head of each projection."""
    return place.cut(place.outputs // head_size(place))


def cut_by_group(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """Query, key and value of grouped-query attention."""
    size = head_size(place)
    queries = size * (place.config_number(HEADS) or 0)
    return place.cut((queries, *[(place.outputs - queries) // 2] * 2))


def in_class(pattern: str) -> Condition:
    """The class of the container matches this."""
    return lambda place, _: bool(re.search(pattern, kind_of(place.container)))


def has_head_axis(place: ParameterPlace, _: ModelIndex) -> bool:
    """A projection with an axis for heads behind or before that of the model."""
    return _head_axis_view(place) is not None


def _head_axis_view(place: ParameterPlace) -> MatrixView | None:
    """The view of a 3-D projection whose module tells the sizes of two of its axes."""
    heads, size = place.config_number(HEADS), place.config_number(HEAD_DIM)
    if place.ndim != 3 or place.layer or not heads or not size:
        return None
    last, first = place.shape[1:] == (heads, size), place.shape[:2] == (heads, size)
    if last and re.fullmatch(names.HEAD_AXIS_IN, place.given_name, re.I):
        return MatrixView(rows=(1, 2), cols=(0,))
    if re.fullmatch(names.HEAD_AXIS_OUT, place.given_name, re.I):
        if last:
            return MatrixView(rows=(0,), cols=(1, 2))
        return MatrixView(rows=(2,), cols=(0, 1)) if first else None
    return None


def head_axis_view(place: ParameterPlace, _: ModelIndex) -> MatrixView:
    """The axes of the heads and of a head together as rows, or as columns on the way out."""
    view = _head_axis_view(place)
    assert view is not None
    return view


def heads_of_axis(place: ParameterPlace, _: ModelIndex) -> int | None:
    """The entries of the axis of heads; None on the way out, which is not cut."""
    view = _head_axis_view(place)
    return place.shape[1] if view is not None and view.rows == (1, 2) else None


# Heads.


def first_third_of_rows(place: ParameterPlace, _: ModelIndex) -> int:
    """The first third of the rows."""
    return place.outputs // 3


def rows_of_heads(place: ParameterPlace, _: ModelIndex) -> int:
    """The number of rows that the module's heads need."""
    return head_size(place) * (place.config_number(HEADS) or 0)


def unknown(_: ParameterPlace, __: ModelIndex) -> int:
    """Zero: the number of query rows cannot be told."""
    return 0


def rows_of_sibling_query(place: ParameterPlace, model: ModelIndex) -> int | None:
    """The rows of the query projection beside a key, a value, or both, without its gate.

    A module that tells the size of one head and has no queries has no heads to count.
    """
    query = model.sibling(place, names.QUERY)
    if query is None:
        return None if place.own_number(HEAD_DIM) else 0
    return query.outputs // (2 if gated_query(query, model) else 1)


def gated_query(place: ParameterPlace, model: ModelIndex) -> bool:
    """Query and gate of each head in one weight: twice the rows that the heads need."""
    heads, size = place.config_number(HEADS), place.config_number(HEAD_DIM)
    out = model.sibling(place, names.OUT)
    needed = (heads or 0) * (size or 0)
    return needed > 0 and place.outputs == 2 * needed and out is not None and out.inputs == needed


def gated_layout(place: ParameterPlace, _: ModelIndex) -> HeadLayout:
    """Query and gate, head after head."""
    heads, size = place.config_number(HEADS) or 1, place.config_number(HEAD_DIM) or 1
    words = f"{heads} heads of {size} for query and gate each"
    return HeadLayout(heads=(heads,), parts=(size,) * (2 * heads), words=words)


def latent_layout(place: ParameterPlace, _: ModelIndex) -> HeadLayout | None:
    """Heads of multi-head latent attention: queries, or key and value of each head."""
    heads, value = place.config_number(HEADS), place.own_number(("v_head_dim",))
    plain, turned = (place.own_number((f"qk_{kind}_head_dim",)) for kind in ("nope", "rope"))
    if not heads or not plain:
        return None
    if re.fullmatch(names.KEY_VALUE_UP, place.given_name, re.I):
        if not value:
            return None
        words = f"{heads} heads of {plain} for key and {value} for value"
        return HeadLayout(heads=(heads,), parts=(plain, value) * heads, words=words)
    size = plain + (turned or 0)
    words = f"{heads} heads of {plain} and {turned or 0} for positions"
    return HeadLayout(heads=(heads,), parts=(size,) * heads, words=words)


def latent(place: ParameterPlace, model: ModelIndex) -> bool:
    """The module tells the sizes of the heads of multi-head latent attention."""
    return one_matrix(place, model) and place.own_number(("qk_nope_head_dim",)) is not None


def twice_as_wide(place: ParameterPlace, model: ModelIndex) -> bool:
    """The first layer of a block of two, with twice as many outputs as the second reads."""
    down = model.sibling(place, names.DOWN)
    if down is None or down.ndim != place.ndim or down.layer != place.layer:
        return False
    layers = [
        m for m in place.container.children() if any(p.ndim == place.ndim for p in m.parameters())
    ]
    return len(layers) == 2 and place.outputs == 2 * down.inputs


def sole_layer(place: ParameterPlace, _: ModelIndex) -> bool:
    """The only layer of a module of a class called `…GLU`."""
    layers = [m for m in place.container.children() if any(p.ndim > 1 for p in m.parameters())]
    return len(layers) == 1 and bool(re.search(r"GLU$", kind_of(place.container)))
