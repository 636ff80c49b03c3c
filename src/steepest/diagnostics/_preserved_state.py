"""A model that is left as it was: parameters, buffers, and the numbers drawn at random."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class PreservedState:
    """Remembers a model's tensors and torch's random states; puts them back, bit for bit.

    Leaving the context puts everything back whatever happened; `restore` does it in between, so
    that every evaluation starts alike and sees the same dropout. `.grad` is not looked at. Not put
    back are the random numbers of Python, NumPy and MPS.

    Args:
        model: the module whose buffers are preserved; anything else has none.
        parameters: tensors to be preserved too.
    """

    def __init__(self, model: object, parameters: Iterable[Tensor]) -> None:
        self._buffers = [
            (module, name, buffer)
            for module in (model.modules() if isinstance(model, nn.Module) else ())
            for name, buffer in module.named_buffers(recurse=False)
        ]
        tensors = [*parameters, *(b for _, _, b in self._buffers)]
        self._tensors = [(t, t.detach().clone()) for t in dict.fromkeys(tensors)]
        own = model.parameters() if isinstance(model, nn.Module) else ()
        self._devices = sorted(
            {str(t.device) for t in (*tensors, *own) if t.device.type not in ("cpu", "mps")}
        )
        self._random: list[Any] = [torch.get_rng_state(), *map(_random_state, self._devices)]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back as it was when this was made."""
        for module, name, buffer in self._buffers:
            if getattr(module, name) is not buffer:
                setattr(module, name, buffer)
        for tensor, value in self._tensors:
            # `.data` does not count as a change: a graph that was made before is still good.
            tensor.data.copy_(value)
        torch.set_rng_state(self._random[0])
        for device, state in zip(self._devices, self._random[1:], strict=True):
            torch.get_device_module(device).set_rng_state(state, device)

    def __enter__(self) -> PreservedState:
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()


def _random_state(device: str) -> Any:
    return torch.get_device_module(device).get_rng_state(device)
