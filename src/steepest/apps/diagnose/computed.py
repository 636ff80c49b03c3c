"""The results computed at a checkpoint, as parts of the page."""

from __future__ import annotations

from collections import Counter

from steepest.apps.diagnose import geometry, titles
from steepest.apps.diagnose.geometry import called
from steepest.apps.diagnose.measure import CheckpointMeasurements
from steepest.apps.diagnose.page import Panel, Table
from steepest.apps.diagnose.recorded import figure
from steepest.apps.diagnose.source import Subject
from steepest.apps.train.constraint import layer
from steepest.apps.train.trial import diverged
from steepest.diagnostics import ConstraintReport, DirectionReport, Verdict

DIRECTIONS = (
    "Along a direction d the loss falls at best by ⟨g,d⟩²/(2dᵀHd): much where d agrees with the "
    "gradient g and the loss is flat along it. For a single layer, everything else is held fixed. "
    "Where dᵀHd ≤ 0 there is no best step, and no mark."
)
VERDICT = (
    "Muon's step of a layer guarantees more than a gradient step if the nuclear rank of its "
    "gradient exceeds the spread of its input, which is the input's stable rank counted over as "
    "many directions as the layer has outputs. Both steps have been tried out too, and where that "
    "contradicts the guarantee there is no verdict."
)
BALLS = (
    "Decoupled weight decay keeps each weight in a ball of its norm. A weight on the boundary is "
    "held back by it: lower the weight decay if you do not want that. One far inside is not, and "
    "no action is needed."
)
SMOOTHNESS = (
    "How much the gradient can change over a step of length 1 in a norm. Each L has the unit of "
    "its norm, so they are not comparable; what each predicts is: a step of length ‖g‖†/L, by "
    "which the loss falls by ‖g‖†²/(2L). L is the largest that a few products with the Hessian "
    "have found, a lower bound, so the step may be too long and the fall too large. No action is "
    "needed; it is a starting point for a search for lr."
)
STEPS = {"ℓ2": "gradient descent", "ℓ∞": "sign descent", "spectral": "Muon"}
ONE_STEP = 'L of one step is what SteepestDescent(sharpness="estimate") would see here.'


def computed(subject: Subject, measured: CheckpointMeasurements | None) -> list[Panel]:
    """All parts that need the model."""
    if measured is None:
        return [Panel(title=titles.DIRECTIONS, missing=_no_checkpoint(subject))]
    return [
        _directions(measured, subject),
        _verdict(measured),
        _smoothness(measured),
        _balls(measured),
    ]


def _no_checkpoint(subject: Subject) -> str:
    if subject.trial is None:
        return (
            "Not computed: this needs the model. In your own code, at the same point, call "
            "steepest.diagnostics.compare_directions and steepest.diagnostics.compare_geometries."
        )
    if any(map(diverged, subject.metrics)):
        return f"Not computed: {subject.folder} diverged before its first checkpoint."
    return (
        f"Not computed: {subject.folder} has no checkpoint yet. "
        "Train on; a smaller --checkpoint-every gives one earlier."
    )


def _directions(measured: CheckpointMeasurements, subject: Subject) -> Panel:
    title = titles.DIRECTIONS
    report = measured.directions
    if report is None:
        return Panel(title=title, missing=f"Not computed: {measured.failed['directions']}.")
    text = [measured.where, DIRECTIONS]
    if found := best_direction(report, subject):
        text.append(found)
    return Panel(
        title=title,
        text=[*text, *(f"{note[0].upper()}{note[1:]}." for note in report.notes)],
        picture=geometry.directions(report),
        tables=[_direction_table(report)],
    )


OWN = {"muon": "muon", "torch-muon": "muon", "sgd": "gradient", "adamw": "adam", "sign": "sign"}
"""The direction that an optimizer of `steepest train` steps along."""


def best_direction(report: DirectionReport, subject: Subject) -> str:
    """The direction that falls furthest, against the gradient's, and what follows.

    Empty where no direction of the whole has a best step.
    """
    falls = {d: report[d].best_decrease for d in report.directions}
    known = {d: fall for d, fall in falls.items() if fall is not None}
    if not known:
        return ""
    best = max(known, key=known.__getitem__)
    text = f"All together the loss falls furthest along {called(best)}: by {known[best]:.3g}"
    gradient = known.get("gradient")
    if best != "gradient" and gradient:
        text += f", {known[best] / gradient:.3g} times as far as along the gradient"
    wins = Counter(filter(None, (_best_of(report, name) for name in report.layers)))
    if wins:
        layers = ", ".join(f"{called(d)} in {count}" for d, count in wins.most_common())
        text += f". Layer by layer: {layers}"
    own = OWN.get("" if subject.trial is None else subject.trial.optimizer)
    if own in known and known[own] >= 0.9 * known[best]:
        return f"{text}. This run steps along such a direction, so no action is needed."
    return (
        f"{text}. That is one batch at one point, a reason to try something, but not to switch to "
        "it: compare two short runs."
    )


