"""The page: one HTML file that holds all it shows and asks nothing of any other place."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from steepest._common.text import printable
from steepest.apps.diagnose.pictures import Picture


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that opens on demand.

    Args:
        title: a name for what is in it.
        headings: the headings of the columns.
        rows: cells as text.
        words: the number of columns, from the left, that hold words; figures stand to the right.
        unfolded: whether it is shown at once.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    unfolded: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One thing to look at.

    Args:
        title: a name for it.
        text: paragraphs on how to read it, and on what it says here.
        picture: the picture of it.
        points: sentences that stand in a list.
        tables: the figures behind it.
        missing: the reason why there is nothing, and how to get it; empty if there is something.
    """

    title: str
    text: Sequence[str] = ()
    picture: Picture | None = None
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """All about one subject.

    Args:
        title: its name.
        line: the subject in one line.
        facts: label and value of the figures that matter most.
        parts: the panels to look at.
        summary: the figures in a few sentences.
    """

    title: str
    line: str
    facts: Sequence[tuple[str, str]]
    parts: Sequence[Panel]
    summary: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One finding as the page lists it.

    Args:
        subject: the run that it is about; empty where there is one.
        what: the matter.
        confidence: how sure that is; empty where nothing is to be changed.
        why: the reason for the confidence.
        advice: the change to make, or the reason why there is none.
        change: whether there is something to change.
        link: the anchor of its evidence; empty without one.
    """

    subject: str
    what: str
    confidence: str = ""
    why: str = ""
    advice: str = ""
    change: bool = True
    link: str = ""

    @property
    def label(self) -> str:
        """The words before the advice."""
        return "What to change" if self.change else "Nothing to change"


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page.

    Args:
        title: the model and its optimizers.
        line: a line on what has been diagnosed.
        head: label and text of what made the page: date, machine, text, command, versions.
        findings: the changes to make, most important first.
        remarks: the things that could not be judged.
        sections: one for each subject.
        note: a line on what made the page.
    """

    title: str
    line: str
    head: Sequence[tuple[str, str]]
    findings: Sequence[Item]
    remarks: Sequence[str]
    sections: Sequence[Section]
    note: str

    @property
    def pictures(self) -> int:
        """The number of pictures."""
        return sum(p.picture is not None for s in self.sections for p in s.parts)


def data_uri(content: bytes) -> str:
    """A PNG as an address that holds it.

    Examples:
        >>> data_uri(b"png")
        'data:image/png;base64,cG5n'
    """
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _shown(value: object) -> object:
    return printable(value, keep="\n") if isinstance(value, str) else value


@cache
def _template() -> Template:
    # Names of layers, runs and files are other people's text: everything is escaped, and marks
    # that would turn the direction of a line are shown.
    environment = Environment(
        loader=PackageLoader("steepest.apps.diagnose"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment.get_template("page.html")


def render(page: Page) -> bytes:
    """The page as HTML in UTF-8.

    A policy in its head forbids every request and every script, so that it shows the same wherever
    it is opened.
    """
    return _template().render(page=page).encode()
