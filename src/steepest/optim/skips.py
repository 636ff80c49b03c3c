"""The updates that an optimizer has left out: their count, and its way through checkpoints.

A checkpoint has the count in the text of `nonfinite`, the answer to NaN or inf, with the version
that counted: "skip (5 skipped, steepest 0.1.0)". torch's distributed checkpoints refuse to load
where a key is asked for that was not saved, so that a key of its own would part the checkpoints of
before it from those of after it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steepest._common.version import VERSION, is_newer
from steepest.optim.updates import Flag

KEY = "nonfinite"
"""The key of a group in whose text a checkpoint has the record."""

# No more digits than an integer of a device holds.
COUNT = re.compile(r"(?<![\w-])(\d{1,18}) skipped\b")
SAVED_BY = re.compile(r"steepest ([^\s,)]+)")


class SkipCount:
    """How many updates were left out, counted on the devices without waiting for them."""

    def __init__(self) -> None:
        self.by_device: dict[torch.device, Tensor] = {}

    def add(self, finite: dict[Tensor, Flag], states: Mapping[Tensor, Any]) -> None:
        """Count the parameters whose gradient is not finite.

        One of which there is no state takes part, with a flag that leaves it as it is: torch's
        distributed checkpoints ask for a state of all that has a gradient.
        """
        for device in dict.fromkeys(p.device for p in finite):
            if device not in self.by_device:
                self.by_device[device] = torch.zeros((), dtype=torch.int64, device=device)
            flags = [flag for p, flag in finite.items() if flag is not True and p.device == device]
            if judged := [flag for flag in flags if isinstance(flag, Tensor)]:
                self.by_device[device] += torch.stack(judged).logical_not().sum()
            if len(judged) < len(flags):
                self.by_device[device] += len(flags) - len(judged)
        new = [p for p, flag in finite.items() if flag is False and not states.get(p)]
        finite.update((p, torch.zeros((), dtype=torch.bool, device=p.device)) for p in new)

    def total(self) -> int:
        """The count; waits for the devices."""
        return sum(int(count) for count in self.by_device.values())

    def set(self, total: int) -> None:
        """Go on from a count; a CUDA graph of a step goes on in the same memory."""
        host = torch.device("cpu")
        for count in self.by_device.values():
            count.zero_()
        if host not in self.by_device:
            self.by_device[host] = torch.zeros((), dtype=torch.int64, device=host)
        self.by_device[host] += total


@dataclass(frozen=True)
class Record:
    """The statement of a checkpoint on the optimizer that was saved.

    Args:
        skipped: The number of updates that it had left out; 0 where the checkpoint does not say it.
        version: The version of this library; None for another library, or before it was saved.
    """

    skipped: int = 0
    version: str | None = None

    @staticmethod
    def of(saved: Mapping[str, Any]) -> Record:
        """The record of a saved state, of which every group has it."""
        texts = [str(group.get(KEY, "")) for group in saved.get("param_groups", ())]
        counts = [int(found[1]) for text in texts if (found := COUNT.search(text))]
        versions = [found[1] for text in texts if (found := SAVED_BY.search(text))]
        return Record(max(counts, default=0), next(iter(versions), None))

    @property
    def is_newer(self) -> bool:
        """Whether a later release than this one has saved it."""
        return is_newer(self.version)

    @property
    def versions(self) -> str:
        """The two versions, for a message."""
        return f"the checkpoint was saved by steepest {self.version}, and this is {VERSION}"

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the versions in what is raised inside, if the one that has saved is newer."""
        try:
            yield
        except ValueError as error:
            if not self.is_newer:
                raise
            raise ValueError(f"{error} ({self.versions}: update it)") from error

    def unknown(self, saved: Sequence[Mapping[str, Any]], known: set[str]) -> list[str]:
        """The keys of groups that a newer release has saved and this one does not know."""
        if not self.is_newer:
            return []
        return sorted({key for group in saved for key in group} - known)


def with_record(group: dict[str, Any], skipped: int) -> dict[str, Any]:
    """A group as a checkpoint has it: with the count and the version in a text."""
    record = f"{group[KEY]} ({skipped} skipped, steepest {VERSION})"
    return {**group, KEY: record}


def without_record(value: Any) -> Any:
    """The answer to NaN or inf, of the text that a checkpoint has.

    Examples:
        >>> without_record("skip (5 skipped, steepest 0.1.0)"), without_record("raise")
        ('skip', 'raise')
    """
    return value.partition(" (")[0] if isinstance(value, str) else value
