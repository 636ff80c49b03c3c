"""The console that every command prints on: what it is given stands there as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import TextColumn
from rich.segment import Segment

from steepest._common.text import printable


class Terminal(Console):
    """A console for other people's text: names of layers, files and runs, errors of other packages.

    Nothing in it is markup, and characters that would do something to a terminal are shown as
    escapes, wherever they stand: in a line, a cell or title of a table, or a bar.

    Args:
        settings: the arguments of rich's `Console`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of text that rich makes of an object; its own control codes stay."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=printable(piece.text, keep="\n"))


def text_column(text: str) -> TextColumn:
    """A column of a bar with text that may be other people's.

    Args:
        text: the format of it, such as "{task.description}".
    """
    return TextColumn(text, markup=False)