def _best_of(report: DirectionReport, name: str) -> str | None:
    """The direction with the largest best decrease in a layer."""
    falls = {
        d: row.best_decrease
        for d in report.directions
        if (row := report.rows.get((d, name))) is not None and row.best_decrease is not None
    }
    return max(falls, key=falls.__getitem__) if falls else None


def _direction_table(report: DirectionReport) -> Table:
    headings = ("layer", "direction", "⟨g,d⟩/‖d‖", "dᵀHd/‖d‖²", "best step · ‖d‖", "best decrease")
    rows = []
    for name in ("", *report.layers):
        for direction in report.directions:
            row = report.rows.get((direction, name))
            if row is not None:
                step = None if row.best_step is None else row.best_step * row.norm
                numbers = (row.slope, row.curvature, step, row.best_decrease)
                shown = layer(name) if name else geometry.WHOLE
                rows.append((shown, called(direction), *map(figure, numbers)))
    return Table(title="The figures of every direction", headings=headings, rows=rows, words=2)


def _verdict(measured: CheckpointMeasurements) -> Panel:
    title = titles.VERDICT
    found = measured.verdict
    if found is None:
        return Panel(title=title, missing=f"Not computed: {measured.failed['verdict']}.")
    text = [
        measured.where,
        VERDICT,
        found.summary,
        found.caveat,
    ]
    return Panel(
        title=title,
        text=text,
        picture=geometry.verdict(found),
        tables=[_sentences(found), _verdict_table(found)],
    )


def _sentences(found: Verdict) -> Table:
    return Table(
        title="Layer by layer, in words",
        headings=("layer", "verdict"),
        rows=[(row.layer, row.sentence) for row in found],
        words=2,
    )


def _verdict_table(found: Verdict) -> Table:
    headings = (
        *("layer", "nr(G)", "st(A)", "spread", "curvature"),
        *("guaranteed: gradient", "guaranteed: Muon"),
        *("measured: gradient", "measured: Muon"),
    )
    rows = [
        (
            row.layer,
            *map(
                figure,
                (
                    row.nuclear_rank,
                    row.stable_rank,
                    row.spread,
                    row.curvature,
                    row.guaranteed_euclidean,
                    row.guaranteed_spectral,
                    row.measured_euclidean,
                    row.measured_spectral,
                ),
            ),
        )
        for row in found
    ]
    return Table(title="Layer by layer, in figures", headings=headings, rows=rows)


def _smoothness(measured: CheckpointMeasurements) -> Panel:
    title = titles.SMOOTHNESS
    if measured.smoothness is None:
        return Panel(title=title, missing=f"Not computed: {measured.failed['smoothness']}.")
    rows = []
    for name, found in measured.smoothness.items():
        slope = measured.slopes[name]
        step, fall = (slope / found.value, slope**2 / (2 * found.value)) if found.value else (0, 0)
        numbers = (found.value, found.one_step, slope, step, fall)
        rows.append((name, STEPS[name], *map(figure, numbers), "yes" if found.converged else "no"))
    headings = ("norm", "of", "L, at least", "L of one step", "‖g‖†", "step", "fall", "converged")
    table = Table(title="Norm by norm", headings=headings, rows=rows, words=2, unfolded=True)
    return Panel(title=title, text=[measured.where, SMOOTHNESS, ONE_STEP], tables=[table])


def _balls(measured: CheckpointMeasurements) -> Panel:
    title = titles.BALLS
    report = measured.constraint
    if report is None:
        if reason := measured.failed.get("constraint"):
            return Panel(title=title, missing=f"Not computed: {reason}.")
        return Panel(
            title=title,
            text=["None: this optimizer keeps no weight in a ball, and no action is needed."],
        )
    worst = report.worst
    text = [BALLS]
    if worst is not None:
        text.append(
            f"Closest to the boundary: {layer(worst.name)}, at {worst.filled:.2f} of its radius."
        )
    return Panel(title=title, text=text, tables=[_ball_table(report)])


def _ball_table(report: ConstraintReport) -> Table:
    headings = ("parameter", "norm", "‖W‖", "radius", "‖W‖/radius", "KKT score", "note")
    rows = [
        (
            row.name,
            row.domain or "–",
            figure(row.norm if row.domain else None),
            figure(row.radius),
            figure(row.filled),
            figure(row.kkt),
            row.note,
        )
        for row in report
    ]
    return Table(title="Every weight in its ball", headings=headings, rows=rows, words=2)
