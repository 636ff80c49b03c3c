"""Warnings about training that goes otherwise than asked; each is given once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

from steepest._common.callers import callers, module_of
from steepest._common.errors import invalid
from steepest.optim.foreign import several_processes
from steepest.optim.options import Group
from steepest.routing.table import Routing

IDLE_STEPS = 3
"""The number of steps in a row without any gradient after which an optimizer says so."""

# A floor that a schedule ends on is the same for all groups and says nothing.
SMALL = 0.25
"""Share of its first learning rate below which that of a group may equal the others'."""

VALUE = re.compile(r"MatrixView\(.*?\)(?= )|\S+")
"""The first value in a text that says how to settle a guess."""

OURS = ("steepest.", "torch.", "jaxtyping.")
"""Modules to which no warning should point."""


class Notices:
    """The warnings that an optimizer has given, and what it counts for them."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self.idle = 0
        """Steps in a row in which no parameter had a gradient."""

    def _say(self, key: str, text: str) -> None:
        """Warn, once for each key."""
        if key not in self._said:
            self._said.add(key)
            warnings.warn(text, UserWarning, stacklevel=_outside())

    def idles(self, groups: Sequence[Group], *, trains: bool) -> None:
        """Count a step in which no parameter has a gradient, and say so after some of them.

        Args:
            groups: The groups of the optimizer.
            trains: Whether a parameter has a gradient in this step: then the count begins anew.
        """
        if trains:
            self.idle = 0
            return
        params = [p for group in groups for p in group["params"]]
        frozen = sum(not p.requires_grad for p in params)
        self.idle += 1
        if self.idle >= IDLE_STEPS and any(p.numel() for p in params):
            self._say(
                "idle",
                f"none of the {len(params)} parameters of this optimizer ({frozen} of them frozen) "
                f"has had a gradient in {IDLE_STEPS} steps, so that nothing is trained. If the "
                "model was wrapped, given adapters or replaced after the optimizer was made, make "
                "the optimizer from the model that is trained: fully_shard and FSDP1 put other "
                "parameters into it",
            )

    def one_rate(self, groups: Sequence[Group]) -> None:
        """Say that all groups have one learning rate now, if they were made with different ones.

        Args:
            groups: The groups, all with the same learning rate.
        """
        lr: Any = groups[0]["lr"]
        rates = [group.get("first_lr", lr) for group in groups]
        if isinstance(lr, Tensor) or any(isinstance(rate, Tensor) for rate in rates):
            return
        if len(set(rates)) == 1 or not any(lr >= SMALL * rate > 0 for rate in rates):
            return
        made = ", ".join(f"{rate:.3g}" for rate in dict.fromkeys(rates))
        other = "adjust_lr_fn" in groups[0]
        self._say(
            "one rate",
            f"every group has lr={lr:.3g} now, and they were made with {made}: something has "
            "written one learning rate into all of them, which is right for some of them at most. "
            "Give a scheduler a list, as in max_lr=optimizer.lrs(0.02)"
            + ('; or take adjust_lr_fn="match_rms_adamw", right with one for all' if other else ""),
        )

    def guesses(self, routing: Routing) -> None:
        """Say which assignments of a routing are guesses, and the overrides that settle them."""
        if routing.uncertain:
            count, rows = len(routing.uncertain), routing.uncertain[:5]
            text = "; ".join(f"{a.name!r} is taken as {a.target} ({a.reason})" for a in rows)
            name, settle = rows[0].name, rows[0].settle
            settle = VALUE.sub(lambda found: f"overrides={{{name!r}: {found[0]}}}", settle, count=1)
            more = f"; and {count - len(rows)} more" if count > len(rows) else ""
            self._say(
                "guesses",
                f"the routing had to guess {count} of {len(routing)} parameters: {text}{more}. "
                f"Look at print(optimizer.routing), and settle them by {settle}",
            )

    def tables(self, names: Iterable[str], remedy: str) -> None:
        """Say which parameters are stepped as matrices and look like embeddings or heads."""
        if found := list(names):
            shown = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if found[5:] else "")
            self._say(remedy, f"{shown}: {remedy}")

    def written(self, values: Mapping[str, tuple[Any, Any]]) -> None:
        """Say which values of AdamW's groups were taken for those of an optimizer around this one.

        Args:
            values: The value that was found and the one that is taken, by the key of a group.
        """
        text = "; ".join(
            f"adamw_{key}={own} is taken, not {key}={v}" for key, (v, own) in values.items()
        )
        self._say(
            "written",
            f"every group came with the constructor's own values, as an optimizer around this one "
            f"writes them: {text}. To have others in AdamW's groups give adamw_lr, adamw_betas, "
            "adamw_eps or adamw_weight_decay",
        )

    def unknown(self, key: str, value: object) -> None:
        """Say that a key of a group has no effect."""
        self._say(f"key {key}", f"{key}={value!r} of a group has no effect in this optimizer")

    def newer(self, keys: Sequence[str], versions: str) -> None:
        """Say which keys of a newer release's checkpoint have no effect.

        Args:
            keys: The keys of groups that are not known here.
            versions: The version that has saved and this one.
        """
        if keys:
            self._say("newer", f"{versions}, which knows nothing of {', '.join(keys)} in a group")

    def no_matrix(self, cls: type, *, routed: bool) -> None:
        """Say that AdamW steps all parameters of a module that may be a part of a model.

        Args:
            cls: The optimizer.
            routed: Whether modules or names said so.

        Raises:
            ValueError: it is no part: there is one process, or the caller said so.
        """
        if not (routed and several_processes()):
            raise invalid(
                "params",
                "no matrix",
                f"every parameter is in an `adamw` group, so {cls.__name__} would run plain AdamW: "
                "use torch.optim.AdamW, or give at least one matrix",
            )
        self._say(
            "no matrix",
            f"no parameter here is a hidden matrix, so that {cls.__name__} runs plain AdamW on "
            "this rank: right for a stage of a pipeline that has none, and for nothing else",
        )

    def by_shape(self, matrices: int, others: int) -> None:
        """Say that shapes alone decide on which parameters are matrices."""
        self._say(
            "by shape",
            f"{matrices} parameters are stepped as matrices and {others} by AdamW, by their shapes "
            "alone, which do not tell embeddings and output heads from hidden matrices. Give the "
            "module, or names with the parameters, where the framework allows it",
        )

    def undivided(self) -> None:
        """Say that each rank computes everything, where a wrapper has been seen."""
        self._say(
            "undivided",
            "a model that holds parameters of this optimizer is wrapped in "
            "DistributedDataParallel, but not with these parameters alone, so that each "
            "rank computes every direction for itself: the same weights, only slower. If all "
            "ranks have the same optimizer, divide the work by optimizer.set_replicas(ddp_model), "
            "on all ranks; optimizer.set_replicas(None) says that this is as it should be",
        )

    def in_part(self, kept: Sequence[Sequence[str]], fresh: Sequence[str], remedy: str) -> None:
        """Say what a checkpoint has not brought.

        Args:
            kept: The keys of each group that have the values of the optimizer.
            fresh: The names of parameters whose gradients have no average.
            remedy: The advice, a sentence.
        """
        told = [f"param_groups[{i}] keeps its {', '.join(k)}" for i, k in enumerate(kept) if k]
        if fresh:
            more = f" and {len(fresh) - 5} more" if fresh[5:] else ""
            told.append(f"there is no average of gradients of {', '.join(fresh[:5])}{more}")
        if told:
            self._say("in part", f"the checkpoint was loaded in part: {'; '.join(told)}. {remedy}")

    def unshared(self) -> None:
        """Say that a rank may follow its own gradients, where ranks do not compare them."""
        self._say(
            "unshared",
            "a step came after no forward pass, or one in no_sync, of a DistributedDataParallel "
            "module that holds parameters of this optimizer: unless the gradients were averaged "
            "in another way, the copies of the model drift apart. To have the ranks compare them "
            "call optimizer.set_replicas(ddp_model), on all ranks; optimizer.set_replicas(None) "
            "says that this is as it should be",
        )

    def loaded(self, saved: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]]) -> None:
        """Say which conventions a checkpoint has brought that the constructor had otherwise.

        Args:
            saved: The groups of the checkpoint.
            own: The groups of the optimizer, as they were before.
        """
        for i, (theirs, mine) in enumerate(zip(saved, own, strict=False)):
            key = "adjust_lr_fn"
            a, b = (group.get(key) or "original" for group in (theirs, mine))
            if key in theirs and key in mine and not mine["adamw"] and a != b:
                self._say(
                    key,
                    f"the checkpoint was saved with {key}={a!r}, which is taken: this optimizer "
                    f"was made with {b!r}. To have that, set param_groups[{i}][{key!r}] after "
                    "loading, and the learning rate that goes with it",
                )
        theirs_to, ours_to = _ratio(saved), _ratio(own)
        if theirs_to and ours_to and abs(theirs_to - ours_to) > 1e-6 * ours_to:
            self._say(
                "ratio",
                f"the checkpoint's learning rate of AdamW is {theirs_to:.3g} of that of the hidden "
                f"matrices, which is taken: this optimizer was made with {ours_to:.3g}. To have "
                "that, set param_groups[…]['lr'] after loading",
            )


def _outside() -> int:
    """The number of frames between a warning and the code that has called the optimizer."""
    ours = takewhile(lambda frame: module_of(frame).startswith(OURS), callers())
    # The first of them is this function, which does not count.
    return sum(1 for _ in ours)


def _ratio(groups: Sequence[Mapping[str, Any]]) -> float | None:
    """AdamW's learning rate over that of the matrices; None if there is none, or it is zero."""
    first: dict[bool, float] = {}
    for group in groups:
        # Schedules change `lr`, and some of them the ratio.
        rate = group.get("first_lr", group.get("initial_lr"))
        if rate is not None and not isinstance(rate, Tensor):
            first.setdefault(bool(group.get("adamw")), float(rate))
    matrices, adamw = first.get(False), first.get(True)
    return adamw / matrices if matrices and adamw else None
