"""The picture of a run: validation loss against steps and against seconds."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes

from steepest._common.files import write_atomic
from steepest.apps import _figures as figures
from steepest.apps._figures import BLUE, GREEN, INK, ORANGE, YELLOW, new_figure, png
from steepest.apps.train.report import Curve, Report

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = {"muon": ORANGE, "adamw": BLUE, "torch-muon": YELLOW, "sgd": GREEN}


def _panel(axes: Axes, report: Report, *, by_time: bool) -> None:
    """Draw every optimizer's mean, its band over the seeds and the baseline's final loss."""
    for line, c in zip(report.rows, report.curves, strict=True):
        x = c.seconds if by_time else c.steps
        colour = COLOURS.get(line.optimizer, INK)
        axes.plot(x, c.losses, color=colour, linewidth=1.8, label=line.optimizer)
        if report.seeds > 1:
            axes.fill_between(x, c.low, c.high, color=colour, alpha=0.2, linewidth=0)
        if line.optimizer == report.baseline and c.finished:
            axes.axhline(
                c.losses[-1],
                color=colour,
                linewidth=0.9,
                linestyle=(0, (4, 4)),
                label=f"final loss of {line.optimizer}",
            )
    axes.set_xlabel("seconds of training" if by_time else "steps")
    axes.set_xlim(left=0)
    axes.set_ylim(*limits(report.curves))
    figures.graph(axes)
    axes.tick_params(colors=INK)


def limits(curves: tuple[Curve, ...]) -> tuple[float, float]:
    """The range of all evaluations but the first, which is that of the untrained model."""
    trained = [v for c in curves for v in c.high[1:] or c.high]
    low = min(v for c in curves for v in c.low)
    margin = 0.05 * (max(trained) - low) or 0.05
    return low - margin, max(trained) + margin


def draw(report: Report, title: str = "") -> bytes:
    """The picture as PNG.

    Args:
        report: the curves.
        title: the model and the text in words.
    """
    figure = new_figure(4)
    figure.suptitle(title, fontsize=11, color=INK)
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, report, by_time=False)
    _panel(right, report, by_time=True)
    left.set_ylabel("validation loss (nats per character)")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(len(labels), 5),
        frameon=False,
        labelcolor=INK,
    )
    if report.seeds > 1:
        right.set_title(
            f"mean and range of {report.seeds} seeds", loc="right", fontsize=9, color=INK
        )
    return png(figure)


def write_picture(run: Path, report: Report, title: str) -> None:
    """Write `loss.png`.

    Args:
        run: the folder of the run.
        report: the curves.
        title: the model and the text in words.

    Raises:
        OSError: the disk is full.
    """
    write_atomic(run / "loss.png", draw(report, title))
