"""How a GPT is laid over the processes of a team, with PyTorch's own DDP, FSDP2 and TP."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from steepest.apps.train.model import GPT, Attention, Block
from steepest.apps.train.parallel.mesh import ProcessGrid


def distribute(model: GPT, mesh: DeviceMesh, grid: ProcessGrid) -> nn.Module:
    """Lay a model over the processes of a mesh: its parameters change in place.

    Tensor parallelism divides the four matrices of every block; embeddings, head and gains of a
    character model are small, and whole. FSDP shards every block and what is around them.

    Returns:
        The module to call for logits and to give to the optimizer: the model, or its DDP.
    """
    blocks = [block for block in model.blocks if isinstance(block, Block)]
    if grid.tensor > 1:
        for block in blocks:
            _divide(block, mesh["tensor"])
    if grid.sharded:
        for block in blocks:
            fully_shard(block, mesh=mesh["data"])
        fully_shard(model, mesh=mesh["data"])
    elif grid.data > 1:
        return DistributedDataParallel(model, process_group=mesh["data"].get_group())
    return model


def _divide(block: Block, mesh: DeviceMesh) -> None:
    """Divide the matrices of a block by rows and columns as Megatron does, arXiv 1909.08053, 3.

    The fused projection is the exception. Its rows are queries, then keys, then values, so an even
    part of the rows is not a set of whole heads: its output is gathered, and each process takes its
    heads of it.
    """
    parallelize_module(
        block,
        mesh,
        {
            "attn.qkv": ColwiseParallel(output_layouts=Replicate()),
            "attn.proj": RowwiseParallel(),
            "mlp.fc": ColwiseParallel(),
            "mlp.proj": RowwiseParallel(),
        },
        src_data_rank=None,  # the processes have drawn the same weights
    )
    attention = block.attn
    attention.qkv.register_forward_hook(lambda _, __, y: _own_heads(y, attention, mesh))


def _own_heads(y: Tensor, attention: Attention, mesh: DeviceMesh) -> Tensor:
    """Queries, keys and values of this process's heads: (…, 3·width) to (…, 3·width/processes)."""
    parts = y.unflatten(-1, (3, -1, attention.size))
    whole = DTensor.from_local(parts, mesh, [Replicate()], run_check=False)
    own: Tensor = whole.redistribute(placements=[Shard(parts.ndim - 2)]).to_local()
    return own.flatten(-3)
