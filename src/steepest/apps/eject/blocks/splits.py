"""The helper `groups` of an ejected file: which parameter goes where, by rules that are on view."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

HEADS = ("head", "lm_head", "output", "classifier", "unembed")
FUSED = {"c_attn": 3, "qkv": 3}  # layers whose weight is so many matrices, one below the other


def matrix_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split a model into hidden matrices and parameters for AdamW, by rules that you may edit.

    Hidden matrices are weights of two axes, but for embeddings and the layers in HEADS.
    """
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    found: dict[int, list[Tensor]] = {}  # by the number of matrices in a parameter, 0 for AdamW
    for name, p in model.named_parameters():
        layer = f".{name}".split(".")[-2]
        hidden = p.ndim == 2 and name.endswith("weight") and p not in tables and layer not in HEADS
        found.setdefault(FUSED.get(layer, 1) if hidden else 0, []).append(p)
    return [{"params": found[k], "adamw": k == 0, "split": max(k, 1)} for k in sorted(found)[::-1]]


def layer_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split a model by the kinds of its layers, by rules that you may edit.

    Hidden matrices are weights of two axes, but for embeddings and the layers in HEADS. An
    embedding that is also the weight of a head counts as a head, and all else as a vector.
    """
    named = [(name.split(".")[-1], m) for name, m in model.named_modules()]
    heads = {getattr(m, "weight", None) for name, m in named if name in HEADS}
    tables = {m.weight for _, m in named if isinstance(m, nn.Embedding)}
    found: dict[tuple[str, int], list[Tensor]] = {}
    for name, p in model.named_parameters():
        split = FUSED.get(f".{name}".split(".")[-2], 1)
        hidden = ("hidden", split) if p.ndim == 2 and name.endswith("weight") else ("vector", 1)
        kind = ("head", 1) if p in heads else ("embedding", 1) if p in tables else hidden
        found.setdefault(kind, []).append(p)
    return [{"params": found[k], "layer": k[0], "split": k[1]} for k in sorted(found)]
