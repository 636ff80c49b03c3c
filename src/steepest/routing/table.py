"""The routing of a model: which parameter is a matrix, and which one goes to AdamW.

`route(model)` reads the module tree and answers for every parameter, with a reason. What the tree
does not show is marked as a guess, and every answer can be overridden by name. Frozen parameters
are routed like all others: an optimizer leaves them alone until they are thawed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from steepest._common.errors import invalid, shape_text
from steepest._common.patterns import Patterns
from steepest._common.text import table
from steepest.routing.assignment import Assignment as Assignment
from steepest.routing.assignment import Override, by_head, overridden
from steepest.routing.judge import RuleMatch, judge
from steepest.routing.places import HEADS, ModelIndex, ParameterPlace, other_factor
from steepest.routing.rule import Kind, Target
from steepest.views import MatrixView, ParameterViews

TARGETS: tuple[Target, ...] = ("matrix", "table", "vector", "constant")


@dataclass(frozen=True, repr=False, eq=False)
class Routing:
    """Every parameter of a model with its assignment; `print(routing)` shows the table.

    Args:
        assignments: one for each parameter, in the model's order.
        parameters: the parameters themselves, in the same order.
    """

    assignments: tuple[Assignment, ...]
    parameters: tuple[nn.Parameter, ...]

    def __getitem__(self, name: str) -> Assignment:
        """The assignment of a parameter, by any of its names."""
        for a in self.assignments:
            if name == a.name or name in a.aliases:
                return a
        raise KeyError(name)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self.assignments)

    def __len__(self) -> int:
        return len(self.assignments)

    @property
    def uncertain(self) -> tuple[Assignment, ...]:
        """The assignments that are guesses, of the parameters that are not frozen."""
        return tuple(a for a in self.assignments if not (a.certain or a.frozen))

    def numel(self, target: Target) -> int:
        """How many numbers go to a target."""
        return sum(a.numel for a in self.assignments if a.target == target)

    def groups(self, *, by_kind: bool = False) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer: matrices, then what AdamW updates.

        Args:
            by_kind: whether embeddings and output heads are a group each, in this order, so that
                each can have a learning rate of its own; otherwise they are one group.

        Returns:
            Groups of named parameters, frozen ones among them, none of them empty. The matrix group
            has `views`, one for each parameter; the others have `adamw=True`. Vectors are never
            decayed, so their group sets `weight_decay=0.0`; tables take the optimizer's value.

        Examples:
            >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 8), nn.LayerNorm(8))
            >>> for group in route(model).groups():
            ...     print([name for name, _ in group["params"]], sorted(group))
            ['1.weight'] ['params', 'views']
            ['0.weight'] ['adamw', 'params']
            ['1.bias', '2.weight', '2.bias'] ['adamw', 'params', 'weight_decay']
        """
        members: dict[Target, list[tuple[str, nn.Parameter]]] = {t: [] for t in TARGETS}
        tables: dict[Kind, list[tuple[str, nn.Parameter]]] = {"embedding": [], "head": []}
        for a, parameter in zip(self.assignments, self.parameters, strict=True):
            members[a.target].append((a.name, parameter))
            if a.target == "table":
                tables[a.kind].append((a.name, parameter))
        seen = [a.view for a in self.assignments if a.target == "matrix" and a.view]
        views = ParameterViews(seen, [p for _, p in members["matrix"]])
        divided = list(tables.values()) if by_kind else [members["table"]]
        groups: list[dict[str, Any]] = [
            {"params": members["matrix"], "views": views},
            *({"params": some, "adamw": True} for some in divided),
            {"params": members["vector"], "adamw": True, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def __repr__(self) -> str:
        return f"<Routing of {len(self)} parameters: {'; '.join(self._counts())}>"

    def __str__(self) -> str:
        head = ("", "parameter", "shape", "matrices", "to", "why")
        rows = [
            (
                " " if a.certain or a.frozen else "?",
                a.name,
                shape_text(a.shape),
                a.matrices,
                a.to,
                a.reason,
            )
            for a in self.assignments
        ]
        lines = [table(head, rows, left=head), "", *self._counts()]
        if self.uncertain:
            lines.append(f"Guesses, marked ?: {len(self.uncertain)} of {len(self)} parameters.")
            lines.append("To settle them, write overrides={name: …} with")
            lines += [f"  {line}" for line in _remedies(self.uncertain)]
        return "\n".join(lines)

    def _counts(self) -> list[str]:
        """The numbers and parameters that go to each destination, counted, a line each."""
        total = max(1, sum(a.numel for a in self.assignments))
        lines = []
        for to in dict.fromkeys(
            a.to for target in TARGETS for a in self.assignments if a.target == target
        ):
            mine = [a for a in self.assignments if a.to == to]
            numel = sum(a.numel for a in mine)
            many = "parameter" if len(mine) == 1 else "parameters"
            lines.append(f"{to}: {numel:,} numbers ({numel / total:.1%}) in {len(mine)} {many}")
        return lines

    def pick(self, chosen: Collection[int]) -> Routing:
        """The routing of some of the parameters, by their positions."""
        return Routing(
            tuple(self.assignments[i] for i in sorted(chosen)),
            tuple(self.parameters[i] for i in sorted(chosen)),
        )

    def as_in(self, destinations: Mapping[Tensor, str]) -> Routing:
        """The routing with what an optimizer does with each parameter, and which are frozen now."""
        pairs = zip(self.assignments, self.parameters, strict=True)
        now = (
            replace(a, destination=destinations.get(p, ""), frozen=not p.requires_grad)
            for a, p in pairs
        )
        return Routing(tuple(now), self.parameters)


def _remedies(uncertain: tuple[Assignment, ...]) -> Iterator[str]:
    """The override to write for each guess."""
    return (f"{a.name!r}: {a.settle}" for a in uncertain)


def _heads_of(heads: int | str | Mapping[str, int] | None) -> Mapping[str, int | str]:
    """The argument `heads` as patterns."""
    if heads is None:
        return {}
    if isinstance(heads, str) and heads != "auto":
        raise invalid("heads", heads, 'give a number, {pattern: number}, "auto" or None')
    return heads if isinstance(heads, Mapping) else {"*": heads}


def _number(
    a: Assignment, heads: int | str, places: Sequence[ParameterPlace], verdict: RuleMatch
) -> int:
    """The number of heads; `"auto"` asks the attention module."""
    if isinstance(heads, int):
        return heads
    if verdict.layout is not None:
        return verdict.layout.heads[0]
    counted_heads = places[0].config_number(HEADS)
    if counted_heads is None:
        raise invalid(
            "heads",
            heads,
            f"the module of {a.name} has none of the attributes {', '.join(HEADS)}; "
            "give a number or {pattern: number}",
        )
    return counted_heads


def _assign(
    index: ModelIndex,
    parameter: nn.Parameter,
    chosen: Patterns[str, MatrixView | Override],
    counted: Patterns[str, int | str],
) -> Assignment:
    """The assignment of one parameter: the rules, then an override or the heads."""
    places = index.tied[parameter]
    verdict = judge(places, index)
    names = [place.name for place in places]
    rule = verdict.rule
    a = Assignment(
        name=names[0],
        shape=tuple(parameter.shape),
        target=rule.target,
        view=verdict.view if rule.target == "matrix" else None,
        kind=verdict.kind,
        reason=verdict.reason,
        certain=not rule.settle,
        settle=rule.settle,
        aliases=tuple(names[1:]),
    )
    override = chosen.first(names)
    split = counted.first(names) if verdict.query is not None else None
    if override:
        a = overridden(a, verdict, *override)
    elif split:
        a = by_head(a, verdict, _number(a, split[1], places, verdict))
    if parameter.dtype.is_floating_point or parameter.is_complex():
        return replace(a, frozen=not parameter.requires_grad)
    reason = f"{str(parameter.dtype).removeprefix('torch.')} has no gradient"
    return replace(
        a,
        target="constant",
        kind="constant",
        view=None,
        reason=reason,
        certain=True,
        settle="",
        frozen=True,
    )


def _paired(assignments: tuple[Assignment, ...]) -> tuple[Assignment, ...]:
    """The same, where both factors of a low-rank update know each other."""
    known = {a.name for a in assignments}
    found = []
    for a in assignments:
        other = other_factor(a.name)
        if other in known:
            a = replace(a, pair=other, reason=f"{a.reason}, one factor; the other is {other}")
        found.append(a)
    return tuple(found)


def _index(model: nn.Module) -> ModelIndex:
    """The model's parameters and their places; raises if there is nothing to route."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise invalid("model", type(model).__name__, "it has no parameters; nothing to optimize")
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise invalid("model", name, "is not initialised yet; run one batch through the model")
    return ModelIndex(model)


def route(
    model: nn.Module,
    *,
    overrides: Mapping[str, MatrixView | Override] | None = None,
    heads: int | Literal["auto"] | Mapping[str, int] | None = None,
    strict: bool = False,
) -> Routing:
    """Say for every parameter of a model whether it is a matrix, and which one.

    Hidden weights are matrices: linear layers, convolutions as out × (in·k), each part of a fused
    projection, each gate, each expert. Embeddings, output heads and whatever is tied to one are
    tables; biases, gains, positions and tokens are vectors; both go to AdamW. The type of a module
    decides first, then its name, then the shape.

    Args:
        model: the model, with initialised parameters.
        overrides: `{pattern: value}` on full parameter names, with the wildcards of `fnmatch`; the
            first pattern that matches wins, and a tied parameter answers to each of its names.
            Values: `"matrix"`, `"adamw"` (AdamW), or a `MatrixView`.
        heads: query heads, to orthogonalise each head of the query, key and value projections by
            itself: a number for all of them, `{pattern: number}`, or `"auto"` for what the
            attention modules say (`num_heads`, `n_head`, …). None: one matrix a projection.
        strict: whether to raise if anything is uncertain that is not frozen.

    Returns:
        The routing: printable, and with `groups()` for the optimizer. Parameters with
        `requires_grad=False` are routed as all others are, so that they can be thawed later.

    Raises:
        ValueError: no parameters, or uninitialised ones; a pattern that decides nothing; a value
            that does not fit its parameter; heads that do not divide; under `strict`, a guess.

    Examples:
        >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> print(route(model, overrides={"2.weight": "adamw"}))
           parameter  shape  matrices  to      why
           0.weight   32×16  32×16     matrix  hidden layer
           0.bias     32               vector  bias, gain or scale: one axis
           2.weight   10×32            table   override '2.weight'
           2.bias     10               vector  bias, gain or scale: one axis
        <BLANKLINE>
        matrix: 512 numbers (58.6%) in 1 parameter
        table: 320 numbers (36.6%) in 1 parameter
        vector: 42 numbers (4.8%) in 2 parameters

    Sources:
        The division of labour between Muon and AdamW, and splitting fused projections: K. Jordan
        et al., "Muon: An optimizer for hidden layers in neural networks" (2024).
    """
    index = _index(model)
    chosen = Patterns("overrides", overrides or {}, "parameter")
    counted = Patterns("heads", _heads_of(heads), "query, key or value projection")
    assignments = _paired(tuple(_assign(index, p, chosen, counted) for p in index.tied))
    chosen.check()
    counted.check()
    routing = Routing(assignments, tuple(index.tied))
    if strict and routing.uncertain:
        remedies = "; ".join(_remedies(routing.uncertain))
        raise invalid("strict", strict, f"these are guesses, write the overrides: {remedies}")
    return routing
