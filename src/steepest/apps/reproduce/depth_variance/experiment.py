"""Does each layer keep the size of its activations, however deep the network is?

A network 784 → 128 → … → 128 → 10 without biases and without residual connections has `depth`
hidden layers of 128 × 128. Its activation sorts pairs: half of the outputs are the larger, half the
smaller of two numbers. Sorting changes no RMS, so whatever becomes of the activations' size is the
doing of the weights (GroupSort, Anil et al., arXiv 1811.05381). Every weight starts semi-orthogonal
with ‖W‖_{RMS→RMS} = 1, so a hidden layer starts as an isometry.

Each optimizer trains every depth with several learning rates, falling linearly to zero; the one
with the lowest mean training loss over the seeds counts. Measured on the 1 000 held-out digits,
before and after: the RMS of the output of every weight, its ratio to the RMS of the input, over all
digits and at most for one digit, and ‖W‖_{RMS→RMS}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import fmean

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer

import steepest
from steepest._common.files import Record
from steepest.apps.reproduce.data.digits import load_digits
from steepest.apps.reproduce.depth_variance.network import RMS_TO_RMS, Plain, probe, project
from steepest.apps.reproduce.depth_variance.picture import draw_sizes
from steepest.apps.reproduce.framework.claims import Claim, Need, Outcome, UndecidedError, scale
from steepest.apps.reproduce.framework.experiment import (
    Cell,
    Reproduction,
    Settings,
    says_its_scale,
)
from steepest.apps.reproduce.framework.training import evaluate, train
from steepest.apps.reproduce.names import TITLES

CELL = ("optimizer", "depth", "lr", "seed")

BAND = 2.0
"""A layer's activations are kept if their RMS is within this factor of what enters the first."""

ROUNDING = 1e-4
"""Room for float32 in an inequality that holds exactly in exact arithmetic."""

ADAMW_LR = 2.0**-8
"""The learning rate of AdamW, which has the head beside Muon."""

POLAR_ERROR = 0.05
"""The error that the polar factor of `steepest.Muon` may have, its default."""

BERNSTEIN = "Bernstein & Newhouse, arXiv 2410.21265"
LARGE = "Large et al., arXiv 2405.14813"
NEWHOUSE = "Newhouse et al., arXiv 2507.13338"


def _sgd(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def _adamw(model: nn.Module, lr: float) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)


def _muon(model: nn.Module, lr: float) -> Optimizer:
    return steepest.Muon(model, lr=lr, weight_decay=0.0, adamw_lr=ADAMW_LR)


@dataclass(frozen=True, kw_only=True)
class ProjectedOptimizer:
    """A row of the comparison.

    Args:
        title: the title of its panel.
        build: the optimizer at a peak learning rate.
        after_step: the change of the weights after each step.
        cost: time of a step relative to SGD's, for the time left.
    """

    title: str
    build: Callable[[nn.Module, float], Optimizer]
    after_step: Callable[[Plain], None] | None = None
    cost: float


METHODS: Mapping[str, ProjectedOptimizer] = {
    "sgd": ProjectedOptimizer(title="SGD, momentum 0.9", build=_sgd, cost=1),
    "adamw": ProjectedOptimizer(title="AdamW", build=_adamw, cost=1.2),
    "muon": ProjectedOptimizer(title="Muon", build=_muon, cost=4),
    "muon-ball": ProjectedOptimizer(title="Muon, ‖W‖ ≤ 1", build=_muon, after_step=project, cost=6),
}


@dataclass(frozen=True, kw_only=True)
class DepthSettings(Settings):
    """Depths and learning rates; see `Settings`.

    Args:
        depths: numbers of hidden layers.
        width: the width of the hidden layers.
        exponents: the log2, for each optimizer, of the learning rates to choose from.
    """

    steps: int = 60
    depths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    width: int = 128
    exponents: Mapping[str, tuple[int, ...]] = field(
        default_factory=lambda: {
            "sgd": (-7, -6, -5, -4),
            "adamw": (-12, -11, -10, -9),
            "muon": (-8, -6, -4),
            "muon-ball": (-8, -6, -4),
        }
    )


def cells(settings: DepthSettings) -> list[Cell]:
    """Every optimizer, seed, depth and learning rate."""
    return [
        Cell(
            key={"optimizer": name, "depth": depth, "lr": 2.0**e, "seed": seed},
            cost=METHODS[name].cost * (depth + 2),
        )
        for name, seed, depth in product(settings.exponents, settings.seeds, settings.depths)
        for e in settings.exponents[name]
    ]


