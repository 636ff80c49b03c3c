"""The places where the parameters of a model live, and what routing can ask about one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from torch import nn

from steepest._common.torch_modules import CONVS, EMBEDDINGS, RECURRENT, TRANSPOSED, WRAPPERS
from steepest.routing import names
from steepest.views import EXPERTS, INPUT_FIRST, LINEAR, MatrixView, conv, conv_transpose

Path: TypeAlias = tuple[str, ...]

# What torch.nn.utils makes of `weight`: weight_norm (v), spectral_norm and pruning (orig).
STORED_WEIGHT = re.compile(r"weight_(v|orig)")
# Attributes by which attention modules, or their `config`, tell their numbers of heads.
HEADS = ("num_heads", "n_heads", "n_head", "num_attention_heads", "nhead", "heads")
KV_HEADS = ("num_kv_heads", "num_key_value_heads", "n_kv_heads", "n_kv_head", "kv_heads")
HEAD_DIM = ("head_dim", "attention_head_size", "d_head", "dim_head", "head_size", "kv_channels")
PROJECTIONS = "|".join((names.FUSED, names.QUERY, names.KEY, names.VALUE, names.KEY_VALUE))


def kind_of(module: nn.Module) -> str:
    """Class name of a module; of a sharded one the name that its class had before.

    `fully_shard` and `replicate` give a Linear a class FSDPLinear(FSDPModule, Linear) of their own.
    """
    kinds = type(module).__mro__
    return next(k.__name__ for k in kinds if not k.__module__.startswith("torch.distributed."))


@dataclass(frozen=True, eq=False, kw_only=True)
class ParameterPlace:
    """One place where a parameter lives; a tied parameter has several.

    Args:
        name: full name, as in `named_parameters`.
        path: names of the modules from the root to the owner, wrappers left out.
        chain: those modules, the root first: one more than `path`.
        attribute_name: name of the parameter in its owner; `weight` for a stored form of it.
        shape: shape of the parameter.
        stored: the owner computes its weight from this tensor (weight norm, spectral norm, …).
    """

    name: str
    path: Path
    chain: tuple[nn.Module, ...]
    attribute_name: str
    shape: tuple[int, ...]
    stored: bool

    @property
    def owner(self) -> nn.Module:
        """The module that holds the parameter."""
        return self.chain[-1]

    @cached_property
    def kind(self) -> str:
        """Class name of the owner."""
        return kind_of(self.owner)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def bare(self) -> bool:
        """Whether the parameter was named by its owner's author, rather than called `weight`."""
        return self.attribute_name != "weight" and not isinstance(
            self.owner, nn.ParameterList | nn.ParameterDict
        )

    @cached_property
    def named_path(self) -> Path:
        """Path that ends in the telling name of a `weight`: `qkv` for a Linear at `qkv.linear`."""
        shell = len(self.path) > 1 and re.fullmatch(names.SHELL, self.path[-1], re.IGNORECASE)
        if shell and re.fullmatch(PROJECTIONS, self.path[-2], re.IGNORECASE):
            return self.path[:-1]
        return self.path

    @cached_property
    def given_name(self) -> str:
        """The telling name: of the module for a `weight`, else of the parameter itself."""
        if self.bare:
            return self.attribute_name.removesuffix("_weight")
        return self.named_path[-1] if self.path else ""

    @cached_property
    def container_path(self) -> Path:
        """Path of the module that uses `given_name` as a name."""
        return self.path if self.bare else self.named_path[:-1]

    @property
    def container(self) -> nn.Module:
        """The module at `container_path`."""
        return self.chain[len(self.container_path)]

    @cached_property
    def of_attention(self) -> bool:
        """Whether the container is an attention module, by its class or by its name."""
        if re.search(names.ATTENTION_CLASS, kind_of(self.container)):
            return True
        called = self.container_path[-1] if self.container_path else ""
        return bool(re.fullmatch(names.ATTENTION, called, re.IGNORECASE)) and not re.fullmatch(
            names.LINEAR_ATTENTION, called, re.IGNORECASE
        )

    @cached_property
    def layer(self) -> bool:
        """Whether this is the weight of a linear map or a convolution."""
        if self.attribute_name != "weight" or self.ndim < 2:
            return False
        named = self.ndim == 2 and re.search(r"Linear$|^Conv1D$", self.kind)
        return bool(named) or isinstance(self.owner, (nn.Linear, *CONVS, *TRANSPOSED))

    @cached_property
    def layout(self) -> MatrixView:
        """The whole parameter as one matrix, or one for each group or expert."""
        owner = self.owner
        if self.layer and isinstance(owner, TRANSPOSED):
            return conv_transpose(self.ndim - 2, groups=owner.groups)
        if self.layer and isinstance(owner, CONVS):
            return conv(self.ndim - 2, groups=owner.groups)
        if self.layer and self.kind == "Conv1D" and hasattr(owner, "nf"):
            return INPUT_FIRST
        if self.ndim == 3 and not isinstance(owner, nn.Bilinear):
            return EXPERTS
        return LINEAR if self.ndim == 2 else conv(self.ndim - 2)

    @cached_property
    def outputs(self) -> int:
        """Rows of one matrix of `layout`."""
        return self.layout.shapes(self.shape)[0][1]

    @cached_property
    def inputs(self) -> int:
        """Columns of one matrix of `layout`."""
        return self.layout.shapes(self.shape)[0][2]

    def cut(self, split: int | tuple[int, ...]) -> MatrixView:
        """The layout with its outputs cut into separate matrices."""
        return replace(self.layout, split=split, split_dim=self.layout.rows[0])

    def own_number(self, attributes: tuple[str, ...]) -> int | None:
        """A number that the container carries under one of these names."""
        return _number_of(self.container, attributes)

    def config_number(self, attributes: tuple[str, ...]) -> int | None:
        """A number that the container carries, or its `config` if that speaks of attention.

        A configuration is shared by all modules of a model, so what it says of heads holds for the
        attention modules alone.
        """
        own = self.own_number(attributes)
        if own is None and self.of_attention:
            return _number_of(getattr(self.container, "config", None), attributes)
        return own


