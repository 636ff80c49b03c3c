"""What was computed at a checkpoint, as parts of the page."""

from __future__ import annotations

from collections.abc import Sequence

from steepest.diagnose.measure import Measured
from steepest.diagnose.page import Part, Table
from steepest.diagnose.recorded import figure
from steepest.diagnose.source import Subject
from steepest.diagnostics import ConstraintReport
from steepest.train.constraint import layer


def computed(subject: Subject, measured: Measured | None) -> list[Part]:
    """All parts that need the model."""
    if measured is None:
        return [Part(title="Directions, verdict and balls", missing=_no_checkpoint(subject))]
    return [_balls(measured)]


def _no_checkpoint(subject: Subject) -> str:
    if subject.trial is None:
        return (
            "Not computed: this needs the model. In your own code, at the same point: "
            "steepest.diagnostics.compare_directions and steepest.diagnostics.compare."
        )
    return (
        f"Not computed: {subject.folder} has no checkpoint yet. "
        "Go on with the run, with a smaller --checkpoint-every if need be."
    )


def _balls(measured: Measured) -> Part:
    title = "The balls of weight decay"
    report = measured.constraint
    if report is None:
        reason = measured.failed.get("constraint", "this optimizer keeps no weight in a ball.")
        return Part(title=title, text=[f"None: {reason}"])
    worst = report.worst
    text = [
        "Decoupled weight decay keeps each weight in a ball of its norm. A weight on the boundary "
        "is held back by it; one far inside is not."
    ]
    if worst is not None:
        text.append(f"Fullest: {layer(worst.name)}, at {worst.filled:.2f} of its radius.")
    return Part(title=title, text=text, tables=[_ball_table(report)])


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
