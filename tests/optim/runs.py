"""Random parameters, and gradients that come again."""

import torch
from torch import nn


def parameter(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*shape, generator=generator, dtype=dtype))


def gradient(p, t):
    return torch.randn(p.shape, generator=torch.Generator().manual_seed(100 + t), dtype=p.dtype)


def run(optimizer, params, steps, start=0):
    for t in range(start, start + steps):
        for i, p in enumerate(params):
            p.grad = gradient(p, 10 * t + i)
        optimizer.step()


def pair(*shapes, dtype=torch.float32):
    ours = [parameter(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]
    return ours, [nn.Parameter(p.detach().clone()) for p in ours]
