"""The activations of a transformer block that wait for the backward pass, in numbers per token.

Scores of attention are not among them: fused attention computes them again. With two bytes for a
number and one for each of two dropout masks, the block of GPT gives the 34·s·b·h bytes of
Korthikanti et al. (arXiv 2205.05198, section 4.1), without the 5·a·s²·b of its scores.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KeptNumbers:
    """Numbers that a block keeps for a token.

    Args:
        divided: the numbers that tensor parallelism divides, along the layer or the sequence.
        whole: the numbers that each of its ranks has: inputs of layers, gathered along the
            sequence, which torch keeps as they were used.
    """

    divided: int = 0
    whole: int = 0

    def per_rank(self, tp: int) -> float:
        """Numbers of one rank."""
        return self.divided / tp + self.whole


@dataclass(frozen=True, kw_only=True)
class BlockCost:
    """The numbers of a block of layers for a token.

    Args:
        width: numbers between blocks.
        none: all that the backward pass reads.
        selective: those that are kept if every second product is computed again, as in torchtitan:
            the input, the result of attention and of every other product.
        working: gradients of activations that exist at the same time.
        repeated: numbers of the weights whose products are computed again then.
    """

    width: int = 0
    none: KeptNumbers = KeptNumbers()
    selective: KeptNumbers = KeptNumbers()
    working: int = 0
    repeated: float = 0.0

    def kept(self, recompute: str) -> KeptNumbers:
        """The numbers that wait under one of `steepest.apps.plan.batch.RECOMPUTE`."""
        ways = {
            "none": self.none,
            "selective": self.selective,
            "full": KeptNumbers(divided=self.width),
        }
        return ways[recompute]


def transformer(width: int, hidden: int, *, keys: int = 0) -> BlockCost:
    """A block of attention and a perceptron.

    Args:
        width: the width of the model, and of all its heads together.
        hidden: the width of the perceptron.
        keys: the numbers of a token's keys, and of its values, beside a gated perceptron as in
            Llama; 0 for GPT's block: a fused query, key and value as wide as the model, no gate.

    Examples:
        >>> block = transformer(8, 32).none
        >>> 2 * (block.divided + block.whole) + 2 * 8  # 34 · width
        272
    """
    # The inputs of both norms, queries, keys, values and the result of attention; then the inputs
    # of the first layers, which are the results of the norms.
    divided = 4 * width + 2 * (keys or width)
    if not keys:
        return BlockCost(
            width=width,
            none=KeptNumbers(divided=divided + 2 * hidden, whole=2 * width),
            # Of the products of attention's input and output and of the perceptron's two, the first
            # and the third.
            selective=KeptNumbers(divided=5 * width + hidden),
            working=2 * hidden + width,
            repeated=width * width + hidden * width,
        )
    return BlockCost(
        width=width,
        none=KeptNumbers(divided=divided + 4 * hidden, whole=2 * width),
        # Queries, values, one half of the gate, and the output, before it is added up.
        selective=KeptNumbers(divided=3 * width + keys + hidden, whole=width),
        working=3 * hidden + width,
        repeated=keys * width + width * width + hidden * width,
    )


def latent_experts(
    width: int, hidden: int, *, taken: int, heads: int, ranks: tuple[int, int], repeated: float
) -> BlockCost:
    """A block of latent attention and experts, as in DeepSeek-V3 and Kimi K2.

    Args:
        width: the width of the model.
        hidden: the width of an expert.
        taken: the experts of a token, beside a shared one.
        heads: the number of heads, with 128 + 64 numbers of a key and 128 of a value.
        ranks: the latent numbers of queries, and of keys and values.
        repeated: numbers of the weights that selective recomputation multiplies with again.
    """
    queries, keys = ranks
    latent = 2 * queries + 2 * keys + 64
    # Queries, keys and values as projected, the keys put together, and the result.
    attention = heads * (192 + 256 + 192 + 128)
    # What goes to the experts and comes back, and their two halves of the gate, its activation and
    # the product.
    experts = 2 * taken * width + 4 * (taken + 1) * hidden
    return BlockCost(
        width=width,
        none=KeptNumbers(divided=2 * width + attention + experts, whole=2 * width + latent),
        selective=KeptNumbers(
            divided=(taken + 2) * width + heads * 128 + (taken + 1) * hidden,
            whole=queries + keys + 64,
        ),
        working=3 * (taken + 1) * hidden + (taken + 1) * width,
        repeated=repeated,
    )
