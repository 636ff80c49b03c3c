"""FSDP1 is refused by every optimizer of the library, wherever its parameters come in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import ShardingStrategy

import steepest
from steepest.optim import SteepestOptimizer
from tests.sharding.others_fsdp import wrap
from tests.sharding.others_row import built, words
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

Make = Callable[[Any], torch.optim.Optimizer]


class Adapted(nn.Module):
    """A layer with a pair of factors, for the optimizer of pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A = nn.ModuleDict({"default": nn.Linear(6, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 6, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lora_B["default"](self.lora_A["default"](x))


def optimizers() -> Mapping[str, Make]:
    """Every optimizer of the library by its name, as a function of the parameters."""
    bases = steepest.optim.SteepestOptimizer, steepest.optim.MuonVariant
    classes = {
        name: cls
        for name, cls in vars(steepest.optim).items()
        if inspect.isclass(cls) and issubclass(cls, SteepestOptimizer) and cls not in bases
    }
    made: dict[str, Make] = {
        name: lambda ps, cls=cls: cls(ps, lr=0.01) for name, cls in classes.items()
    }
    made["SteepestDescent"] = lambda ps: steepest.SteepestDescent(ps, steepest.norms.L2(), 0.01)
    made["EMANesterov"] = lambda ps: steepest.EMANesterov(
        torch.optim.SGD(ps.parameters() if isinstance(ps, nn.Module) else ps, lr=0.01),
        start=0,
        stop=None,
    )
    return made


def model(name: str) -> nn.Module:
    """A model that an optimizer takes."""
    torch.manual_seed(0)
    return Adapted().double() if name == "LoRAMuon" else built("mlp")


def said(attempt: Callable[[], Any]) -> str:
    """The line of a refusal."""
    found: list[str] = []
    with words(found):
        attempt()
    return found[0] if found else "nothing"


def attempts(name: str, make: Make, *, original: bool) -> Iterator[str]:
    """What an optimizer says in its constructor, to a group that is added, and to a late wrap."""
    wrapped = wrap(model(name), ShardingStrategy.FULL_SHARD, original=original)
    yield said(lambda: make(wrapped))
    yield said(lambda: make(list(wrapped.parameters())))
    other = make(model(name))
    count = len(other.param_groups)
    yield said(lambda: other.add_param_group({"params": list(wrapped.parameters())}))
    assert len(other.param_groups) == count
    late = model(name)
    optimizer = make(late)
    wrapped = wrap(late, ShardingStrategy.FULL_SHARD, original=original)
    if not original and name == "EMANesterov":
        return  # it knows parameters alone, and these are not those of the module any more

    def step() -> None:
        if name == "EMANesterov":
            optimizer.train()  # type: ignore[attr-defined]
        wrapped(torch.ones(4, 6, dtype=torch.float64)).sum().backward()
        optimizer.step()

    yield said(step)


def refused(rank: int, world: int, original: bool) -> dict[str, list[str]]:
    """The lines of every optimizer."""
    assert rank < world
    return {n: list(attempts(n, make, original=original)) for n, make in optimizers().items()}


@pytest.mark.parametrize("original", [True, False])
def test_every_optimizer_names_fsdp1_wherever_it_meets_it(original: bool) -> None:
    for rank in pool(2).run(refused, original):
        assert len(rank) >= 18
        wrong = {
            name: lines for name, lines in rank.items() if not all("FSDP1" in x for x in lines)
        }
        assert not wrong
        assert not any("\n" in line for lines in rank.values() for line in lines)
