"""One matrix for each head where the module tells how its heads are laid out; pairs of factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steepest.routing.table import route
from tests.routing import attentions

KVB = "self_attn.kv_b_proj.weight"


@pytest.mark.parametrize(
    ("model", "name", "whole", "by_head"),
    [
        (attentions.latent(), "self_attn.q_b_proj.weight", "24×8", "4 × 6×8"),
        (attentions.latent(rank=0), "self_attn.q_proj.weight", "24×16", "4 × 6×16"),
        (attentions.latent(), KVB, "40×8", " + ".join(["4×8", "6×8"] * 4)),
        (attentions.latent(), "self_attn.q_a_proj.weight", "8×16", "8×16"),
        (attentions.latent(), "self_attn.kv_a_proj_with_mqa.weight", "10×16", "10×16"),
        (
            attentions.delta_net(),
            "linear_attn.in_proj_qkvz.weight",
            " + ".join(["3×16", "3×16", "10×16", "10×16"] * 2),
            " + ".join([*["3×16"] * 2, *["5×16"] * 4] * 2),
        ),
        (attentions.delta_net(), "linear_attn.in_proj_ba.weight", "8×16", "8×16"),
        (
            attentions.delta_net(gate=False),
            "linear_attn.in_proj_qkv.weight",
            "6×16 + 6×16 + 20×16",
            " + ".join([*["3×16"] * 4, *["5×16"] * 4]),
        ),
        (attentions.gated_attention(), "self_attn.q_proj.weight", "40×16", "8 × 5×16"),
        (attentions.gated_attention(), "self_attn.k_proj.weight", "10×16", "2 × 5×16"),
        (attentions.gated_attention(), "self_attn.o_proj.weight", "16×20", "16×20"),
    ],
)
def test_heads_that_the_module_tells(model: nn.Module, name: str, whole: str, by_head: str) -> None:
    assert route(model)[name].matrices == whole
    found = route(model, heads="auto")[name]
    assert found.matrices == by_head
    assert found.certain


@pytest.mark.parametrize(
    ("model", "heads", "message"),
    [
        (
            attentions.latent(),
            {"*.kv_b_proj.*": 5},
            "kv_b_proj.*4 heads of 4 for key and 6 for value",
        ),
        (attentions.latent(key=3), {"*.kv_b_proj.*": 4}, "is 36 rows of 40"),
        (attentions.latent(), {"*.q_b_proj.*": 3}, "q_b_proj.*4 heads of 4 and 2 for positions"),
        (attentions.delta_net(), 3, "2 heads of 3 for query and key, 4 of 5 for value"),
        (attentions.gated_attention(), 8, "4 heads of 5 for query and gate each"),
        (attentions.latent(told=False), {"*.q_b_proj.*": 5}, "24 query rows do not divide by it"),
    ],
)
def test_heads_that_do_not_fit_say_what_the_module_tells(
    model: nn.Module, heads: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        route(model, heads=heads)


def factors(*names: str) -> nn.Module:
    """A layer with low-rank factors under these names, PEFT's way."""
    model = nn.Module()
    model.layer = nn.Module()
    model.layer.weight = nn.Parameter(torch.zeros(6, 6))
    for name in names:
        if "." in name:
            owner, adapter = name.split(".")
            if not hasattr(model.layer, owner):
                model.layer.add_module(owner, nn.ModuleDict())
            model.layer.get_submodule(owner)[adapter] = nn.Linear(6, 6, bias=False)
        else:
            model.layer.register_parameter(name, nn.Parameter(torch.zeros(2, 6)))
    return model


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (("lora_A", "lora_B"), {"layer.lora_A": "layer.lora_B", "layer.lora_B": "layer.lora_A"}),
        (
            ("lora_A.first", "lora_A.other", "lora_B.first"),
            {
                "layer.lora_A.first.weight": "layer.lora_B.first.weight",
                "layer.lora_A.other.weight": "",
            },
        ),
        (("lora_down", "lora_up"), {"layer.lora_up": "layer.lora_down", "layer.weight": ""}),
    ],
)
def test_the_factors_of_a_low_rank_update_know_each_other(
    names: tuple[str, ...], pairs: dict[str, str]
) -> None:
    routing = route(factors(*names))
    assert {name: routing[name].pair for name in pairs} == pairs
    for name, pair in pairs.items():
        assert routing[name].reason.endswith(f"; the other is {pair}") is bool(pair)
