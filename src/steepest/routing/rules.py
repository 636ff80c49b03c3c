"""The rules of routing, as a table: the first row whose conditions all hold decides.

Rows stand in the order module type, name, shape. A name is read only where it says something that
the type does not: a `Linear` called `lm_head`, a projection called `c_attn`.
"""

from __future__ import annotations

from torch import nn

from steepest._common.torch_modules import CONVS, EMBEDDINGS, NORMALIZATIONS, RECURRENT, TRANSPOSED
from steepest.routing import conditions as ask
from steepest.routing import names as names
from steepest.routing import outputs
from steepest.routing import projections as parts
from steepest.routing.conditions import (
    axes,
    class_name,
    either,
    given_name,
    has_sibling,
    layer,
    of,
)
from steepest.routing.rule import Kind as Kind
from steepest.routing.rule import Rule, guess, matrix, table, vector
from steepest.routing.rule import Target as Target

BLOCKS = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


RULES: tuple[Rule, ...] = (
    # What is not a matrix at all.
    vector("no elements", ask.empty),
    vector("normalisation layer", either(of(*NORMALIZATIONS), class_name(r"Norm\w{0,2}$"))),
    vector("bias, gain or scale: one axis", axes(0, 1)),
    table("embedding table", of(*EMBEDDINGS), kind="embedding"),
    vector(
        "positions, tokens or prompts, by name",
        ask.no_layer,
        given_name(names.ADDED),
        ask.no_projection,
    ),
    vector("positions, by the class of the module", ask.no_layer, ask.holds_positions),
    vector("bias", ask.no_layer, given_name(names.BIAS)),
    vector("scales of single entries, by name", ask.no_layer, given_name(names.SCALES)),
    # Output heads by name.
    table("output of an adaptive softmax", ask.inside(nn.AdaptiveLogSoftmaxWithLoss)),
    table("low-rank update of an embedding", ask.lora_of_embedding, kind="embedding"),
    table("low-rank update of an output head", ask.lora_of_head),
    table(
        "relative positions: a table, since its input is a single 1",
        layer,
        given_name(names.RELATIVE_BIAS),
        kind="embedding",
    ),
    table("output head, by name", outputs.named_head),
    table("output of a branch of a detection head", outputs.detection_output),
    vector("a single row or column", ask.one_row),
    # Modules of torch.nn with more than one matrix in a weight.
    matrix(
        "query, key and value in one weight",
        of(nn.MultiheadAttention),
        given_name("in_proj"),
        view=ask.cut(3),
        query=parts.first_third_of_rows,
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
        "fused query, value and key in four parts",
        ask.one_matrix,
        parts.in_class(names.FOUR_PARTS_CONTAINER),
        given_name(names.FUSED),
        view=ask.cut(12),
        query=parts.unknown,
    ),
    matrix(
        "fused projections of linear attention",
        ask.one_matrix,
        given_name(r"in_proj_qkvz?"),
        parts.is_linear,
        view=parts.cut_linear,
        query=ask.all_rows,
        layout=parts.linear_layout,
    ),
    matrix(
        "fused projections, cut as the module tells",
        ask.one_matrix,
        given_name(f"{names.FUSED}|{names.KEY_VALUE}"),
        parts.tells_parts,
        view=parts.cut_as_told,
    ),
    matrix(
        "fused query, key and value, stored head by head: one block per head",
        ask.one_matrix,
        parts.head_by_head,
        parts.has_head_counts,
        view=parts.cut_by_head,
        query=parts.rows_of_heads,
    ),
    guess(
        "matrix",
        "fused query, key and value, perhaps stored head by head",
        ask.one_matrix,
        parts.head_by_head,
        parts.is_fused_qkv,
        view=ask.cut(3),
        query=parts.first_third_of_rows,
        settle="MatrixView(split=3) if Q, K and V lie one after the other, "
        "MatrixView(split=3 * heads) if they alternate",
    ),
    matrix(
        "fused query, key and value, grouped",
        ask.one_matrix,
        given_name(names.FUSED),
        parts.grouped,
        view=parts.cut_by_group,
        query=parts.rows_of_heads,
    ),
    matrix(
        "fused query, key and value",
        ask.one_matrix,
        given_name(names.FUSED),
        parts.is_fused_qkv,
        view=ask.cut(3),
        query=parts.first_third_of_rows,
    ),
    matrix(
        "a row of scores, key and value in one weight",
        ask.one_matrix,
        given_name(names.FUSED),
        parts.one_query_row,
        view=parts.cut_after_one,
    ),
    matrix(
        "three parts in one weight, of which the output projection reads one",
        ask.one_matrix,
        parts.parts_beside(3),
        view=ask.cut(3),
    ),
    matrix(
        "two halves in one weight, of which the output projection reads one",
        ask.one_matrix,
        parts.parts_beside(2),
        view=ask.cut(2),
    ),
    matrix("hidden layer, all of which the output projection reads", layer, parts.parts_beside(1)),
    matrix(
        "fused key and value",
        ask.one_matrix,
        given_name(f"{names.KEY_VALUE}|c_attn"),
        parts.is_fused_kv,
        view=ask.cut(2),
        query=parts.rows_of_sibling_query,
    ),
    matrix(
        "one projection for key and value",
        ask.one_matrix,
        given_name(names.KEY_VALUE),
        parts.is_shared_kv,
    ),
    guess(
        "matrix",
        "key and value, or one matrix for both: taken as one",
        ask.one_matrix,
        given_name(names.KEY_VALUE),
        query=parts.unknown,
        settle='MatrixView(split=2) if key and value follow each other, "matrix" if it is one',
    ),
    guess(
        "matrix",
        "fused projection, its parts unknown: one matrix",
        ask.one_matrix,
        given_name("in_proj"),
        ask.not_of_attention,
        settle="MatrixView(split=(…)) with the rows of each part in their order, "
        'or "matrix" if it is one',
    ),
    guess(
        "matrix",
        "fused projection, its parts unknown: one matrix",
        ask.one_matrix,
        given_name(f"{names.FUSED}|{names.HEAD_BY_HEAD}"),
        query=parts.unknown,
        settle='MatrixView(split=(q, k, v)) with the rows of each part, or "matrix" if it is one',
    ),
    matrix(
        "query projection of latent attention",
        parts.latent,
        given_name(f"{names.QUERY}|{names.QUERY_UP}"),
        query=ask.all_rows,
        layout=parts.latent_layout,
    ),
    matrix(
        "key and value projection of latent attention",
        parts.latent,
        given_name(names.KEY_VALUE_UP),
        query=ask.all_rows,
        layout=parts.latent_layout,
    ),
    matrix(
        "query projection, with a gate for each head",
        ask.one_matrix,
        given_name(names.QUERY),
        has_sibling(names.KEY),
        parts.gated_query,
        query=ask.all_rows,
        layout=parts.gated_layout,
    ),
    matrix(
        "query projection",
        ask.one_matrix,
        given_name(names.QUERY),
        has_sibling(f"{names.KEY}|{names.KEY_VALUE}|c_attn"),
        query=ask.all_rows,
    ),
    matrix(
        "query projection from a latent",
        ask.one_matrix,
        given_name(names.QUERY_UP),
        query=ask.all_rows,
    ),
    matrix(
        "key or value projection",
        ask.one_matrix,
        given_name(f"{names.KEY}|{names.VALUE}"),
        has_sibling(names.QUERY),
        query=parts.rows_of_sibling_query,
    ),
    matrix("router of a mixture of experts", ask.router),
    matrix(
        "gate and up in one weight", layer, given_name(names.GATED), parts.even, view=ask.cut(2)
    ),
    matrix(
        "two halves in one weight, of which the next layer reads one",
        layer,
        given_name(names.UP),
        parts.twice_as_wide,
        view=ask.cut(2),
    ),
    matrix(
        "gate and up in one weight, by the class of the module",
        layer,
        parts.sole_layer,
        parts.even,
        view=ask.cut(2),
    ),
    matrix("mixes the streams of hyper-connections", axes(2), ask.hyper_connection),
    matrix(
        "projection with an axis for heads",
        parts.has_head_axis,
        view=parts.head_axis_view,
        query=parts.heads_of_axis,
    ),
    # The end of the model.
    table(
        "last layer, named as an output",
        outputs.at_the_end,
        outputs.named_output,
        either(outputs.without_any_head, outputs.at_the_root),
    ),
    table("named as an output, as large as the embedding", outputs.of_the_embedding),
    table("named as an output, behind all blocks", outputs.after_the_blocks, outputs.headless),
    table("last layer, as large as the embedding", outputs.at_the_end, outputs.indexed),
    table("last layer, in a head", outputs.at_the_end, outputs.in_a_head, outputs.headless),
    guess(
        "matrix",
        "end of a branch of the last module: hidden, or the output of a detection head?",
        outputs.branch_output,
        outputs.headless,
        settle='"adamw" if it is an output, "matrix" if it is hidden',
    ),
    guess(
        "matrix",
        "last layer of the model: hidden, or the output head?",
        outputs.at_the_end,
        outputs.without_any_head,
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
    matrix(
        "stacked experts, two halves in one weight, of which the next layer reads one",
        axes(3),
        ask.experts,
        given_name(names.UP),
        parts.twice_as_wide,
        view=ask.cut(2),
    ),
    matrix("stacked experts × out × in", axes(3), ask.experts),
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
