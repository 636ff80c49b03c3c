"""The sets: their counts, their sizes, and which of them a name means."""

from __future__ import annotations

import pytest
import torch

from steepest.apps.bench.gradients import SOURCES, averages, hidden
from steepest.apps.bench.sets import SETS, ShapeSet, chosen
from steepest.apps.reproduce.data.digits import Digits
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.data import Text, prepare
from steepest.apps.train.model import GPT
from tests.apps.bench.tiny import DIGITS, SQUARE, TINY
from tests.apps.train.tiny import words


@pytest.mark.parametrize(
    ("name", "count", "parameters"),
    [
        ("gpt-128", 16, 4 * 12 * 128**2),
        ("vit-64", 128, 32 * 12 * 64**2),
        ("gpt-256", 24, 6 * 12 * 256**2),
        ("gpt2-small", 48, 12 * 12 * 768**2),
        ("square-4096", 1, 4096**2),
    ],
)
def test_the_sets_have_their_counts(name: str, count: int, parameters: int) -> None:
    s = SETS[name]
    assert (s.count, len(s.shapes), s.parameters) == (count, count, parameters)
    assert 1 <= s.probed <= s.blocks
    assert s.rounds >= 5


def test_there_are_five_sets() -> None:
    assert list(SETS) == ["gpt-128", "vit-64", "gpt-256", "gpt2-small", "square-4096"]
    assert all(s.name == name for name, s in SETS.items())


@pytest.mark.parametrize("s", [s for s in SETS.values() if s.training], ids=lambda s: s.name)
def test_a_training_fits_its_set(s: ShapeSet) -> None:
    assert s.training is not None and s.training.data in SOURCES
    width = s.block[1][0]
    assert width % s.training.heads == 0
    if s.parameters < 10**7:
        sizes = ModelConfig(layers=s.blocks, width=width, heads=s.training.heads, context=8)
        assert [tuple(p.shape) for p in hidden(GPT(sizes, vocabulary=3, seed=0))] == s.shapes


def test_names_are_taken_in_the_order_of_the_table() -> None:
    assert [s.name for s in chosen(["gpt-256", "gpt-128"])] == ["gpt-128", "gpt-256"]
    assert chosen([]) == list(SETS.values())
    with pytest.raises(ValueError, match=r"set='gpt-182': choose from gpt-128, vit-64"):
        chosen(["gpt-128", "gpt-182"])


@pytest.mark.parametrize("s", [TINY, DIGITS], ids=lambda s: s.name)
def test_real_gradients_have_the_shapes_of_the_set_and_repeat(
    s: ShapeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = Text(name="words", text=words(4000))
    monkeypatch.setattr("steepest.apps.bench.gradients.load_text", lambda _: text)
    images, labels = torch.randn(40, 784), torch.arange(40) % 10
    few = Digits(images=images, labels=labels, held_images=images, held_labels=labels)
    monkeypatch.setattr("steepest.apps.bench.gradients.load_digits", lambda: few)
    assert prepare(text, context=8).train.numel() > 0
    first, again, other = (averages(s, seed=seed) for seed in (0, 0, 1))
    assert [tuple(x.shape) for x in first] == s.shapes
    assert all(float(x.norm()) > 0 for x in first)
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_the_average_is_nesterovs(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(2, 2, bias=False)
    model = torch.nn.ModuleDict({"blocks": layer})
    grads = iter([1.0, 2.0, 4.0])

    def step() -> None:
        layer.weight.grad = torch.full((2, 2), next(grads))

    monkeypatch.setitem(SOURCES, "text", lambda *_: (model, step))
    buffer = 0.0
    for g in (1.0, 2.0, 4.0):
        buffer = 0.95 * buffer + 0.05 * g
    (found,) = averages(TINY, seed=0)
    torch.testing.assert_close(found, torch.full((2, 2), 0.95 * buffer + 0.05 * 4.0))


def test_a_set_without_a_model_has_no_gradients() -> None:
    with pytest.raises(ValueError, match=r"data='gradients': square has no model"):
        averages(SQUARE, seed=0)
