"""A character-level GPT, with the module names that routing and people expect."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steepest import Chain, Parallel, Residual
from steepest.apps.train.config import ModelConfig


def next_loss(network: nn.Module, windows: Tensor) -> Tensor:
    """Mean cross-entropy in nats per character over windows of shape (batch, context + 1).

    Args:
        network: the module that gives the logits of the next character: a GPT, or what wraps one.
        windows: ids of characters.
    """
    logits: Tensor = network(windows[:, :-1]).flatten(0, 1)
    if logits.dtype == torch.bfloat16:  # three digits are too few for a mean of logarithms
        logits = logits.float()
    return F.cross_entropy(logits, windows[:, 1:].flatten())


class Attention(nn.Module):
    """Causal self-attention with a fused projection to queries, keys and values."""

    # Queries, keys and values of RMS 1 count once each, as in the GPT of Large et al., arXiv
    # 2405.14813, where scores are divided by the size of a head; here they are by its root.
    steepest_flow = Chain("qkv", 3.0, "proj")

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.size = width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, -1, self.size)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return y


class MLP(nn.Module):
    """Four times as wide inside, with a GELU."""

    steepest_flow = Chain("fc", 1.129, "proj")  # the largest slope of a GELU

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, 4 * width, bias=False)
        self.proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        y: Tensor = self.proj(F.gelu(self.fc(x)))
        return y


class Block(nn.Module):
    """A pre-norm transformer block: x + attn(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        # Whatever reads the stream begins with a LayerNorm, so the stream's scale is free: the sum
        # of the 2·layers branches counts as their average.
        share = 1 / (2 * layers)
        self.steepest_flow = Chain(
            Residual(Chain("ln1", "attn"), skip=1 - share, branch=share),
            Residual(Chain("ln2", "mlp"), skip=1 - share, branch=share),
        )
        self.ln1 = nn.LayerNorm(width, bias=False)
        self.attn = Attention(width, heads)
        self.ln2 = nn.LayerNorm(width, bias=False)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same shape."""
        x = x + self.attn(self.ln1(x))
        y: Tensor = x + self.mlp(self.ln2(x))
        return y


class GPT(nn.Module):
    """A decoder-only transformer over characters: learned positions, pre-norm, untied head.

    Args:
        config: its size.
        vocabulary: the number of different characters.
        seed: the seed of the first weights, whatever ran before.

    Examples:
        >>> model = GPT(ModelConfig(layers=1, width=8, heads=2, context=4), vocabulary=5, seed=0)
        >>> model(torch.tensor([[0, 1, 2, 3]])).shape
        torch.Size([1, 4, 5])
    """

    # The sum of two embeddings, whose scale is as free as that of the stream.
    steepest_flow = Chain(Parallel("tok_emb", "pos_emb"), 0.5, "blocks.*", "ln", "head")

    def __init__(self, config: ModelConfig, *, vocabulary: int, seed: int) -> None:
        super().__init__()
        self.context = config.context
        self.tok_emb = nn.Embedding(vocabulary, config.width)
        self.pos_emb = nn.Embedding(config.context, config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.layers) for _ in range(config.layers)
        )
        self.ln = nn.LayerNorm(config.width, bias=False)
        self.head = nn.Linear(config.width, vocabulary, bias=False)
        self._initialise(torch.Generator().manual_seed(seed), config.layers)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator, layers: int) -> None:
        """GPT-2's init (Radford et al. 2019, section 2.3): normal with deviation 0.02.

        The two projections of a block that write to the residual stream are divided by
        √(2·layers), so that the stream's variance does not grow with depth.
        """
        for name, p in self.named_parameters():
            if p.ndim == 2:
                residual = name.endswith("proj.weight")
                p.normal_(
                    0.0, 0.02 / math.sqrt(2 * layers) if residual else 0.02, generator=generator
                )

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the next character: (batch, time) to (batch, time, vocabulary)."""
        x = self.tok_emb(ids) + self.pos_emb.weight[: ids.shape[-1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.ln(x))
        return logits

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy in nats per character over windows of shape (batch, context + 1)."""
        return next_loss(self, windows)

    @torch.no_grad()
    def sample(self, prompt: Tensor, length: int, *, seed: int, temperature: float = 0.8) -> Tensor:
        """Continue the ids of `prompt`, shape (time,), by `length` random characters."""
        generator = torch.Generator().manual_seed(seed)
        ids = prompt
        for _ in range(length):
            logits = self(ids[None, -self.context :])[0, -1].double().cpu()
            chances = torch.softmax(logits / temperature, dim=-1)
            drawn = torch.multinomial(chances, 1, generator=generator)
            ids = torch.cat([ids, drawn.to(ids.device)])
        return ids
