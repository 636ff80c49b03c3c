"""Long runs: whether objects, memory, files, threads and state stay as they are.

    python tools/long_run.py [--steps 20000] [--only Muon Lion]
    python tools/long_run.py --ranks 2 --steps 2000
    python tools/long_run.py --worlds 20 --ranks 2

Every optimizer trains a small model. Now and then a gradient is NaN, and now and then one is
missing. After a tenth of the steps, and at the end, everything that could grow is counted, and the
table shows what has been added in between: Python's objects and blocks, the resident memory, open
files, threads, tensors and bytes of the state; and `skipped` beside what it has to be. With
`--ranks` the same runs under FSDP2 in that many processes, and the largest growth of a rank is
shown. With `--worlds` the processes leave their group and make another one, as often, and the
growth is that over the second half. The exit code is 1 if something has grown.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import steepest
from steepest import norms
from steepest.apps._machine import cpu_name
from steepest.testing.optimizers import loss, model

MAKE: Mapping[str, Callable[[nn.Module], Any]] = {
    "Muon": lambda m: steepest.Muon(m, lr=1e-3),
    "Muon, int8": lambda m: steepest.Muon(m, lr=1e-3, momentum_dtype=torch.int8),
    "Muon, projected": lambda m: steepest.Muon(m, lr=1e-3, constraint="project"),
    "NorMuon": lambda m: steepest.NorMuon(m, lr=1e-3),
    "SOAPMuon": lambda m: steepest.SOAPMuon(m, lr=1e-3),
    "Muown": lambda m: steepest.Muown(m, lr=1e-3),
    "Scion": lambda m: steepest.Scion(m, lr=1e-3),
    "PolarGrad": lambda m: steepest.PolarGrad(m, lr=1e-3),
    "Lion": lambda m: steepest.Lion(m, lr=1e-4),
    "estimated sharpness": lambda m: steepest.SteepestDescent(
        m, norms.RowNorm(), sharpness="estimate"
    ),
    "EMANesterov of Muon": lambda m: steepest.EMANesterov(
        steepest.Muon(m, lr=1e-3), start=10, stop=None
    ),
}
NAN_EVERY, MISSING_EVERY = 50, 70
SECONDS = 120
"""Seconds for a collective."""


@dataclass(frozen=True)
class Counts:
    """The numbers that could grow, counted after the garbage is gone."""

    objects: int
    blocks: int
    kib: int
    files: int
    threads: int
    tensors: int
    state_bytes: int


def counts(optimizer: Any) -> Counts:
    """Count what there is now; two collections, as finalizers may leave something behind."""
    gc.collect()
    gc.collect()
    kept = [x for own in optimizer.state.values() for x in own.values() if isinstance(x, Tensor)]
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Counts(
        objects=len(gc.get_objects()),
        blocks=sys.getallocatedblocks(),
        kib=pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        files=_entries("/proc/self/fd"),
        threads=_entries("/proc/self/task"),
        tensors=len(kept),
        state_bytes=sum(x.nbytes for x in kept),
    )


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


LIMITS = Counts(objects=50, blocks=600, kib=4096, files=0, threads=0, tensors=0, state_bytes=0)
"""The growth that is none: caches of the interpreter and of torch breathe."""

OF_A_WORLD = 8
"""Objects that torch itself keeps of a group that was left; with torch.optim.SGD there are 7."""


@dataclass(frozen=True)
class Result:
    """One run: the growth of each count, what was skipped, and the growth that is none."""

    name: str
    growth: Counts
    skipped: int
    expected: int
    limits: Counts = LIMITS

    @property
    def flat(self) -> bool:
        """Whether nothing has grown and the count is right."""
        grown, limits = asdict(self.growth), asdict(self.limits)
        return self.skipped == self.expected and all(grown[k] <= limits[k] for k in limits)

    @property
    def row(self) -> str:
        """The line of a table."""
        cells = [self.name, *map(str, asdict(self.growth).values())]
        return " | ".join(["", *cells, f"{self.skipped} of {self.expected}", ""]).strip()


HEAD = (
    "| optimizer | objects | blocks | memory, KiB | files | threads | tensors | state, bytes "
    "| skipped |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


def train(m: nn.Module, optimizer: Any, first: int, last: int) -> int:
    """Take steps; the number of updates that are to be skipped."""
    expected = 0
    params = [p for p in m.parameters() if p.requires_grad]
    for step in range(first, last):
        if isinstance(optimizer, steepest.EMANesterov):
            optimizer.train()
        optimizer.zero_grad()
        loss(m, step % 1000).backward()
        if step % MISSING_EVERY == MISSING_EVERY - 1:
            params[step // MISSING_EVERY % len(params)].grad = None
        victim = params[step // NAN_EVERY % len(params)]
        if step % NAN_EVERY == NAN_EVERY - 1 and victim.grad is not None:
            victim.grad.mul_(float("nan"))
            expected += 1
        optimizer.step()
    return expected


def small_model(name: str) -> nn.Module:
    """A model; a wide one for 8 bits, which are for tensors of at least 4096 entries."""
    m = model()
    if "int8" in name:
        m.up, m.norm, m.down = nn.Linear(8, 512), nn.LayerNorm(512), nn.Linear(512, 8)
    return m


def long_run(name: str, steps: int, *, ranks: int = 1) -> Result:
    """Train with one of the optimizers; every rank calls this."""
    m = small_model(name)
    if ranks > 1:
        fully_shard(m, mesh=init_device_mesh("cpu", (ranks,)))
    optimizer = MAKE[name](m)
    early = max(steps // 10, 2 * NAN_EVERY)
    expected = train(m, optimizer, 0, early)
    before = asdict(counts(optimizer))
    expected += train(m, optimizer, early, steps)
    after = asdict(counts(optimizer))
    growth = Counts(**{key: after[key] - before[key] for key in before})
    return Result(name, growth, optimizer.skipped, expected)


def largest(results: Sequence[Result]) -> Result:
    """The largest growth of any rank; a rank whose count is wrong comes first."""
    wrong = [r for r in results if r.skipped != r.expected]
    one = (wrong or list(results))[0]
    each = [asdict(r.growth) for r in results]
    growth = Counts(**{key: max(g[key] for g in each) for key in each[0]})
    return Result(one.name, growth, one.skipped, one.expected)


def join(rank: int, ranks: int, store: Path) -> None:
    """Make the process group of all ranks."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=ranks,
        timeout=timedelta(seconds=SECONDS),
    )


