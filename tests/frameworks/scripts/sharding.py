"""FSDP2 of accelerate on processors, which it offers on accelerators alone.

What it does with FSDP2 afterwards, in its own code and in that of transformers, is the same.
"""

from __future__ import annotations

from typing import Any


def let_processors_shard() -> None:
    """Have accelerate's state say that a process with a plugin for FSDP is one of FSDP."""
    import accelerate.accelerator
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    first = AcceleratorState.__init__

    def init(self: Any, *args: Any, **options: Any) -> None:
        first(self, *args, **options)
        plugin = options.get("fsdp_plugin")
        if plugin is not None:
            # Every later state is made of both.
            for state in (self._shared_state, PartialState._shared_state):
                state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = plugin

    AcceleratorState.__init__ = init  # type: ignore[method-assign]
    accelerate.accelerator.AcceleratorState.__init__ = init  # type: ignore[attr-defined]
