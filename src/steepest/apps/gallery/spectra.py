"""Singular values of a real gradient, before and after the duality map of each matrix norm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor

from steepest import norms
from steepest.apps import _figures as figures
from steepest.apps.train.config import Config
from steepest.apps.train.data import Corpus, batch, load_text, prepare
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.trial import Trainer, Trial
from steepest.norms import Norm

K = 16
NORMS: Mapping[str, Norm] = {
    "Spectral()": norms.Spectral(),
    "Schatten(4)": norms.Schatten(4),
    "Frobenius()": norms.Frobenius(),
    "Schatten(4/3)": norms.Schatten(4 / 3),
    "Nuclear()": norms.Nuclear(),
    f"KyFan({K})": norms.KyFan(K),
    f"KyFan({K}).dual": norms.KyFan(K).dual,
    "RowNorm()": norms.RowNorm(),
    "ColumnNorm()": norms.ColumnNorm(),
    "Operator(1, inf)": norms.Operator(1, math.inf),
}
OPTIMIZER = "adamw"
STEPS = 50
WEIGHT = "blocks.0.mlp.fc.weight"
FLOOR = 1e-4
"""The smallest singular value shown, the largest being 1."""


def default_config() -> Config:
    """The model of `steepest train`, a short way into its training."""
    settings = {OPTIMIZER: recipe(OPTIMIZER).tuned}
    return Config(optimizers=settings, steps=STEPS, schedule="constant", eval_windows=1)


def gradient(config: Config, corpus: Corpus, *, seed: int, weight: str = WEIGHT) -> Tensor:
    """The gradient of one matrix after `config.steps` steps of training, in float64.

    Args:
        config: settings with one optimizer.
        corpus: the text.
        seed: the seed of the first weights and of the order of the data.
        weight: the name of the matrix.
    """
    (name,) = config.optimizers
    trainer = Trainer(Trial(optimizer=name, seed=seed), config, corpus)
    for _ in range(config.steps):
        trainer.train_step()
    # In float64 a direction that the layer cannot see is a zero, not the noise of rounding.
    model = trainer.model.double()
    context = config.model.context
    windows = batch(corpus.train, seed=seed, step=config.steps, size=config.batch, context=context)
    g: Tensor = torch.autograd.grad(model.loss(windows), [model.get_parameter(weight)])[0]
    return g


def spectrum(x: Tensor) -> Tensor:
    """The singular values over the largest, without those that are rounding errors."""
    s = torch.linalg.svdvals(x)
    kept: Tensor = s[s > max(x.shape) * torch.finfo(s.dtype).eps * s[0]] / s[0]
    return kept


def nuclear_rank(x: Tensor) -> float:
    """‖X‖_*²/‖X‖_F²: how many singular values count, between 1 and the rank."""
    return float(norms.Nuclear()(x) / norms.Frobenius()(x)) ** 2


def _panel(axes: Axes, title: str, x: Tensor, raw: Tensor | None) -> None:
    """The singular values of `x`, in front of those of the gradient."""
    s = spectrum(x)
    if raw is not None:
        before = spectrum(raw)
        axes.plot(
            range(1, len(before) + 1), before.tolist(), color=figures.GREY, linewidth=1.4, zorder=1
        )
    colour = figures.GREY if raw is None else figures.BLUE
    size = 4.5 if len(s) > 1 else 11
    axes.plot(range(1, len(s) + 1), s.tolist(), ".", color=colour, markersize=size, zorder=2)
    if len(s) == 1:
        axes.annotate("one singular value", (1, 1), (9, -4), textcoords="offset points")
    axes.set_title(f"{title}\nnuclear rank {nuclear_rank(x):.1f}")
    axes.minorticks_off()
    axes.set_ylim(FLOOR, 2.5)
    axes.set_xlim(-3, min(x.shape) + 4)
    figures.graph(axes)


def _legend(axes: Axes, g: Tensor) -> None:
    axes.set_axis_off()
    rows, cols = g.shape
    axes.plot([], [], color=figures.GREY, linewidth=1.4, label="the gradient")
    axes.plot([], [], ".", color=figures.BLUE, markersize=7, label="after the duality map")
    axes.legend(
        loc="upper left",
        title=f"singular values of a {rows}×{cols} matrix,\nlargest first, over the largest",
        alignment="left",
        borderaxespad=0,
    )


def draw_gradient(g: Tensor) -> bytes:
    """The small multiples of one gradient, as PNG."""
    figure = figures.new_figure(9.4)
    panels = figure.subplots(4, 3, sharex=True, sharey=True, subplot_kw={"yscale": "log"})
    first, *others, last = panels.flat
    _panel(first, "the gradient itself", g, None)
    for axes, (name, norm) in zip(others, NORMS.items(), strict=True):
        _panel(axes, name, norm.dualize(g), g)
    for axes in panels[-1, :2]:
        axes.set_xlabel("singular value, by size")
    _legend(last, g)
    return figures.png(figure)


def draw(seed: int) -> bytes:
    """Train for a moment, then draw."""
    config = default_config()
    corpus = prepare(load_text(config.data), context=config.model.context)
    return draw_gradient(gradient(config, corpus, seed=seed))
