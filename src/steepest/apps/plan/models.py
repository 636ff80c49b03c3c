"""The facts that a plan needs about a model: shapes of weights, in a table without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from steepest._common.errors import invalid
from steepest.apps.plan.blocks import BlockCost, latent_experts, transformer

MatrixStack = tuple[int, int, int]
"""(how many, rows, columns) of equal matrices."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters of one shape that Muon updates.

    Args:
        count: the number of parameters.
        shape: the shape of one: out × in, or experts × out × in.
        parts: the matrices that one is seen as.
        share: the share of them that a token meets: 8/384 for 8 of 384 experts.

    Examples:
        >>> Weights(count=12, shape=(2304, 768), parts=((3, 768, 768),)).numel
        1769472
    """

    count: int
    shape: tuple[int, ...]
    parts: tuple[MatrixStack, ...]
    share: float = 1.0

    @property
    def numel(self) -> int:
        """The numbers that one parameter holds."""
        return math.prod(self.shape)

    @property
    def stacked(self) -> bool:
        """Whether the first axis counts matrices, such as experts."""
        return len(self.shape) > 2 and all(b % self.shape[0] == 0 for b, _, _ in self.parts)

    @property
    def sides(self) -> tuple[int, int]:
        """Numbers that a token becomes, and of which: those of a layer, or of one of a stack."""
        if self.stacked:
            return self.shape[1], self.numel // (self.shape[0] * self.shape[1])
        return self.shape[0], self.numel // self.shape[0]

    @property
    def work(self) -> int:
        """The cost of one for its owner, up to a factor: m·n·min(m, n) for each matrix."""
        return sum(b * m * n * min(m, n) for b, m, n in self.parts)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as a plan sees it.

    Args:
        name: the name on the command line.
        source: the source of the numbers.
        weights: the parameters that Muon updates.
        rest: the number of parameters that AdamW updates, and in how many tensors.
        active: numbers of `rest` that a token is multiplied with, the output head's.
        tokens: the tokens of a step, unless another number is asked for.
        blocks: the number of pieces in which FSDP2 gathers the weights.
        added: numbers per token that tensor parallelism adds up in a forward pass.
        sent: numbers per token that go to experts in a forward pass, and come back.
        block: activations of one piece.
        scores: numbers of the queries, keys and values of a token that attention multiplies with
            those of every other token.
        length: tokens of a sequence, unless another number is asked for.
        vocabulary: numbers of a token's logits.
        root: trained numbers outside of the pieces: embedding, head, last norm.
        tied: whether one table is both embedding and head.
        heads: attention heads of a block; 0 where they are unknown, or there are none.
        kv_heads: those of keys and values, where several heads of queries share one; or 0.
    """

    name: str
    source: str
    weights: tuple[Weights, ...]
    rest: tuple[int, int]
    active: int
    tokens: int
    blocks: int
    added: int
    sent: int = 0
    block: BlockCost = field(default_factory=BlockCost)
    scores: int = 0
    length: int = 2048
    vocabulary: int = 0
    root: int = 0
    tied: bool = False
    heads: int = 0
    kv_heads: int = 0

    @property
    def matrices(self) -> int:
        """The number of matrices that Muon makes orthogonal."""
        return sum(w.count * b for w in self.weights for b, _, _ in w.parts)

    @property
    def parameters(self) -> int:
        """The number of trained numbers."""
        return sum(w.count * w.numel for w in self.weights) + self.rest[0]

    @property
    def used(self) -> float:
        """The number of them that a token is multiplied with."""
        return sum(w.count * w.numel * w.share for w in self.weights) + self.active

    def divided(self, tp: int) -> bool:
        """Whether so many tensor parallel ranks get whole heads, and equally many, of keys as well.

        Examples:
            >>> [MODELS["llama-405b"].divided(tp) for tp in (8, 16)]
            [True, False]
        """
        return not (self.heads % tp or self.kv_heads % tp)

    def check_heads(self, tp: int) -> None:
        """Raise where so many tensor parallel ranks cannot have equally many heads.

        More of them than heads of keys and values can, with copies of these.

        Raises:
            ValueError: some would have more heads than others.
        """
        if self.heads % tp:
            remedy = f"give a divisor of {self.heads}, the heads of {self.name}"
            raise invalid("mesh", f"tp={tp}", remedy)
        if self.kv_heads % tp and tp % self.kv_heads:
            few = f"{self.kv_heads}, the heads of keys and values of {self.name}"
            raise invalid("mesh", f"tp={tp}", f"give a divisor or a multiple of {few}")

    def stage(self, stages: int, *, last: bool = False) -> Model:
        """The first or the last stage of a pipeline: its blocks, with the embedding or the head.

        Raises:
            ValueError: more stages than blocks.

        Examples:
            >>> [MODELS["llama-8b"].stage(4, last=last).blocks for last in (False, True)]
            [8, 8]
        """
        if stages > self.blocks:
            raise invalid(
                "mesh",
                f"pp={stages}",
                f"give at most {self.blocks} stages, the blocks of {self.name}",
            )
        blocks = math.ceil(self.blocks / stages)
        root = self.root if self.tied else self.root / 2
        rest = (self.rest[0] - self.root) * blocks / self.blocks + root
        return replace(
            self,
            weights=tuple(
                replace(w, count=math.ceil(w.count * blocks / self.blocks)) for w in self.weights
            ),
            rest=(math.ceil(rest), math.ceil(self.rest[1] * blocks / self.blocks)),
            active=self.active if last else 0,
            blocks=blocks,
            added=self.added * blocks // self.blocks,
            sent=self.sent * blocks // self.blocks,
            scores=self.scores * blocks // self.blocks,
            vocabulary=self.vocabulary if last else 0,
            root=math.ceil(root),
        )


