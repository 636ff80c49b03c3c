"""Does the last step's factorisation help to compute the next polar factor?

A character GPT of `steepest train` learns the King James Bible with Muon. What Muon orthogonalises
is an average of gradients, so it might change slowly, and what was computed of the last one might
be a start for the next: its inverse root, its polar factor, its eigenvectors. At several places of
the training the averages of consecutive steps are taken from the optimizer, and every way to the
polar factor is carried out on every pair, in float64. The run itself knows nothing of it.

Counted are products of m × m matrices until the relative error over all directions with
σ ≥ 3e-3·σ₁, the mean over the matrices and steps, is at most 0.05. Each way has the advantage of
the doubt: what it takes over from the last step is exact, and for each length it has the schedule
that suits its start best. Two averages are looked at: Nesterov's, which Muon uses by default and
which holds nearly a tenth of the newest gradient, and the plain buffer, which holds a twentieth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

import steepest
from steepest._common.errors import invalid
from steepest._common.files import Record
from steepest.apps._figures import BLUE, GREEN, INK, ORANGE, PURPLE, YELLOW, panels
from steepest.apps.reproduce.data.text import corpus
from steepest.apps.reproduce.framework.claims import Claim, Need, Outcome, UndecidedError, scale
from steepest.apps.reproduce.framework.experiment import (
    Cell,
    Reproduction,
    Settings,
    says_its_scale,
)
from steepest.apps.reproduce.names import TITLES
from steepest.apps.reproduce.warm_start.factor import FOREVER, METHODS, GramSpectrum, compare, drift
from steepest.apps.train.config import Config, ModelConfig
from steepest.apps.train.optimizers import recipe
from steepest.apps.train.trial import Trainer, Trial

ERROR = 0.05
"""The error of `steepest.Muon`'s default method."""

AVERAGES = {"nesterov": "Nesterov's average", "plain": "plain average"}
SHAMPOO = "Anil et al., arXiv 2002.09018, for the roots of Shampoo"
SOAP = "Vyas et al., arXiv 2409.11321, for the eigenvectors of Shampoo"


@dataclass(frozen=True, kw_only=True)
class WarmSettings(Settings):
    """The training and where its averages are compared; see `Settings`.

    Args:
        layers: blocks of the GPT.
        width: the width of its residual stream.
        windows: steps after which consecutive averages are compared, ascending.
        pairs: the number of pairs in each.

    Raises:
        ValueError: the windows overlap or go on after the last step.
    """

    steps: int = 240
    batch: int = 16
    layers: int = 4
    width: int = 128
    windows: tuple[int, ...] = (1, 21, 200)
    pairs: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (*self.windows[1:], self.steps)
        if any(a < 1 or a + self.pairs > b for a, b in zip(self.windows, ends, strict=True)):
            raise invalid("windows", self.windows, f"leave {self.pairs} steps after each")


def stacks(trainer: Trainer) -> dict[str, list[Tensor]]:
    """Both averages of the step just taken, as stacks (batch, m, n), m ≤ n, of equal shapes."""
    found: dict[str, dict[tuple[int, ...], list[Tensor]]] = {name: {} for name in AVERAGES}
    momentum = trainer.optimizer.param_groups[0]["momentum"]
    routing = steepest.route(trainer.model)
    for assignment, p in zip(routing, routing.parameters, strict=True):
        if assignment.view is None or p.grad is None:
            continue
        buffer = trainer.optimizer.state[p]["momentum_buffer"]
        for name, x in (("nesterov", p.grad.lerp(buffer, momentum)), ("plain", buffer)):
            for matrices in assignment.view.matrices(x):
                short = matrices if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT
                found[name].setdefault(tuple(short.shape[-2:]), []).append(short.clone())
    return {name: [torch.cat(s) for s in shapes.values()] for name, shapes in found.items()}


def pairs(
    settings: WarmSettings, window: int, seed: int
) -> Iterator[tuple[str, GramSpectrum, GramSpectrum]]:
    """Train; give (average, X_{t−1}, X_t) for every step of a window and every stack."""
    model = ModelConfig(layers=settings.layers, width=settings.width)
    config = Config(
        optimizers={"muon": recipe("muon").tuned},
        model=model,
        steps=settings.steps,
        batch=settings.batch,
    )
    trainer = Trainer(Trial(optimizer="muon", seed=seed), config, corpus(model.context))
    before: dict[str, list[GramSpectrum]] = {}
    for step in range(1, window + settings.pairs + 1):
        trainer.train_step()
        if step < window:
            continue
        after = {name: [GramSpectrum(x) for x in found] for name, found in stacks(trainer).items()}
        for name in before:
            for last, now in zip(before[name], after[name], strict=True):
                yield name, last, now
        before = after


def cells(settings: WarmSettings) -> list[Cell]:
    """Every seed and window: a run up to there."""
    return [
        # The comparisons of a step take about as long as eight steps.
        Cell(key={"window": window, "seed": seed}, cost=window + 8 * settings.pairs)
        for seed in settings.seeds
        for window in settings.windows
    ]


