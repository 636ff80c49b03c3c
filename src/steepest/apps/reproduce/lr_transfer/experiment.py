"""Does the best learning rate stay where it is when a network becomes wider?

A network 196 → width → width → 10 with ReLU and without biases is trained on 4 000 MNIST digits of
14 × 14 pixels. SGD with momentum and AdamW start from normal entries of variance 2/in, which keep
the size of the activations under ReLU at every width (He et al., arXiv 1502.01852). Steepest
descent in the modular norm starts from matrices of ‖W‖_{RMS→RMS} = 1, as its theory asks. Muon
starts as AdamW does, but for a head of zeros, which AdamW steps; learning rates are those of the
width 64, and `steepest.Transfer` makes those of the others of them, except in one row. The learning
rate falls linearly to zero. Its quality is the mean cross-entropy over all 4 000 training digits
after the last step, averaged over the seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import fmean

from steepest._common.files import Record
from steepest.apps.reproduce.data.digits import CLASSES, PIXELS, POOL, load_digits
from steepest.apps.reproduce.framework.claims import Claim, Need, Outcome, UndecidedError, scale
from steepest.apps.reproduce.framework.experiment import (
    Cell,
    Reproduction,
    Settings,
    says_its_scale,
)
from steepest.apps.reproduce.framework.training import evaluate, train
from steepest.apps.reproduce.lr_transfer.methods import BASELINES, METHODS, MUONS, network
from steepest.apps.reproduce.lr_transfer.picture import draw, draw_muon
from steepest.apps.reproduce.names import TITLES

TWICE = 2.0
LARGE = "Large et al., arXiv 2405.14813"
BERNSTEIN = "Bernstein & Newhouse, arXiv 2410.21265"
QIU = "Qiu et al., arXiv 2512.05620"
SPECTRAL = "Yang, Simon & Bernstein, arXiv 2310.17813"


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
        default_factory=lambda: {
            "sgd": (-7, 0),
            "adamw": (-12, -4),
            "modular": (-4, 1),
            "muon": (-6, -1),
            "muon-unclamped": (-6, -1),
            "muon-matched": (-9, -4),
            "muon-transferred": (-7, -2),
        }
    )


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


def losses_of(names: Collection[str], results: Sequence[Record]) -> list[Record]:
    """Those of some optimizers."""
    return losses([r for r in results if r["optimizer"] in names])


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
    Claim(
        id="muon-stays",
        statement='With Muon\'s "original" factor and `Transfer` for the head the best learning '
        "rate is the same at every width, up to a factor of 2.",
        source=f"{QIU}; {SPECTRAL}",
        expected="at most ×2",
        check=_check("muon", stays=True),
        needs=NEEDS,
    ),
    Claim(
        id="muon-unclamped-stays",
        statement='So it is with "spectral_unclamped", the factor √(out/in) for every shape.',
        source=f"{QIU}; {SPECTRAL}",
        expected="at most ×2",
        check=_check("muon-unclamped", stays=True),
        needs=NEEDS,
    ),
    Claim(
        id="muon-matched-moves",
        statement='With "match_rms_adamw" as it is it depends on the width by more than a factor '
        "of 2.",
        source="the RMS → RMS norm of its step grows like √width",
        expected="more than ×2",
        check=_check("muon-matched", stays=False),
        needs=NEEDS,
    ),
    Claim(
        id="muon-transferred-stays",
        statement='With "match_rms_adamw" and `Transfer`, lr·(64/width)^½, it is the same at every '
        "width, up to a factor of 2.",
        source="hypothesis of this library, from the same norm",
        expected="at most ×2",
        check=_check("muon-transferred", stays=True),
        needs=NEEDS,
    ),
)


LR_TRANSFER = Reproduction(
    name="lr-transfer",
    title=TITLES["lr-transfer"],
    full=TransferSettings(),
    quick=TransferSettings(
        seeds=(0,),
        steps=30,
        widths=(32, 64, 128),
        exponents={
            "sgd": (-6, 0),
            "adamw": (-10, -4),
            "modular": (-4, 2),
            "muon": (-5, -1),
            "muon-unclamped": (-5, -1),
            "muon-matched": (-7, -3),
            "muon-transferred": (-6, -2),
        },
    ),
    cells=cells,
    measure=measure,
    claims=CLAIMS,
    tables={
        "loss": partial(losses_of, BASELINES),
        "muon": partial(losses_of, MUONS),
        "best-lr": best,
    },
    pictures={"loss": draw, "muon": draw_muon},
)
