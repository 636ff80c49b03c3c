"""Count the collectives that a piece of code issues, and the bytes that it puts into them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operator → (name, position of its input; None for what has none). The calls of
# `torch.distributed`, from torch/csrc/distributed/c10d/Ops.cpp, take a buffer for the result too.
_C10D: dict[str, tuple[str, int | None]] = {
    "_allgather_base_": ("all_gather_into_tensor", 1),
    "_reduce_scatter_base_": ("reduce_scatter_tensor", 1),
    "allgather_": ("all_gather", 1),
    "allgather_coalesced_": ("all_gather", 1),
    "allgather_into_tensor_coalesced_": ("all_gather_into_tensor", 1),
    "allreduce_": ("all_reduce", 0),
    "allreduce_coalesced_": ("all_reduce", 0),
    "alltoall_": ("all_to_all", 1),
    "alltoall_base_": ("all_to_all_single", 1),
    "barrier": ("barrier", None),
    "broadcast_": ("broadcast", 0),
    "gather_": ("gather", 1),
    "monitored_barrier_": ("barrier", None),
    "recv_": ("recv", None),
    "recv_any_source_": ("recv", None),
    "reduce_": ("reduce", 0),
    "reduce_scatter_": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter_tensor", 1),
    "scatter_": ("scatter", 1),
    "send": ("send", 0),
}

# What DTensor and functional collectives call, from torch/csrc/distributed/c10d/Functional.cpp: the
# input comes first in each of up to five spellings.
_FUNCTIONAL = (
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all_single",
    "broadcast",
    "reduce_scatter_tensor",
)
_SPELLINGS = ("", "_", "_out", "_coalesced", "_coalesced_")

_INPUT: dict[str, tuple[str, int | None]] = {
    **{f"c10d::{op}": entry for op, entry in _C10D.items()},
    **{f"_c10d_functional::{op}{end}": (op, 0) for op in _FUNCTIONAL for end in _SPELLINGS},
    "_dtensor::shard_dim_alltoall": ("all_to_all_single", 0),
}


class CollectiveCounter(TorchDispatchMode):
    """Count the collectives issued inside a `with`, and the bytes of their inputs.

        sent[name] = Σ over the calls of name of the bytes of their input tensors, on this rank

    Seen are the calls of `torch.distributed`, those of FSDP2 and of DDP's buckets in the backward
    pass among them, and what DTensor issues to redistribute; both spellings of a collective go
    under one name. What is counted is what a rank hands over, whatever the back end makes of it: a
    ring sends the input of an all-gather world − 1 times, and of an all-to-all the part that a rank
    has for itself does not leave it. The buffer of a broadcast counts on every rank.

    Not seen are threads that the program itself has started, calls on a back end that go around
    torch's dispatcher (symmetric memory), and traffic that is not a collective, such as a store's.
    A collective of objects counts as the collectives of tensors that it is made of.

    Attributes:
        calls: number of calls by name, such as "all_to_all_single".
        sent: bytes of their inputs by name.

    Examples:
        >>> import torch
        >>> with CollectiveCounter() as count:
        ...     _ = torch.ones(3) + 1
        >>> count.total_calls, count.total_sent
        (0, 0)
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()

    @property
    def total_calls(self) -> int:
        """Number of collectives."""
        return self.calls.total()

    @property
    def total_sent(self) -> int:
        """Bytes of the inputs of all of them."""
        return self.sent.total()

    def __torch_dispatch__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Count `func` if it is a collective, and carry it out."""
        entry = _INPUT.get(func.name())
        # A DTensor first unfolds into the operations that it needs. It is known by its method: to
        # import its class takes half as long as to import torch.
        if any(hasattr(kind, "redistribute") for kind in types):
            return NotImplemented
        if entry is not None:
            name, position = entry
            self.calls[name] += 1
            self.sent[name] += 0 if position is None else _nbytes(args[position])
        return func(*args, **(kwargs or {}))


def _nbytes(given: Any) -> int:
    """Bytes of a tensor, or of all tensors of lists of them."""
    return given.nbytes if isinstance(given, Tensor) else sum(map(_nbytes, given))
