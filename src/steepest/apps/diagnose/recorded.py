"""The records of a run, as parts of the page: each says how to read it and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import numpy as np

from steepest.apps.diagnose import pictures, titles
from steepest.apps.diagnose.layer_rules import PER_BLOCK, stream
from steepest.apps.diagnose.page import Panel, Table
from steepest.apps.diagnose.records import Curves, LayerHistory, grid, sigmas
from steepest.apps.diagnose.source import Subject
from steepest.apps.train.constraint import layer
from steepest.apps.train.metrics import MONITOR
from steepest.diagnostics import monitor_warnings

RANKS = {
    "gradient": "grad_nuclear_rank",
    "momentum": "momentum_nuclear_rank",
    "update": "update_nuclear_rank",
    "weights": "weight_nuclear_rank",
}
COLUMNS = {
    "update/weight": "update_ratio",
    "‖W‖₂": "weight_spectral",
    "RMS of W": "weight_rms",
    "‖G‖_F": "grad_norm",
    "nuclear rank of G": "grad_nuclear_rank",
    "stable rank of G": "grad_stable_rank",
    "effective rank of G": "grad_effective_rank",
    "nuclear rank of W": "weight_nuclear_rank",
    "stable rank of W": "weight_stable_rank",
    "alignment": "alignment",
    "polar error": "polar_error",
}
"""Columns of the table of layers and the quantities of a monitor behind them."""

RANKS_TEXT = (
    "The nuclear rank ‖·‖_*²/‖·‖_F² counts the directions that carry a matrix; it is at most its "
    "smaller side. The larger that of a gradient, the more Muon may gain there. A rank near 1 in "
    "every column means one direction: then look at the batch size. Otherwise no action is needed."
)
UPDATES_TEXT = (
    "How much of its weight one step changes, in the norm of the layer: of the matrices, with "
    "names for those that are furthest from the others. All of them rise and fall with lr. An "
    "embedding or a head that is ten times above or below wants another rate, and the findings say "
    "so."
)
DEPTH_TEXT = (
    "From the top down, in the order of the forward pass: on the left the root mean square of what "
    "each module gives, on the right, for layers with a matrix, that of what comes out over what "
    "goes in. A ratio other than 1 is harmless where a normalisation stands before the layer."
)


def no_monitor(subject: Subject) -> str:
    """The reason why there is nothing of a monitor, and how to get it."""
    if subject.trial is not None:
        return (
            f"Not recorded: {subject.folder / MONITOR} has none of it. "
            "Train with --monitor-every 100 to have it."
        )
    return (
        f"Not recorded: {subject.folder / MONITOR} has none of it. "
        "Attach steepest.diagnostics.Monitor(model, optimizer, out=FOLDER) to have it."
    )


def recorded(subject: Subject, sides: Mapping[str, int], *, with_loss: bool) -> list[Panel]:
    """All parts that need no model.

    Args:
        subject: the subject with the records.
        sides: the smaller side of each layer's matrix, as far as it is known.
        with_loss: whether the loss is drawn, which several subjects share one picture of.
    """
    makers: Sequence[Callable[[], Panel | None]] = (
        lambda: _warnings(subject),
        lambda: _losses(subject) if with_loss else None,
        lambda: _spectra(subject),
        lambda: _ranks(subject, sides),
        lambda: _updates(subject),
        lambda: _depth(subject),
    )
    return [part for make in makers if (part := make()) is not None]


def _warnings(subject: Subject) -> Panel:
    title = titles.WARNINGS
    if not subject.monitor:
        return Panel(title=title, missing=no_monitor(subject))
    found = monitor_warnings(subject.monitor)
    if not found:
        return Panel(title=title, text=["None: no action is needed."])
    return Panel(
        title=title,
        text=["Each cause is listed once, with the step at which it was first seen."],
        points=[f"Step {step}: {text}" for step, text in found],
    )


def _losses(subject: Subject) -> Panel | None:
    picture = pictures.losses({subject.name: subject.metrics})
    return None if picture is None else Panel(title=titles.LOSS, picture=picture)


def curves(subject: Subject) -> Curves | None:
    """Magnitudes over the steps: of the monitor, else those that the balls bound."""
    found = sigmas(subject.monitor)
    kept = subject.spectra
    limits = {
        name: limit
        for name, limit, kind in zip(kept.names, kept.limits, kept.kinds, strict=True)
        if kind == "singular values" and math.isfinite(limit)
    }
    if found is not None:
        return Curves(what=found.what, values=found.values, limits=limits)
    if not kept.names:
        return None
    values = {
        name: {
            step: np.asarray(row, dtype=float) for step, row in zip(kept.steps, rows, strict=True)
        }
        for name, rows in zip(kept.names, kept.values, strict=True)
    }
    return Curves(what=", ".join(dict.fromkeys(kept.kinds)), values=values, limits=limits)


def _spectra(subject: Subject) -> Panel:
    title = titles.SPECTRA
    found = curves(subject)
    if found is None:
        return Panel(title=title, missing=no_monitor(subject))
    text = [
        (
            f"The {found.what} of each weight in falling order, from violet for the first step to "
            "green for the last. A flat curve is a weight that uses all of its directions; one "
            "that falls steeply acts on a few. Neither is a fault."
        )
    ]
    if found.limits:
        text.append("The orange line is the radius of the ball in which weight decay keeps them.")
    return Panel(title=title, text=text, picture=pictures.spectra(found))


def _ranks(subject: Subject, sides: Mapping[str, int]) -> Panel:
    title = titles.RANKS
    found = {name: grid(subject.monitor, key) for name, key in RANKS.items()}
    grids = {name: g for name, g in found.items() if g is not None}
    if not grids:
        return Panel(title=title, missing=no_monitor(subject))
    if all(sides.get(name, 2) < 2 for g in grids.values() for name in g.layers):
        return Panel(
            title=title,
            text=["Every matrix has one row or one column: all ranks are 1. No action is needed."],
        )
    text = [RANKS_TEXT]
    if "gradient" in grids:
        text.append(_of_gradients(grids["gradient"], sides))
    return Panel(title=title, text=text, picture=pictures.ranks(grids, sides))


def _of_gradients(found: LayerHistory, sides: Mapping[str, int]) -> str:
    last = {k: v for k, v in found.last().items() if sides.get(k, 2) > 1}
    if not last:
        return ""
    low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    return (
        f"Newest, up to step {found.steps[-1]:g}: the nuclear ranks of the gradients go from "
        f"{_of(last[low], sides.get(low))} ({low}) to {_of(last[high], sides.get(high))} ({high}); "
        f"half of the layers are at or below {median(last.values()):.1f}."
    )


def _of(rank: float, side: int | None) -> str:
    return f"{rank:.1f}" if side is None else f"{rank:.1f} of {side}"


def _updates(subject: Subject) -> Panel | None:
    ratio = grid(subject.monitor, "update_ratio")
    if ratio is None:
        return None
    return Panel(
        title=titles.UPDATES,
        text=[UPDATES_TEXT],
        picture=pictures.updates(_among(ratio, _matrices(subject))),
        tables=[_layers(subject)],
    )


def _layers(subject: Subject) -> Table:
    """The newest figures of each layer."""
    found = {heading: grid(subject.monitor, key) for heading, key in COLUMNS.items()}
    last = {heading: g.last() for heading, g in found.items() if g is not None}
    layers = dict.fromkeys(name for values in last.values() for name in values)
    step = max(int(r["step"]) for r in subject.monitor)
    return Table(
        title=f"Newest figures of every layer, up to step {step}",
        headings=["layer", *last],
        rows=[[name, *(figure(v.get(name)) for v in last.values())] for name in layers],
    )


def figure(value: float | None) -> str:
    """A number of three digits as text; a dash for none.

    Examples:
        >>> figure(0.01234), figure(None)
        ('0.0123', '–')
    """
    return "–" if value is None else f"{value:.3g}"


def _depth(subject: Subject) -> Panel:
    title = titles.DEPTH
    outputs, inputs = grid(subject.monitor, "rms_out"), grid(subject.monitor, "rms_in")
    if outputs is None:
        return Panel(title=title, missing=no_monitor(subject))
    gains = None if inputs is None else _ratio(outputs, inputs, _matrices(subject))
    text = [DEPTH_TEXT]
    if (found := stream(outputs)) is not None:
        name, start, end, between = found
        factor = (end / start) ** (1 / between)
        text.append(
            f"Through {name} the stream goes from {start:.3g} to {end:.3g}, by a factor of "
            f"{factor:.2g} per block: "
            + ("too much, see the findings." if factor > PER_BLOCK else "no action is needed.")
        )
    return Panel(title=title, text=text, picture=pictures.depth(outputs, gains))


def _among(found: LayerHistory, layers: frozenset[str]) -> LayerHistory:
    """The rows of some layers; all of them if it has none of these.

    Gains and biases have rates of their own, apart from those of matrices and rightly so.
    """
    kept = [i for i, name in enumerate(found.layers) if name in layers]
    if not kept:
        return found
    names = tuple(found.layers[i] for i in kept)
    return LayerHistory(steps=found.steps, layers=names, values=found.values[kept])


def _matrices(subject: Subject) -> frozenset[str]:
    """The layers with a matrix, the only ones whose ratio means anything.

    A normalisation has another ratio than 1 by its purpose, and a block adds to what it is given.
    """
    found = grid(subject.monitor, "weight_nuclear_rank")
    return frozenset(() if found is None else found.layers)


def _ratio(above: LayerHistory, below: LayerHistory, layers: frozenset[str]) -> LayerHistory | None:
    """One quantity over another, for those of some layers and the steps that have both."""
    known = dict(zip(below.layers, below.values, strict=True))
    shared = np.isin(above.steps, below.steps)
    places = np.searchsorted(below.steps, above.steps[shared])
    pairs = {
        name: (row[shared], known[name][places])
        for name, row in zip(above.layers, above.values, strict=True)
        if name in known and name in layers
    }
    # NaN compares as False, so that it stays NaN as a zero becomes it.
    rows = {
        name: np.divide(a, b, out=np.full(a.shape, math.nan), where=(a > 0) & (b > 0))
        for name, (a, b) in pairs.items()
    }
    if not any(np.isfinite(row).any() for row in rows.values()):
        return None
    values = np.stack(list(rows.values()))
    return LayerHistory(steps=above.steps[shared], layers=tuple(rows), values=values)


def sides_of(shapes: Mapping[str, Sequence[int]], found: Curves | None) -> dict[str, int]:
    """The smaller side of each layer's matrix: of the model, else as many as it has values.

    Args:
        shapes: the shapes of the parameters by name, where there is a model.
        found: magnitudes, of which a monitor keeps at most 64.
    """
    if shapes:
        return {
            layer(name): min(shape[0], math.prod(shape[1:]))
            for name, shape in shapes.items()
            if len(shape) >= 2
        }
    rows = {} if found is None else {k: max(map(len, v.values())) for k, v in found.values.items()}
    return {name: count for name, count in rows.items() if count < 64}
