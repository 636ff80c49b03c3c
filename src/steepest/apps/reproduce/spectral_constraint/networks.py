"""Lion-K with weight decay on two networks: how far every matrix is from the ball it should end in.

Digits: 14 × 14 pixels, three convolutions of 3 × 3 with 8, 16 and 32 channels, the first two
followed by a maximum over 2 × 2, then 288 → 32 → 10. Text: the character GPT of `steepest train` on
the King James Bible. The head, and embeddings and gains of the GPT, are left to AdamW. The other
matrices of the GPT start `SCALE` times as large as usual, so that some are outside their ball.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor, nn

import steepest
from steepest import maps, norms, polar
from steepest._common.files import Record
from steepest.apps.reproduce.data.digits import CLASSES, POOL, load_digits
from steepest.apps.reproduce.data.text import corpus
from steepest.apps.reproduce.framework.experiment import Settings
from steepest.apps.reproduce.framework.training import evaluate, train
from steepest.apps.reproduce.spectral_constraint import toy
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.optimizers import recipe, scheduler
from steepest.apps.train.trial import Trainer, Trial

SIDE = 14
# Nesterov's momentum 0.95 as Lion-K, that of `steepest.Muon`.
BETAS = (0.95**2, 0.95)
ADAMW_LR = 4e-3
SCALE = 3.0

MAPS: Mapping[str, maps.ConvexMap] = {
    **toy.MAPS,
    # Singular values of these gradients are a hundred times smaller than those of the quadratic.
    "SmoothNuclear": maps.SmoothNuclear(1e-3),
    "Nuclear, Jordan": maps.NuclearMap(polar=polar.NewtonSchulz(polar.JORDAN)),
}
"""The maps that train networks; the last is `Nuclear` with Jordan's inexact polar factors."""

DECAYS: Mapping[str, float] = {
    "Nuclear": 2.0,
    "L1": 10.0,
    "Frobenius": 0.5,
    "GroupRows": 2.0,
    "Schatten-4": 0.5,
    "SmoothNuclear": 2.0,
    "Nuclear, Jordan": 2.0,
}
"""λ: at the start some matrices are outside their ball, by a factor of 5 or less."""


@dataclass(frozen=True, kw_only=True)
class NetSettings(Settings):
    """The runs; see `Settings`, whose `batch` is that of the digits.

    Args:
        windows: the windows of text in a step.
        layers: blocks of the GPT.
        width: the width of its residual stream.
        context: characters in a window.
        rates: parts ηλ of a weight that the first step decays; the best one counts.
        every: the number of steps from one look at the matrices to the next.
    """

    steps: int = 200
    batch: int = 64
    windows: int = 8
    layers: int = 2
    width: int = 32
    context: int = 64
    rates: tuple[float, ...] = (0.06, 0.12)
    every: int = 5


class ConstraintRecorder:
    """The matrices that an optimizer moves along its map, looked at every few steps.

    Args:
        model: the model; its hidden matrices move along K, its other parameters by AdamW.
        K: the map.
        radius: 1/λ.
        rate: ηλ.
        decays: whether there is decay; the learning rate is the same without.
        every: the number of steps between two observations.
    """

    def __init__(
        self,
        model: nn.Module,
        K: maps.ConvexMap,
        *,
        radius: float,
        rate: float,
        decays: bool,
        every: int,
    ) -> None:
        assert K.domain is not None, "every map here has a ball"
        self.K, self.ball = K, K.domain.with_polar(None)
        self.radius, self.every = radius, every
        *_, (head, _) = model.named_parameters()
        groups = steepest.route(model, overrides={head: "adamw"}).groups()
        if K.axes is None:
            del groups[0]["views"]
        decay = 1 / radius if decays else 0.0
        self.optimizer = steepest.LionK(groups, rate * radius, BETAS, decay, K, adamw_lr=ADAMW_LR)
        self.optimizer.register_step_post_hook(lambda *_: self.after_step())
        self.rows: list[Record] = []
        self.excess = 0.0
        self._step, self._left = 0, 1.0
        self._distances: list[float] = []
        self.look()

    def matrices(self) -> Iterator[Tensor]:
        """The parts with a ball of their own, in batches: matrices, or whole tensors."""
        for view in self.optimizer.parameter_views():
            if view.geometry is not None:
                yield from view.parts(view.param.detach())

    def sizes(self) -> Iterator[tuple[float, float]]:
        """The norm of each, and what the map allows it, times λ."""
        for x in self.matrices():
            upper = self.K.gradient_bound(x.shape[-2], x.shape[-1], x.dtype)
            for size in self.ball(x).flatten().tolist():
                yield size, upper

    def after_step(self) -> None:
        """Count what decay has to leave of a distance, and look where it is time."""
        group = self.optimizer.param_groups[0]
        self._step += 1
        self._left *= 1 - float(group["lr"]) * float(group["weight_decay"])
        if self._step % self.every == 0:
            self.look()

    def look(self) -> None:
        """Keep the norms over the radius; hold every distance against the one before."""
        pairs = [(size / self.radius, upper) for size, upper in self.sizes()]
        distances = [max(ratio - upper, 0.0) for ratio, upper in pairs]
        before = self._distances or distances
        grown = [new - self._left * old for old, new in zip(before, distances, strict=True)]
        self.excess = max(self.excess, *grown)
        self._left, self._distances = 1.0, distances
        ratios = [ratio for ratio, _ in pairs]
        self.rows.append(
            {
                "step": self._step,
                "largest": max(ratios),
                "smallest": min(ratios),
                "allowed": max(ratio / upper for ratio, upper in pairs),
                "outside": fmean(ratio > 1 for ratio in ratios),
            }
        )

    def sigma(self) -> list[float]:
        """All singular values over the radius; none where the ball is not that of σ₁."""
        if self.ball != norms.Spectral():
            return []
        values = torch.cat([torch.linalg.svdvals(x).flatten() for x in self.matrices()])
        return [round(v, 4) for v in (values / self.radius).tolist()]


