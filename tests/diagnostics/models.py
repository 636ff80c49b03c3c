"""Small networks in double precision with a loss: what derivatives are tested on."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Tied(nn.Module):
    """A transformer block whose output head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for the next token."""
        return self.head(self.block(self.embed(tokens)))


def mlp():
    """Two layers, least squares."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(9, 4, dtype=torch.float64), torch.randn(9, 3, dtype=torch.float64)
    return model, lambda: (model(x) - y).square().mean()


def convolutional():
    """Two convolutions and a classifier."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 3)
    ).double()
    x, y = torch.randn(6, 2, 5, 5, dtype=torch.float64), torch.randint(0, 3, (6,))
    return model, lambda: F.cross_entropy(model(x), y)


def tied():
    """A language model with tied embeddings."""
    torch.manual_seed(2)
    model, tokens = Tied().double(), torch.randint(0, 5, (3, 5))
    return model, lambda: F.cross_entropy(model(tokens[:, :-1]).mT, tokens[:, 1:])


MODELS = {"mlp": mlp, "convolutional": convolutional, "tied": tied}
