"""torch may warn of itself; a warning that this project causes is an error."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from tests import warned

ROOT = Path(__file__).resolve().parent.parent


def warn(message: str, category: type[Warning], module: str) -> None:
    """Warn as the code of some module would."""
    warnings.warn_explicit(message, category, f"{module}.py", 1, module=module, registry={})


@pytest.mark.parametrize("known", warned.OF_TORCH, ids=[m.split()[0] for m, *_ in warned.OF_TORCH])
def test_what_torch_says_of_itself_fails_nothing_but_here_it_does(known) -> None:
    message, category, module = known
    warn(message, category, module.replace("\\", ""))
    for other in ("steepest.polar", "tests.warned", "torch.nn.functional"):
        with pytest.raises(category, match=message):
            warn(message, category, other)
    with pytest.raises(DeprecationWarning, match="old"):
        warn("old", DeprecationWarning, module.replace("\\", ""))


def test_the_warning_of_forward_derivatives_is_the_one_that_is_known() -> None:
    """In a process of its own, since torch warns once."""
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from tests import warned; warned.ignore()\n"
        "import torch; x = torch.ones(2); torch.func.jvp(torch.sin, (x,), (x,))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_nothing_here_calls_what_may_warn_unseen() -> None:
    for path in (p for name in ("src", "tests", "tools") for p in (ROOT / name).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if "jit" not in text:
            continue
        nodes = ast.walk(ast.parse(text))
        named = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}
        assert not any(name.startswith("torch.jit") for name in named), path
