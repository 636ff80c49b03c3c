"""The prose of docstrings, as far as a program can judge it: each text stands alone."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from griffe import Docstring, DocstringSectionKind

from tests.test_house import ROOT, SOURCES, nodes, of_every_file

# What begins with one of these is not a sentence of its own: "of its group." says nothing under a
# heading `lr`, and a page of the documentation shows the name and the text apart.
PREPOSITIONS = """
    about above across after against along among around at before behind below beneath beside
    between beyond by despite during for from in inside into of on onto outside over per since
    through to towards under until upon via with within without
"""
# "How many they are" and "whether to raise" stand alone: no `how`, no `whether`.
RELATIVE = """
    and as because but if or than that unless what when where whereas whereby which while who whom
    whose why
"""
POINTERS = "ditto likewise see"
LEANING = frozenset(f"{PREPOSITIONS} {RELATIVE} {POINTERS}".split())

ENTRIES = {
    DocstringSectionKind.parameters,
    DocstringSectionKind.other_parameters,
    DocstringSectionKind.attributes,
}
TOOLS = sorted((ROOT / "tools").rglob("*.py"))


def leans(text: str) -> bool:
    """Whether a text needs something before it."""
    words = text.split(maxsplit=1)
    return not words or words[0].rstrip(".,:;").lower() in LEANING


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of everything under `Args:` and `Attributes:`."""
    for section in Docstring(docstring).parse("google", warnings=False):
        if section.kind in ENTRIES:
            yield from ((item.name, item.description) for item in section.value)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring of a file, those of constants and of fields too."""
    for value in (node.value for node in nodes(path) if isinstance(node, ast.Expr)):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.lineno, inspect.cleandoc(value.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("of its group.", True),
        ("whose gradient it sees.", True),
        ("at most min(m, n).", True),
        ("likewise.", True),
        ("What a norm is.", True),
        ("the parameter group.", False),
        ("whether to raise.", False),
        ("How many they are.", False),
        ("None for a vector.", False),
        ("`of` and what it does.", False),
        ("in-place updates.", False),
    ],
)
def test_what_leans_on_the_name_before_it_is_found(text: str, expected: bool) -> None:
    docstring = f"{text}\n\nArgs:\n    x (int): {text}\n        More.\n\nReturns:\n    of: it."
    assert leans(text) == expected
    assert [(name, leans(said)) for name, said in entries(docstring)] == [("x", expected)]


@of_every_file([*SOURCES, *TOOLS])
def test_an_entry_stands_without_its_name(path: Path) -> None:
    wrong = [
        f"line {line}: {name}: {text.partition(chr(10))[0]}"
        for line, docstring in docstrings(path)
        for name, text in entries(docstring)
        if leans(text)
    ]
    assert not wrong, "begin with a noun:\n  " + "\n  ".join(wrong)


@of_every_file([*SOURCES, *TOOLS])
def test_a_summary_stands_alone(path: Path) -> None:
    wrong = [
        f"line {line}: {text.partition(chr(10))[0]}"
        for line, text in docstrings(path)
        if leans(text)
    ]
    assert not wrong, "begin with a verb or with a noun:\n  " + "\n  ".join(wrong)


UNIT = r"(?:step|token|cell|claim|round|head|parameter|evaluation|optimizer|block|expert|layer)"
RELATION = r"(?:of|in|for|to|by|that|which|than|with|per|a|an|on|as|if|when|from|at|is|are)\b"
VERB = "is|has|takes|holds|moves|needs|shares|consists|says"
NOUN = (
    r"(?:matri(?:x|ces)|number|module|text|scalar|tensor|norm|direction|device|collective|folder"
    r"|head|method|error)"
)
# Each was found where a native reader stumbled: a distributive "a" for "per", "training" as a thing
# that can be counted, and words that name a cost or a person where a number or a rank is meant.
FOREIGN = re.compile(
    r"\b[Tt]rainings\b"
    r"|\b[Aa] training\b(?! (?:run|step|text|batch|command|loop|script|loss|example))"
    r"|\bnats a \w+|\ba (?:line|panel|row|bar|point|column) an? \w+"
    r"|\bone an? (?:core|trial)\b"
    # "One per step", "a finished run per seed"; not "numbers of a layer", "once a step is over".
    r"|\b(?:[Oo]ne|once|(?:object|second|token|number|row|matri(?:x|ces)|norm|divisor|activation)s?"
    rf"|tenfold|flops|[Tt]ime)(?:\s+(?!{RELATION})\w+)?\s+an?\s+{UNIT}\b(?! \*?(?:{VERB}))"
    r"|\bthem a second\b"
    # German's "kein": "is not a matrix". "There is no matrix" is English.
    rf"|\b(?!there\b)\w+[)}}'\"`]*\s+(?:is|are)\s+no\s+(?:(?:whole|positive|finite|UTF-8)\s)?{NOUN}\b"
    r"|\bdearest\b|\bwhoever\b|\bfullest\b|\bno place to stay\b"
)
# `trainings` is also the name of a function.
NAMES = re.compile(r"\btrainings\(|import trainings|^ +trainings,$|in trainings\b", re.MULTILINE)
PROSE = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md")), *SOURCES, *TOOLS]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nats a character", True),
        ("What a training has done", True),
        ("a line a width", True),
        ("one a core", True),
        ("one object a claim, with id", True),
        ("seconds a cell", True),
        ("the optimizer, time a step", True),
        ("4,096 tokens a step, on the mesh", True),
        ("divisors, one a step", True),
        ("numbers a token that go to experts", True),
        ("6 flops a parameter and token", True),
        ("sums of activations a\n    block", True),
        ("one number a round", True),
        ("run once a round", True),
        ("one an optimizer, means", True),
        ("one row an evaluation", True),
        ("one matrix a head", True),
        ("grows tenfold a step", True),
        ("how many of them a second", True),
        ("'x' is no number", True),
        ("a parameter that is no\nmatrix", True),
        ("k is no whole number", True),
        ("tokens per step", False),
        ("the seconds of a step", False),
        ("which matrices a parameter is", False),
        ("one that a step leaves", False),
        ("which number a token has", False),
        ("there is no matrix", False),
        ("where there\n    is no matrix", False),
        ("it is no longer a matrix", False),
        ("is not a number", False),
        ("a training run", False),
        ("nats per character", False),
    ],
)
def test_what_no_native_would_write_is_found(text: str, expected: bool) -> None:
    assert bool(FOREIGN.search(text)) == expected


@pytest.mark.parametrize("path", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_english(path: Path) -> None:
    if path == Path(__file__):
        return
    text = NAMES.sub("", path.read_text(encoding="utf-8"))
    found = [f"line {text[: m.start()].count(chr(10)) + 1}: {m[0]}" for m in FOREIGN.finditer(text)]
    assert not found
