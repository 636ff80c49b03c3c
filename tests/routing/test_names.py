"""What names, and modules of torch, tell the rules; and that every rule is needed."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from steepest.routing.rules import RULES
from steepest.routing.table import route
from steepest.views import LINEAR, MatrixView, conv
from tests.routing import attentions, zoo
from tests.routing.imitations import IMITATIONS


def put(model: nn.Module, path: str, shape: tuple[int, int]) -> None:
    """Puts a Linear into a model under a dotted name."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(model, parent):
            model.add_module(parent, nn.Module())
        model = model.get_submodule(parent)
    model.add_module(name, nn.Linear(shape[1], shape[0], bias=False))


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("lm_head", "table"),
        ("score", "table"),
        ("head.fc", "table"),
        ("classifier.out_proj", "table"),
        ("AuxLogits.fc", "table"),
        ("cls.predictions.decoder", "table"),
        ("generator.proj", "table"),
        ("value_head", "table"),
        ("pre_classifier", "matrix"),
        ("attn.c_proj", "matrix"),
        ("attn.out_proj", "matrix"),
        ("attn.head", "matrix"),
        ("conv_head", "matrix"),
        ("multi_head", "matrix"),
        ("proj_out", "matrix"),  # of a block, since other layers follow
        ("fc", "matrix"),
    ],
)
def test_names_of_heads(path: str, target: str) -> None:
    model = nn.Module()
    put(model, path, (10, 8))
    put(model, "blocks.0.linear", (8, 8))
    put(model, "blocks.1.linear", (8, 8))
    assert route(model)[f"{path}.weight"].target == target


def test_the_end_of_a_sequential_called_fc_is_the_head() -> None:
    model = nn.Module()
    model.body = nn.Linear(8, 8)
    model.fc = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 3))
    routing = route(model)
    assert routing["fc.0.weight"].target == "matrix"
    assert routing["fc.2.weight"].reason == "last layer, named as an output"


def test_a_head_may_name_its_output_and_what_is_none() -> None:
    model = nn.Module()
    for path in ("iou_head.proj_out", "iou_head.middle", "head.dense", "blocks.0.x", "blocks.1.x"):
        put(model, path, (8, 8))
    routing = route(model)
    assert routing["iou_head.proj_out.weight"].target == "table"
    assert routing["iou_head.middle.weight"].target == "matrix"
    assert routing["head.dense.weight"].target == "matrix"


def test_starcoder_stores_its_projection_head_by_head() -> None:
    class GPTBigCodeAttention(zoo.FusedAttention):
        pass

    routing = route(GPTBigCodeAttention("c_attn", 16, 48, num_heads=4, kv_heads=4))
    assert routing["c_attn.weight"].matrices == "12 × 4×16"
    routing = route(GPTBigCodeAttention("c_attn", 16, 24, num_heads=4, kv_heads=1))
    assert routing["c_attn.weight"].matrices == "16×16 + 4×16 + 4×16"


def test_a_pruned_weight_is_a_guess() -> None:
    model = prune.identity(nn.Linear(4, 4), "weight")
    a = route(model)["weight_orig"]
    assert (a.target, a.view, a.certain) == ("matrix", LINEAR, False)
    assert a.reason == "the layer computes its weight from this tensor"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("proj_out", "last layer, named as an output"),
        ("decoder.output_projection", "last layer, named as an output"),
        ("model.fc", "last layer, named as an output"),
        ("anything", "last layer, as large as the embedding"),
    ],
)
def test_names_of_last_layers(path: str, reason: str) -> None:
    model = nn.Module()
    model.tokens = nn.Embedding(20, 8)
    put(model, "blocks.0.linear", (8, 8))
    put(model, path, (20, 8))
    a = route(model)[f"{path}.weight"]
    assert (a.target, a.reason) == ("table", reason)


def bare(name: str, shape: tuple[int, ...]) -> nn.Module:
    """A module with one parameter of its own."""
    model = nn.Module()
    model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    return model


