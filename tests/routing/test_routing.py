"""What a routing is for: groups, the printed table, overrides, heads and strictness."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steepest import Muon
from steepest.routing.table import Routing, route
from steepest.views import INPUT_FIRST, LINEAR, MatrixView, conv
from tests.routing import zoo

GUESS = "last layer of the model: hidden, or the output head?"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "routing.md"


def small() -> nn.Sequential:
    """An embedding, a hidden layer, a gain, and a last layer without a name."""
    return nn.Sequential(
        nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 5, bias=False)
    )


def names(group: dict[str, Any]) -> list[str]:
    """Names of the parameters of a group."""
    return [name for name, _ in group["params"]]


def test_groups_are_matrices_then_tables_then_vectors() -> None:
    model = small()
    matrices, tables, vectors = route(model, overrides={"3.*": "adamw"}).groups()
    assert names(matrices) == ["1.weight"]
    assert matrices["views"] == (LINEAR,)
    assert matrices.keys() == {"params", "views"}
    assert names(tables) == ["0.weight", "3.weight"]
    assert tables.keys() == {"params", "adamw"}  # the optimizer's own weight decay
    assert names(vectors) == ["1.bias", "2.weight", "2.bias"]
    assert (vectors["adamw"], vectors["weight_decay"]) == (True, 0.0)
    assert matrices["params"][0][1] is model[1].weight


def test_every_trainable_parameter_is_in_one_group_once() -> None:
    for model in (zoo.GPT(), zoo.GPT2(), zoo.ViT(), zoo.Convolutions(), zoo.Recurrent()):
        groups = route(model).groups()
        found = [parameter for group in groups for _, parameter in group["params"]]
        assert len(found) == len(set(found)) == len(list(model.parameters()))
        assert set(found) == set(model.parameters())
        named = dict(model.named_parameters())
        assert all(named[n] is p for group in groups for n, p in group["params"])


def test_each_view_belongs_to_its_parameter() -> None:
    (matrices, *_) = route(zoo.GPT2()).groups()
    for (name, parameter), view in zip(matrices["params"], matrices["views"], strict=True):
        assert view.split_dim == (1 if "c_attn" in name else 0)
        assert len(view.matrices(parameter)) == 1


def test_empty_groups_are_left_out() -> None:
    (only,) = route(nn.LayerNorm(4)).groups()
    assert names(only) == ["weight", "bias"]


def test_frozen_parameters_are_routed_as_the_others() -> None:
    model = small()
    model[1].requires_grad_(False)
    routing, free = route(model), route(small())
    for a, other in zip(routing, free, strict=True):
        assert a.frozen == a.name.startswith("1.")
        assert (a.target, a.view, a.reason) == (other.target, other.view, other.reason)
    assert [names(g) for g in routing.groups()] == [names(g) for g in free.groups()]
    assert "matrix, frozen: 16 numbers" in str(routing)
    assert "vector, frozen: 4 numbers" in str(routing)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool], ids=str)
def test_what_cannot_have_a_gradient_is_in_no_group(dtype) -> None:
    """Quantised weights are parameters of integers."""
    model = small()
    model[1].weight = nn.Parameter(torch.zeros(4, 4, dtype=dtype), requires_grad=False)
    routing = route(model)
    a = routing["1.weight"]
    assert (a.target, a.view, a.to) == ("constant", None, "nowhere")
    assert a.reason == f"{str(dtype)[6:]} has no gradient"
    assert "1.weight" not in [n for group in routing.groups() for n in names(group)]
    assert routing.numel("constant") == 16
    assert "nowhere: 16 numbers" in str(Muon(model, lr=0.1).routing)


def test_a_frozen_last_layer_is_no_guess() -> None:
    model = small()
    model[3].requires_grad_(False)
    assert not route(model).uncertain


def test_the_table_by_hand() -> None:
    assert str(route(small())) == "\n".join(
        [
            "   parameter  shape  matrices  to      why",
            "   0.weight   7×4              table   embedding table",
            "   1.weight   4×4    4×4       matrix  hidden layer",
            "   1.bias     4                vector  bias, gain or scale: one axis",
            "   2.weight   4                vector  normalisation layer",
            "   2.bias     4                vector  normalisation layer",
            "?  3.weight   5×4    5×4       matrix  " + GUESS,
            "",
            "matrix: 36 numbers (47.4%) in 2 parameters",
            "table: 28 numbers (36.8%) in 1 parameter",
            "vector: 12 numbers (15.8%) in 3 parameters",
            "Guesses, marked ?: 1 of 6 parameters.",
            "To settle them, write overrides={name: …} with",
            '  \'3.weight\': "adamw" if it is the output head, "matrix" if it is hidden',
        ]
    )


def test_a_routing_without_guesses_mentions_none() -> None:
    text = str(route(small(), overrides={"3.weight": "matrix"}))
    assert "?" not in text
    assert "override '3.weight'" in text
    assert text.splitlines()[-1].startswith("vector: 12 numbers")


def test_a_routing_is_looked_up_and_counted() -> None:
    routing = route(small())
    assert len(routing) == 6
    assert [a.name for a in routing] == [n for n, _ in small().named_parameters()]
    assert repr(routing).startswith("<Routing of 6 parameters: matrix: 36 numbers")
    assert "Parameter containing" not in repr(routing)
    with pytest.raises(KeyError, match=r"4\.weight"):
        routing["4.weight"]


def test_a_copy_follows_the_copied_model() -> None:
    model = small()
    model_copy, routing = copy.deepcopy((model, route(model)))
    assert isinstance(routing, Routing)
    assert routing.parameters[0] is model_copy[0].weight


@pytest.mark.parametrize(
    ("overrides", "target", "view"),
    [
        ({"1.weight": "adamw"}, "table", None),
        ({"*.weight": "adamw"}, "table", None),
        ({"1.weight": "matrix", "*.weight": "adamw"}, "matrix", LINEAR),
        ({"1.*": MatrixView(split=2), "*.weight": "adamw"}, "matrix", MatrixView(split=2)),
        ({"[12].weight": "adamw"}, "table", None),
    ],
)
def test_the_first_override_that_matches_wins(
    overrides: dict[str, Any], target: str, view: MatrixView | None
) -> None:
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 5))
    a = route(model, overrides=overrides)["1.weight"]
    assert (a.target, a.view, a.certain) == (target, view, True)
    assert a.reason == f"override {next(iter(overrides))!r}"


def test_rest_keeps_vectors_vectors() -> None:
    routing = route(zoo.ViT(), overrides={"*": "adamw"})
    assert routing["pos_embed"].target == "vector"
    assert routing["blocks.0.mlp.fc1.bias"].target == "vector"
    assert routing["blocks.0.mlp.fc1.weight"].target == "table"
    assert routing.numel("matrix") == 0


def test_matrix_takes_the_layout_of_the_module() -> None:
    convolutions = route(zoo.Convolutions(), overrides={"depthwise.weight": "matrix"})
    assert convolutions["depthwise.weight"].view == conv(2, groups=8)
    gpt2 = route(zoo.GPT2(), overrides={"*.mlp.c_fc.weight": "matrix"})
    assert gpt2["transformer.h.0.mlp.c_fc.weight"].view == INPUT_FIRST
    gpt = route(zoo.GPT(), overrides={"*.wpe.weight": "matrix"})
    assert gpt["transformer.wpe.weight"].view == LINEAR


def test_a_tied_parameter_answers_to_each_of_its_names() -> None:
    for pattern in ("lm_head.weight", "*.wte.weight"):
        routing = route(zoo.GPT(), overrides={pattern: "matrix"})
        assert routing["transformer.wte.weight"].target == "matrix"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"overrides='lm_haed\.\*': matches no parameter"):
        route(small(), overrides={"lm_haed.*": "adamw"})


def test_a_pattern_in_the_shadow_of_another_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"overrides='1\.weight': earlier patterns take every"):
        route(small(), overrides={"*.weight": "adamw", "1.weight": "matrix"})


@pytest.mark.parametrize(
    ("pattern", "value", "message"),
    [
        ("1.bias", "matrix", "1.bias has shape 4: a matrix needs two axes"),
        ("1.weight", MatrixView(split=3), "1.weight does not fit it .*does not divide"),
        ("1.weight", conv(2), "1.weight does not fit it .*needs 4 axes"),
        ("1.bias", LINEAR, "1.bias does not fit it"),
    ],
    ids=str,
)
def test_an_override_that_does_not_fit_names_the_parameter(
    pattern: str, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        route(small(), overrides={pattern: value})


@pytest.mark.usefixtures("unchecked")
def test_an_override_has_to_be_a_word_it_knows() -> None:
    with pytest.raises(ValueError, match=r"overrides='rest': give \"matrix\", \"adamw\" or a"):
        route(small(), overrides={"*": "rest"})  # type: ignore[dict-item]


def test_strict_names_every_guess_and_the_override_to_write() -> None:
    with pytest.raises(ValueError, match="strict=True: these are guesses") as caught:
        route(zoo.sequential(), strict=True)
    assert "'3.weight': \"adamw\" if it is the output head" in str(caught.value)
    settled = route(zoo.sequential(), strict=True, overrides={"3.weight": "adamw"})
    assert settled["3.weight"].target == "table"
    assert len(route(zoo.GPT(), strict=True)) == 28


@pytest.mark.parametrize(
    ("model", "name", "matrices"),
    [
        (nn.MultiheadAttention(16, 4), "in_proj_weight", "12 × 4×16"),
        (nn.MultiheadAttention(16, 4, kdim=8, vdim=8), "k_proj_weight", "4 × 4×8"),
        (zoo.GPT(), "transformer.h.1.attn.c_attn.weight", "12 × 4×16"),
        (zoo.GPT2(), "transformer.h.0.attn.c_attn.weight", "12 × 4×16"),
        (zoo.GPT2(), "transformer.h.0.crossattention.c_attn.weight", "8 × 4×16"),
        (zoo.GPT2(), "transformer.h.0.crossattention.q_attn.weight", "4 × 4×16"),
        (zoo.Llama(), "model.layers.0.self_attn.q_proj.weight", "4 × 4×16"),
        (zoo.Llama(), "model.layers.0.self_attn.k_proj.weight", "2 × 4×16"),
        (
            zoo.FusedAttention("qkv_proj", 16, 32, num_heads=4, num_key_value_heads=2),
            "qkv_proj.weight",
            "8 × 4×16",
        ),
        (zoo.FusedAttention("query_key_value", 16, 48, n_head=4), "query_key_value.weight", None),
    ],
)
@pytest.mark.parametrize("heads", [4, "auto", {"*": 4}])
def test_heads_are_matrices_of_their_own(
    model: nn.Module, name: str, matrices: str | None, heads: Any
) -> None:
    a = route(model, heads=heads)[name]
    assert a.matrices == (matrices or "12 × 4×16")
    assert a.reason.endswith(", one matrix per head")
    assert a.certain


def test_heads_leave_other_layers_alone() -> None:
    with_heads, without = route(zoo.GPT(), heads=4), route(zoo.GPT())
    changed = [a.name for a, b in zip(with_heads, without, strict=True) if a.view != b.view]
    assert changed == [f"transformer.h.{i}.attn.c_attn.weight" for i in (0, 1)]


def test_heads_by_pattern() -> None:
    routing = route(zoo.GPT(), heads={"*.h.0.*": 2, "*": 4})
    assert routing["transformer.h.0.attn.c_attn.weight"].matrices == "6 × 8×16"
    assert routing["transformer.h.1.attn.c_attn.weight"].matrices == "12 × 4×16"


def test_heads_settle_how_a_fused_projection_is_stored() -> None:
    model = zoo.FusedAttention("query_key_value", 16, 48)
    assert route(model).uncertain
    assert route(model, heads=4, strict=True)["query_key_value.weight"].matrices == "12 × 4×16"


def test_an_override_is_stronger_than_heads() -> None:
    routing = route(zoo.GPT(), heads=4, overrides={"*.h.0.attn.c_attn.weight": "matrix"})
    assert routing["transformer.h.0.attn.c_attn.weight"].matrices == "3 × 16×16"
    assert routing["transformer.h.1.attn.c_attn.weight"].matrices == "12 × 4×16"


def test_frozen_projections_are_split_for_the_day_when_they_are_not() -> None:
    model = zoo.GPT().requires_grad_(False)
    a = route(model, heads=4)["transformer.h.0.attn.c_attn.weight"]
    assert (a.frozen, a.matrices) == (True, "12 × 4×16")


@pytest.mark.parametrize(
    ("model", "heads", "message"),
    [
        (zoo.GPT(), 3, "heads=3: transformer.h.0.attn.c_attn.weight: 16 query rows do not divide"),
        (zoo.GPT(), 0, "heads=0: .* do not divide"),
        (zoo.Llama(), 1, "k_proj.weight: 8 rows do not divide into heads of 16"),
        (zoo.sequential(), 4, r"heads='\*': matches no query, key or value projection"),
        (zoo.GPT(), {"*.mlp.*": 4}, r"heads='\*.mlp.\*': matches no query, key or value"),
        (zoo.FusedAttention("qkv", 16, 32), 4, r"query rows are unknown; override it with Matrix"),
        (zoo.FusedAttention("qkv", 16, 48), "auto", "has none of the attributes num_heads, "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_heads_that_cannot_be(model: nn.Module, heads: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(model, heads=heads)


@pytest.mark.usefixtures("unchecked")
def test_heads_have_to_be_a_word_it_knows() -> None:
    with pytest.raises(ValueError, match="heads='all': give a number"):
        route(zoo.GPT(), heads="all")  # type: ignore[arg-type]


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="model='ReLU': it has no parameters"):
        route(nn.ReLU())


def test_a_lazy_model_is_refused_until_it_is_initialised() -> None:
    model = nn.Sequential(nn.LazyLinear(4))
    with pytest.raises(ValueError, match=r"model='0\.weight': is not initialised yet; run one"):
        route(model)
    model(torch.zeros(1, 3))
    assert route(model)["0.weight"].shape == (4, 3)


@pytest.mark.skipif(not PAGE.exists(), reason="tests run outside of the checkout")
def test_the_page_shows_what_the_library_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", text, flags=re.DOTALL)
    scope: dict[str, object] = {}
    outputs = 0
    for code, output in shown:
        exec(compile(code, PAGE.name, "exec"), scope)
        printed = capsys.readouterr().out
        assert printed.rstrip() == output.rstrip()
        outputs += bool(output)
    assert outputs >= 3
