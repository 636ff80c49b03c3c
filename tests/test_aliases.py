"""Type aliases in public signatures: each is offered where users import from, and explained."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parent.parent / "src" / "steepest"
# Packages whose names users import; each offers the aliases that its signatures name.
PACKAGES = ("maps", "modular_norm", "norms", "optim", "polar", "routing")


def is_alias(node: ast.stmt) -> bool:
    """Whether a statement names a type: `Scale = Literal[…]`, `Params: TypeAlias = …`."""
    if isinstance(node, ast.AnnAssign):
        return "TypeAlias" in ast.unparse(node.annotation)
    if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
        return False
    name, value = node.targets[0].id, ast.unparse(node.value)
    types = r"(Literal|tuple|dict|Mapping|Sequence|Callable|Iterable)\[|[\w.]+ \| "
    return bool(re.fullmatch(r"[A-Z][a-z]\w*", name) and re.match(types, value))


def aliases(path: Path) -> dict[str, str | None]:
    """The aliases of a file, with the text below each."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found: dict[str, str | None] = {}
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if is_alias(node):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            found[target.id] = after.value.value if said else None
    return found


def annotations(package: str) -> Iterator[tuple[str, set[str]]]:
    """Names in the annotations of what a package offers: of functions, and of public methods."""
    module = importlib.import_module(f"steepest.{package}")
    offered = {
        id(v)
        for k, v in vars(module).items()
        if not k.startswith("_") and (isinstance(v, type) or callable(v))
    }
    for path in sorted((SRC / package).glob("*.py")):
        home = importlib.import_module(f"steepest.{package}.{path.stem}")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            if id(getattr(home, node.name, None)) not in offered:
                continue
            members = node.body if isinstance(node, ast.ClassDef) else [node]
            for member in members:
                if isinstance(member, ast.AnnAssign):
                    yield path.stem, _names(member.annotation)
                shown = isinstance(member, ast.FunctionDef) and (
                    not member.name.startswith("_") or member.name == "__init__"
                )
                if shown:
                    parameters = [
                        *member.args.posonlyargs,
                        *member.args.args,
                        *member.args.kwonlyargs,
                        *filter(None, (member.args.kwarg,)),
                    ]
                    each = [p.annotation for p in parameters] + [member.returns]
                    for annotation in filter(None, each):
                        yield path.stem, _names(annotation)


def _names(annotation: ast.expr) -> set[str]:
    return {n.id for n in ast.walk(annotation) if isinstance(n, ast.Name)}


EVERY = {
    name: (path, text)
    for package in PACKAGES
    for path in sorted((SRC / package).glob("*.py"))
    for name, text in aliases(path).items()
}


@pytest.mark.parametrize("package", PACKAGES)
def test_an_alias_in_a_public_signature_is_offered_and_explained(package: str) -> None:
    used = {name for _, names in annotations(package) for name in names} & EVERY.keys()
    wrong = [f"{name} has no docstring below it" for name in sorted(used) if not EVERY[name][1]]
    for name in sorted(used):
        home = EVERY[name][0].parent.name
        module = importlib.import_module(f"steepest.{home}")
        if not hasattr(module, name):
            wrong.append(f"steepest.{home} does not offer {name}")
    assert not wrong, "\n".join(wrong)


def test_aliases_are_found() -> None:
    used = {name for _, names in annotations("optim") for name in names} & EVERY.keys()
    assert {"Params", "Scale", "Sharpness", "ShapeRule", "Decay", "NonFinite"} <= used
    assert all(len(text.split()) > 4 for _, text in EVERY.values() if text)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('Scale = Literal["unit"]\n"""Length of a step."""', {"Scale": "Length of a step."}),
        ("Loss = float | Tensor", {"Loss": None}),
        ("Key: TypeAlias = str | int\nx = 1", {"Key": None}),
        ("LR = 3.0\nROW = PRESETS['Muon']\nNames = ['a']", {}),
    ],
)
def test_what_an_alias_is(code: str, expected: dict[str, str | None], tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(code, encoding="utf-8")
    assert aliases(path) == expected