@says_its_scale
def measure(settings: DepthSettings, cell: Record) -> Record:
    """Train one network; `loss` is None and `trained` empty if it diverged.

    `moved` is the largest ‖W − W₀‖_{RMS→RMS} of a hidden weight, `path` the sum of the learning
    rates of all steps.
    """
    digits = load_digits()
    method = METHODS[cell["optimizer"]]
    model = Plain(depth=cell["depth"], width=settings.width, seed=cell["seed"])
    before = model.hidden_weights()
    at_init = probe(model, digits.held_images)
    after_step = method.after_step
    finite = train(
        model,
        method.build(model, cell["lr"]),
        digits,
        settings,
        seed=cell["seed"],
        after_step=None if after_step is None else lambda: after_step(model),
    )
    loss, _ = evaluate(model, digits.images, digits.labels)
    if not finite or loss is None:
        return {
            "loss": None,
            "accuracy": None,
            "moved": None,
            "path": None,
            "init": at_init,
            "trained": [],
        }
    _, accuracy = evaluate(model, digits.held_images, digits.held_labels)
    return {
        "loss": loss,
        "accuracy": accuracy,
        "moved": RMS_TO_RMS(model.hidden_weights() - before).max().item(),
        # Σ lr·(1 − t/T) for t = 0…T − 1.
        "path": cell["lr"] * (settings.steps + 1) / 2,
        "init": at_init,
        "trained": probe(model, digits.held_images),
    }


def chosen(results: Sequence[Record]) -> list[Record]:
    """The results at the learning rate with the lowest mean loss, for each optimizer and depth.

    A learning rate with which a seed diverges is out; the smallest counts where all are.
    """
    groups: dict[tuple[str, int], dict[float, list[Record]]] = {}
    for r in results:
        group = groups.setdefault((r["optimizer"], r["depth"]), {})
        group.setdefault(r["lr"], []).append(r)
    kept = []
    for group in groups.values():
        whole = {
            lr: fmean(r["loss"] for r in rows)
            for lr, rows in group.items()
            if all(r["loss"] is not None for r in rows)
        }
        kept += group[min(whole, key=lambda lr: whole[lr]) if whole else min(group)]
    return kept


def layers(results: Sequence[Record]) -> list[Record]:
    """A row for every weight of the chosen runs, at the start and after it.

    `layer` counts weights from 0, the one that takes the images, to depth + 1, the head.
    """
    return [
        {
            **{k: r[k] for k in ("optimizer", "depth", "lr", "seed")},
            "stage": stage,
            "layer": i,
            **row,
        }
        for r in chosen(results)
        for stage in ("init", "trained")
        for i, row in enumerate(r[stage])
    ]


def relative_rms(rows: Sequence[Record]) -> list[float]:
    """RMS after each hidden layer relative to what enters the first; begins with 1."""
    sizes = [row["rms"] for row in rows[:-1]]
    return [size / sizes[0] for size in sizes]


def depths(results: Sequence[Record]) -> list[Record]:
    """A row for every chosen training: how it went, and what became of the activations."""
    rows = []
    for r in chosen(results):
        ratios = relative_rms(r["trained"])
        rows.append(
            {
                **{k: r[k] for k in (*CELL, "loss", "accuracy")},
                "smallest": min(ratios, default=None),
                "largest": max(ratios, default=None),
                "moved": r["moved"],
                "norm": max((row["norm"] for row in r["trained"][1:-1]), default=None),
            }
        )
    return rows


def _probes(results: Sequence[Record], name: str | None = None) -> list[Record]:
    """Every weight of every run, chosen or not, before and after."""
    runs = [r for r in results if name in (None, r["optimizer"])]
    return [row for r in runs for stage in ("init", "trained") for row in r[stage]]


def _bounded(results: Sequence[Record]) -> Outcome:
    worst = max(row["largest_gain"] / row["norm"] for row in _probes(results))
    return Outcome.of(worst <= 1 + ROUNDING, f"at most {worst:.6f}")


def _no_gain(results: Sequence[Record]) -> Outcome:
    rows = _probes(results, "muon-ball")
    gain, norm = (max(row[k] for row in rows) for k in ("largest_gain", "norm"))
    return Outcome.of(
        max(gain, norm) <= 1 + ROUNDING, f"gain at most {gain:.6f}, ‖W‖ at most {norm:.6f}"
    )


def _kept_at_init(results: Sequence[Record]) -> Outcome:
    ratios = [x for r in results for x in relative_rms(r["init"])]
    low, high = min(ratios), max(ratios)
    return Outcome.of(max(high, 1 / low) <= 1 + ROUNDING, f"×{low:.6f} to ×{high:.6f}")


def _moved(results: Sequence[Record]) -> Outcome:
    parts = [
        r["moved"] / r["path"]
        for r in results
        if r["optimizer"] == "muon" and r["moved"] is not None
    ]
    if not parts:
        raise UndecidedError("needs a run with Muon that does not diverge")
    return Outcome.of(max(parts) <= 1 + POLAR_ERROR, f"at most ×{max(parts):.3f}")


