"""The objects of parameter groups: the groups hold their text, the optimizer holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from steepest.optim.options import Group

SPARE = 64
"""The number of objects that no group names any more and that are still known by their text."""


class GroupObjects:
    """The norms, maps and polar methods that the groups of an optimizer name by their text.

    With text in their place a group is plain data, which every framework can copy, show and save.
    An object may be written into a group at any time; it is known by its text from then on, also
    after others have taken its place, as long as those are not too many.

    Args:
        keys: The keys of a group whose values are objects.
    """

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._by_text: dict[str, object] = {}

    def opened(self, group: Group) -> Group:
        """A copy of a group with objects in the place of their text; unknown text stays."""
        found = cast(dict[str, Any], dict(group))
        for key in self._keys:
            if isinstance(found.get(key), str):
                found[key] = self._by_text.get(found[key], found[key])
        return cast(Group, found)

    def close(self, group: Group) -> None:
        """Put the text of its objects into a group; None stays."""
        held = cast(dict[str, Any], group)
        for key in self._keys:
            if held.get(key) is not None and not isinstance(held[key], str):
                held[key] = self._text(held[key])

    def forget(self, groups: Iterable[Mapping[str, Any]]) -> None:
        """Let go of the oldest objects that no group names, if they are many.

        A schedule may write a new method into a group before every step.
        """
        if len(self._by_text) > SPARE:
            named = {group.get(key) for group in groups for key in self._keys}
            loose = [text for text in self._by_text if text not in named]
            for text in loose[:-SPARE]:
                del self._by_text[text]

    def _text(self, value: object) -> str:
        """The text of an object, by which it is found again; numbered if another one has it."""
        text, number = repr(value), 1
        while (other := self._by_text.setdefault(text, value)) is not value and other != value:
            number += 1
            text = f"{value!r} #{number}"
        return text