BARE = [
    ("position", (32, 8), "vector", True),
    ("mask_token", (1, 1, 8), "vector", True),
    ("class_embedding", (8,), "vector", True),
    ("relative_position_bias_table", (169, 4), "vector", True),
    ("gamma", (8, 1, 1), "vector", True),
    ("scale_shift_table", (6, 8), "vector", True),
    ("A_log", (16, 4), "vector", True),
    ("qkv_bias", (3, 8), "vector", True),
    ("token_embedding", (50, 8), "table", True),
    ("lm_head", (50, 8), "table", True),
    ("lora_A", (2, 8), "matrix", True),
    ("lora_embedding_A", (2, 8), "table", True),
    ("qkv_weight", (24, 8), "matrix", True),
    ("whatever", (1, 5, 8), "vector", False),
    ("whatever", (5, 8), "matrix", False),
    ("whatever", (2, 5, 8), "matrix", False),
    ("whatever", (2, 5, 8, 3), "matrix", False),
    ("whatever", (0, 8), "vector", True),
    ("whatever", (1, 8, 1), "vector", True),
]


@pytest.mark.parametrize(("name", "shape", "target", "certain"), BARE)
def test_parameters_of_ones_own_module(
    name: str, shape: tuple[int, ...], target: str, certain: bool
) -> None:
    (a,) = route(bare(name, shape))
    assert (a.target, a.certain) == (target, certain)
    assert (a.settle == "") is certain


@pytest.mark.parametrize(
    ("layer", "leaf", "target", "view"),
    [
        (nn.EmbeddingBag(9, 4), "weight", "table", None),
        (nn.Bilinear(3, 4, 5), "weight", "matrix", MatrixView(cols=(1, 2))),
        (nn.LayerNorm((4, 4)), "weight", "vector", None),
        (nn.GroupNorm(2, 4), "weight", "vector", None),
        (zoo.RMSNorm(4), "weight", "vector", None),
        (nn.PReLU(4), "weight", "vector", None),
        (nn.Linear(4, 1), "weight", "vector", None),
        (nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5], div_value=2), "tail.0.1.weight", "table", None),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), None, "matrix", LINEAR),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), None, "matrix", conv(2)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_modules_of_torch(
    layer: nn.Module, leaf: str | None, target: str, view: MatrixView | None
) -> None:
    routing = route(layer)
    a = routing[leaf] if leaf else max(routing, key=lambda a: a.numel)
    assert (a.target, a.view) == (target, view)
    assert a.certain is (leaf is not None)  # a weight that is computed is a guess


def test_every_rule_decides_somewhere() -> None:
    models = [
        *(zoo.sequential(), zoo.Net(), zoo.GPT(tied=False), zoo.GPT2(), zoo.ViT(), zoo.Llama()),
        *(zoo.GroupedExperts(), zoo.PairedExperts(), zoo.GptOssExperts(), zoo.Convolutions()),
        *(zoo.Recurrent(), zoo.Routed(), nn.TransformerEncoderLayer(16, 4), zoo.FusedExperts()),
        nn.MultiheadAttention(16, 4, kdim=8, vdim=8),
        *(nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5], div_value=2), nn.Bilinear(3, 4, 5)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        zoo.FusedAttention("qkv_proj", 16, 32, num_heads=4, num_key_value_heads=2),
        zoo.FusedAttention("query_key_value", 16, 48, num_heads=4),
        zoo.FusedAttention("query_key_value", 16, 48),
        zoo.FusedAttention("in_proj", 16, 40),
        nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Linear(8, 20)),
        nn.ModuleDict({"lm_head": bare("lora_A", (2, 8))}),
        *(bare(name, shape) for name, shape, *_ in BARE),
        *(make() for make, _ in IMITATIONS.values()),
        *(
            attentions.latent(),
            attentions.latent(rank=0, told=False),
            attentions.delta_net(),
            attentions.gated_attention(),
        ),
    ]
    reasons = {a.reason for model in models for a in route(model)}
    unused = [rule.reason for rule in RULES if rule.reason not in reasons]
    assert not unused
