"""The Muons of published packages, set as near to torch.optim.Muon as each allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from steepest.apps.bench.contenders import AbsentError, Contender, Steps, optimizer

# heavyball weighs its second moment, which Muon has not, by the second of two betas.
BETAS = (0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The Muon of a package.

    Args:
        name: the name of the contender.
        module: the module to import.
        note: a word on how it finds the polar factor, and on what was changed from its defaults.
        build: (module, parameters, lr, weight decay) to the optimizer.
        slow_start: the first step compiles, which takes about a minute.
        package: the name of the distribution where it is not that of the module.
        before: a function to call before the module is imported.
    """

    name: str
    module: str
    note: str
    build: Callable[[Any, list[nn.Parameter], float, float], Steps]
    slow_start: bool = False
    package: str = ""
    before: Callable[[], None] = lambda: None

    @property
    def distribution(self) -> str:
        """The name that the package is installed by."""
        return self.package or self.module


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


class Uncompiled:
    """An optimizer whose calls of torch.compile do nothing for as long as its step takes."""

    def __init__(self, optimizer: Steps) -> None:
        self._optimizer = optimizer

    def step(self) -> None:
        """One step as eager code."""
        with torch.compiler.set_stance("force_eager"):
            self._optimizer.step()


def _gram(module: Any, p: list[nn.Parameter], lr: float, decay: float) -> Steps:
    made: Steps = module.Muon(
        p,
        lr=lr,
        weight_decay=decay,
        ns_use_kernels=False,
        # What it would find for itself, with a report on stdout.
        gram_newton_schulz_restart_iterations=[2],
        adjust_lr=lambda rate, shape: rate * max(1.0, shape[-2] / shape[-1]) ** 0.5,
    )
    return Uncompiled(made)


LIBRARIES: list[torch.library.Library] = []


def import_torchvision() -> None:
    """Import torchvision, also where its wheel for CUDA meets a torch for CPUs.

    That one registers more for two operators that it does not bring then; no optimizer needs them.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        # It takes its operators with it when it goes.
        LIBRARIES.append(torch.library.Library("torchvision", "DEF"))
        for name in ("nms", "qnms"):
            LIBRARIES[-1].define(
                f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )


PEERS = (
    Peer(
        name="muon-optimizer",
        module="muon",
        package="muon-optimizer",
        note="Keller Jordan's own: Jordan ×5 in bfloat16, one matrix at a time",
        build=lambda module, p, lr, decay: module.SingleDeviceMuon(p, lr=lr, weight_decay=decay),
    ),
    Peer(
        name="timm",
        module="timm.optim",
        package="timm",
        note="You ×5 in bfloat16, one matrix at a time; with Nesterov, scaled as torch does",
        before=import_torchvision,
        build=lambda module, p, lr, decay: module.Muon(
            p, lr=lr, weight_decay=decay, nesterov=True, adjust_lr_fn="original"
        ),
    ),
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
    Peer(
        name="gram-newton-schulz",
        module="gram_newton_schulz",
        package="gram-newton-schulz",
        note="Polar Express ×5 in float16, Gram form; its kernels are for GPUs; not compiled",
        build=_gram,
    ),
)


def versions() -> dict[str, str | None]:
    """The version of each peer; None for one that is not installed."""
    found: dict[str, str | None] = {}
    for peer in PEERS:
        found[peer.distribution] = None
        with suppress(metadata.PackageNotFoundError):
            found[peer.distribution] = metadata.version(peer.distribution)
    return found


def contender(peer: Peer, *, quick: bool) -> Contender:
    """A peer as a contender, absent where its package is, and a slow one in a quick run."""

    def build(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> Steps:
        # Not a module in a package: looking for it would import the package.
        if find_spec(peer.module.partition(".")[0]) is None:
            raise AbsentError("not installed")
        if quick and peer.slow_start:
            raise AbsentError("left out by --quick: it compiles first")
        peer.before()
        return peer.build(import_module(peer.module), parameters, lr, weight_decay)

    return optimizer(peer.name, peer.note, build, compiles=peer.slow_start)


def contenders(*, quick: bool, peers: Sequence[Peer] = PEERS) -> list[Contender]:
    """Every peer as a contender."""
    return [contender(peer, quick=quick) for peer in peers]
