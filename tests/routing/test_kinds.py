"""What a parameter is in the model, beyond where it goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from steepest.routing.table import route
from tests.routing.test_routing import names, small


class Tables(nn.Module):
    """An embedding, a head, and a table that is both."""

    def __init__(self, head_first: bool = False) -> None:
        super().__init__()
        if head_first:
            self.lm_head = nn.Linear(4, 7, bias=False)
        self.tokens = nn.Embedding(7, 4)
        self.segments = nn.Embedding(2, 4)
        self.body = nn.Linear(4, 4, bias=False)
        self.classifier = nn.Linear(4, 3)
        if not head_first:
            self.lm_head = nn.Linear(4, 7, bias=False)
        self.lm_head.weight = self.tokens.weight


@pytest.mark.parametrize("head_first", [False, True])
def test_a_kind_tells_embeddings_and_heads_apart(head_first: bool) -> None:
    kinds = {a.name: a.kind for a in route(Tables(head_first))}
    tied = "lm_head.weight" if head_first else "tokens.weight"
    assert kinds == {
        tied: "embedding",
        "segments.weight": "embedding",
        "body.weight": "hidden",
        "classifier.weight": "head",
        "classifier.bias": "vector",
    }


def test_groups_by_kind_divide_the_tables_and_nothing_else() -> None:
    routing = route(Tables())
    matrices, tables, vectors = routing.groups()
    hidden, embeddings, heads, rest = routing.groups(by_kind=True)
    assert (hidden, rest) == (matrices, vectors)
    assert names(embeddings) == ["tokens.weight", "segments.weight"]
    assert names(heads) == ["classifier.weight"]
    assert embeddings.keys() == heads.keys() == tables.keys()
    (only_head, _) = route(nn.ModuleDict({"head": nn.Linear(4, 3)})).groups(by_kind=True)
    assert names(only_head) == ["head.weight"]


@pytest.mark.parametrize(
    ("model", "name", "value", "kind"),
    [
        (small(), "3.weight", "adamw", "head"),
        (small(), "0.weight", "adamw", "embedding"),
        (small(), "0.weight", "matrix", "hidden"),
        (small(), "2.weight", "adamw", "vector"),
        (nn.ParameterDict({"rows": torch.zeros(5, 4)}), "rows", "adamw", "embedding"),
    ],
)
def test_an_override_leaves_the_kind_or_gives_one(
    model: nn.Module, name: str, value: Any, kind: str
) -> None:
    assert route(model, overrides={name: value})[name].kind == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("tokens.lora_embedding_A", "embedding"),
        ("lm_head.lora_A", "head"),
        ("body.lora_A", "hidden"),
    ],
)
def test_a_low_rank_update_is_of_the_kind_of_what_it_updates(path: str, kind: str) -> None:
    model = Tables()
    module, name = path.split(".")
    model.get_submodule(module).register_parameter(name, nn.Parameter(torch.zeros(2, 4)))
    assert route(model)[path].kind == kind
