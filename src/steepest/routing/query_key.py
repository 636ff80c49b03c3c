"""The rows of query and key projections that belong to each head of an attention layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from steepest._common.errors import invalid, shape_text
from steepest.routing import names
from steepest.routing.judge import judge
from steepest.routing.places import HEADS, KV_HEADS, ModelIndex, ParameterPlace
from steepest.routing.projections import gated_query, has_head_counts, head_by_head, latent

# Modules that bring queries and keys to one length after their projections.
NORMALISED = r"(?:q|k|query|key)_?(?:layer_?)?norm|(?:layer_?)?norm_?(?:q|k)|ln_[qk]"
BIASES = {"query": r"q(?:uery)?_bias", "key": r"k(?:ey)?_bias"}


@dataclass(frozen=True, eq=False)
class HeadRows:
    """The rows of a parameter that belong to each head of attention.

    Args:
        param: A weight or a bias.
        split: The cut of axis `dim` into blocks, as in `MatrixView`: a number of equal blocks, or
            the size of each.
        blocks: The block of each head, by its number; None if they are the heads in their order.
        dim: The axis of the outputs.

    Raises:
        ValueError: blocks that do not fit the parameter.

    Examples:
        >>> import torch
        >>> qkv = torch.zeros(3 * 4 * 16, 64)  # query, key and value of four heads
        >>> HeadRows(qkv, 12, range(4, 8)).slices[0]
        slice(64, 80, None)
    """

    param: Tensor
    split: int | tuple[int, ...]
    blocks: Sequence[int] | None = None
    dim: int = 0

    def __post_init__(self) -> None:
        size = self.param.shape[self.dim]
        if size % self.split if isinstance(self.split, int) else sum(self.split) != size:
            text = f"{self.split} of {shape_text(self.param.shape)}"
            raise invalid("split", text, f"it does not cut the {size} rows of axis {self.dim}")
        count = len(self._sizes)
        if any(not 0 <= block < count for block in self.blocks or ()):
            raise invalid("blocks", self.blocks, f"give numbers of blocks in 0…{count - 1}")

    @property
    def _sizes(self) -> tuple[int, ...]:
        """Rows of each block."""
        if not isinstance(self.split, int):
            return self.split
        return (self.param.shape[self.dim] // self.split,) * self.split

    @property
    def slices(self) -> list[slice]:
        """The rows of each head."""
        sizes = self._sizes
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        blocks = range(len(sizes)) if self.blocks is None else self.blocks
        return [slice(starts[i], starts[i] + sizes[i]) for i in blocks]


@dataclass(frozen=True, eq=False)
class QueryKey:
    """The parameters whose products are the logits of an attention layer.

    Args:
        query: The rows of the query projection, and of its bias if it has one.
        key: The rows of the key projection and of its bias; of fewer heads where several query
            heads share one, in their order.
        rotary: The rows of the query that are multiplied with a key which all heads share, as those
            for positions in multi-head latent attention.

    Raises:
        ValueError: numbers of heads that do not fit each other.
    """

    query: Sequence[HeadRows]
    key: Sequence[HeadRows]
    rotary: Sequence[HeadRows] = ()

    def __post_init__(self) -> None:
        counts = [
            {len(rows.slices) for rows in some}
            for some in ((*self.query, *self.rotary), tuple(self.key))
        ]
        if list(map(len, counts)) != [1, 1] or self.heads % self.key_heads:
            raise invalid(
                "heads", tuple(map(sorted, counts)), "a number of query heads shares each key head"
            )

    @property
    def heads(self) -> int:
        """The number of query heads."""
        return len(self.query[0].slices)

    @property
    def key_heads(self) -> int:
        """The number of key heads."""
        return len(self.key[0].slices)


def query_keys(model: nn.Module) -> dict[str, QueryKey]:
    """The query and key rows of each attention layer, by the name of its module.

    Separate and fused projections are known, key heads that several query heads share, and
    multi-head latent attention, where names and numbers of heads tell them, as for `route`. Layers
    that normalise queries and keys are left out: the size of their weights does not matter.

    Args:
        model: The model.

    Examples:
        >>> model = nn.ModuleDict({"attention": nn.MultiheadAttention(16, num_heads=4)})
        >>> {name: layer.heads for name, layer in query_keys(model).items()}
        {'attention': 4}
    """
    index = ModelIndex(model)
    found: dict[str, QueryKey] = {}
    for places in index.tied.values():
        place = places[0]
        name = ".".join(place.container_path)
        if name in found or place.ndim != 2 or place.stored or _normalised(place.container):
            continue
        layer = _layer(_Projections(place, index))
        if layer is not None:
            found[name] = layer
    return found


def _normalised(attention: nn.Module) -> bool:
    """Whether queries or keys are normalised."""
    return any(
        re.fullmatch(NORMALISED, name, re.IGNORECASE) and not isinstance(child, nn.Identity)
        for name, child in attention.named_children()
    )


@dataclass(frozen=True, eq=False)
class _Projections:
    """A projection in the model that it belongs to."""

    place: ParameterPlace
    index: ModelIndex

    def called(self, pattern: str) -> bool:
        """Whether its telling name is this."""
        return bool(re.fullmatch(pattern, self.place.given_name, re.IGNORECASE))

    def sibling(self, pattern: str) -> ParameterPlace | None:
        """The matrix beside it of this name."""
        return self.index.sibling(self.place, pattern)

    @property
    def heads(self) -> int:
        """The number of query heads; 0 if the module does not tell."""
        return self.place.config_number(HEADS) or 0


def _layer(at: _Projections) -> QueryKey | None:
    """The layer of a query projection, or of a fused one; None for anything else."""
    if not at.heads:
        return None
    if isinstance(at.place.owner, nn.MultiheadAttention):
        return _of_torch(at.place.owner)
    if latent(at.place, at.index) and at.called(f"{names.QUERY}|{names.QUERY_UP}"):
        return _latent(at)
    if at.called(names.QUERY):
        return _separate(at)
    if at.called(f"{names.FUSED}|{names.HEAD_BY_HEAD}"):
        return _fused(at)
    return None


def _of_torch(owner: nn.MultiheadAttention) -> QueryKey:
    """Torch's own attention, whose biases are in one vector."""
    n: int = owner.num_heads
    bias: Tensor | None = getattr(owner, "in_proj_bias", None)
    blocks = range(n), range(n, 2 * n)
    fused: Tensor | None = getattr(owner, "in_proj_weight", None)
    if fused is not None:
        weights = [HeadRows(fused, 3 * n, some) for some in blocks]
    else:
        weights = [HeadRows(p, n) for p in (owner.q_proj_weight, owner.k_proj_weight)]
    biases = [[] if bias is None else [HeadRows(bias, 3 * n, some)] for some in blocks]
    return QueryKey([weights[0], *biases[0]], [weights[1], *biases[1]])