def enlarge(model: nn.Module, factor: float) -> None:
    """Multiply what consists of matrices."""
    with torch.no_grad():
        for name in steepest.routing.matrix_views(model):
            model.get_parameter(name).mul_(factor)


def images(seed: int) -> nn.Sequential:
    """The convolutional network with torch's usual weights, uniform in ±1/√in, of a seed."""
    model = nn.Sequential(
        nn.Unflatten(1, (1, SIDE, SIDE)),
        *(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(288, 32, bias=False), nn.ReLU()),
        nn.Linear(32, CLASSES, bias=False),
    )
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
    return model


def measure(settings: NetSettings, cell: Record) -> Record:
    """Train a network: its loss on what was held out before and after, and how its matrices went.

    `excess` is the largest distance to a ball over what decay had to leave of it, over the radius.
    Losses are None if the run diverged.
    """
    learn = {"images": _learn_digits, "text": _learn_text}[cell["network"]]
    return learn(settings, cell)


def _watch(settings: NetSettings, cell: Record, model: nn.Module) -> ConstraintRecorder:
    return ConstraintRecorder(
        model,
        MAPS[cell["map"]],
        radius=1 / DECAYS[cell["map"]],
        rate=cell["rate"],
        decays=cell["decay"] != "none",
        every=settings.every,
    )


def _found(
    watched: ConstraintRecorder, losses: tuple[float | None, float | None], start: list[float]
) -> Record:
    return {
        "radius": watched.radius,
        "initial": losses[0],
        "loss": losses[1],
        "excess": watched.excess,
        "rows": watched.rows,
        "sigma": {"start": start, "end": watched.sigma()},
    }


def _learn_digits(settings: NetSettings, cell: Record) -> Record:
    digits = load_digits(pool=POOL)
    model = images(cell["seed"])
    watched = _watch(settings, cell, model)
    start = watched.sigma()
    initial, _ = evaluate(model, digits.held_images, digits.held_labels)
    fine = train(model, watched.optimizer, digits, settings, seed=cell["seed"])
    loss, accuracy = evaluate(model, digits.held_images, digits.held_labels)
    found = _found(watched, (initial, loss if fine else None), start)
    return {**found, "accuracy": accuracy if fine else None}


def _learn_text(settings: NetSettings, cell: Record) -> Record:
    size = ModelConfig(
        layers=settings.layers, width=settings.width, heads=2, context=settings.context
    )
    config = Config(
        optimizers={"muon": recipe("muon").tuned},
        model=size,
        steps=settings.steps,
        batch=settings.windows,
        eval_windows=settings.windows * 8,
    )
    trainer = Trainer(Trial(optimizer="muon", seed=cell["seed"]), config, corpus(size.context))
    enlarge(trainer.model, SCALE)
    watched = _watch(settings, cell, trainer.model)
    trainer.optimizer = watched.optimizer
    trainer.scheduler = scheduler(watched.optimizer, config)
    start = watched.sigma()
    initial = trainer.evaluate()
    for _ in range(settings.steps):
        if trainer.train_step()["loss"] is None:
            return {**_found(watched, (initial, None), start), "accuracy": None}
    return {**_found(watched, (initial, trainer.evaluate()), start), "accuracy": None}
