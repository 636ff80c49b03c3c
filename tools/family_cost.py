"""State and traffic of Muon and its successors on a sharded GPT: bytes on each rank.

python tools/family_cost.py          print the table
python tools/family_cost.py --write  put it into docs/family.md

Processes are started here, one thread each, over gloo: a minute on two cores.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

import steepest
from steepest.apps.train.model import GPT
from steepest.apps.train.settings import ModelConfig
from steepest.optim import FAMILY
from steepest.sharding import CollectiveCounter, local

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]
from preset_table import print_or_write  # noqa: E402

PAGE = HERE.parent / "docs" / "family.md"
BEGIN, END = "<!-- cost: tools/family_cost.py -->", "<!-- end of cost -->"
NAMES = ("Muon", *FAMILY)
WORLDS = (1, 2, 4)
VOCABULARY, BATCH, TIMEOUT = 64, 4, timedelta(seconds=120)


def bytes_of(optimizer: torch.optim.Optimizer) -> int:
    """The bytes of state on this rank that belong to the parameters of the duality map."""
    matrices = [p for g in optimizer.param_groups if not g["adamw"] for p in g["params"]]
    tensors = [x for p in matrices for x in optimizer.state[p].values()]
    return sum(x.numel() * x.element_size() for x in map(local, tensors))


def measured(name: str, world: int) -> dict[str, float]:
    """State of a rank in bytes, and the bytes that it sends in the third step."""
    model: nn.Module = GPT(ModelConfig(), vocabulary=VOCABULARY, seed=0)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for block in model.blocks:  # type: ignore[union-attr]
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer: torch.optim.Optimizer = getattr(steepest, name)(model, lr=0.01)
    sent = 0
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(VOCABULARY, (BATCH, ModelConfig().context), generator=generator)
        out: Tensor = model(ids)
        nn.functional.cross_entropy(out.flatten(0, 1), ids.flatten()).backward()
        with CollectiveCounter() as count:
            optimizer.step()
        optimizer.zero_grad()
        sent = count.total_sent
    return {"state": float(bytes_of(optimizer)), "sent": float(sent)}


def work(rank: int, world: int, folder: str) -> None:
    """Measure every optimizer on one rank of a group, and keep the largest numbers of all ranks."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store{world}"
    dist.init_process_group("gloo", store, TIMEOUT, world, rank)
    found = {name: measured(name, world) for name in NAMES}
    numbers = torch.tensor([list(each.values()) for each in found.values()])
    dist.all_reduce(numbers, dist.ReduceOp.MAX)
    if rank == 0:
        torch.save(numbers, f"{folder}/{world}.pt")
    dist.barrier()
    dist.destroy_process_group()


def gathered() -> dict[int, Mapping[str, Any]]:
    """The numbers of every optimizer, by the number of processes."""
    found: dict[int, Mapping[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in WORLDS:
            spawn(work, (world, folder), nprocs=world)
            rows = torch.load(f"{folder}/{world}.pt", weights_only=True).tolist()
            found[world] = dict(zip(NAMES, rows, strict=True))
    return found


def table() -> str:
    """The numbers as Markdown, in MB."""
    found = gathered()
    head = "| optimizer | state, 1 process | 2 processes | 4 processes | sent in a step, 2 | 4 |"
    lines = [head, "| --- | --- | --- | --- | --- | --- |"]
    for name in NAMES:
        state = [found[world][name][0] for world in WORLDS]
        sent = [found[world][name][1] for world in WORLDS[1:]]
        cells = [f"{n / 1e6:.2f} MB" for n in (*state, *sent)]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_or_write(table(), BEGIN, END, [PAGE])
