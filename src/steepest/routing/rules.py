"""The rules of routing, as a table: the first row whose conditions all hold decides.

Rows stand in the order module type, name, shape. A name is read only where it says something that
the type does not: a `Linear` called `lm_head`, a projection called `c_attn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import nn

from steepest._common.torch_modules import CONVS, EMBEDDINGS, NORMALIZATIONS, RECURRENT, TRANSPOSED
from steepest.routing import conditions as ask
from steepest.routing import names as names
from steepest.routing.conditions import (
    axes,
    class_name,
    either,
    given_name,
    has_sibling,
    layer,
    of,
)
from steepest.routing.places import ModelIndex, ParameterPlace
from steepest.views import MatrixView

Target: TypeAlias = Literal["matrix", "table", "vector", "constant"]
Kind: TypeAlias = Literal["hidden", "embedding", "head", "vector", "constant"]

KINDS: dict[Target, Kind] = {"matrix": "hidden", "vector": "vector", "constant": "constant"}
"""The kind of what a target takes; of tables there are two, so the rule says which."""

BLOCKS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the table.

    Args:
        target: the destination of the parameter.
        kind: the part that the parameter has in the model.
        reason: the explanation for the printed table.
        when: conditions, all of which must hold.
        view: the parameter as matrices.
        query: rows that belong to queries, by which heads are counted; None where there are none
            to count, 0 where the rule cannot tell.
        settle: the override that settles a guess; empty where the rule is sure.
    """

    target: Target
    kind: Kind
    reason: str
    when: tuple[ask.Condition, ...]
    view: ask.View
    query: ask.Rows | None = None
    settle: str = ""


def matrix(
    reason: str,
    *when: ask.Condition,
    view: ask.View = ask.natural_view,
    query: ask.Rows | None = None,
) -> Rule:
    """A row that sends matrices to the polar factor."""
    return Rule(target="matrix", kind="hidden", reason=reason, when=when, view=view, query=query)


def table(reason: str, *when: ask.Condition, kind: Kind = "head") -> Rule:
    """A row for output heads, or for embeddings."""
    return Rule(target="table", kind=kind, reason=reason, when=when, view=ask.natural_view)


def vector(reason: str, *when: ask.Condition) -> Rule:
    """A row for biases, gains and other parameters that are not matrices."""
    return Rule(target="vector", kind="vector", reason=reason, when=when, view=ask.natural_view)


def guess(
    target: Target,
    reason: str,
    *when: ask.Condition,
    settle: str,
    view: ask.View = ask.natural_view,
    query: ask.Rows | None = None,
) -> Rule:
    """A row for what the module tree does not show."""
    return Rule(
        target=target,
        kind=KINDS[target],
        reason=reason,
        when=when,
        view=view,
        query=query,
        settle=settle,
    )


