"""What an error says reaches its reader, whatever is around the call."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from steepest._common.errors import Refusal, invalid, refusal

TEXT = "lr=-1.0: give a number >= 0"


def refuse(x: Tensor) -> Tensor:
    raise invalid("lr", -1.0, "give a number >= 0")


def test_the_parts_are_kept() -> None:
    with pytest.raises(ValueError, match=TEXT) as caught:
        refuse(torch.ones(2))
    again = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, again):
        assert refusal(error) == Refusal("lr", -1.0, "give a number >= 0")
    assert refusal(ValueError(TEXT)) is None


@pytest.mark.parametrize("fullgraph", [True, False])
def test_a_compiler_shows_the_text(fullgraph: bool) -> None:
    torch.compiler.reset()
    compiled = torch.compile(refuse, backend="eager", fullgraph=fullgraph)
    with pytest.raises(Exception, match=TEXT):
        compiled(torch.ones(2))


def test_an_error_needs_no_torch() -> None:
    code = (
        "import sys; from steepest._common.errors import invalid; print(invalid('lr', -1.0, 'give "
        "a number >= 0')); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{TEXT}\n"), done.stderr
