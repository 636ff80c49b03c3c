"""One name means one thing in the whole source."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "steepest"


@cache
def nodes(source: Path) -> tuple[tuple[Path, ast.AST], ...]:
    """Every node of every file below a folder."""
    paths = sorted(source.rglob("*.py"))
    return tuple(
        (path, node)
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


def definitions(kind: type[ast.AST], source: Path = SRC) -> dict[str, list[str]]:
    """Where each public name of a kind is defined, however deep inside a file."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, node in nodes(source):
        if isinstance(node, kind):
            name = getattr(node, "name", "")
            if not name.startswith("_"):
                found[name].append(f"{path.relative_to(source).as_posix()}:{node.lineno}")
    return found


def twice(found: dict[str, list[str]]) -> list[str]:
    """Names that are defined more than once, each with its places."""
    return [f"{name}: {', '.join(at)}" for name, at in sorted(found.items()) if len(at) > 1]


def test_no_two_public_classes_have_one_name() -> None:
    again = twice(definitions(ast.ClassDef))
    assert not again, "call the less public one by what it is:\n" + "\n".join(again)


def test_no_two_makers_have_one_name() -> None:
    # A function with a capital is a class to its caller: `norms.Spectral()`.
    makers = {k: v for k, v in definitions(ast.FunctionDef).items() if k[0].isupper()}
    for name, places in definitions(ast.ClassDef).items():
        if name in makers:
            makers[name] += places
    again = twice(makers)
    assert not again, "call the less public one by what it is:\n" + "\n".join(again)


@pytest.mark.parametrize("first", ["class Same:", "def Same():"])
def test_a_second_definition_is_found_wherever_it_is(first: str, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(f"{first}\n    pass\n", encoding="utf-8")
    (tmp_path / "b.py").write_text(f"def f():\n    {first}\n        pass\n", encoding="utf-8")
    kind = ast.ClassDef if first.startswith("class") else ast.FunctionDef
    assert twice(definitions(kind, tmp_path)) == ["Same: a.py:1, b.py:2"]
