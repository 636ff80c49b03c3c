"""Attention layers in every layout that clipping knows, with their logits written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH, SIZE = 16, 4


@dataclass(frozen=True)
class Attended:
    """A model with one attention layer.

    Args:
        model: The model.
        name: The name of the layer.
        logits: A function of the inputs, (length, width), that gives (heads, length, length).
    """

    model: nn.Module
    name: str
    logits: Callable[[Tensor], Tensor]


def of(
    attention: nn.Module,
    queries_and_keys: Callable[[Tensor], tuple[Tensor, Tensor]],
    **numbers: int,
) -> Attended:
    """A model that holds a layer; queries and keys have shape (length, heads, size)."""
    for name, number in numbers.items():
        setattr(attention, name, number)

    def logits(x: Tensor) -> Tensor:
        q, k = queries_and_keys(x)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        return torch.einsum("ihd,jhd->hij", q, k)

    model = nn.ModuleDict({"self_attn": attention, "lm_head": nn.Linear(WIDTH, 9)})
    return Attended(model, "self_attn", logits)


def heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1))


def modules(**layers: nn.Module) -> nn.Module:
    attention = nn.Module()
    for name, layer in layers.items():
        attention.add_module(name, layer)
    return attention


def separate(bias: bool = False) -> Attended:
    m = modules(
        q_proj=nn.Linear(WIDTH, 4 * SIZE, bias=bias),
        k_proj=nn.Linear(WIDTH, 4 * SIZE, bias=bias),
        v_proj=nn.Linear(WIDTH, 4 * SIZE),
        o_proj=nn.Linear(4 * SIZE, WIDTH),
    )
    return of(m, lambda x: (heads(m.q_proj(x), 4), heads(m.k_proj(x), 4)), num_heads=4)


def grouped() -> Attended:
    m = modules(
        q_proj=nn.Linear(WIDTH, 4 * SIZE),
        k_proj=nn.Linear(WIDTH, 2 * SIZE),
        v_proj=nn.Linear(WIDTH, 2 * SIZE),
    )
    numbers = {"num_heads": 4, "num_key_value_heads": 2}
    return of(m, lambda x: (heads(m.q_proj(x), 4), heads(m.k_proj(x), 2)), **numbers)


def query_with_gate() -> Attended:
    m = modules(
        q_proj=nn.Linear(WIDTH, 2 * 4 * SIZE),
        k_proj=nn.Linear(WIDTH, 2 * SIZE),
        v_proj=nn.Linear(WIDTH, 2 * SIZE),
        o_proj=nn.Linear(4 * SIZE, WIDTH),
    )

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        return heads(m.q_proj(x), 4)[..., :SIZE], heads(m.k_proj(x), 2)

    return of(m, logits, num_heads=4, num_key_value_heads=2, head_dim=SIZE)


def key_with_value() -> Attended:
    m = modules(to_q=nn.Linear(WIDTH, 4 * SIZE), to_kv=nn.Linear(WIDTH, 2 * 4 * SIZE))
    m.to_out = nn.Linear(4 * SIZE, WIDTH)
    return of(m, lambda x: (heads(m.to_q(x), 4), heads(m.to_kv(x).chunk(2, -1)[0], 4)), heads=4)


def fused() -> Attended:
    m = modules(qkv=nn.Linear(WIDTH, 3 * 4 * SIZE), proj=nn.Linear(4 * SIZE, WIDTH))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = m.qkv(x).chunk(3, -1)
        return heads(q, 4), heads(k, 4)

    return of(m, logits, num_heads=4)


def fused_grouped() -> Attended:
    m = modules(qkv_proj=nn.Linear(WIDTH, (4 + 2 * 2) * SIZE), o_proj=nn.Linear(4 * SIZE, WIDTH))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = m.qkv_proj(x).split((4 * SIZE, 2 * SIZE, 2 * SIZE), -1)
        return heads(q, 4), heads(k, 2)

    return of(m, logits, num_heads=4, num_key_value_heads=2)


class Conv1D(nn.Module):
    """A linear layer whose weight is in × out, as in GPT-2."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def fused_input_first() -> Attended:
    m = modules(c_attn=Conv1D(3 * 4 * SIZE, WIDTH), c_proj=Conv1D(WIDTH, 4 * SIZE))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = m.c_attn(x).chunk(3, -1)
        return heads(q, 4), heads(k, 4)

    return of(m, logits, num_heads=4)


