"""Tiny models and synthetic text: nothing here is downloaded, and a step takes milliseconds."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

WORDS = "the a grey small quick old river stone bird tree falls rises sings waits over under by"


def text(words: int = 4000) -> str:
    """Words in a random order that is the same every time."""
    draw = random.Random(0)
    return " ".join(draw.choice(WORDS.split()) for _ in range(words))


class Characters(Dataset[dict[str, Tensor]]):
    """Windows of the text, a number for each character, as a language model takes them."""

    def __init__(self, count: int = 256, length: int = 32) -> None:
        codes = torch.tensor([ord(c) for c in text()])
        starts = random.Random(1).sample(range(len(codes) - length), count)
        self.windows = [codes[i : i + length] for i in starts]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        window = self.windows[index]
        return {"input_ids": window, "labels": window, "attention_mask": torch.ones_like(window)}


def gpt2(seed: int = 0, **changes: Any) -> nn.Module:
    """GPT-2 with two blocks: tied embeddings, fused and transposed projections."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"vocab_size": 128, "n_positions": 32, "n_embd": 32, "n_layer": 2}
    still = {f"{name}_pdrop": 0.0 for name in ("resid", "embd", "attn")}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes | {"n_head": 2} | still | ends | changes))


def llama(seed: int = 0, **changes: Any) -> nn.Module:
    """A LLaMA with two blocks: grouped-query attention, a head of its own."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    more = {"max_position_embeddings": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes | heads | ends | more | changes))


class Classifier(nn.Module):
    """Three layers from 16 numbers to 4 classes, with a backbone that can be frozen."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(16, width), nn.ReLU())
        self.body = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.body(self.backbone(x))))


def classifier(seed: int = 0) -> Classifier:
    """The same weights every time."""
    torch.manual_seed(seed)
    return Classifier()


def classes(count: int = 512) -> TensorDataset:
    """Points and their classes, the largest of four fixed linear functions."""
    draw = torch.Generator().manual_seed(0)
    points = torch.randn(count, 16, generator=draw)
    labels = (points @ torch.randn(16, 4, generator=draw)).argmax(1)
    return TensorDataset(points, labels)
