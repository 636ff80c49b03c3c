"""The loading of a saved state: checked before torch takes it, and mended after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from steepest.optim.choices import SLOTS
from steepest.optim.group_keys import known_keys
from steepest.optim.routed import RoutedOptimizer
from steepest.optim.skips import Record, SkipCount
from steepest.optim.state import loadable, restore_dtypes
from steepest.optim.state_tensors import check_tensors


@contextmanager
def loading(optimizer: RoutedOptimizer, skips: SkipCount) -> Iterator[None]:
    """Let torch's `load_state_dict`, called inside, take a state as this library saves it.

    Args:
        optimizer: The optimizer.
        skips: Its count of updates that were left out, which becomes that of the state.

    Raises:
        ValueError: the state does not fit the optimizer. Nothing has been changed.
    """
    ready: dict[str, Any] = {}
    own = [dict(group) for group in optimizer.param_groups]
    found: list[Record] = []

    def prepare(_: Any, saved: dict[str, Any]) -> dict[str, Any]:
        record = Record.of(saved)
        found.append(record)
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

    # What a hook of the user makes of the state counts: ours is the last before torch loads,
    # and the first after.
    before = optimizer.register_load_state_dict_pre_hook(prepare)
    after = optimizer.register_load_state_dict_post_hook(finish, prepend=True)
    try:
        yield
    finally:
        before.remove()
        after.remove()
