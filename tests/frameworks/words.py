"""Tokenizers without a download: one of characters, one of words."""

from __future__ import annotations

from typing import Any

from tests.frameworks.small import WORDS, text


def of_characters() -> Any:
    """A token for each character."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(i): i for i in range(127)} | {"<pad>": 127}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="~", unk_token="<pad>"
    )


def of_words() -> Any:
    """A token for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"[PAD]": 0, "[UNK]": 1} | {w: i + 2 for i, w in enumerate(WORDS.split())}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )


def sentences(count: int, words: int) -> list[str]:
    """Pieces of the text."""
    every = text().split()
    return [" ".join(every[i * words : (i + 1) * words]) for i in range(count)]
