"""A plain deep network, and what each of its weights does to the size of the activations."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from steepest import norms
from steepest._common.files import Record
from steepest.apps.reproduce.data.digits import CLASSES, SIDE

RMS_TO_RMS = norms.Operator("rms", "rms")


class Plain(nn.Module):
    """The network, with the weights of a seed.

    Args:
        depth: hidden layers of width × width.
        width: the width of every layer but the last, an even number.
        seed: the seed of the weights.
    """

    def __init__(self, *, depth: int, width: int, seed: int) -> None:
        super().__init__()
        self.enter = nn.Linear(SIDE**2, width, bias=False)
        self.hidden = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES, bias=False)
        generator = Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(RMS_TO_RMS.init(weight.shape, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        """The logits of a batch of images."""
        *below, head = self.parameters()
        x = images
        for weight in below:
            x = sort_pairs(x @ weight.T)
        return x @ head.T

    def hidden_weights(self) -> Tensor:
        """A copy of the hidden weights, shape (depth, width, width)."""
        return torch.stack([w.detach() for w in list(self.parameters())[1:-1]])


def sort_pairs(x: Tensor) -> Tensor:
    """The larger numbers of the pairs (x_i, x_{i+d/2}), then the smaller ones.

    Examples:
        >>> sort_pairs(torch.tensor([1.0, 5.0, 3.0, 2.0])).tolist()
        [3.0, 5.0, 1.0, 2.0]
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=-1)


@torch.no_grad()
def project(model: Plain) -> None:
    """Bring every weight back into the ball ‖W‖_{RMS→RMS} ≤ 1."""
    enter, *hidden, head = model.parameters()
    inside = RMS_TO_RMS.project(model.hidden_weights(), 1.0)
    for weight, new in zip(hidden, inside, strict=True):
        weight.copy_(new)
    for weight in (enter, head):
        weight.copy_(RMS_TO_RMS.project(weight, 1.0))


def rms(x: Tensor) -> Tensor:
    """‖x‖₂/√d along the last axis."""
    return x.square().mean(dim=-1).sqrt()


@torch.no_grad()
def probe(model: Plain, images: Tensor) -> list[Record]:
    """Measure what every weight does to the images, from the first to the last."""
    rows = []
    x = images
    for weight in model.parameters():
        y = x @ weight.T
        before, after = rms(x), rms(y)
        rows.append(
            {
                "rms": rms(after).item(),
                "gain": (rms(after) / rms(before)).item(),
                "largest_gain": (after / before).max().item(),
                "norm": RMS_TO_RMS(weight).item(),
            }
        )
        x = sort_pairs(y)
    return rows
