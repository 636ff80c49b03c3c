"""The Muons of published packages, set as near to torch.optim.Muon as each allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

from torch import nn

from steepest.apps.bench.contenders import AbsentError, Contender, Steps, optimizer

# heavyball weighs its second moment, which Muon has not, by the second of two betas.
BETAS = (0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The Muon of a package.

    Args:
        name: the name of the contender.
        module: the module to import; also the name of the distribution.
        note: a word on how it finds the polar factor, and on what was changed from its defaults.
        build: (module, parameters, lr, weight decay) to the optimizer.
        slow_start: the first step compiles, which takes about a minute.
    """

    name: str
    module: str
    note: str
    build: Callable[[Any, list[nn.Parameter], float, float], Steps]
    slow_start: bool = False


class Eager:
    """heavyball's Muon with its compiler off for as long as its own step takes.

    Its switch belongs to the module, and the compiled contender steps in the same process.
    """

    def __init__(self, module: Any, optimizer: Steps) -> None:
        self._utils, self._optimizer = module.utils, optimizer

    def step(self) -> None:
        """One step without torch.compile."""
        before, self._utils.compile_mode = self._utils.compile_mode, None
        try:
            self._optimizer.step()
        finally:
            self._utils.compile_mode = before


def _heavyball(module: Any, p: list[nn.Parameter], lr: float, decay: float) -> Steps:
    made: Steps = module.Muon(p, lr=lr, betas=BETAS, weight_decay=decay)
    return made


PEERS = (
    Peer(
        name="optimuon",
        module="optimuon",
        note="Polar Express ×5 in float16, Gram form; without NorMuon and cautious decay",
        build=lambda module, p, lr, decay: module.Muon(
            p, lr=lr, weight_decay=decay, normuon=False, cautious_wd=False
        ),
    ),
    Peer(
        name="pytorch_optimizer",
        module="pytorch_optimizer",
        note="Jordan ×5 in bfloat16",
        build=lambda module, p, lr, decay: module.Muon(
            [{"params": p, "use_muon": True}], lr=lr, weight_decay=decay
        ),
    ),
    Peer(
        name="heavyball",
        module="heavyball",
        note="You ×5 with stochastic rounding to bfloat16; compiled, as is its default",
        build=_heavyball,
        slow_start=True,
    ),
    Peer(
        name="heavyball, eager",
        module="heavyball",
        note="You ×5 with stochastic rounding to bfloat16; compile_mode = None",
        build=lambda module, p, lr, decay: Eager(module, _heavyball(module, p, lr, decay)),
    ),
)


def versions() -> dict[str, str | None]:
    """The version of each peer; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for peer in PEERS:
        found[peer.module] = None
        with suppress(metadata.PackageNotFoundError):
            found[peer.module] = metadata.version(peer.module)
    return found


def contender(peer: Peer, *, quick: bool) -> Contender:
    """A peer as a contender, absent where its package is, and a slow one in a quick run."""

    def build(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Steps:
        if find_spec(peer.module) is None:
            raise AbsentError("not installed")
        if quick and peer.slow_start:
            raise AbsentError("left out by --quick: it compiles first")
        return peer.build(import_module(peer.module), parameters, lr, weight_decay)

    return optimizer(peer.name, peer.note, build)


def contenders(*, quick: bool, peers: Sequence[Peer] = PEERS) -> list[Contender]:
    """Every peer as a contender."""
    return [contender(peer, quick=quick) for peer in peers]