@says_its_scale
def measure(settings: WarmSettings, cell: Record) -> Record:
    """Mean and largest error of every way and length, and how far the averages moved."""
    errors: dict[tuple[str, str, int], list[Tensor]] = {}
    moved: dict[str, list[dict[str, Tensor]]] = {}
    ratios = []
    for average, last, now in pairs(settings, cell["window"], cell["seed"]):
        ratios += [now.x.shape[-1] / now.x.shape[-2]] * len(now.x)
        moved.setdefault(average, []).append(drift(last, now))
        for method, steps, found in compare(last, now):
            errors.setdefault((average, method, steps), []).append(found)
    rows = []
    for (average, method, steps), parts in errors.items():
        found = torch.cat(parts, dim=-1)
        best = found[found.mean(dim=-1).argmin()]
        place = {"average": average, "window": cell["window"], "method": method, "steps": steps}
        rows.append({**place, "error": best.mean().item(), "worst": best.max().item()})
    moves = [
        {
            "average": average,
            "window": cell["window"],
            **{k: torch.cat([d[k] for d in parts]).mean().item() for k in parts[0]},
        }
        for average, parts in moved.items()
    ]
    return {"ratio": fmean(ratios), "errors": rows, "moves": moves}


def _mean(rows: Sequence[Record], numbers: Sequence[str]) -> list[Record]:
    """Equal records but for these numbers become one, with their means."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for row in rows:
        groups.setdefault(tuple(v for k, v in row.items() if k not in numbers), []).append(row)
    return [{**g[0], **{k: fmean(r[k] for r in g) for k in numbers}} for g in groups.values()]


def errors(results: Sequence[Record]) -> list[Record]:
    """Products and error of every way and length; no products for as many steps as one likes."""
    rows = _mean([row for r in results for row in r["errors"]], ("error", "worst"))
    ratio = results[0]["ratio"]
    for row in rows:
        forever = row["steps"] == FOREVER
        row["products"] = None if forever else METHODS[row["method"]].products(row["steps"], ratio)
    return rows


def reach(results: Sequence[Record]) -> list[Record]:
    """The fewest products with a mean error of at most 0.05, and the least error of all lengths."""
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for row in errors(results):
        groups.setdefault((row["average"], row["window"], row["method"]), []).append(row)
    rows = []
    for (average, window, method), group in groups.items():
        enough = [r["products"] for r in group if r["products"] and r["error"] <= ERROR]
        place = {"average": average, "window": window, "method": method}
        least = min(r["error"] for r in group)
        rows.append({**place, "products": min(enough, default=None), "least": least})
    return rows


def moves(results: Sequence[Record]) -> list[Record]:
    """The change of an average in a step, see `drift`; means over matrices, steps and seeds."""
    return _mean(
        [row for r in results for row in r["moves"]],
        ("change", "turn", "stretch", "large", "small"),
    )


def _pays(family: str) -> Callable[[Sequence[Record]], Outcome]:
    def check(results: Sequence[Record]) -> Outcome:
        rows = [r for r in reach(results) if r["average"] == "nesterov"]
        texts, wins = [], []
        for window in dict.fromkeys(r["window"] for r in rows):
            here = {r["method"]: r for r in rows if r["window"] == window}
            cold = here["cold"]["products"]
            if cold is None:
                raise UndecidedError(
                    f"needs a step at which {ERROR} is reached without a start: {window} is not"
                )
            mine = [r for name, r in here.items() if name.startswith(family)]
            best = min((r["products"] for r in mine if r["products"]), default=None)
            least = min(r["least"] for r in mine)
            reached = f"{best:.3g}" if best else f"never (error {least:.2g})"
            texts.append(f"step {window}: {reached}, without {cold:.3g}")
            wins.append(best is not None and best < cold)
        return Outcome.of(all(wins), "; ".join(texts))

    return check


def _slow(results: Sequence[Record]) -> Outcome:
    rows = [r for r in moves(results) if r["average"] == "nesterov"]
    text = ", ".join(f"step {r['window']}: {r['change']:.2f}" for r in rows)
    return Outcome.of(all(r["change"] <= 0.5 for r in rows), text)


def _floor(results: Sequence[Record]) -> Outcome:
    rows = [r for r in errors(results) if r["method"] == "root 0" and r["steps"] == FOREVER]
    found = [r["error"] for r in rows]
    return Outcome.of(min(found) > ERROR, f"{min(found):.2g} to {max(found):.2g}")


def _small(results: Sequence[Record]) -> Outcome:
    rows = [r for r in moves(results) if r["average"] == "nesterov"]
    text = ", ".join(f"step {r['window']}: {r['small']:.2f} and {r['large']:.2f}" for r in rows)
    return Outcome.of(all(r["small"] < r["large"] for r in rows), text)


def _memory(results: Sequence[Record]) -> Outcome:
    rows = [r for r in reach(results) if r["average"] == "nesterov"]
    texts, equal = [], []
    for window in dict.fromkeys(r["window"] for r in rows):
        found = {r["method"]: r["products"] for r in rows if r["window"] == window}
        random, leading = found["sketch"], found["leading"]
        if random is None or leading is None:
            raise UndecidedError(
                f"needs both ways to reach {ERROR}, which they do not at step {window}"
            )
        texts.append(f"step {window}: {random:g}, last step's {leading:g}")
        equal.append(random <= leading + 1)
    return Outcome.of(all(equal), "; ".join(texts))


TRAINED = (
    Need(
        what="the last step that is looked at",
        least=200,
        has=lambda results: max(scale(results)["windows"]),
        why="what pays early in a run was seen not to pay late",
    ),
    Need.setting("width", 128, "how many of the directions are tiny depends on it"),
    Need.setting("batch", 16, "the average moves by the noise of the gradients"),
)


def _way(
    name: str, family: str, what: str, source: str, needs: tuple[Need, ...] = TRAINED
) -> Claim:
    return Claim(
        id=name,
        statement=f"Started from {what}, an error of {ERROR} takes fewer products than without.",
        source=source,
        expected="fewer products at every step",
        check=_pays(family),
        needs=needs,
    )


CLAIMS = (
    Claim(
        id="slow",
        statement="In one step the average that Muon orthogonalises changes by at most half of "
        "its norm.",
        source="0.95 of the plain average is that of the last step",
        expected="at most 0.5",
        check=_slow,
        needs=TRAINED,
    ),
    Claim(
        id="small-turn",
        statement="Of the directions with σ below 0.05·σ₁ a smaller part stays in the same space "
        "than of those above.",
        source="Wedin's theorem: a space turns by the change over the gap",
        expected="a smaller part",
        check=_small,
        needs=TRAINED,
    ),
    _way("root", "root", "the last inverse root", SHAMPOO),
    Claim(
        id="root-floor",
        statement="Started from the last inverse root Z, even infinitely many steps do not reach "
        f"an error of {ERROR}.",
        source="polar(ZX) = polar(X) only where Z commutes with XXᵀ",
        expected=f"above {ERROR}",
        check=_floor,
    ),
    # One step at which a way never reaches the error contradicts both, at any size.
    _way("newton", "newton", "the last inverse root with Newton's iteration", SHAMPOO, ()),
    _way("factor", "shift", "the last polar factor", "polar(X + s·UVᵀ) = polar(X) for s > 0", ()),
    _way("eigenvectors", "eigenvectors", "the last eigenvectors", SOAP),
    _way("subspace", "leading", "the leading eighth of the last eigenvectors", SOAP),
    Claim(
        id="memory",
        statement="A random subspace, with one power step more, does as well as that of the last "
        "step: what pays is not the memory.",
        source="Halko, Martinsson & Tropp, arXiv 0909.4061, section 4.5",
        expected="as many products, up to one",
        check=_memory,
        needs=TRAINED,
    ),
)


# Colour, dashes and marker of each way; a kind of start has one colour.
STYLES: Mapping[str, tuple[str, str, str]] = {
    "cold": (INK, "-", "o"),
    "root 0": (BLUE, "-", "o"),
    "root 0.3": (BLUE, "--", "o"),
    "shift 0.01": (GREEN, "-", "s"),
    "shift 0.1": (GREEN, "--", "s"),
    "newton": (PURPLE, "-", "^"),
    "eigenvectors": (YELLOW, "-", "D"),
    "leading": (ORANGE, "-", "v"),
    "sketch": (ORANGE, ":", "v"),
}


def draw(rows: Sequence[Record]) -> Figure:
    """Error against products, a line per way: Nesterov's average early and late, the plain one."""
    windows = [r["window"] for r in rows]
    chosen = dict.fromkeys(
        [("nesterov", min(windows)), ("nesterov", max(windows)), ("plain", max(windows))]
    )
    titles = [f"{AVERAGES[average]}\nstep {window}" for average, window in chosen]
    figure, row = panels(titles, height=4)
    for axes, (average, window) in zip(row, chosen, strict=True):
        for name, method in METHODS.items():
            line = [
                (r["products"], r["error"])
                for r in rows
                if (r["average"], r["window"], r["method"]) == (average, window, name)
                and r["products"] is not None
            ]
            colour, dashes, marker = STYLES[name]
            axes.plot(
                *zip(*line, strict=True),
                color=colour,
                linestyle=dashes,
                linewidth=2.4 if name == "cold" else 1.4,
                marker=marker,
                markersize=4,
                label=method.title,
            )
        axes.axhline(ERROR, color=INK, linewidth=0.8, linestyle="--")
        axes.set_xlabel("products of m × m matrices")
        axes.set_xlim(0, 33)
    row[0].set_yscale("log")
    row[0].set_ylim(2e-3, 2)
    row[0].yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    row[0].set_ylabel("relative error over σ ≥ 3e-3·σ₁")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, labelcolor=INK)
    return figure


WARM_START = Reproduction(
    name="warm-start",
    title=TITLES["warm-start"],
    unit="windows of text",
    full=WarmSettings(),
    quick=WarmSettings(seeds=(0,), steps=12, batch=4, layers=1, width=32, windows=(1, 8), pairs=3),
    cells=cells,
    measure=measure,
    claims=CLAIMS,
    tables={"error": errors, "reach": reach, "moves": moves},
    pictures={"error": draw},
)