def other_factor(name: str) -> str:
    """The full name of the other factor of a low-rank update; empty for anything else.

    Examples:
        >>> other_factor("q_proj.lora_A.default.weight")
        'q_proj.lora_B.default.weight'
    """
    swap = {"a": "b", "A": "B", "b": "a", "B": "A", "down": "up", "up": "down"}
    found = re.search(
        r"(?:^|.*\.)lora_(?:embedding_)?(a|A|b|B|down|up)(?=\d*(?:\.|_weight|$))", name
    )
    if found is None:
        return ""
    return name[: found.start(1)] + swap[found[1]] + name[found.end(1) :]


def _number_of(holder: object, attributes: tuple[str, ...]) -> int | None:
    """The first positive whole number under one of these names."""
    for name in attributes:
        value = getattr(holder, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def _place_of(model: nn.Module, name: str, shape: tuple[int, ...]) -> ParameterPlace:
    """The place that a full name speaks of."""
    *names, attribute_name = name.split(".")
    stored = len(names) > 1 and names[-2] == "parametrizations"
    if stored:
        *names, _, attribute_name = names
    path: list[str] = []
    chain = [model]
    for step in names:
        module = chain[-1].get_submodule(step)
        if step in WRAPPERS:
            chain[-1] = module
        else:
            path.append(step)
            chain.append(module)
    if STORED_WEIGHT.fullmatch(attribute_name):
        attribute_name, stored = "weight", True
    return ParameterPlace(
        name=name,
        path=tuple(path),
        chain=tuple(chain),
        attribute_name=attribute_name,
        shape=shape,
        stored=stored,
    )


def _numbered(path: Path) -> Iterator[tuple[int, Path]]:
    """The position of each numbered module above the owner, with the path without the number."""
    for i, step in enumerate(path[:-1]):
        stem = step.rstrip("0123456789")
        if stem != step:
            yield i, (*path[:i], f"{stem}#", *path[i + 1 :])


def _of_positions(place: ParameterPlace) -> bool:
    """Whether an embedding is of positions, which no output layer resembles."""
    return any(re.fullmatch(names.POSITION, step, re.IGNORECASE) for step in place.path[-2:])


class ModelIndex:
    """The model as a whole: which layer is last, which layers are repeated, what is tied.

    Args:
        model: the model.

    Attributes:
        tied: the places where each parameter lives, in the model's order.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tied: dict[nn.Parameter, tuple[ParameterPlace, ...]] = {}
        self._layers: list[Path] = []
        self._any: dict[Callable[[ParameterPlace, ModelIndex], bool], bool] = {}
        self._ends: dict[tuple[Path, str | None], Path | None] = {}
        self._places: dict[Path, list[ParameterPlace]] = {}
        self._repeats: Counter[tuple[Path, str, tuple[int, ...]]] = Counter()
        self._tables: set[tuple[int, ...]] = set()
        for name, parameter in model.named_parameters(remove_duplicate=False):
            place = _place_of(model, name, tuple(parameter.shape))
            self.tied[parameter] = (*self.tied.get(parameter, ()), place)
            self._places.setdefault(place.container_path, []).append(place)
            if isinstance(place.owner, EMBEDDINGS) and not _of_positions(place):
                self._tables.add(place.shape)
            if place.layer or isinstance(place.owner, (*RECURRENT, nn.MultiheadAttention)):
                self._layers.append(place.path)
            for _, path in _numbered(place.path):
                self._repeats[path, place.attribute_name, place.shape] += 1

    @property
    def tied_head(self) -> bool:
        """Whether a layer shares its weight with an embedding: then the output head is known."""
        return any(
            any(isinstance(s.owner, EMBEDDINGS) for s in places) and any(s.layer for s in places)
            for places in self.tied.values()
        )

    def any(self, condition: Callable[[ParameterPlace, ModelIndex], bool]) -> bool:
        """Whether some place fulfils a condition."""
        if condition not in self._any:
            places = (place for places in self.tied.values() for place in places)
            self._any[condition] = any(condition(place, self) for place in places)
        return self._any[condition]

    def end(self, under: Path = (), named: str | None = None) -> Path | None:
        """Path of the last layer below `under`, of the last one so named if there is one."""
        # Rules ask this for every layer; without a memory the cost would grow with their square.
        if (under, named) not in self._ends:
            below = [path for path in self._layers if path[: len(under)] == under]
            ends = [p for p in below if named and p and re.fullmatch(named, p[-1], re.IGNORECASE)]
            self._ends[under, named] = next(reversed(ends or below), None)
        return self._ends[under, named]

    def has_twin_block(self, place: ParameterPlace, above: int = 0) -> bool:
        """Whether a numbered block holds this parameter and another block its equal.

        Numbers in the first `above` names of the path do not count.
        """
        return any(
            i >= above and self._repeats[path, place.attribute_name, place.shape] > 1
            for i, path in _numbered(place.path)
        )

    def layers_below(self, under: Path) -> list[Path]:
        """Paths of all layers below `under`, in their order."""
        return [path for path in self._layers if path[: len(under)] == under]

    def after_the_blocks(self, place: ParameterPlace) -> bool:
        """Whether the container has lists of blocks, all of them registered before this layer."""
        depth = len(place.container_path)
        if any(isinstance(m, nn.ModuleList) for m in place.chain[:-1]):
            return False
        children = list(place.container.named_children())
        lists = [
            i for i, (_, m) in enumerate(children) if isinstance(m, nn.ModuleList) and len(m) > 1
        ]
        at = [i for i, (name, _) in enumerate(children) if name == place.path[depth]]
        return bool(lists and at) and lists[-1] < at[0]

    def indexed(self, place: ParameterPlace) -> bool:
        """Whether an embedding of the model, not of positions, has exactly this shape."""
        return place.shape in self._tables

    def sibling(self, place: ParameterPlace, given_name: str) -> ParameterPlace | None:
        """The matrix in the same module whose given name matches a pattern."""
        for other in self._places[place.container_path]:
            if other.ndim > 1 and re.fullmatch(given_name, other.given_name, re.IGNORECASE):
                return other
        return None
