"""The console that every command prints on: what it is given stands there as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import Task, TextColumn
from rich.segment import Segment
from rich.text import Text

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

    def render_str(self, text: str, **settings: Any) -> Text:
        """A text as rich lays it out, with escapes that are as wide as they are shown."""
        return super().render_str(printable(text, keep="\n"), **settings)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The pieces of text that rich makes of an object; its own control codes stay."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else piece._replace(text=printable(piece.text, keep="\n"))


class PlainColumn(TextColumn):
    """A column of a bar with text that may be other people's, such as "{task.description}"."""

    def render(self, task: Task) -> Text:
        """The text for a task."""
        return Text(printable(self.text_format.format(task=task)))