def _rank(rank: int, ranks: int, steps: int, names: list[str], folder: str) -> None:
    """The work of one process: its results go into a file."""
    join(rank, ranks, Path(folder) / "store")
    results = [long_run(name, steps, ranks=ranks) for name in names]
    torch.save(
        [(r.name, asdict(r.growth), r.skipped, r.expected) for r in results], _file(folder, rank)
    )
    dist.destroy_process_group()
    _leave()


def _worlds(rank: int, ranks: int, worlds: int, folder: str) -> None:
    """Make a group, take some steps in it and leave it, again and again."""
    seen = []
    for number in range(worlds + 1):
        join(rank, ranks, Path(folder) / f"store-{number}")
        m = model()
        fully_shard(m, mesh=init_device_mesh("cpu", (ranks,)))
        optimizer = steepest.Muon(m, lr=1e-3)
        train(m, optimizer, 0, 3)
        dist.barrier()
        dist.destroy_process_group()
        optimizer.state.clear()
        found = counts(optimizer)
        del m, optimizer
        seen.append(found)
    # torch keeps threads and files of the first few.
    first, last = asdict(seen[worlds // 2]), asdict(seen[-1])
    growth = {key: last[key] - first[key] for key in first}
    torch.save([(f"{worlds} worlds", growth, 0, 0)], _file(folder, rank))
    _leave()


def _file(folder: str, rank: int) -> Path:
    return Path(folder) / f"rank-{rank}.pt"


def _leave() -> None:
    """End the process without Python's end, where a thread of gloo may still run."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def spread(target: Callable[..., None], ranks: int, *args: Any) -> list[Result]:
    """Run a function in so many processes; the largest growth of a rank, for each of its runs."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.get_context("spawn")
        arguments = [(rank, ranks, *args, folder) for rank in range(ranks)]
        processes = [context.Process(target=target, args=each) for each in arguments]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        found = [torch.load(_file(folder, rank), weights_only=True) for rank in range(ranks)]
    runs = [[Result(n, Counts(**g), s, e) for n, g, s, e in rank] for rank in found]
    return [largest(same) for same in zip(*runs, strict=True)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--worlds", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=MAKE, default=list(MAKE))
    asked = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"{cpu_name()}, torch {torch.__version__}, {datetime.now(UTC).date()}")
    print(f"{asked.steps} steps, {asked.ranks} processes" if not asked.worlds else "")
    print(HEAD, flush=True)
    results = []
    if asked.worlds:
        counted = asked.worlds - asked.worlds // 2
        limits = replace(LIMITS, objects=LIMITS.objects + OF_A_WORLD * counted)
        results = [
            replace(result, limits=limits) for result in spread(_worlds, asked.ranks, asked.worlds)
        ]
    elif asked.ranks > 1:
        results = spread(_rank, asked.ranks, asked.steps, asked.only)
    else:
        for name in asked.only:
            results.append(long_run(name, asked.steps))
            print(results[-1].row, flush=True)
    if asked.ranks > 1:
        print("\n".join(result.row for result in results))
    return int(not all(result.flat for result in results))


if __name__ == "__main__":
    sys.exit(main())
