"""Text of strangers on a terminal, in a picture and on a page: it is shown, and does nothing."""

from __future__ import annotations

import io
import sys
import unicodedata
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from rich.table import Table
from torch import nn
from typer.testing import CliRunner, Result

from steepest._common.text import printable, table
from steepest.apps import _figures
from steepest.apps._console import PlainColumn, Terminal
from steepest.apps._terminal import fail, say
from steepest.apps.app import app
from steepest.apps.diagnose.page import Item, Page, Panel, Section, render
from steepest.apps.diagnose.page import Table as PageTable
from steepest.apps.plan import plan
from tests.planted import ACTING, HOSTILE, quiet

EVERY = [chr(i) for i in (*range(0x30000), *range(0xE0000, 0xE0200))]
NAME = HOSTILE.replace("\ud800", "").replace("/", "∕")
"""As much of it as the name of a file may have."""


def call(*arguments: object) -> Result:
    given = [str(a) for a in arguments]
    return CliRunner().invoke(app, given, env={"COLUMNS": "200"}, catch_exceptions=False)


def test_nothing_unseen_is_left_of_any_character() -> None:
    shown = [printable(c) for c in EVERY]
    kept = {a for a, b in zip(EVERY, shown, strict=True) if a == b}
    unseen = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert {c for c in EVERY if unicodedata.category(c) in unseen} - kept == set(EVERY) - kept
    assert {c for c in kept if unicodedata.category(c) in unseen} == {"\u200c", "\u200d"}
    assert all(s.isascii() and s.startswith("\\") for s in shown if s not in kept)
    assert all(eval(f"'{s}'") == c for c, s in zip(EVERY, shown, strict=True) if c != s)


def test_words_stay_as_they_are() -> None:
    for text in ("blocks.0.attn", "‖W‖ × 3", "日本語", "عربى", "e\u0301", "a\u00a0b", "👩\u200d🔬"):
        assert printable(text) == text
    assert printable("a\nb\tc", keep="\n") == "a\nb\\tc"
    assert printable(printable(HOSTILE)) == printable(HOSTILE)


def on_terminal(print_on: Any) -> str:
    stream = io.StringIO()
    print_on(Terminal(file=stream, force_terminal=True, width=2000, color_system="truecolor"))
    return stream.getvalue()


def in_table(text: str) -> Any:
    def print_on(console: Console) -> None:
        rows = Table(title=text, caption=text)
        rows.add_column(text)
        rows.add_row(text)
        console.print(rows)

    return print_on


def in_bar(text: str) -> Any:
    from rich.progress import Progress

    def print_on(console: Console) -> None:
        with Progress(PlainColumn("{task.description}"), console=console) as bar:
            bar.add_task(text, total=2)

    return print_on


@pytest.mark.parametrize("place", [in_table, in_bar, lambda text: lambda c: say(c, text)])
def test_a_console_shows_hostile_text_as_if_it_had_been_escaped(place: Any) -> None:
    """Its own codes, of colours and of the bar, are the same for both."""
    assert on_terminal(place(HOSTILE)) == on_terminal(place(printable(HOSTILE)))
    assert "[bold red][link=http://evil.test]a[/link][/red]:smile:" in on_terminal(place(HOSTILE))


def test_any_console_is_safe_for_lines() -> None:
    stream = io.StringIO()
    say(Console(file=stream, width=20), f"a\nsteepest: error: b{HOSTILE}", "", "c")
    first, second, third = stream.getvalue().splitlines()
    assert first == printable(f"a\nsteepest: error: b{HOSTILE}") and (second, third) == ("", "c")


def test_an_error_is_one_safe_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(fail(f"a\n\u2028b{HOSTILE}"), typer.Exit)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and quiet(shown) and shown.startswith("steepest: error: a b")


def test_a_table_is_as_wide_as_what_is_shown() -> None:
    first, second = table(("a", "b"), [(HOSTILE, "x")], left={"a"}).split("\n")
    assert quiet(second) and len(first) == len(second) == len(printable(HOSTILE)) + 3


