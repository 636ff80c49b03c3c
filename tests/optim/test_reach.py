"""A step can be read: one step of one matrix passes few functions, in few files."""

import sys
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

import steepest
from steepest import SGD, LionK, Muon, SignSGD, SteepestDescent, maps, norms, polar
from steepest.polar.tables import table_of

ROOT = str(Path(steepest.__file__).parent)

FUNCTIONS, FILES = 40, 10


def chosen_on(processor: str) -> polar.Auto:
    """The default of Muon, as it is on a class of processors."""
    return polar.Auto(error=0.05, table=table_of(processor, several=True))


OPTIMIZERS = {
    **{
        f"muon on {name}": lambda w, name=name: Muon([w], lr=0.02, polar=chosen_on(name))
        for name in ("avx2", "zen5-bf16")
    },
    "muon_torch": lambda w: Muon([w], lr=0.02, ns_steps=5),
    **{
        f"sharp on {name}": lambda w, name=name: SteepestDescent(
            [w], norms.Spectral(polar=chosen_on(name)), 0.1
        )
        for name in ("avx2", "zen5-bf16")
    },
    "lion_k": lambda w: LionK([w], lr=0.02, K=maps.L1Map()),
    "sign": lambda w: SignSGD([w], lr=0.02),
    "sgd": lambda w: SGD([w], lr=0.02),
}


def entered(make) -> list[tuple[str, str]]:
    """File and name of every function of the library that the third step enters, in order."""
    w = nn.Parameter(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    optimizer = make(w)
    seen: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        # Comprehensions, which are functions until Python 3.12, are read where they stand.
        if event == "call" and code.co_filename.startswith(ROOT) and code.co_name[0] != "<":
            seen[(code.co_filename, code.co_qualname)] = None

    for step in range(3):
        w.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(step + 1))
        before = sys.getprofile()
        if step == 2:
            sys.setprofile(note)
        try:
            optimizer.step()
        finally:
            sys.setprofile(before)
    return list(seen)


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_a_step_of_one_matrix_enters_few_functions_in_few_files(make) -> None:
    found = entered(make)
    files = {file for file, _ in found}
    text = "\n".join(f"{Path(file).relative_to(ROOT)}  {name}" for file, name in found)
    assert len(found) > 10, "the profiler has seen nothing"
    assert len(found) <= FUNCTIONS and len(files) <= FILES, f"{len(found)}, {len(files)}:\n{text}"
