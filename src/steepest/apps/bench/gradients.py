"""Real gradients: what a Muon step sees a short way into the training of a small model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import steepest
from steepest._common.errors import invalid
from steepest.apps.bench.sets import ShapeSet, Training
from steepest.apps.reproduce.data.digits import CLASSES, SIDE, load_digits
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.data import load_text, prepare
from steepest.apps.train.model import Block
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.trial import Trainer, Trial

# The default of torch.optim.Muon.
MOMENTUM = 0.95
PATCH = 7
LR = 0.02


class DigitTransformer(nn.Module):
    """The blocks of the character GPT over the 16 patches of a digit, read off the last one.

    Args:
        width: the width of the residual stream.
        heads: attention heads in a block.
        layers: blocks.
    """

    def __init__(self, *, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, width, PATCH, stride=PATCH)
        self.position = nn.Parameter(0.02 * torch.randn((SIDE // PATCH) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads, layers) for _ in range(layers))
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of shape (batch, 10) for rows of 784 pixels."""
        x = self.patch(images.unflatten(1, (1, SIDE, SIDE))).flatten(2).mT + self.position
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.ln(x[:, -1]))
        return logits


def hidden(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the blocks that consist of matrices, in the order of a `ShapeSet`."""
    views = steepest.routing.matrix_views(model)
    return [p for n, p in model.named_parameters() if n in views and n.startswith("blocks.")]


def _text(shapes: ShapeSet, training: Training, seed: int) -> tuple[nn.Module, Callable[[], None]]:
    """The GPT of `steepest train` and its step."""
    model = ModelConfig(
        layers=shapes.blocks,
        width=shapes.block[1][0],
        heads=training.heads,
        context=training.context,
    )
    config = Config(
        optimizers={"muon": recipe("muon").tuned},
        model=model,
        batch=training.batch,
        steps=training.steps,
        schedule="constant",
        eval_windows=1,
    )
    corpus = prepare(load_text(None), context=training.context)
    trainer = Trainer(Trial(optimizer="muon", seed=seed), config, corpus)

    def step() -> None:
        trainer.train_step()

    return trainer.model, step


def _digits(
    shapes: ShapeSet, training: Training, seed: int
) -> tuple[nn.Module, Callable[[], None]]:
    """A transformer over digits and its step."""
    data = load_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitTransformer(
            width=shapes.block[1][0], heads=training.heads, layers=shapes.blocks
        )
    optimizer = steepest.Muon(model, lr=LR)
    generator = torch.Generator().manual_seed(seed)

    def step() -> None:
        rows = torch.randint(len(data.labels), (training.batch,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(data.images[rows]), data.labels[rows]).backward()
        optimizer.step()

    return model, step


SOURCES = {"text": _text, "digits": _digits}


def averages(shapes: ShapeSet, *, seed: int) -> list[Tensor]:
    """Nesterov's average u of each matrix after the set's training with Muon.

        buffer ← momentum·buffer + (1 − momentum)·grad
        u = momentum·buffer + (1 − momentum)·grad

    Args:
        shapes: a set with a `training`.
        seed: the seed of the first weights and of the order of the data.

    Raises:
        ValueError: the set has no training, or its data are missing.
    """
    training = shapes.training
    if training is None:
        raise invalid("data", "gradients", f"{shapes.name} has no model to take them from")
    model, step = SOURCES[training.data](shapes, training, seed)
    matrices = hidden(model)
    buffers = [torch.zeros_like(p) for p in matrices]
    grads: list[Tensor] = []
    for _ in range(training.steps):
        step()
        grads = [p.grad for p in matrices if p.grad is not None]
        for buffer, g in zip(buffers, grads, strict=True):
            buffer.lerp_(g, 1 - MOMENTUM)
    return [g.lerp(b, MOMENTUM) for g, b in zip(grads, buffers, strict=True)]