def linear(count: int, out: int, into: int, split: int = 1) -> Weights:
    """Layers out × in, each seen as `split` matrices."""
    return Weights(count=count, shape=(out, into), parts=((split, out // split, into),))


def experts(count: int, number: int, out: int, into: int, share: float) -> Weights:
    """Stacks of experts, one matrix each."""
    return Weights(
        count=count, shape=(number, out, into), parts=((number, out, into),), share=share
    )


def _gpt2(name: str, layers: int, width: int, heads: int) -> Model:
    vocabulary, context = 50257, 1024
    block = [(3 * width, width, 3), (width, width, 1), (4 * width, width, 1), (width, 4 * width, 1)]
    return Model(
        name=name,
        # Batches of 512 × 1024 tokens: section 2.3. The table has no heads.
        source="Radford et al., Language models are unsupervised … learners (2019), table 2, and "
        "the hparams.json of each model",
        weights=tuple(linear(layers, *shape) for shape in block),
        # Table and head are one; four biases and two norms per block, one norm at the end.
        rest=((vocabulary + context) * width + layers * 13 * width + 2 * width, 8 * layers + 4),
        active=vocabulary * width,
        tokens=512 * context,
        blocks=layers,
        added=2 * layers * width,
        block=transformer(width, 4 * width),
        scores=2 * layers * width,
        length=context,
        vocabulary=vocabulary,
        root=(vocabulary + context) * width + 2 * width,
        tied=True,
        heads=heads,
    )


def _llama3(name: str, layers: int, width: int, hidden: int, tokens: int) -> Model:
    # Heads of 128 numbers, 8 of keys and values.
    vocabulary, size, kv_heads = 128256, 128, 8
    keys = kv_heads * size
    return Model(
        name=name,
        source="Llama Team, The Llama 3 herd of models, arXiv 2407.21783, table 3",
        weights=(
            linear(2 * layers, width, width),
            linear(2 * layers, keys, width),
            linear(2 * layers, hidden, width),
            linear(layers, width, hidden),
        ),
        rest=(2 * vocabulary * width + (2 * layers + 1) * width, 2 * layers + 3),
        active=vocabulary * width,
        tokens=tokens,
        blocks=layers,
        added=2 * layers * width,
        block=transformer(width, hidden, keys=keys),
        scores=2 * layers * width,
        length=8192,
        vocabulary=vocabulary,
        root=2 * vocabulary * width + width,
        heads=width // size,
        kv_heads=kv_heads,
    )


def _kimi_k2() -> Model:
    # 64 heads: queries through 1536, keys and values through 512; 128 + 64 and 128 per head.
    layers, width, routed, hidden, taken, heads = 61, 7168, 384, 2048, 8, 64
    vocabulary, moe = 163840, layers - 1
    # The second of two products for queries, keys and values, the router, half of the gate.
    repeated = heads * (192 * 1536 + 256 * 512) + (routed + (taken + 1) * hidden) * width
    attention = (
        linear(layers, 1536, width),
        linear(layers, heads * 192, 1536),
        linear(layers, 512 + 64, width),
        linear(layers, heads * 256, 512),
        linear(layers, width, heads * 128),
    )
    return Model(
        name="moe-1t",
        # 67M tokens per step, in sequences of 4096: section 2.5 of the report; the other numbers as
        # in its config.json.
        source="Kimi Team, Kimi K2, arXiv 2507.20534, table 2, and its published config.json",
        weights=(
            *attention,
            linear(2, 18432, width),
            linear(1, width, 18432),
            linear(2 * moe, hidden, width),
            linear(moe, width, hidden),
            linear(moe, routed, width),
            experts(2 * moe, routed, hidden, width, taken / routed),
            experts(moe, routed, width, hidden, taken / routed),
        ),
        rest=(
            2 * vocabulary * width
            + (2 * layers + 1) * width
            + layers * (1536 + 512)
            + moe * routed,
            4 * layers + 3 + moe,
        ),
        active=vocabulary * width,
        tokens=2**26,
        blocks=layers,
        added=2 * layers * width,
        sent=moe * taken * width,
        block=latent_experts(
            width, hidden, taken=taken, heads=heads, ranks=(1536, 512), repeated=repeated
        ),
        scores=layers * heads * (192 + 128),
        length=4096,
        vocabulary=vocabulary,
        root=2 * vocabulary * width + width,
        heads=heads,
    )


_ALL = (
    _gpt2("gpt2-small", 12, 768, 12),
    _gpt2("gpt2-medium", 24, 1024, 16),
    _gpt2("gpt2-large", 36, 1280, 20),
    _gpt2("gpt2-xl", 48, 1600, 25),
    # 4M tokens per step: the first batch of the 405B in section 3.4.1, which ends at 16M.
    _llama3("llama-8b", 32, 4096, 14336, 2**22),
    _llama3("llama-70b", 80, 8192, 28672, 2**22),
    _llama3("llama-405b", 126, 16384, 53248, 2**24),
    _kimi_k2(),
)
MODELS: Mapping[str, Model] = {m.name: m for m in _ALL} | {"gpt2": _ALL[0]}
"""Every table by its name."""
