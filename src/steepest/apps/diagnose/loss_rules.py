"""Rules on the loss of a run: what its curve says about lr, length, text and schedule."""

from __future__ import annotations

from statistics import fmean, median

from steepest.apps.diagnose import titles
from steepest.apps.diagnose.evidence import FIXED_LENGTH, MUON, Evidence, Finding

# Ours, each with its reason.
RISE = 1.02
"""A validation loss this far above its lowest: evaluations of one run, which share their windows,
differ by less from noise."""
SPIKE = 1.1
"""A jump that no warm-up or noise of a minibatch explains."""
FALL = 0.01
"""A fall over the last tenth that more steps are worth."""
SHARE = 1 / 3
"""The optimizer's part of a step from which on its time is worth a look."""
NEAR = 10
"""Minibatches that a mean is taken over."""


def diverged(e: Evidence) -> Finding | None:
    """The loss is not a number."""
    if (record := e.diverged) is None:
        return None
    return Finding(
        what=f"The loss is not finite at step {record['step']}: the run has diverged",
        confidence="certain",
        why="the record of that step says so",
        advice=f"{e.smaller_lr()}, or give a longer warm-up"
        + (" with --warmup" if e.config else ""),
        evidence=titles.LOSS,
    )


def skipped(e: Evidence) -> Finding | None:
    """The optimizer has left out updates with gradients that are not finite."""
    if not e.skipped:
        return None
    many = e.skipped > 0.01 * max(e.last, 1)
    return Finding(
        what=f"{e.skipped} updates were skipped, since a gradient was NaN or inf",
        confidence="certain",
        why="the optimizer has counted them",
        advice=f"{e.smaller_lr()}, or clip gradients"
        if many
        else "they are few. If there are more, lower lr or clip gradients",
        evidence=titles.LOSS,
        change=many,
    )


def rising(e: Evidence) -> Finding | None:
    """The validation loss ends above its lowest value."""
    seen = e.validation
    if len(seen) < 4 or e.diverged:
        return None
    (at, best), (end, final) = min(seen, key=lambda pair: pair[1]), seen[-1]
    if final <= RISE * best:
        return None
    then, now = _around(e, at), _around(e, end)
    learnt = then is not None and now is not None and now < then
    what = f"Validation loss ends at {final:.3f}, above its {best:.3f} at step {at}"
    if learnt:
        return Finding(
            what=f"{what}, while the loss of minibatches still falls: the model is "
            "memorising its text",
            confidence="likely",
            why="the two losses move apart",
            advice=f"stop at step {at}, train on more text, or raise the weight decay",
            evidence=titles.LOSS,
        )
    return Finding(
        what=f"{what}, and so does the loss of minibatches",
        confidence="likely",
        why="both losses rise, as with an lr that is too large",
        advice=e.smaller_lr(),
        evidence=titles.LOSS,
    )


def _around(e: Evidence, step: int) -> float | None:
    """The mean loss of the minibatches up to a step."""
    near = [r["loss"] for r in e.metrics if step - NEAR < r["step"] <= step and r.get("loss")]
    return fmean(near) if near else None


def spike(e: Evidence) -> Finding | None:
    """The validation loss has jumped, and come down again."""
    lowest, worst, at = float("inf"), 0.0, 0
    for step, loss in e.validation:
        lowest = min(lowest, loss)
        if loss / lowest > worst:
            worst, at = loss / lowest, step
    if worst <= SPIKE or e.diverged or e.validation[-1][1] > RISE * lowest:
        return None
    return Finding(
        what=f"Validation loss jumped to {worst:.3g} times its lowest at step {at}, and recovered",
        confidence="a hint",
        why="a step that is too long does this, and so does a bad batch",
        advice=f"if it comes back with another seed, {e.smaller_lr(2)} or clip gradients",
        evidence=titles.LOSS,
    )


def constant_schedule(e: Evidence) -> Finding | None:
    """Steps of fixed length that are as long at the end as in the middle."""
    if not (e.finished and e.config and e.settings and e.optimizer in FIXED_LENGTH):
        return None
    if e.config.schedule != "constant":
        return None
    return Finding(
        what=f"lr stays at {e.settings.lr:g} to the last step, and each step of {e.optimizer} has "
        "length lr: the weights never settle",
        confidence="likely",
        why="its steps do not shrink with the gradient",
        advice="let lr end at zero: --schedule linear",
        evidence=titles.LOSS,
    )


def falling(e: Evidence) -> Finding | None:
    """The loss has still fallen when the run ended."""
    if not e.finished or e.config is None:
        return None
    late = [loss for step, loss in e.validation if step >= 0.9 * e.config.steps]
    if len(late) < 2 or late[-1] >= (1 - FALL) * late[0]:
        return None
    fell = 1 - late[-1] / late[0]
    decays = e.config.schedule != "constant"
    return Finding(
        what=f"The loss was still falling at the end: by {fell:.1%} over the last tenth "
        f"({late[0]:.3f} to {late[-1]:.3f})",
        confidence="a hint" if decays else "likely",
        why="part of this comes from lr falling to zero, as at the end of any run"
        if decays
        else "lr was constant, so this does not come from lr falling",
        advice=f"if you have the time, train for longer: --steps {2 * e.config.steps}",
        evidence=titles.LOSS,
    )


def unfinished(e: Evidence) -> Finding | None:
    """The records end before the last step."""
    if e.config is None or e.diverged or e.last >= e.config.steps:
        return None
    return Finding(
        what=f"This is step {e.last} of {e.config.steps}: lr has not come down yet",
        confidence="certain",
        why="the records end there",
        advice="if the run was interrupted, continue it with steepest train --resume; a checkpoint "
        "that you chose, or a run that is still training, needs no change",
        evidence=titles.LOSS,
    )


def slow_optimizer(e: Evidence) -> Finding | None:
    """The optimizer takes a large part of each step."""
    timed = [r for r in e.metrics if r.get("step_ms") and r.get("optimizer_ms") is not None]
    if len(timed) < NEAR:
        return None
    share = median(r["optimizer_ms"] for r in timed) / median(r["step_ms"] for r in timed)
    if share <= SHARE:
        return None
    advice = (
        "a larger --batch makes it smaller: the polar factors cost the same whatever the batch"
        if e.optimizer in MUON
        else "a larger --batch makes it smaller"
    )
    return Finding(
        what=f"The optimizer takes {share:.0%} of the time of a step",
        confidence="certain",
        why="the median over all steps",
        advice=advice,
        evidence=titles.LOSS,
    )
