"""The Muons of other packages: what is missing, what is broken, and what they are wrapped in."""

from __future__ import annotations

import sys

import pytest
import torch

from steepest.apps.bench import contenders, peers
from steepest.apps.bench.measure import Turns, measure
from steepest.apps.bench.peers import PEERS, Eager, Peer, Uncompiled, import_torchvision, versions
from steepest.apps.bench.peers import contenders as peer_contenders
from tests.apps.bench.tiny import SQUARE

MISSING = Peer(
    name="nobody", module="no_such_package_here", note="", build=lambda *_: pytest.fail("called")
)
# An installed module that has no Muon.
BROKEN = Peer(
    name="broken", module="json", note="", build=lambda module, p, lr, decay: module.Muon(p)
)
SLOW = Peer(
    name="slow", module="json", note="", slow_start=True, build=lambda *_: pytest.fail("called")
)


def test_a_missing_peer_is_listed_and_a_broken_one_fails() -> None:
    rows = [
        *contenders.optimizers(None, peer_contenders(quick=True, peers=[MISSING, BROKEN, SLOW]))
    ]
    turns = Turns(rounds=2, warmup=1, seed=0)
    result = measure("steps", SQUARE, rows, [], turns, data="spectrum")
    found = {row.name: (row.status, row.message) for row in result.rows}
    assert found["nobody"] == ("absent", "not installed")
    assert found["broken"][0] == "failed" and "AttributeError" in found["broken"][1]
    assert found["slow"] == ("absent", "left out by --quick: it compiles first")
    assert found["steepest.Muon"] == ("measured", "")


def test_every_peer_has_a_version_or_none() -> None:
    assert set(versions()) == {
        *("muon-optimizer", "timm", "optimuon", "pytorch_optimizer", "heavyball"),
        "gram-newton-schulz",
    }
    assert len({peer.name for peer in PEERS}) == len(PEERS)


def test_the_compiler_is_off_for_the_step_only() -> None:
    class Module:
        class utils:  # noqa: N801
            compile_mode = "max"

    class Step:
        def step(self) -> None:
            seen.append(Module.utils.compile_mode)
            if len(seen) == 2:
                raise RuntimeError

    seen: list[str | None] = []
    eager = Eager(Module, Step())
    eager.step()
    with pytest.raises(RuntimeError):
        eager.step()
    assert seen == [None, None]
    assert Module.utils.compile_mode == "max"


def test_nothing_is_compiled_in_a_step_that_is_not_to_be() -> None:
    class Step:
        def step(self) -> None:
            compiled(torch.ones(2))

    def backend(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    graphs: list[torch.fx.GraphModule] = []
    compiled = torch.compile(lambda x: x + 1, backend=backend)
    Uncompiled(Step()).step()
    assert graphs == []
    Step().step()
    assert len(graphs) == 1


def test_a_torchvision_for_another_torch_is_helped(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = """
import torch
if not hasattr(torch.ops.torchvision, "nms"):
    raise RuntimeError("operator torchvision::nms does not exist")
"""
    (tmp_path / "torchvision.py").write_text(package)
    monkeypatch.setattr(peers, "LIBRARIES", [])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    import_torchvision()
    assert len(peers.LIBRARIES) == 1 and "torchvision" not in sys.modules
    # What is declared is found, and nothing is declared twice.
    import_torchvision()
    assert len(peers.LIBRARIES) == 1 and sys.modules.pop("torchvision")
