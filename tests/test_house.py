"""The rules of the house, as far as a program can read them off the sources."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import steepest
from tests.layers import LAYERS
from tools.release_check import disagreements, project

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "steepest"
SOURCES = sorted(SRC.rglob("*.py"))
PYTHON = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
MAX_FILE = 400
MAX_FUNCTION = 60

LEVEL = {name: level for level, row in enumerate(LAYERS) for name in row}

# Folders of apps/: layers of their own above the library, and whom each may know.
APPLICATIONS = {
    "train": {"train"},
    "reproduce": {"reproduce", "train"},
    "gallery": {"gallery", "train"},
    "diagnose": {"diagnose", "train"},
    "bench": {"bench", "reproduce", "train"},
    "eject": {"eject"},
    "compare": {"bench", "compare", "reproduce", "train"},
    "plan": {"plan"},
}

# What applications may import from: the library's public paths, and what every command shares.
PUBLIC_PATHS = {
    "steepest.optim",
    "steepest.transforms",
    "steepest.retractions",
    "steepest",
    "steepest.diagnostics",
    "steepest.sharding",
    "steepest.maps",
    "steepest.norms",
    "steepest.polar",
}
SHARED_PATHS = {
    *(f"steepest._common.{n}" for n in ("archives", "cpuinfo", "errors", "files")),
    *(f"steepest._common.{n}" for n in ("lazy", "norm_names", "records", "tensorboard", "text")),
    *(f"steepest.apps.{n}" for n in ("_console", "_figures", "_flags", "_folder", "_machine")),
    *(f"steepest.apps.{n}" for n in ("_process", "_terminal")),
}

# (module, imported name): why the import is not at the top of the file.
LATE_IMPORTS = {
    (
        "sharding.layout",
        "torch.distributed.tensor",
    ): "as heavy as torch, and who has DTensors has it",
    (
        "sharding.reductions",
        "torch.distributed.tensor",
    ): "as heavy as torch, and who has DTensors has it",
    (
        "apps.cli",
        "steepest.apps.app",
    ): "cli first looks whether the packages of the extra are there",
    (
        "apps.train.checkpoint",
        "steepest.apps.train.parallel.sharded_checkpoint",
    ): "DCP takes a second to import; one process needs none",
    (
        "apps.train.trial",
        "steepest.apps.train.parallel.placement",
    ): "FSDP takes long to import; one process needs none",
    (
        "optim.from_torch",
        "steepest.optim.torch_checkpoint",
    ): "DCP takes a second to import; who has checkpoints of it has it",
    (
        "diagnostics.monitor.monitor",
        "steepest._common.tensorboard",
    ): "TensorBoard is an extra, and heavy",
}

# Functions that are longer than MAX_FUNCTION, and why they are one piece.
LONG_FUNCTIONS: dict[str, str] = {}


def module_name(path: Path) -> str:
    """`polar.exact` for src/steepest/polar/exact.py; a package is its folder, the root is empty."""
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    """Everything in the syntax tree of a file."""
    return tuple(ast.walk(tree(path)))


def imported(node: ast.AST) -> Iterator[str]:
    """Modules that an import names; `from a import b` gives a.b where that is a module."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if is_module(inner) else node.module


def is_module(dotted: str) -> bool:
    """Whether a dotted name is a file or a folder of the package."""
    base = SRC.parent.joinpath(*dotted.split("."))
    return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()


def own_imports(path: Path) -> set[str]:
    """Modules of the package that a file imports, anywhere in it, without the `steepest.`."""
    names = {name for node in nodes(path) for name in imported(node)}
    own = {name for name in names if name.split(".")[0] == "steepest"}
    return {name.removeprefix("steepest").removeprefix(".") for name in own}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def short(path: Path) -> str:
    """A test id: the path inside the checkout."""
    return path.relative_to(ROOT).as_posix()


def application(name: str) -> str | None:
    """The application that a module belongs to."""
    home, _, inner = name.partition(".")
    first = inner.split(".")[0]
    return first if home == "apps" and first in APPLICATIONS else None


LIBRARY = [p for p in SOURCES if not application(module_name(p))]