def _separate(at: _Projections) -> QueryKey | None:
    """A query projection, and a key projection or one for key and value."""
    place, n = at.place, at.heads
    rows = place.outputs // (2 if gated_query(place, at.index) else 1)
    key, both = at.sibling(names.KEY), at.sibling(names.KEY_VALUE)
    other = key or both
    if other is None or rows % n or other.outputs % (rows // n):
        return None
    blocks = other.outputs // (rows // n)
    gated = rows < place.outputs
    query = _rows(place, 2 * n if gated else n, range(0, 2 * n, 2) if gated else None, "query")
    if key is not None:
        return QueryKey(query, _rows(key, blocks, None, "key"))
    view = judge((other,), at.index).view
    halves = view is not None and view.split == 2 and blocks % 2 == 0
    return QueryKey(query, _rows(other, blocks, range(blocks // 2), "key")) if halves else None


def _fused(at: _Projections) -> QueryKey | None:
    """Query, key and value in one weight: part by part, or head by head."""
    place, n = at.place, at.heads
    view = judge((place,), at.index).view
    if view is None or (at.called("in_proj") and not place.of_attention):
        return None
    if head_by_head(place, at.index):
        groups = place.config_number(KV_HEADS) or n
        if not has_head_counts(place, at.index):
            return None
        each = n // groups
        # Of each group its queries, then its key and its value.
        query = [g * (each + 2) + i for g in range(groups) for i in range(each)]
        key = [g * (each + 2) + each for g in range(groups)]
    else:
        parts = (place.outputs // 3,) * 3 if view.split == 3 else view.split
        if isinstance(parts, int) or len(parts) != 3 or parts[0] % n or parts[1] % (parts[0] // n):
            return None
        groups = parts[1] // (parts[0] // n)
        query, key = list(range(n)), list(range(n, n + groups))
    blocks = n + 2 * groups
    return QueryKey(_rows(place, blocks, query, "query"), _rows(place, blocks, key, "key"))


def _latent(at: _Projections) -> QueryKey | None:
    """Multi-head latent attention: the rows for positions meet a key that all heads share."""
    place, n = at.place, at.heads
    plain, turned, value = (
        place.own_number((key,)) or 0
        for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    )
    other = at.sibling(names.KEY_VALUE_UP)
    if other is None or place.outputs != n * (plain + turned):
        return None
    if other.outputs != n * (plain + value):
        return None
    even, odd = range(0, 2 * n, 2), range(1, 2 * n, 2)
    split = (plain, turned) * n if turned else n
    return QueryKey(
        _rows(place, split, even if turned else None, "query"),
        _rows(other, (plain, value) * n, even, "key"),
        _rows(place, split, odd, "query") if turned else (),
    )


def _rows(
    place: ParameterPlace, split: int | tuple[int, ...], blocks: Sequence[int] | None, kind: str
) -> tuple[HeadRows, ...]:
    """The rows of a weight, and those of its bias."""
    dim = place.layout.rows[0]
    found = [HeadRows(place.owner.get_parameter(place.attribute_name), split, blocks, dim)]
    bias = getattr(place.owner, "bias", None) if place.attribute_name == "weight" else None
    if isinstance(bias, Tensor):
        found.append(HeadRows(bias, split, blocks))
    found += _named_biases(place, kind, len(found[0].slices))
    return tuple(found)


def _named_biases(place: ParameterPlace, kind: str, heads: int) -> Iterator[HeadRows]:
    """Biases that the module of the attention holds for itself."""
    for name, param in place.container.named_parameters(recurse=False):
        if re.fullmatch(BIASES[kind], name) and param.shape[0] % heads == 0:
            yield HeadRows(param, heads)
