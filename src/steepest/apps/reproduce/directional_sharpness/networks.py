"""The measurements of `directional-sharpness`, on two networks, at several steps of training.

Digits: 14 × 14 pixels, 196 → 128 → 128 → 128 → 128 → 10 with ReLU. Text: the character GPT of
`steepest train` on the King James Bible. Both train at the settings that `steepest train` is tuned
to, and are looked at on a batch of the training part that is the same at every look, for every
optimizer and seed. Looked at are the weights of the hidden Linear layers, those that Muon moves.
The fused projection to queries, keys and values is one matrix here, as it has one input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import steepest
from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest.apps.reproduce.data.digits import POOL, load_digits
from steepest.apps.reproduce.data.text import corpus
from steepest.apps.reproduce.framework.experiment import Settings, says_its_scale
from steepest.apps.reproduce.framework.training import classifier, train
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.data import batch
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.trial import Trainer, Trial
from steepest.diagnostics import DIRECTIONS, Spectrum, compare_directions, input_spectra, spectrum

# No step of a run has this number, so its windows are drawn for nothing else.
UNUSED = -1


@dataclass(frozen=True, kw_only=True)
class SharpnessSettings(Settings):
    """The runs and where they are looked at; see `Settings`, whose `batch` is of digits.

    Args:
        windows: the windows of text in a step.
        layers: blocks of the GPT.
        width: the width of its residual stream, and of the hidden layers for digits.
        looks: steps after which the directions are compared, ascending.
        look_digits: the number of digits that they are compared on.
        look_windows: the number of windows of text that they are compared on.

    Raises:
        ValueError: looks out of order, or after the last step.
    """

    steps: int = 256
    windows: int = 16
    layers: int = 4
    width: int = 128
    looks: tuple[int, ...] = (0, 4, 8, 16, 32, 64, 128, 256)
    look_digits: int = 512
    look_windows: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        ordered = list(self.looks) == sorted(set(self.looks)) and self.looks
        if not ordered or self.looks[0] < 0 or self.looks[-1] > self.steps:
            raise invalid("looks", self.looks, f"give steps from 0 to {self.steps}, ascending")


def hidden(model: nn.Module) -> dict[str, nn.Linear]:
    """The Linear layers by name whose weights routing takes as matrices: all but the head."""
    views = steepest.routing.matrix_views(model)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    return {name: layer for name, layer in layers.items() if f"{name}.weight" in views}


def reach(inputs: Spectrum, outputs: int) -> float:
    """Σ_{i ≤ out} σ_i²/σ₁² of a layer's inputs: how much flatter its loss may be spectrally.

    With c the largest curvature of the loss in the outputs of the layer, L_2 = c·Σ_{i ≤ out} σ_i²
    and L_F = c·σ₁² bound its curvature in the spectral and in the Frobenius norm. Their ratio is
    the stable rank of the inputs where there are no fewer outputs than inputs.

    Args:
        inputs: the spectrum of what the layer is given.
        outputs: the number of outputs of the layer.
    """
    return inputs.energy(outputs) * inputs.stable_rank


class DirectionRecorder:
    """The hidden layers of a model, looked at between the steps of its training.

    Args:
        model: the model in training.
        loss: the loss of the batch that all looks have in common.
        optimizer: the one that trains it; where it is AdamW, its own direction is compared too.
    """

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], optimizer: Optimizer) -> None:
        self._layers, self._loss = hidden(model), loss
        self._optimizer = optimizer if isinstance(optimizer, torch.optim.AdamW) else None
        self._directions = {
            name: d for name, d in DIRECTIONS.items() if self._optimizer or name != "adam"
        }
        self.rows: list[Record] = []
        self.ranks: list[Record] = []
        self.losses: list[Record] = []

    def look(self, step: int) -> bool:
        """Compare the directions, and keep what was found; False where the loss is not finite."""
        value = self._look_at_ranks(step)
        self.losses.append({"step": step, "loss": value if math.isfinite(value) else None})
        if not math.isfinite(value):
            return False
        weights = {name: layer.weight for name, layer in self._layers.items()}
        found = compare_directions(
            self._loss,
            weights,
            self._directions,
            optimizer=self._optimizer,
            # An optimizer of this library would cut the projection to queries, keys and values.
            views=dict.fromkeys(weights, steepest.MatrixView()),
        )
        self.rows += [
            {
                "step": step,
                "layer": layer,
                "direction": direction,
                "correlation": along.gradient_correlation,
                "sharpness": along.sharpness,
                "norm": along.norm,
                "decrease": along.best_decrease,
            }
            for (direction, layer), along in found
        ]
        return True

    def _look_at_ranks(self, step: int) -> float:
        """Keep the ranks of gradients and inputs; the loss."""
        loss = self._loss()
        value = loss.item()
        if math.isfinite(value):
            weights = {name: layer.weight for name, layer in self._layers.items()}
            inputs = input_spectra(weights.items(), self._loss, method="exact")
            grads = torch.autograd.grad(loss, list(weights.values()))
            for name, grad in zip(weights, grads, strict=True):
                of_grad = spectrum(grad, method="exact")
                self.ranks.append(
                    {
                        "step": step,
                        "layer": name,
                        "nuclear": of_grad.nuclear_rank,
                        "effective": of_grad.effective_rank,
                        "input": reach(inputs[name], grad.shape[0]),
                    }
                )
        return value

    def found(self) -> Record:
        """The findings of all looks."""
        return {"losses": self.losses, "rows": self.rows, "ranks": self.ranks}


@says_its_scale
def measure(settings: SharpnessSettings, cell: Record) -> Record:
    """Train a network, and look at it.

    Returns:
        `losses` of the batch of the looks, None where it is not finite, the last one then; `rows`
        with ⟨g, d⟩, dᵀHd, ‖d‖ and best decrease of each direction and layer, "" for the whole;
        `ranks` of the gradient and the input of each layer.
    """
    learn = {"images": _learn_digits, "text": _learn_text}[cell["network"]]
    return learn(settings, cell).found()


def _learn_digits(settings: SharpnessSettings, cell: Record) -> DirectionRecorder:
    digits = load_digits(pool=POOL)
    model = classifier(settings.width, 4, seed=cell["seed"])
    chosen = recipe(cell["optimizer"])
    optimizer = chosen.build(model, chosen.tuned)
    part = slice(settings.look_digits)
    watch = DirectionRecorder(
        model,
        lambda: F.cross_entropy(model(digits.images[part]), digits.labels[part]),
        optimizer,
    )
    steps = count(1)

    def after_step() -> None:
        if (step := next(steps)) in settings.looks:
            watch.look(step)

    if 0 in settings.looks:
        watch.look(0)
    if not train(model, optimizer, digits, settings, seed=cell["seed"], after_step=after_step):
        watch.losses.append({"step": next(steps), "loss": None})
    return watch


def _learn_text(settings: SharpnessSettings, cell: Record) -> DirectionRecorder:
    size = ModelConfig(layers=settings.layers, width=settings.width)
    name, seed = cell["optimizer"], cell["seed"]
    config = Config(
        optimizers={name: recipe(name).tuned},
        model=size,
        steps=settings.steps,
        batch=settings.windows,
    )
    text = corpus(size.context)
    trainer = Trainer(Trial(optimizer=name, seed=seed), config, text)
    looked_at = batch(
        text.train, seed=0, step=UNUSED, size=settings.look_windows, context=size.context
    )
    watch = DirectionRecorder(
        trainer.model, lambda: trainer.model.loss(looked_at), trainer.optimizer
    )
    for step in range(settings.steps + 1):
        if step in settings.looks and not watch.look(step):
            break
        if step < settings.steps and trainer.train_step()["loss"] is None:
            watch.losses.append({"step": trainer.step, "loss": None})
            break
    return watch
