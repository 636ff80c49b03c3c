"""Python text by its syntax tree: take it apart, keep one branch of an `if`, find its names."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType

from steepest.apps.eject.blocks.row import Row


def definitions(module: ModuleType) -> dict[str, str]:
    """The text of the functions, classes and constants of a module, by name and in its order."""
    text = inspect.getsource(module)
    found = {}
    for node in ast.parse(text).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else node
        if isinstance(target, ast.FunctionDef | ast.ClassDef):
            found[target.name] = _lines(text, node)
        elif isinstance(target, ast.Name):
            found[target.id] = _lines(text, node)
    return found


def _lines(text: str, node: ast.stmt) -> str:
    """The lines of a statement, with its decorators and the comment above."""
    lines, decorators = text.splitlines(), getattr(node, "decorator_list", [])
    first = min([node.lineno, *(d.lineno for d in decorators)])
    while first > 1 and lines[first - 2].startswith("# "):
        first -= 1
    return "\n".join(lines[first - 1 : node.end_lineno])


def function_text(function: Callable[..., object]) -> str:
    """The text of a function."""
    return textwrap.dedent(inspect.getsource(inspect.unwrap(function))).rstrip()


def renamed(text: str, name: str) -> str:
    """A definition under another name."""
    return re.sub(r"^(def|class) \w+", rf"\1 {name}", text, count=1, flags=re.MULTILINE)


def imports(module: ModuleType) -> Iterator[tuple[str, str]]:
    """(module, name) of each import; the name is empty for the module itself."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def names(text: str) -> set[str]:
    """Every name that a text uses."""
    return {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}


def keys(text: str) -> set[str]:
    """The constants in `group["…"]`.

    Examples:
        >>> sorted(keys('a = group["lr"] * group["momentum"]'))
        ['lr', 'momentum']
    """
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "group":
            found.add(str(ast.literal_eval(node.slice)))
    return found


def folded(text: str, row: Row) -> str:
    r"""The text without its `if row.…`: of each the branch that holds for a row.

    With a condition `row.a and b` an `if b` stays, or nothing.

    Examples:
        >>> folded("if row.dual:\n    d = 1\nelse:\n    d = 2", Row(dual=False))
        'd = 2'
    """
    while asked := [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.If) and _asks(n)]:
        lines, node = text.splitlines(), asked[0]
        lines[node.lineno - 1 : node.end_lineno] = _chosen(lines, node, row)
        text = "\n".join(lines)
    return text


def _asks(node: ast.If) -> bool:
    """Whether a condition asks about the row, or begins with a question about it."""
    first = node.test.values[0] if isinstance(node.test, ast.BoolOp) else node.test
    return _about_row(first)


def _about_row(test: ast.expr) -> bool:
    return {n.id for n in ast.walk(test) if isinstance(n, ast.Name)} == {"row"}


def _chosen(lines: list[str], node: ast.If, row: Row) -> list[str]:
    """The lines in the place of an `if` about the row."""
    test, rest = node.test, ""
    if not _about_row(test):
        assert isinstance(test, ast.BoolOp), "a block asks for the row first"
        first, last = test.values[1], test.values[-1]
        rest = lines[node.lineno - 1][first.col_offset : last.end_col_offset]
        test = test.values[0]
    holds = eval(compile(ast.Expression(test), "block", "eval"), {"row": row})
    end, indent = node.body[-1].end_lineno, " " * node.col_offset
    assert end is not None
    body, others = lines[node.lineno : end], lines[end : node.end_lineno]
    if rest and holds:
        return [f"{indent}if {rest}:", *body, *others]
    if holds:
        return [line.removeprefix("    ") for line in body]
    if others and others[0].startswith(f"{indent}elif"):
        return [others[0].replace("elif", "if", 1), *others[1:]]
    return [line.removeprefix("    ") for line in others[1:]]


def with_blocks(
    text: str, stand_in: Callable[..., object], blocks: Mapping[str, Callable[..., object]]
) -> str:
    """The text with calls of blocks, one after the other, in the place of that of a stand-in.

    Args:
        text: A text in which one line calls the stand-in.
        stand_in: A function with all arguments that a block may take.
        blocks: The blocks, by their names in the text; each takes some of these arguments.
    """
    (call,) = (
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == stand_in.__name__
    )
    places = zip(inspect.signature(stand_in).parameters, call.args, strict=True)
    given = {name: ast.get_source_segment(text, argument) for name, argument in places}
    lines, place = text.splitlines(), call.lineno - 1
    start, end = lines[place][: call.col_offset], lines[place][call.end_col_offset :]
    calls = (
        f"{name}({', '.join(str(given[p]) for p in inspect.signature(block).parameters)})"
        for name, block in blocks.items()
    )
    lines[place : place + 1] = [f"{start}{each}{end}" for each in calls]
    return "\n".join(lines)


def described(text: str) -> tuple[str, list[str], dict[str, str]]:
    """Summary, formula and `Attributes:` of the docstring of a definition."""
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    summary, *sections = (ast.get_docstring(node) or "").split("\n\n")
    told = [section for section in sections if section.startswith("Attributes:")]
    pairs = (e.partition(": ") for e in re.split(r"\n    (?=\w)", "".join(told))[1:])
    entries = {key: " ".join(value.split()) for key, _, value in pairs}
    # The formatter takes away the indentation of a formula that nothing follows.
    formula = sections[0] if sections and sections[0] not in told else ""
    return summary, textwrap.dedent(formula).splitlines(), entries


def describes(text: str) -> bool:
    """Whether the docstring of a definition describes hyper-parameters."""
    return "\n    Attributes:\n" in text


def without_attributes(text: str) -> str:
    """A definition whose docstring ends before its `Attributes:`."""
    return re.sub(
        r'(?<=\.)\n\n    Attributes:\n.*?\n    """', '"""', text, count=1, flags=re.DOTALL
    )


def with_method(text: str, name: str, method: str) -> str:
    """A class with another method of a name."""
    node, lines = ast.parse(text).body[0], text.splitlines()
    assert isinstance(node, ast.ClassDef)
    (old,) = (n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return "\n".join([*lines[: old.lineno - 1], method, *lines[old.end_lineno :]])


def with_docstring(text: str, docstring: str) -> str:
    """A definition with another docstring."""
    node = ast.parse(text).body[0]
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    old, lines = node.body[0], text.splitlines()
    first, *rest = docstring.splitlines()
    new = [f'    """{first}"""']
    if rest:
        new = [f'    """{first}', *(f"    {line}".rstrip() for line in rest), '    """']
    return "\n".join([*lines[: old.lineno - 1], *new, *lines[old.end_lineno :]])
