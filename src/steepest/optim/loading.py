"""The loading of a saved state: checked before torch takes it, and mended after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from steepest.optim.choices import SLOTS
from steepest.optim.group_keys import known_keys
from steepest.optim.groups import name_of
from steepest.optim.momentum import BUFFER, CODES
from steepest.optim.routed import RoutedOptimizer
from steepest.optim.skips import Record, SkipCount
from steepest.optim.state import loadable, restore_dtypes
from steepest.optim.state_tensors import check_tensors
from steepest.optim.torch_form import Template
from steepest.sharding import local

BY_NAMES = "A checkpoint of torch's optimizers goes in whole by steepest.load_torch_checkpoint"


def without_average(optimizer: RoutedOptimizer) -> list[str]:
    """The parameters whose gradients have no average, as far as this rank holds them."""
    found = []
    for group in optimizer.param_groups:
        key = "exp_avg" if group["adamw"] else BUFFER
        averages = group["adamw"] or "betas" in group or group.get("momentum")
        for p in (p for p in group["params"] if averages and p.requires_grad):
            state = optimizer.state.get(p, {})
            average = state.get(key, state.get(CODES))
            if local(p).numel() and (average is None or not local(average).any()):
                found.append(name_of(group, p))
    return found


@contextmanager
def loading(optimizer: RoutedOptimizer, skips: SkipCount, template: Template) -> Iterator[None]:
    """Let torch's `load_state_dict`, called inside, take a state as this library saves it.

    Args:
        optimizer: The optimizer.
        skips: Its count of updates that were left out, which becomes that of the state.
        template: The memory of what torch's distributed checkpoint was given to load into.

    Raises:
        ValueError: the state does not fit the optimizer. Nothing has been changed.
    """
    ready: dict[str, Any] = {}
    own = [dict(group) for group in optimizer.param_groups]
    found: list[Record] = []
    kept: list[list[list[str]] | None] = []

    def prepare(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
        record = Record.of(saved)
        found.append(record)
        kept.append(template.kept(saved["param_groups"], own))
        optimizer.views()  # follow their parameters
        objects = (*optimizer.objects, *SLOTS)
        with record.named():
            ready.update(
                loadable(
                    saved,
                    optimizer.param_groups,
                    optimizer._views,
                    objects,
                    optimizer._check,
                    partial(check_tensors, optimizer),
                )
            )
        return ready

    def finish(_: Any) -> None:
        groups, record = ready["param_groups"], found[-1]
        restore_dtypes(optimizer, ready)
        skips.set(record.skipped)
        optimizer._notices.loaded(groups, own)
        optimizer._notices.newer(record.unknown(groups, known_keys(own)), record.versions)
        if kept[-1] is not None:
            optimizer._notices.in_part(kept[-1], without_average(optimizer), BY_NAMES)

    # What a hook of the user makes of the state counts: ours is the last before torch loads,
    # and the first after.
    before = optimizer.register_load_state_dict_pre_hook(prepare)
    after = optimizer.register_load_state_dict_post_hook(finish, prepend=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