def head_by_head(groups: int = 4) -> Attended:
    rows = (4 + 2 * groups) * SIZE
    m = modules(query_key_value=nn.Linear(WIDTH, rows), dense=nn.Linear(4 * SIZE, WIDTH))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        every = m.query_key_value(x).unflatten(-1, (groups, 4 // groups + 2, SIZE))
        return every[:, :, :-2].flatten(1, 2), every[:, :, -2]

    return of(m, logits, num_heads=4, num_kv_heads=groups)


def of_torch(keys: int = WIDTH) -> Attended:
    m = nn.MultiheadAttention(WIDTH, 4, kdim=keys, vdim=keys)
    nn.init.normal_(m.in_proj_bias)

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        weights = m.q_proj_weight, m.k_proj_weight
        if m.in_proj_weight is not None:
            weights = m.in_proj_weight.chunk(3)[:2]
        biases = m.in_proj_bias.chunk(3)
        y = x[:, :keys]
        return heads(x @ weights[0].mT + biases[0], 4), heads(y @ weights[1].mT + biases[1], 4)

    return of(m, logits)


def named_bias() -> Attended:
    m = modules(in_proj=nn.Linear(WIDTH, 3 * 4 * SIZE, bias=False))
    m.q_bias = nn.Parameter(torch.randn(4 * SIZE))
    m.v_bias = nn.Parameter(torch.randn(4 * SIZE))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, _ = m.in_proj(x).chunk(3, -1)
        return heads(q + m.q_bias, 4), heads(k, 4)

    return of(m, logits, num_heads=4)


def latent(rank: int = 8, turned: int = 2) -> Attended:
    """Multi-head latent attention, with the key for positions in the last two columns of x."""
    plain, value = 4, 6
    m = nn.Module()
    if rank:
        m.q_a_proj = nn.Linear(WIDTH, rank)
    m.add_module("q_b_proj" if rank else "q_proj", nn.Linear(rank or WIDTH, 4 * (plain + turned)))
    m.kv_b_proj = nn.Linear(WIDTH - turned, 4 * (plain + value))

    def logits(x: Tensor) -> tuple[Tensor, Tensor]:
        y, shared = x[:, : WIDTH - turned], x[:, WIDTH - turned :]
        q = heads(m.q_b_proj(m.q_a_proj(x)) if rank else m.q_proj(x), 4)
        k = heads(m.kv_b_proj(y), 4)[..., :plain]
        return q, torch.cat([k, shared.unsqueeze(1).expand(-1, 4, -1)], -1)

    numbers = {"qk_nope_head_dim": plain, "v_head_dim": value, "num_heads": 4}
    return of(m, logits, **numbers, **({"qk_rope_head_dim": turned} if turned else {}))


LAYERS: dict[str, Callable[[], Attended]] = {
    "separate": separate,
    "separate, with biases": lambda: separate(bias=True),
    "grouped": grouped,
    "query with a gate": query_with_gate,
    "key with value": key_with_value,
    "fused": fused,
    "fused, grouped": fused_grouped,
    "fused, in × out": fused_input_first,
    "head by head": head_by_head,
    "head by head, grouped": lambda: head_by_head(2),
    "head by head, one key": lambda: head_by_head(1),
    "torch": of_torch,
    "torch, keys of another width": lambda: of_torch(12),
    "named bias": named_bias,
    "latent": latent,
    "latent, without a rank": lambda: latent(0),
    "latent, without positions": lambda: latent(turned=0),
}
