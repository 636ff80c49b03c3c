"""Which rule decides for which parameter, on small copies of the models people train."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from steepest.routing.table import Routing, route
from steepest.views import EXPERTS, INPUT_FIRST, LINEAR, MatrixView, conv, conv_transpose
from tests.routing import zoo

QKV = MatrixView(split=3)
GUESS = "last layer of the model: hidden, or the output head?"


def targets(routing: Routing) -> dict[str, str]:
    """Where each matrix-shaped parameter goes, with numbers of blocks left out."""
    return {re.sub(r"\.\d+\.", ".#.", a.name): a.target for a in routing if len(a.shape) > 1}


def test_an_anonymous_sequential_is_hidden_with_a_note_on_its_last_layer() -> None:
    routing = route(zoo.sequential())
    assert targets(routing) == dict.fromkeys(["0.weight", "2.weight", "3.weight"], "matrix")
    assert [a.name for a in routing.uncertain] == ["3.weight"]
    assert routing["3.weight"].reason == GUESS
    assert '"adamw" if it is the output head' in routing["3.weight"].settle


def test_a_bare_linear_is_a_guess() -> None:
    routing = route(nn.Linear(4, 3))
    (guess,) = routing.uncertain
    assert (guess.name, guess.target, guess.view) == ("weight", "matrix", LINEAR)
    assert guess.reason == GUESS


def test_the_last_layer_of_a_tutorial_network_is_its_head() -> None:
    routing = route(zoo.Net())
    assert not routing.uncertain
    assert routing["fc1.weight"].target == "matrix"
    assert routing["fc2.weight"].target == "table"
    assert routing["fc2.weight"].reason == "last layer, named as an output"


def test_a_wrapped_network_is_routed_like_itself() -> None:
    plain = route(zoo.Net())
    parallel = nn.ModuleDict({"module": zoo.Net()})  # as in DistributedDataParallel
    for wrapped in (torch.compile(zoo.Net(), backend="eager"), parallel):
        found = [(a.target, a.view, a.reason) for a in route(wrapped)]
        assert found == [(a.target, a.view, a.reason) for a in plain]


def test_a_wrapped_layer_keeps_its_name() -> None:
    model = zoo.FusedAttention("c_attn", 16, 48)
    model.c_attn = torch.compile(model.c_attn, backend="eager")
    assert route(model)["c_attn._orig_mod.weight"].view == QKV


def test_a_tied_embedding_is_a_table_once() -> None:
    routing = route(zoo.GPT())
    table = routing["transformer.wte.weight"]
    assert table.target == "table"
    assert table.aliases == ("lm_head.weight",)
    assert table.reason == "embedding table, shared with lm_head.weight"
    assert routing["lm_head.weight"] is table
    assert sum(a.numel for a in routing) == sum(p.numel() for p in zoo.GPT().parameters())
    assert not routing.uncertain


def test_a_head_registered_before_its_embedding_is_a_table_too() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(8, 20, bias=False)
            self.tokens = nn.Embedding(20, 8)
            self.body = nn.Linear(8, 8)
            self.project.weight = self.tokens.weight

    routing = route(Backwards())
    assert routing["project.weight"].target == "table"
    assert routing["project.weight"].reason == "embedding table, shared with project.weight"
    assert routing["body.weight"].certain  # the head is known, so the last layer is none


def test_a_gpt_gives_its_blocks_to_muon_and_splits_query_key_value() -> None:
    routing = route(zoo.GPT(tied=False))
    assert targets(routing) == {
        "transformer.wte.weight": "table",
        "transformer.wpe.weight": "table",
        "transformer.h.#.attn.c_attn.weight": "matrix",
        "transformer.h.#.attn.c_proj.weight": "matrix",
        "transformer.h.#.mlp.c_fc.weight": "matrix",
        "transformer.h.#.mlp.c_proj.weight": "matrix",
        "lm_head.weight": "table",
    }
    fused = routing["transformer.h.0.attn.c_attn.weight"]
    assert fused.view == QKV
    assert fused.view.shapes(fused.shape) == [(3, 16, 16)]
    assert routing["transformer.ln_f.weight"].target == "vector"
    assert not routing.uncertain


def test_blocks_without_a_head_are_certain() -> None:
    assert not route(nn.ModuleDict({"h": zoo.GPT().transformer["h"]})).uncertain
    assert not route(zoo.GPT(depth=1).transformer["h"]).uncertain


def test_the_last_of_equal_blocks_is_hidden() -> None:
    def block(width: int) -> nn.Module:
        return nn.ModuleDict({"inner": nn.Linear(8, width), "outer": nn.Linear(width, 8)})

    assert not route(nn.Sequential(block(16), block(16))).uncertain
    (guess,) = route(nn.Sequential(block(16), block(24))).uncertain
    assert guess.name == "1.outer.weight"


def test_gpt2_of_hugging_face_is_input_first() -> None:
    routing = route(zoo.GPT2())
    block = "transformer.h.1"
    fused = routing[f"{block}.attn.c_attn.weight"]
    assert fused.view == MatrixView(rows=(1,), cols=(0,), split=3, split_dim=1)
    assert fused.view.shapes(fused.shape) == [(3, 16, 16)]
    cross = routing[f"{block}.crossattention.c_attn.weight"]
    assert cross.view == MatrixView(rows=(1,), cols=(0,), split=2, split_dim=1)
    up = routing[f"{block}.mlp.c_fc.weight"]
    assert (up.shape, up.view) == ((16, 64), INPUT_FIRST)
    assert up.view.shapes(up.shape) == [(1, 64, 16)]  # the learning rate scales with out / in
    assert routing["lm_head.weight"].target == "table"
    assert not routing.uncertain


def test_a_vision_transformer_keeps_positions_and_tokens_out() -> None:
    routing = route(zoo.ViT())
    for name in ("pos_embed", "cls_token", "reg_token"):
        assert routing[name].target == "vector"
        assert routing[name].reason == "positions, tokens or prompts, by name"
    patch = routing["patch_embed.proj.weight"]
    assert (patch.target, patch.view) == ("matrix", conv(2))
    assert routing["blocks.0.attn.qkv.weight"].view == QKV
    assert routing["blocks.1.mlp.fc2.weight"].target == "matrix"
    assert routing["head.weight"].reason == "output head, by name"
    assert not routing.uncertain


def test_resnet18_trains_its_convolutions_with_muon() -> None:
    with torch.device("meta"):
        routing = route(zoo.ResNet18())
    assert sum(a.numel for a in routing) == 11_689_512  # torchvision's count
    assert routing.numel("matrix") == 11_166_912
    assert routing.numel("table") == 512_000
    assert routing.numel("vector") == 10_600
    assert routing["conv1.weight"].view == conv(2)
    assert routing["conv1.weight"].matrices == "64×147"
    assert routing["layer4.1.conv2.weight"].matrices == "512×4608"
    assert routing["layer2.0.downsample.0.weight"].matrices == "128×64"
    assert routing["fc.weight"].target == "table"
    assert not routing.uncertain


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("plain", conv(2)),
        ("grayscale", conv(2)),  # one input channel does not make it depthwise
        ("pointwise", conv(1)),
        ("volume", conv(3)),
        ("grouped", conv(2, groups=4)),
        ("depthwise", None),
        ("multiplied", None),
        ("one_out", None),
        ("up", conv_transpose(2)),
        ("up_grouped", conv_transpose(2, groups=4)),
        ("up_depthwise", None),
    ],
)
def test_convolutions(name: str, view: MatrixView | None) -> None:
    a = route(zoo.Convolutions())[f"{name}.weight"]
    assert a.view == view
    assert a.target == ("vector" if view is None else "matrix")
    if view is None:
        assert a.reason == "depthwise: one vector a channel"
    assert a.certain


def test_multihead_attention_is_split_in_three() -> None:
    routing = route(nn.MultiheadAttention(16, 4))
    fused = routing["in_proj_weight"]
    assert (fused.target, fused.view) == ("matrix", QKV)
    assert fused.matrices == "3 × 16×16"
    assert routing["out_proj.weight"].target == "matrix"
    assert not routing.uncertain


def test_multihead_attention_of_unequal_widths_has_separate_projections() -> None:
    routing = route(nn.MultiheadAttention(16, 4, kdim=8, vdim=12, add_bias_kv=True))
    assert targets(routing) == {
        "q_proj_weight": "matrix",
        "k_proj_weight": "matrix",
        "v_proj_weight": "matrix",
        "bias_k": "vector",
        "bias_v": "vector",
        "out_proj.weight": "matrix",
    }
    assert not routing.uncertain


def test_torch_transformer_layers_are_hidden() -> None:
    for layer in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer):
        routing = route(layer(16, 4, dim_feedforward=32))
        assert set(targets(routing).values()) == {"matrix"}
        assert not routing.uncertain


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("lstm.weight_ih_l0", 4),
        ("lstm.weight_hh_l1_reverse", 4),
        ("projected.weight_hh_l0", 4),
        ("projected.weight_hr_l0", 1),
        ("gru.weight_ih_l0", 3),
        ("gru.weight_hh_l0", 3),
        ("rnn.weight_hh_l0", 1),
        ("lstm_cell.weight_ih", 4),
        ("gru_cell.weight_hh", 3),
        ("rnn_cell.weight_ih", 1),
    ],
)
def test_each_gate_of_a_recurrent_layer_is_a_matrix(name: str, split: int) -> None:
    a = route(zoo.Recurrent())[name]
    assert a.target == "matrix"
    assert a.view == MatrixView(split=split)
    assert a.view.shapes(a.shape) == [(split, a.shape[0] // split, a.shape[1])]


def test_gates_with_one_input_are_vectors() -> None:
    a = route(zoo.Recurrent())["series.weight_ih_l0"]
    assert (a.target, a.reason) == ("vector", "a single row or column")


def test_gates_of_one_unit_are_vectors() -> None:
    a = route(nn.GRU(6, 1))["weight_ih_l0"]
    assert a.target == "vector"
    assert a.reason == "every matrix would be a single row or column"


def test_stacked_experts_are_a_batch() -> None:
    routing = route(zoo.GroupedExperts())
    for name in ("w1", "w2", "w3"):
        assert routing[name].view == EXPERTS
    assert routing["w2"].matrices == "4 × 8×12"
    assert routing["b1_bias"].target == "vector"
    assert not routing.uncertain


@pytest.mark.parametrize("input_first", [False, True])
def test_paired_experts_tell_their_orientation(input_first: bool) -> None:
    routing = route(zoo.PairedExperts(input_first=input_first))
    up, down = routing["gate_up_proj"], routing["down_proj"]
    assert (up.matrices, down.matrices) == ("8 × 12×8", "4 × 8×12")
    assert up.view is not None
    assert up.view.split_dim == (2 if input_first else 1)
    assert not routing.uncertain


def test_a_stack_without_a_name_is_a_guess() -> None:
    model = nn.ParameterDict({"mixing": nn.Parameter(torch.randn(3, 4, 5))})
    (guess,) = route(model).uncertain
    assert (guess.target, guess.view) == ("matrix", EXPERTS)


def test_alternating_gate_and_up_are_not_cut() -> None:
    routing = route(zoo.GptOssExperts())
    assert routing["gate_up_proj"].matrices == "4 × 24×8"


def test_grouped_query_attention() -> None:
    routing = route(zoo.Llama())
    attention = "model.layers.0.self_attn"
    assert routing[f"{attention}.q_proj.weight"].matrices == "16×16"
    assert routing[f"{attention}.k_proj.weight"].matrices == "8×16"
    assert routing["model.layers.0.mlp.gate_up_proj.weight"].matrices == "2 × 48×16"
    assert routing["lm_head.weight"].target == "table"
    assert not routing.uncertain


@pytest.mark.parametrize(
    ("name", "outputs", "told", "matrices"),
    [
        ("qkv_proj", 32, {"num_heads": 4, "num_key_value_heads": 2}, "16×16 + 8×16 + 8×16"),
        ("qkv_proj", 48, {"num_heads": 4, "num_key_value_heads": 4}, "3 × 16×16"),
        ("Wqkv", 48, {}, "3 × 16×16"),
        ("to_qkv", 24, {}, "3 × 8×16"),
        ("to_kv", 24, {}, "2 × 12×16"),
        ("query_key_value", 48, {"num_heads": 4}, "12 × 4×16"),
        ("query_key_value", 24, {"num_heads": 4, "num_kv_heads": 1}, "6 × 4×16"),
    ],
)
def test_fused_projections_that_can_be_told(
    name: str, outputs: int, told: dict[str, int], matrices: str
) -> None:
    routing = route(zoo.FusedAttention(name, 16, outputs, **told))
    assert routing[f"{name}.weight"].matrices == matrices
    assert not routing.uncertain


@pytest.mark.parametrize(
    ("name", "outputs", "matrices", "settle"),
    [
        ("qkv_proj", 32, "32×16", "MatrixView(split=(q, k, v))"),
        ("in_proj", 70, "70×16", "MatrixView(split=(q, k, v))"),
        ("query_key_value", 48, "3 × 16×16", "MatrixView(split=3 * heads)"),
        ("query_key_value", 40, "40×16", "MatrixView(split=(q, k, v))"),
    ],
)
def test_fused_projections_that_cannot_be_told(
    name: str, outputs: int, matrices: str, settle: str
) -> None:
    (guess,) = route(zoo.FusedAttention(name, 16, outputs)).uncertain
    assert guess.name == f"{name}.weight"
    assert guess.matrices == matrices
    assert settle in guess.settle


@pytest.mark.parametrize("name", ["sa", "mixer"])
def test_attention_heads_in_a_list_are_no_output_heads(name: str) -> None:
    routing = route(zoo.HeadsInAList(name))
    names = targets(routing)
    assert names[f"{name}.heads.#.value.weight"] == "matrix"
    assert names[f"{name}.heads.#.key.weight"] == "matrix"
    assert names["lm_head.weight"] == "table"
    assert not routing.uncertain


def test_only_the_last_layer_of_a_classifier_is_the_head() -> None:
    routing = route(zoo.vgg())
    assert routing["classifier.0.weight"].target == "matrix"
    assert routing["classifier.2.weight"].target == "table"
