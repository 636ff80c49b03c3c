"""The way from optimizers of torch into those of this library."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from torch import nn

from steepest.optim.optimizer import SteepestOptimizer

if TYPE_CHECKING:
    from torch.distributed.checkpoint.storage import StorageReader


def load_torch_checkpoint(
    model: nn.Module,
    optimizer: SteepestOptimizer,
    source: str | PathLike[str] | StorageReader,
    *,
    key: str | Sequence[str] = "optimizer",
) -> None:
    """Load what torch.optim.Muon and torch.optim.AdamW have saved, whatever groups they had.

    The checkpoint is one of `torch.distributed.checkpoint` that has the result of
    `get_optimizer_state_dict` for one or several of torch's optimizers, flattened or not. Every
    parameter gets its momentum or its averages, and every group the learning rate, weight decay,
    momentum, betas, eps and whatever else the checkpoint has for its parameters, by their names;
    the model may lie on other ranks than it did. What the checkpoint does not have begins anew, and
    one warning names it. The weights of the model are left alone.

    torch unpickles what it reads: load only what you trust. All ranks have to call this.

    Args:
        model: The model that the optimizer was made for.
        optimizer: An optimizer of this library.
        source: The folder of the checkpoint, or its reader.
        key: The key under which the state was saved, with dots between nested ones; several for
            optimizers that were saved one by one.

    Raises:
        ValueError: the checkpoint has nothing of these parameters, or was saved by this library; a
            matrix was stepped by AdamW, or a parameter that AdamW has here was not; parameters
            of one group had different values. Nothing has been changed.

    Examples:
        >>> import steepest, tempfile, torch, warnings
        >>> from torch.distributed import checkpoint
        >>> from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
        >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))
        >>> muon = torch.optim.Muon([model[1].weight], lr=0.05)
        >>> adamw = torch.optim.AdamW([model[0].weight, model[1].bias], lr=0.01)
        >>> content = {"optimizer": get_optimizer_state_dict(model, [muon, adamw])}
        >>> with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")  # torch's, for a single process
        ...     _ = checkpoint.save(content, checkpoint_id=folder)
        ...     optimizer = steepest.Muon(model, lr=0.02)
        ...     steepest.load_torch_checkpoint(model, optimizer, folder)
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.05, 0.01, 0.01]
    """
    from steepest.optim.torch_checkpoint import restore

    restore(model, optimizer, source, [key] if isinstance(key, str) else list(key))