def _factors(results: Sequence[Record], name: str) -> dict[int, float]:
    """The growth or shrinkage of activations in the chosen runs, the worst of each depth.

    Raises:
        UndecidedError: a depth has no training that is finite.
    """
    worst: dict[int, float] = {}
    for row in depths([r for r in results if r["optimizer"] == name]):
        if row["smallest"] is None:
            raise UndecidedError(f"needs a rate at which depth {row['depth']} does not diverge")
        factor = max(row["largest"], 1 / row["smallest"])
        worst[row["depth"]] = max(factor, worst.get(row["depth"], 1.0))
    return worst


def _band(name: str, *, kept: bool) -> Callable[[Sequence[Record]], Outcome]:
    def check(results: Sequence[Record]) -> Outcome:
        worst = _factors(results, name)
        text = ", ".join(f"{depth}: ×{factor:.1f}" for depth, factor in worst.items())
        return Outcome.of((max(worst.values()) <= BAND) == kept, f"by depth {text}")

    return check


def _reaches(depth: int, why: str) -> tuple[Need, ...]:
    return (
        Need(
            what="the largest depth",
            least=depth,
            has=lambda results: max(scale(results)["depths"]),
            why=why,
        ),
        Need.setting("steps", 60, "fewer steps move no weight far enough"),
    )


CLAIMS = (
    Claim(
        id="bound",
        statement="No weight gives one digit a larger RMS than ‖W‖ times the RMS it had: "
        "RMS(Wx)/(‖W‖·RMS(x)) ≤ 1, before and after every run.",
        source=BERNSTEIN,
        expected="at most 1",
        check=_bounded,
    ),
    Claim(
        id="isometry",
        statement="Hidden layers that start semi-orthogonal keep the RMS of the activations at "
        "every depth.",
        source="‖Wx‖₂ = ‖x‖₂ for orthogonal W",
        expected="×1",
        check=_kept_at_init,
    ),
    Claim(
        id="path",
        statement="Muon moves no hidden weight further than the sum of its learning rates: "
        "‖W − W₀‖ ≤ Σ lr, up to the 5 % that its polar factor may be wrong by.",
        source=f"{BERNSTEIN}: an update has norm lr",
        expected="at most ×1.05",
        check=_moved,
    ),
    Claim(
        id="ball",
        statement="In the ball ‖W‖ ≤ 1 no weight gives any digit a larger RMS than it had.",
        source=NEWHOUSE,
        expected="gain at most 1",
        check=_no_gain,
    ),
    Claim(
        id="sgd-leaves",
        statement="SGD takes the activations of some depth out of the factor of 2 around what "
        "enters the first hidden layer.",
        source=f"{LARGE}: its updates are not normalised in the norm of the layer",
        expected="more than ×2",
        check=_band("sgd", kept=False),
        needs=_reaches(32, "up to depth 16 it stays within the factor"),
    ),
    Claim(
        id="adamw-leaves",
        statement="So does AdamW.",
        source=f"{LARGE}: its updates are not normalised in the norm of the layer",
        expected="more than ×2",
        check=_band("adamw", kept=False),
        needs=_reaches(8, "up to depth 2 it stays within the factor"),
    ),
    Claim(
        id="muon-leaves",
        statement="So does Muon: it bounds each update, but the bound on the product of the "
        "layers, (1 + Σ lr)^depth, grows with the depth.",
        source="triangle inequality",
        expected="more than ×2",
        check=_band("muon", kept=False),
        needs=_reaches(8, "the bound on the product grows with it"),
    ),
    Claim(
        id="ball-keeps",
        statement="In the ball the activations of every depth stay within the factor of 2.",
        source=f"{NEWHOUSE}; the ball excludes growth, not shrinking",
        expected="at most ×2",
        check=_band("muon-ball", kept=True),
        needs=_reaches(64, "what a layer loses adds up: at depth 64 it is nearly the factor"),
    ),
)


def draw(rows: Sequence[Record]) -> Figure:
    """RMS after each hidden layer, relative to what enters the first; the mean of the seeds."""
    return draw_sizes(rows, {name: m.title for name, m in METHODS.items()}, BAND)


DEPTH_VARIANCE = Reproduction(
    name="depth-variance",
    title=TITLES["depth-variance"],
    full=DepthSettings(),
    quick=DepthSettings(
        seeds=(0,),
        steps=20,
        depths=(2, 4, 8),
        width=64,
        exponents={"sgd": (-6, -5), "adamw": (-11, -10), "muon": (-6,), "muon-ball": (-6,)},
    ),
    cells=cells,
    measure=measure,
    claims=CLAIMS,
    tables={"activations": layers, "depths": depths},
    pictures={"activations": draw},
)
