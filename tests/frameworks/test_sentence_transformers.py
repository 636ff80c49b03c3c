"""sentence-transformers: an encoder with a pooling and a dense layer."""

import warnings

import pytest

pytest.importorskip("sentence_transformers")

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from transformers import BertConfig, BertModel

import steepest
from tests.frameworks.checks import check_falls, check_routed
from tests.frameworks.recipes.sentence_pairs import trainer
from tests.frameworks.words import of_words, sentences


def encoder():
    """A BERT of one block, written to a folder, since it is read from one."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64}
    config = BertConfig(**sizes, num_hidden_layers=1, num_attention_heads=4)
    BertModel(config).save_pretrained("bert")
    of_words().save_pretrained("bert")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = [models.Transformer("bert"), models.Pooling(32), models.Dense(32, 16)]
        return SentenceTransformer(modules=parts, device="cpu")


def arguments():
    return SentenceTransformerTrainingArguments(
        "out",
        max_steps=12,
        per_device_train_batch_size=8,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
    )


def pairs():
    """Beginnings of sentences and their ends, which share no word order but some words."""
    whole = sentences(64, 8)
    halves = [(" ".join(s.split()[:6]), " ".join(s.split()[2:])) for s in whole]
    return Dataset.from_dict({"anchor": [a for a, _ in halves], "positive": [b for _, b in halves]})


def seen(made):
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


@pytest.mark.row("sentence-transformers")
@pytest.mark.parametrize("way", ["factory", "optimizers"])
def test_it_is_routed_and_learns(way):
    model = encoder()
    loss = losses.MultipleNegativesRankingLoss(model)
    if way == "factory":
        made = trainer(model, arguments(), pairs(), loss)
    else:
        made = SentenceTransformerTrainer(
            model,
            arguments(),
            train_dataset=pairs(),
            loss=loss,
            optimizers=(steepest.Muon(model, lr=0.02), None),
        )
    made.train()
    check_routed(model, made.optimizer)
    check_falls(seen(made))
