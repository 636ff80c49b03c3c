"""A small model with low-rank adapters under the names and attributes of PEFT."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Adapted(nn.Module):
    """A frozen linear layer with a low-rank update for each adapter, of which one is used."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float = 2.0) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(inputs, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, outputs, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.scaling = {"default": scale}

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * update


class WithMagnitude(Adapted):
    """The same with DoRA's magnitudes."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float = 2.0) -> None:
        super().__init__(inputs, outputs, rank, scale)
        self.lora_magnitude_vector = nn.ParameterDict({"default": torch.ones(outputs)})

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_magnitude_vector["default"] * super().forward(x)


def adapted(seed: int = 0, rank: int = 2) -> nn.Module:
    """Two adapted layers of different shapes and scales, and a head that is trained."""
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {
            "up": WithMagnitude(6, 8, rank),
            "down": Adapted(8, 6, rank, scale=0.5),
            "head": nn.Linear(6, 3),
        }
    )


def loss(model: nn.Module, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    x = torch.randn(16, 6, generator=generator).to(dtype)
    y = torch.randn(16, 3, generator=torch.Generator().manual_seed(100)).to(dtype)
    out = model["head"](x + model["down"](model["up"](x).relu()))
    return (out - y).square().mean()