def of_every_file(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a check of a file; it names every file that fails."""

    def decorate(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            wrong = []
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    wrong.append(f"{short(path)}: {error}")
            assert not wrong, "\n".join(wrong)

        return test

    return decorate


@of_every_file(LIBRARY)
def test_imports_point_downwards(path: Path) -> None:
    name = module_name(path)
    assert name in LEVEL, f"give {name} its row in LAYERS of tests/layers.py"
    for other in own_imports(path):
        assert not application(other), f"{name} imports {other}, which is above it"
        assert LEVEL[other] < LEVEL[name], f"{name} imports {other}, which is not below it"


@of_every_file([p for p in SOURCES if application(module_name(p))])
def test_applications_use_public_paths_only(path: Path) -> None:
    name = module_name(path)
    allowed = PUBLIC_PATHS | SHARED_PATHS
    for other in own_imports(path):
        dotted = f"steepest.{other}".rstrip(".")
        assert dotted in allowed or application(other) in APPLICATIONS[application(name) or ""], (
            f"{name} imports {dotted}; the library's public paths are {PUBLIC_PATHS}"
        )


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_have_no_cycle(name: str) -> None:
    graph = {module_name(p): own_imports(p) for p in SOURCES if application(module_name(p)) == name}
    assert graph
    TopologicalSorter(graph).prepare()  # raises CycleError and names the circle


@of_every_file(SOURCES)
def test_imports_stand_at_the_top(path: Path) -> None:
    late = {
        (module_name(path), name)
        for function in functions(path)
        for node in ast.walk(function)
        for name in imported(node)
    }
    assert late <= LATE_IMPORTS.keys(), "import at the top, or state the reason in LATE_IMPORTS"


@of_every_file(PYTHON)
def test_files_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE, f"{lines} lines: split it along the mathematics"


@of_every_file(PYTHON)
def test_functions_are_short(path: Path) -> None:
    for function in functions(path):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        known = f"{short(path)}:{function.name}" in LONG_FUNCTIONS
        assert lines <= MAX_FUNCTION or known, f"{function.name} has {lines} lines"


def test_exceptions_to_the_rules_are_still_needed() -> None:
    lengths = {
        f"{short(p)}:{f.name}": (f.end_lineno or 0) - f.lineno + 1
        for p in PYTHON
        for f in functions(p)
    }
    assert all(lengths.get(name, 0) > MAX_FUNCTION for name in LONG_FUNCTIONS)
    names = {
        (module_name(p), name)
        for p in SOURCES
        for f in functions(p)
        for node in ast.walk(f)
        for name in imported(node)
    }
    assert names >= LATE_IMPORTS.keys()
    modules = {module_name(p) for p in SOURCES}
    assert LEVEL.keys() <= modules, f"LAYERS names {sorted(LEVEL.keys() - modules)}, which are gone"


@of_every_file(SOURCES)
def test_names_are_exported_one_by_one(path: Path) -> None:
    package = path.name == "__init__.py"
    for node in tree(path).body:
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)
            if package and node.module != "__future__":
                assert all(a.asname is not None for a in node.names), "write `import x as x`"
        if isinstance(node, ast.Assign):
            targets = {t.id for t in node.targets if isinstance(t, ast.Name)}
            assert "__all__" not in targets, "the re-exports are the list"
        if package:
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef), "a package only re-exports"


@of_every_file(SOURCES)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "begin with a docstring"
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


@of_every_file(PYTHON)
def test_checkpoints_are_loaded_as_data(path: Path) -> None:
    for node in nodes(path):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", f"line {node.lineno}"


GLOBALS = """
import sys, warnings
import torch
def state():
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(),
        torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32,
        torch.backends.mkldnn.enabled, torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(), torch.get_rng_state().tolist(), list(warnings.filters),
    )
before, known = state(), set(sys.modules)
import steepest
for name in dir(steepest):
    getattr(steepest, name)
assert state() == before, "importing steepest changes torch"
roots, old = ({name.split(".")[0] for name in names} for names in (sys.modules, known))
print(*sorted(roots - old - set(sys.stdlib_module_names)))
"""


def test_import_is_light_and_changes_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GLOBALS], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    found = set(done.stdout.split())
    assert "steepest" in found
    assert found <= {"steepest", "jaxtyping", "wadler_lindig", "numpy"}, (
        "imported along with steepest"
    )


def test_the_version_is_written_the_same_everywhere() -> None:
    version = project()["version"]
    assert metadata.version("steepest") == steepest.__version__ == version
    assert not disagreements()


def test_the_only_requirements_are_torch_and_jaxtyping() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", r)[0] for r in project["dependencies"]]
    assert names == ["torch", "jaxtyping"]


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [r for rows in project["optional-dependencies"].values() for r in rows]
    wanted = {re.split(r"[^\w-]", r)[0].lower() for r in [*project["dependencies"], *extras]}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==")[0].lower() for line in lines if not line.startswith("#")]
    assert wanted <= set(pins), f"without a pin in constraints.txt: {sorted(wanted - set(pins))}"


def tracked() -> list[Path]:
    """The files of the checkout; nothing outside of one (an unpacked sdist)."""
    if not (ROOT / ".git").exists():
        return []
    out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in out.stdout.decode().split("\0") if name]


def test_the_tree_stands_alone() -> None:
    # Written in two pieces, or this file would find itself.
    outside = re.compile(
        "|".join(["\\.\\./" + "shared", "/wor" + "k/", "/ro" + "ot/", "/ho" + "me/", "/tm" + "p/"])
    )
    for path in tracked():
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            found = outside.search(text)
            assert not found, f"{short(path)} names {found.group()!r}, a place outside the checkout"


def public(package: str) -> dict[str, object]:
    """What a package offers: names without an underscore, for objects made in this library."""
    module = importlib.import_module(package)
    return {
        f"{package}.{name}": value
        for name, value in ((name, getattr(module, name)) for name in dir(module))
        if not name.startswith("_")
        and not isinstance(value, ModuleType)
        and re.match(r"steepest(\.[a-z]|$)", getattr(value, "__module__", "steepest"))
    }


PUBLIC = {
    k: v
    for name in (
        *("", ".apps.plan", ".diagnostics", ".maps", ".modular_norm", ".norms", ".optim", ".polar"),
        *(".routing", ".testing", ".views"),
    )
    for k, v in public("steepest" + name).items()
}


def test_type_checkers_and_the_program_see_the_same_names() -> None:
    (block,) = (n for n in tree(SRC / "__init__.py").body if isinstance(n, ast.If))
    seen = {
        alias.name: getattr(importlib.import_module(node.module or ""), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = {name for name in dir(steepest) if not name.startswith("_")}
    assert names >= seen.keys()
    assert names - seen.keys() <= {"apps", "jaxtyping"}, "one is imported, one is of these tests"
    assert all(getattr(steepest, name) is value for name, value in seen.items())
    with pytest.raises(AttributeError, match="'steepest' has no attribute 'Mouon'"):
        _ = steepest.Mouon  # type: ignore[attr-defined]