COMMANDS = {
    "a name of a file": ("train", "--data", f"/nowhere/{NAME}"),
    "a folder": ("train", "--resume", NAME),
    "an optimizer": ("train", "--optimizer", NAME),
    "a norm": ("train", "--norm", NAME),
    "a run": ("diagnose", NAME),
    "two runs": ("diagnose", f"{NAME}1", f"{NAME}2"),
    "a page": ("diagnose", ".", "--out", f"{NAME}/page.html"),
    "a row": ("compare", "--optimizer", NAME),
    "a set": ("bench", "--set", NAME),
    "a table": ("bench", "--table", NAME),
    "a picture": ("gallery", "--only", NAME),
    "a model": ("plan", "--model", NAME),
    "a constant": ("plan", "--set", NAME),
    "a mesh": ("plan", "--mesh", NAME),
    "a reproduction": ("reproduce", NAME),
    "a name": ("eject", NAME),
    "a command": (NAME,),
    "a flag": ("train", f"--{NAME}"),
    "a word": ("train", NAME),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_each_command_refuses_a_hostile_argument_quietly(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*COMMANDS[kind])
    assert result.exit_code != 0
    assert len(result.stderr.splitlines()) == 1 and quiet(result.output)


def test_eject_names_its_file_quietly(tmp_path: Path) -> None:
    result = call("eject", "sgd", "--out", tmp_path / f"{NAME}.py")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / f"{NAME}.py").is_file() and quiet(result.output)


def test_the_errors_of_peers_are_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from steepest.apps.bench import execute
    from steepest.apps.bench.contenders import Contender
    from tests.apps.bench.tiny import TINY

    def start(*_: Any) -> Any:
        raise RuntimeError(HOSTILE)

    rows = [Contender(name="peer", note="", start=start), execute.contenders.methods(None)[0]]
    monkeypatch.setattr(execute.BenchPlan, "contenders", lambda *_: rows[::-1])
    stream = io.StringIO()
    console = Terminal(file=stream, width=300)
    execute.execute(
        execute.BenchPlan(sets=[TINY], benches=["steps"], rounds=1), tmp_path / "out", console
    )
    assert printable(HOSTILE)[:40] in stream.getvalue() and quiet(stream.getvalue())


def test_a_module_has_a_safe_name_in_its_plan() -> None:
    kind: Any = type(NAME, (nn.Sequential,), {})
    found = plan(kind(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), devices=8)
    assert quiet(str(found)) and "\\x1b" in str(found)


@pytest.mark.parametrize("name", [HOSTILE, "$", "$$", r"\$x$", "$x$", r"$\frac$", "_x", "a\nb"])
def test_a_name_in_a_picture_is_no_formula(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.text import Text

    drawn: list[tuple[str, bool]] = []
    real = Text._preprocess_math

    def seen(self: Text, text: str) -> Any:
        result = real(self, text)
        drawn.append(result)
        return result

    with _figures.plot_style(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of glyphs that a font has not
        figure = _figures.new_figure(4)
        axes = figure.subplots()
        axes.loglog([1, 10, 100], [1, 2, 3], label=name)
        axes.set_title(name)
        axes.set_xlabel(name)
        axes.set_yticks([1, 2], [name, "b"])
        axes.annotate(name, (10, 2))
        axes.legend(title=name)
        figure.suptitle(name)
        monkeypatch.setattr(Text, "_preprocess_math", seen)
        assert _figures.png(figure).startswith(b"\x89PNG")
        once = len(drawn)
        assert _figures.png(figure).startswith(b"\x89PNG")
    formulas = {text for text, math in drawn if math}
    assert formulas and all("mathdefault" in text for text in formulas), "powers of ten stay"
    plain = {text for text, _ in drawn[:once]} - formulas
    assert quiet("".join(plain))
    expected = printable(name, keep="\n").replace(r"\$", "$")
    assert {*expected.split("\n")} & {line for text in plain for line in text.split("\n")}


def test_a_page_shows_marks_of_direction() -> None:
    part = Panel(title=HOSTILE, tables=[PageTable(title="t", headings=["h"], rows=[[HOSTILE]])])
    page = Page(
        title=HOSTILE,
        line=HOSTILE,
        head=[(HOSTILE, HOSTILE)],
        findings=[Item(subject=HOSTILE, what=HOSTILE)],
        remarks=[HOSTILE],
        sections=[Section(title=HOSTILE, line="", facts=[], parts=[part])],
        note=HOSTILE,
    )
    content = render(page).decode()
    assert quiet(content) and "<script>alert" not in content and "{{7*7}}" in content


def test_a_program_does_the_same_in_a_shell(tmp_path: Path) -> None:
    """Outside of any runner, bytes that are no UTF-8 among them."""
    import subprocess

    name = f"{NAME}".encode() + b"\xff"
    command = [sys.executable.encode(), b"-m", b"steepest", b"diagnose", name]
    done = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    assert not [c for c in ACTING if c.encode(errors="replace") in done.stderr if c != "\ud800"]
    assert b"\\udcff" in done.stderr