RULES: tuple[Rule, ...] = (
    # What is not a matrix at all.
    vector("no elements", ask.empty),
    vector("normalisation layer", either(of(*NORMALIZATIONS), class_name(r"Norm\w{0,2}$"))),
    vector("bias, gain or scale: one axis", axes(0, 1)),
    table("embedding table", of(*EMBEDDINGS), kind="embedding"),
    vector("positions, tokens or prompts, by name", ask.no_layer, given_name(names.ADDED)),
    vector("bias", ask.no_layer, given_name(names.BIAS)),
    vector("scales of single entries, by name", ask.no_layer, given_name(names.SCALES)),
    # Output heads by name.
    table("output of an adaptive softmax", ask.inside(nn.AdaptiveLogSoftmaxWithLoss)),
    table("low-rank update of an embedding", ask.lora_of_embedding, kind="embedding"),
    table("low-rank update of an output head", ask.lora_of_head),
    table("output head, by name", ask.named_head),
    vector("a single row or column", ask.one_row),
    # Modules of torch.nn with more than one matrix in a weight.
    matrix(
        "query, key and value in one weight",
        of(nn.MultiheadAttention),
        given_name("in_proj"),
        view=ask.cut(3),
        query=ask.first_third_of_rows,
    ),
    matrix(
        "query, key or value projection",
        of(nn.MultiheadAttention),
        given_name("[qkv]_proj"),
        query=ask.all_rows,
    ),
    matrix(
        "four gates", of(nn.LSTM, nn.LSTMCell), ask.attribute_name(names.GATES), view=ask.cut(4)
    ),
    matrix("three gates", of(nn.GRU, nn.GRUCell), ask.attribute_name(names.GATES), view=ask.cut(3)),
    matrix("recurrent layer", of(*RECURRENT)),
    matrix("acts on the outer product of two inputs", of(nn.Bilinear), axes(3)),
    vector("depthwise: one vector a channel", layer, ask.depthwise),
    matrix("hidden layer of an attention block", layer, ask.within(*BLOCKS)),
    guess(
        "matrix",
        "the layer computes its weight from this tensor",
        ask.stored,
        settle='"matrix" for steps of this tensor in the spectral norm, "adamw" for AdamW',
    ),
    # Projections of attention and of gated layers, by name.
    matrix("low-rank update", ask.linear_map, ask.lora),
    matrix(
        "fused query, key and value, stored head by head: one block a head",
        ask.one_matrix,
        ask.head_by_head,
        ask.has_head_counts,
        view=ask.cut_by_head,
        query=ask.rows_of_heads,
    ),
    guess(
        "matrix",
        "fused query, key and value, perhaps stored head by head",
        ask.one_matrix,
        ask.head_by_head,
        ask.is_fused_qkv,
        view=ask.cut(3),
        query=ask.first_third_of_rows,
        settle="MatrixView(split=3) if Q, K and V lie one after the other, "
        "MatrixView(split=3 * heads) if they alternate",
    ),
    matrix(
        "fused query, key and value, grouped",
        ask.one_matrix,
        given_name(names.FUSED),
        ask.grouped,
        view=ask.cut_by_group,
        query=ask.rows_of_heads,
    ),
    matrix(
        "fused query, key and value",
        ask.one_matrix,
        given_name(names.FUSED),
        ask.is_fused_qkv,
        view=ask.cut(3),
        query=ask.first_third_of_rows,
    ),
    matrix(
        "fused key and value",
        ask.one_matrix,
        given_name(f"{names.KEY_VALUE}|c_attn"),
        ask.is_fused_kv,
        view=ask.cut(2),
        query=ask.rows_of_sibling_query,
    ),
    guess(
        "matrix",
        "fused projection, its parts unknown: one matrix",
        ask.one_matrix,
        given_name(f"{names.FUSED}|{names.HEAD_BY_HEAD}"),
        query=ask.unknown,
        settle='MatrixView(split=(q, k, v)) with the rows of each part, or "matrix" if it is one',
    ),
    matrix(
        "query projection",
        ask.one_matrix,
        given_name(names.QUERY),
        has_sibling(f"{names.KEY}|{names.KEY_VALUE}|c_attn"),
        query=ask.all_rows,
    ),
    matrix(
        "key or value projection",
        ask.one_matrix,
        given_name(f"{names.KEY}|{names.VALUE}"),
        has_sibling(names.QUERY),
        query=ask.rows_of_sibling_query,
    ),
    matrix("gate and up in one weight", layer, given_name(names.GATED), ask.even, view=ask.cut(2)),
    # The end of the model.
    table("last layer, named as an output", ask.at_the_end, ask.named_output),
    table("last layer, as large as the embedding", ask.at_the_end, ask.indexed),
    guess(
        "matrix",
        "last layer of the model: hidden, or the output head?",
        ask.at_the_end,
        ask.headless,
        settle='"adamw" if it is the output head, "matrix" if it is hidden',
    ),
    # Every other layer is hidden.
    matrix("transposed convolution as out × (in·k)", layer, of(*TRANSPOSED)),
    matrix("convolution as out × (in·k)", layer, of(*CONVS)),
    matrix("hidden layer, stored as in × out", layer, class_name("^Conv1D$")),
    matrix("hidden layer", layer),
    # Parameters of somebody's own module, by name.
    table(
        "embedding table, by name",
        either(given_name(names.EMBED), class_name(r"Embed(ding)?s?$")),
        kind="embedding",
    ),
    matrix(
        "stacked experts × in × out, gate and up alternate",
        class_name("^GptOss"),
        given_name("gate_up_proj"),
        view=ask.experts_input_first,
    ),
    matrix(
        "stacked experts, laid out as their shapes tell",
        axes(3),
        ask.experts,
        given_name("gate_up_proj|down_proj"),
        ask.paired,
        view=ask.as_paired,
    ),
    guess(
        "matrix",
        "stacked experts, gate and up fused on an unknown axis",
        axes(3),
        ask.experts,
        given_name(names.GATED),
        settle="MatrixView(batch=(0,), rows=(1,), cols=(2,), split=2, split_dim=1) "
        "for experts × (gate, up) × in",
    ),
    matrix("stacked experts × out × in", axes(3), ask.experts),
    matrix("router of a mixture of experts", axes(2), class_name(names.ROUTER)),
    # What is left has no name that any row knows.
    guess(
        "vector",
        "unknown; its first axis of 1 looks like something added to activations",
        lambda place, _: place.shape[0] == 1,
        settle='"adamw" if so, "matrix" or a MatrixView if it multiplies them',
    ),
    guess(
        "matrix",
        "unknown: taken as out × in",
        axes(2),
        settle='"matrix" for out × in, MatrixView(rows=(1,), cols=(0,)) for in × out, '
        '"adamw" if it is a table or a vector',
    ),
    guess(
        "matrix",
        "unknown: taken as a stack of matrices out × in",
        axes(3),
        settle='"matrix" if so, another MatrixView, or "adamw"',
    ),
    guess(
        "matrix",
        "unknown: taken as out × everything else",
        axes(4, 99),
        settle='"matrix" if so, another MatrixView, or "adamw"',
    ),
)


