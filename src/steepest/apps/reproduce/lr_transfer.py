"""Does the best learning rate stay where it is when a network becomes wider?

A network 196 → width → width → 10 with ReLU and without biases is trained on 4 000 MNIST digits of
14 × 14 pixels. SGD with momentum and AdamW start from normal entries of variance 2/in, which keep
the size of the activations under ReLU at every width (He et al., arXiv 1502.01852). Steepest
descent in the modular norm starts from matrices of ‖W‖_{RMS→RMS} = 1, as its theory asks. The
learning rate falls linearly to zero. Its quality is the mean cross-entropy over all 4 000 training
digits after the last step, averaged over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from statistics import fmean

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

import steepest
from steepest import norms
from steepest._common.files import Record
from steepest.apps._figures import INK, ordered_colours, panels
from steepest.apps.reproduce.data.digits import CLASSES, PIXELS, POOL, load_digits
from steepest.apps.reproduce.framework.claims import Claim, Need, Outcome, UndecidedError, scale
from steepest.apps.reproduce.framework.experiment import (
    Cell,
    Reproduction,
    Settings,
    says_its_scale,
)
from steepest.apps.reproduce.framework.training import evaluate, train
from steepest.apps.reproduce.names import TITLES
from steepest.polar import Auto

TWICE = 2.0
MOMENTUM = 0.9
# Of the picture: ln 10 is chance, and losses far above it would flatten the rest.
TOP = 3.0
# What ended above the picture, or not at all, has a cross just below its upper edge.
LOST = 2.75
RMS_TO_RMS = norms.Operator("rms", "rms")
LARGE = "Large et al., arXiv 2405.14813"
BERNSTEIN = "Bernstein & Newhouse, arXiv 2410.21265"


def _he(weight: Tensor, generator: Generator) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)


def _unit(weight: Tensor, generator: Generator) -> None:
    weight.copy_(RMS_TO_RMS.init(weight.shape, generator=generator))


def _sgd(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM)


def _adamw(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def _modular(model: nn.Module, lr: float) -> Optimizer:
    # Its error is far below what a learning rate off by a factor of 2 does, and it is not an SVD.
    norm = steepest.modular(model, polar=Auto(error=1e-3))
    return steepest.SteepestDescent(model, norm=norm, lr=lr, momentum=MOMENTUM)


@dataclass(frozen=True, kw_only=True)
class InitialisedOptimizer:
    """An optimizer with the initialisation that belongs to it.

    Args:
        title: the title of its panel.
        init: the function that fills a weight.
        build: the optimizer at a peak learning rate.
        cubic: c in the time of a step, proportional to (1 + c·width)·(weights of the network).
    """

    title: str
    init: Callable[[Tensor, Generator], None]
    build: Callable[[nn.Module, float], Optimizer]
    cubic: float = 0.0


METHODS: Mapping[str, InitialisedOptimizer] = {
    "sgd": InitialisedOptimizer(title="SGD, momentum 0.9", init=_he, build=_sgd),
    "adamw": InitialisedOptimizer(title="AdamW", init=_he, build=_adamw),
    "modular": InitialisedOptimizer(
        title="steepest descent, modular norm", init=_unit, build=_modular, cubic=0.02
    ),
}


@dataclass(frozen=True, kw_only=True)
class TransferSettings(Settings):
    """Widths and learning rates; see `Settings`.

    Args:
        widths: the widths of the hidden layers.
        exponents: the smallest and the largest log2 of the learning rate for each optimizer.
    """

    steps: int = 80
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    exponents: Mapping[str, tuple[int, int]] = field(
        default_factory=lambda: {"sgd": (-7, 0), "adamw": (-12, -4), "modular": (-4, 1)}
    )


def network(method: InitialisedOptimizer, width: int, seed: int) -> nn.Sequential:
    """The network with the weights of a seed."""
    generator = Generator().manual_seed(seed)
    sizes = (PIXELS, width, width, CLASSES)
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(sizes)]
    with torch.no_grad():
        for layer in layers:
            method.init(layer.weight, generator)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def cells(settings: TransferSettings) -> list[Cell]:
    """Every optimizer, seed, width and learning rate."""
    found = []
    for name, seed, width in product(settings.exponents, settings.seeds, settings.widths):
        low, high = settings.exponents[name]
        cost = (1 + METHODS[name].cubic * width) * width * (PIXELS + width + CLASSES)
        for e in range(low, high + 1):
            key = {"optimizer": name, "width": width, "lr": 2.0**e, "seed": seed}
            found.append(Cell(key=key, cost=cost))
    return found


@says_its_scale
def measure(settings: TransferSettings, cell: Record) -> Record:
    """Train one network; `loss` is None if it diverged."""
    digits = load_digits(pool=POOL)
    method = METHODS[cell["optimizer"]]
    model = network(method, cell["width"], cell["seed"])
    optimizer = method.build(model, cell["lr"])
    if not train(model, optimizer, digits, settings, seed=cell["seed"]):
        return {"loss": None, "accuracy": None}
    loss, _ = evaluate(model, digits.images, digits.labels)
    _, accuracy = evaluate(model, digits.held_images, digits.held_labels)
    return {"loss": loss, "accuracy": accuracy}


def losses(results: Sequence[Record]) -> list[Record]:
    """Mean and range of the loss over the seeds, for every optimizer, width and learning rate."""
    seen: dict[tuple[str, int, float], list[Record]] = {}
    for r in results:
        seen.setdefault((r["optimizer"], r["width"], r["lr"]), []).append(r)
    rows = []
    for (name, width, lr), group in seen.items():
        values = [r["loss"] for r in group]
        whole = None not in values
        rows.append(
            {
                "optimizer": name,
                "width": width,
                "lr": lr,
                "seeds": len(values),
                "loss": fmean(values) if whole else None,
                "lowest": min(values) if whole else None,
                "highest": max(values) if whole else None,
                "accuracy": fmean(r["accuracy"] for r in group) if whole else None,
            }
        )
    return rows


def vertex(lrs: Sequence[float], values: Sequence[float]) -> float:
    """The lowest point of the parabola through three (log2 lr, ln loss), the middle the lowest.

    The learning rates are neighbours of a geometric grid.

    Examples:
        >>> vertex([1.0, 2.0, 4.0], [2.0, 1.0, 2.0])
        2.0
    """
    left, middle, right = map(math.log, values)
    bend = left - 2 * middle + right
    shift = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(lrs[1] * (lrs[1] / lrs[0]) ** shift)


def best(results: Sequence[Record]) -> list[Record]:
    """The best learning rate of every optimizer and width, on the grid and between its points."""
    curves: dict[tuple[str, int], list[Record]] = {}
    for row in losses(results):
        curves.setdefault((row["optimizer"], row["width"]), []).append(row)
    rows = []
    for (name, width), curve in curves.items():
        curve.sort(key=lambda r: r["lr"])
        scores = [math.inf if r["loss"] is None else r["loss"] for r in curve]
        i = scores.index(min(scores))
        around = slice(i - 1, i + 2)
        interior = 0 < i < len(curve) - 1
        smooth = interior and max(scores[around]) < math.inf
        rows.append(
            {
                "optimizer": name,
                "width": width,
                "lr": curve[i]["lr"],
                "parabola": vertex([r["lr"] for r in curve[around]], scores[around])
                if smooth
                else None,
                "loss": curve[i]["loss"],
                "accuracy": curve[i]["accuracy"],
                "interior": interior,
            }
        )
    return rows


def drift(results: Sequence[Record], name: str) -> tuple[float, str]:
    """The largest best learning rate over the smallest of an optimizer, and how to read it.

    Raises:
        UndecidedError: an optimum lies at the edge of the grid, where it could be further out.
    """
    rows = [r for r in best(results) if r["optimizer"] == name]
    edge = [str(r["width"]) for r in rows if not r["interior"]]
    if edge:
        raise UndecidedError(
            f"needs a wider grid: the best lr of width {', '.join(edge)} is at its edge"
        )
    grid = [r["lr"] for r in rows]
    smooth = [r["parabola"] or r["lr"] for r in rows]
    factor = max(smooth) / min(smooth)
    path = ", ".join(f"{r['width']}: {lr:.2g}" for r, lr in zip(rows, smooth, strict=True))
    return factor, f"×{factor:.1f} (on the grid ×{max(grid) / min(grid):g}); best lr {path}"


def _check(name: str, *, stays: bool) -> Callable[[Sequence[Record]], Outcome]:
    """Whether the best learning rate stays within the factor, or not; each seed has to say so."""

    def check(results: Sequence[Record]) -> Outcome:
        factor, text = drift(results, name)
        seeds = dict.fromkeys(r["seed"] for r in results)
        alone = [drift([r for r in results if r["seed"] == seed], name)[0] for seed in seeds]
        text += f"; seeds alone {', '.join(f'×{each:.1f}' for each in alone)}"
        if len({each <= TWICE for each in (factor, *alone)}) > 1:
            raise UndecidedError(f"needs more seeds: not every one says the same: {text}")
        return Outcome.of((factor <= TWICE) == stays, text)

    return check


NEEDS = (
    Need(
        what="the largest width over the smallest",
        least=16,
        has=lambda results: max(scale(results)["widths"]) / min(scale(results)["widths"]),
        why="a law width^(−½) moves a rate by 4 over this range, by 2 over a quarter of it",
    ),
    Need.setting("steps", 80, "in few steps the best rate is the one that reaches farthest"),
    Need.setting("seeds", 2, "the lowest point of a flat curve is another for other batches"),
)


CLAIMS = (
    Claim(
        id="modular-stays",
        statement="With steepest descent in the modular norm the best learning rate is the same "
        "at every width, up to a factor of 2.",
        source=f"{LARGE}; {BERNSTEIN}",
        expected="at most ×2",
        check=_check("modular", stays=True),
        needs=NEEDS,
    ),
    Claim(
        id="sgd-moves",
        statement="With SGD the best learning rate depends on the width by more than a factor "
        "of 2.",
        source=LARGE,
        expected="more than ×2",
        check=_check("sgd", stays=False),
        needs=NEEDS,
    ),
    Claim(
        id="adamw-moves",
        statement="With AdamW the best learning rate depends on the width by more than a factor "
        "of 2.",
        source=LARGE,
        expected="more than ×2",
        check=_check("adamw", stays=False),
        needs=NEEDS,
    ),
)


def draw(rows: Sequence[Record]) -> Figure:
    """Final loss against learning rate, a line per width; dot: the best, cross: diverged."""
    names = list(dict.fromkeys(r["optimizer"] for r in rows))
    widths = sorted({r["width"] for r in rows})
    figure, row = panels([METHODS[n].title for n in names], height=4)
    for axes, name in zip(row, names, strict=True):
        for width, colour in zip(widths, ordered_colours(len(widths)), strict=True):
            curve = [r for r in rows if (r["optimizer"], r["width"]) == (name, width)]
            lost = [r["lr"] for r in curve if r["loss"] is None or r["loss"] > TOP]
            axes.plot(lost, [LOST] * len(lost), "x", color=colour)
            curve = sorted((r for r in curve if r["loss"] is not None), key=lambda r: r["lr"])
            if curve:
                x, y = ([r[k] for r in curve] for k in ("lr", "loss"))
                axes.plot(x, y, color=colour, linewidth=1.6, label=str(width))
                axes.plot(x[y.index(min(y))], min(y), "o", color=colour, markersize=7)
        lrs = sorted({r["lr"] for r in rows if r["optimizer"] == name})
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(lrs[::2]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"$2^{{{math.log2(v):.0f}}}$"))
        axes.set_xlim(lrs[0] / 1.4, lrs[-1] * 1.4)
        axes.set_xlabel("peak learning rate")
    row[0].set_yscale("log")
    row[0].set_ylim(top=TOP)
    row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    row[0].yaxis.set_minor_locator(NullLocator())
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    row[0].set_ylabel("training loss after the last step (nats)")
    handles, labels = row[-1].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title="width",
        loc="outside lower center",
        ncols=len(labels),
        frameon=False,
        labelcolor=INK,
    )
    return figure


LR_TRANSFER = Reproduction(
    name="lr-transfer",
    title=TITLES["lr-transfer"],
    full=TransferSettings(),
    quick=TransferSettings(
        seeds=(0,),
        steps=30,
        widths=(32, 64, 128),
        exponents={"sgd": (-6, 0), "adamw": (-10, -4), "modular": (-4, 2)},
    ),
    cells=cells,
    measure=measure,
    claims=CLAIMS,
    tables={"loss": losses, "best-lr": best},
    pictures={"loss": draw},
)
