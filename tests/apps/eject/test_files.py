"""Ejected files as files: what they import, how they are formatted, how long they are."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import steepest
from steepest.apps.eject.command import DTYPES, NAMES, POLARS
from steepest.apps.eject.start import text
from steepest.optim import PRESETS

ROOT = Path(__file__).resolve().parents[3]
OPTIONS = [{"polar": polar, "dtype": dtype} for polar in POLARS for dtype in DTYPES]
FILES = {
    **{name: text(name) for name in PRESETS},
    **{f"Muon, {o['polar']} in {o['dtype']}": text("Muon", **o) for o in OPTIONS},
    "Scion, error 0.01": text("Scion", error=0.01),
}


def test_every_row_of_the_table_can_be_ejected() -> None:
    assert tuple(name.lower() for name in PRESETS) == NAMES


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_it_imports_torch_and_python_alone(content: str) -> None:
    found = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            found.add(str(node.module).partition(".")[0])
    assert "torch" in found
    assert found <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_it_is_one_class_with_its_origin(content: str) -> None:
    tree = ast.parse(content)
    (kind,) = (node for node in tree.body if isinstance(node, ast.ClassDef))
    preset = PRESETS[kind.name]
    first, second, *rest = content.splitlines()
    assert first == "# SPDX-License-Identifier: Apache-2.0"
    assert re.fullmatch(r"# Written by `steepest eject [\w. -]+`, steepest [\d.]+\.", second)
    assert f"steepest eject {kind.name.lower()}" in second
    assert f"steepest {steepest.__version__}" in second
    assert preset.source in str(ast.get_docstring(tree))
    decays = "W ← (1 − lr·weight_decay)·W − lr·" in str(ast.get_docstring(kind))
    assert decays or preset.retraction is not None
    assert "row." not in content and "Attributes:" not in content
    slots = (preset.before, preset.after, preset.retraction)
    assert len(content.splitlines()) <= (240 if any(slots) else 150)
    assert max(map(len, rest)) <= 100
    (made,) = (n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    defaults = made.args.defaults
    pairs = zip(made.args.args[-len(defaults) :], defaults, strict=True)
    given = {argument.arg: ast.unparse(default) for argument, default in pairs}
    assert float(given["weight_decay"]) == preset.weight_decay
    assert preset.betas is not None or float(given.get("momentum", 0)) == preset.momentum
    if preset.retraction is None:  # which may have betas of its own
        assert ast.literal_eval(given.get("betas", "None")) == preset.betas
    assert given.get("nesterov") == ("True" if preset.nesterov else None)
    assert ("lr" in given) == issubclass(getattr(steepest, kind.name), steepest.Muon)


@pytest.mark.parametrize("tool", [("format", "--check"), ("check",)], ids=lambda tool: tool[0])
def test_it_is_formatted_and_has_no_lint(tmp_path: Path, tool: tuple[str, ...]) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{re.sub(r'[^a-z0-9]', '_', name.lower())}.py").write_text(content)
    command = [sys.executable, "-m", "ruff", *tool, "--config", str(ROOT / "pyproject.toml"), "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_its_types_are_strict(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{re.sub(r'[^a-z0-9]', '_', name.lower())}.py").write_text(content)
    command = [sys.executable, "-m", "mypy", "--strict", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_same_call_writes_the_same_file() -> None:
    assert text("Muon") == FILES["Muon"]
    assert "--error 0.01" in FILES["Scion, error 0.01"].splitlines()[1]
