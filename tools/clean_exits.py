"""How launched runs end: the exit codes of real `torchrun … -m steepest train` runs.

    python tools/clean_exits.py [N] [--out FILE]
    python tools/clean_exits.py [N] --torch END

N (100) runs of a tiny model in two gloo processes, in turn: sharded, tensor-parallel and both, to
their end; and refused, out of disk space, diverged and interrupted. A run has ended cleanly if all
of its processes have the exit code that `steepest train` documents, and none was aborted. The exit
code is 1 if any has not; FILE gets the counts as JSON.

With --torch the runs are those of a script without steepest: tensor parallelism, AdamW and
`destroy_process_group`. It ends as Python does (`plain`), after 0.2 s (`sleep`), or by `os._exit`.
"""

from __future__ import annotations

import argparse
import json
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.apps.train.launched import ABORTED, LIMIT, Ended, launched, running  # noqa: E402

REFUSED, DIVERGED, INTERRUPTED = 2, 1, 130

SCRIPT = """
import os, sys, time
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

mesh = init_device_mesh("cpu", (2,))
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 16))
parallelize_module(model, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
for _ in range(20):
    optimizer.zero_grad()
    model(torch.randn(8, 16)).square().mean().backward()
    optimizer.step()
dist.destroy_process_group()
"""
ENDS: Mapping[str, str] = {
    "plain": "",
    "sleep": "time.sleep(0.2)",
    "exit": "sys.stdout.flush(); sys.stderr.flush(); os._exit(0)",
}
"""The last line of a script in pure torch."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """A way in which a run ends.

    Args:
        flags: the flags of `steepest train`, beside those of the tiny model.
        code: the exit code that its processes must have.
        more: further arguments of `launched`.
    """

    flags: Sequence[object]
    code: int
    more: Mapping[str, Any]


def _ending(parallel: str, *flags: object, code: int = 0, **more: Any) -> Ending:
    return Ending(flags=("--parallel", parallel, *flags), code=code, more=more)


LONG = ("--steps", 100_000, "--checkpoint-every", 1000)
ENDINGS: Mapping[str, Ending] = {
    "fsdp": _ending("fsdp", "--optimizer", "muon"),
    "tp": _ending("tp", "--optimizer", "adamw"),
    "fsdp+tp": _ending("fsdp+tp", "--optimizer", "muon"),
    "refused": _ending("fsdp", "--batch", 3, code=REFUSED),
    "full disk": _ending("fsdp", "--optimizer", "muon", code=REFUSED, largest=8192),
    "fsdp, adamw": _ending("fsdp", "--optimizer", "adamw"),
    "tp, muon": _ending("tp", "--optimizer", "muon"),
    "fsdp+tp, adamw": _ending("fsdp+tp", "--optimizer", "adamw"),
    "diverged": _ending("tp", "--optimizer", "sgd", "--lr", "1e200", code=DIVERGED),
    "interrupted": _ending("fsdp", "--optimizer", "adamw", *LONG, code=INTERRUPTED, at=20),
}


def is_clean(ended: Ended, ending: Ending) -> bool:
    """Whether a run has ended as it should."""
    # Once one process has ended with an error, torchrun ends the others by SIGTERM.
    own = set(ended.codes) - ({-signal.SIGTERM} if ending.code else set())
    right = own == ({ending.code} if ending.code else set())
    return right and ended.code == bool(ending.code) and ABORTED not in ended.text


def end(name: str) -> Ended:
    """Carry out one run of a kind, in a folder of its own."""
    ending = ENDINGS[name]
    with tempfile.TemporaryDirectory() as folder:
        return launched(Path(folder), *ending.flags, **ending.more)


def counted(number: int) -> tuple[dict[str, list[int]], list[str]]:
    """Clean and all runs of each kind, and the output of those that were not clean."""
    counts = {name: [0, 0] for name in ENDINGS}
    wrong = []
    for i in range(number):
        name = list(ENDINGS)[i % len(ENDINGS)]
        ended = end(name)
        clean = is_clean(ended, ENDINGS[name])
        counts[name][0] += clean
        counts[name][1] += 1
        done = sum(found[0] for found in counts.values())
        print(f"{i + 1:4} {name:16}{ended.code} {ended.codes}  clean {done} of {i + 1}", flush=True)
        if not clean:
            wrong.append(ended.text)
    return counts, wrong


def aborted(number: int, ending: str) -> int:
    """The number of runs of the script in pure torch that did not end with 0."""
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "script.py"
        path.write_text(SCRIPT + ENDS[ending] + "\n", encoding="utf-8")
        launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
        for i in range(number):
            with running([sys.executable, *launcher, str(path)], Path(name)) as (process, log):
                wrong += process.wait(LIMIT) != 0
                text = log.read_text(encoding="utf-8", errors="replace")
            print(f"{i + 1:4} {ending}: {wrong} aborted", ABORTED in text, flush=True)
    return wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Count the clean ends; 1 if there are others."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("runs", nargs="?", type=int, default=100, metavar="N")
    parser.add_argument("--out", type=Path, metavar="FILE")
    parser.add_argument("--torch", choices=ENDS, metavar="END")
    given = parser.parse_args(argv)
    if given.torch is not None:
        failed = aborted(given.runs, given.torch)
        print(f"{failed} of {given.runs} ended with another exit code than 0")
        return int(failed > 0)
    start = time.monotonic()
    counts, wrong = counted(given.runs)
    for text in wrong:
        print(text)
    clean = sum(found[0] for found in counts.values())
    print(f"{clean} of {given.runs} ended cleanly, {time.monotonic() - start:.0f} s")
    if given.out is not None:
        versions = {"torch": torch.__version__, "python": platform.python_version()}
        found = {"runs": given.runs, "clean": clean, "kinds": counts, **versions}
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return int(clean < given.runs)


if __name__ == "__main__":
    sys.exit(main())
