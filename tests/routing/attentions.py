"""Attention whose modules tell how their heads are laid out."""

from __future__ import annotations

from torch import nn


def latent(rank: int = 8, told: bool = True, heads: int = 4, key: int = 4) -> nn.Module:
    """Multi-head latent attention with DeepSeek's names; `key` rows of a key without positions."""
    turned, value = 2, 6
    attention = nn.Module()
    attention.num_heads = heads  # type: ignore[assignment]
    if told:
        sizes = {"qk_nope_head_dim": key, "qk_rope_head_dim": turned, "v_head_dim": value}
        for name, size in sizes.items():
            setattr(attention, name, size)
    queries = heads * (4 + turned)
    if rank:
        attention.q_a_proj = nn.Linear(16, rank, bias=False)
    attention.add_module(
        "q_b_proj" if rank or not told else "q_proj", nn.Linear(rank or 16, queries, bias=False)
    )
    attention.kv_a_proj_with_mqa = nn.Linear(16, 8 + turned, bias=False)
    attention.kv_b_proj = nn.Linear(8, heads * (4 + value), bias=False)
    attention.o_proj = nn.Linear(heads * value, 16, bias=False)
    return nn.ModuleDict({"self_attn": attention, "lm_head": nn.Linear(16, 9)})


def delta_net(gate: bool = True) -> nn.Module:
    """A gated delta net with the names of Qwen3-Next, or those of Qwen3.5 without a gate."""
    net = nn.Module()
    for name, size in {
        "num_k_heads": 2,
        "num_v_heads": 4,
        "head_k_dim": 3,
        "head_v_dim": 5,
    }.items():
        setattr(net, name, size)
    rows = 2 * 2 * 3 + 4 * 5
    if gate:
        net.in_proj_qkvz = nn.Linear(16, rows + 4 * 5, bias=False)
        net.in_proj_ba = nn.Linear(16, 8, bias=False)
    else:
        net.in_proj_qkv = nn.Linear(16, rows, bias=False)
    net.out_proj = nn.Linear(20, 16, bias=False)
    return nn.ModuleDict({"linear_attn": net, "lm_head": nn.Linear(16, 9)})


def gated_attention() -> nn.Module:
    """Attention whose query projection holds a gate for each head as well."""
    attention = nn.Module()
    for name, size in {"num_heads": 4, "num_key_value_heads": 2, "head_dim": 5}.items():
        setattr(attention, name, size)
    attention.q_proj = nn.Linear(16, 2 * 4 * 5, bias=False)
    attention.k_proj = nn.Linear(16, 2 * 5, bias=False)
    attention.v_proj = nn.Linear(16, 2 * 5, bias=False)
    attention.o_proj = nn.Linear(4 * 5, 16, bias=False)
    return nn.ModuleDict({"self_attn": attention, "lm_head": nn.Linear(16, 9)})