@dataclass(frozen=True, kw_only=True)
class RuleMatch:
    """The answer of the table for one parameter.

    Args:
        rule: the row that decided.
        kind: the kind that the row says; of an embedding that is an output head too, "embedding".
        reason: its reason, with the names the parameter shares.
        layer: whether the parameter is the weight of a linear map or a convolution.
        view: the parameter as matrices, whatever the target is; None below two axes.
        query: rows that belong to queries; None where there are no heads to count.
    """

    rule: Rule
    kind: Kind
    reason: str
    layer: bool
    view: MatrixView | None
    query: int | None


# Not a row: only the view that a row gives can tell.
_THIN = vector("every matrix would be a single row or column")


def _row(place: ParameterPlace, model: ModelIndex) -> Rule:
    """The first row that holds."""
    rule = next(rule for rule in RULES if all(c(place, model) for c in rule.when))
    if rule.target == "matrix":
        shapes = rule.view(place, model).shapes(place.shape)
        if all(min(rows, cols) == 1 for _, rows, cols in shapes):
            return _THIN
    return rule


def judge(places: Sequence[ParameterPlace], model: ModelIndex) -> RuleMatch:
    """The answer of the table for a parameter that lives in these places.

    A parameter that is a table anywhere is a table: the other place reads the same rows.
    """
    rows = [_row(place, model) for place in places]
    first = next((i for i, rule in enumerate(rows) if rule.target == "table"), 0)
    rule, place = rows[first], places[first]
    kind = "embedding" if any(row.kind == "embedding" for row in rows) else rule.kind
    reason = rule.reason
    if len(places) > 1:
        others = [s.name for s in places if s is not place]
        reason += f", shared with {', '.join(others)}"
    view = rule.view(place, model) if place.ndim > 1 else None
    query = rule.query(place, model) if rule.query and view else None
    return RuleMatch(rule=rule, kind=kind, reason=reason, layer=place.layer, view=view, query=query)
