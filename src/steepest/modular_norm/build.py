"""The modular norm of a network: one norm for all of its parameters, from how it is put together.

`modular(model)` walks the module tree. What a tree does not show, how the children of a module are
connected, is asked for and never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

from torch import nn
from torch.nn.parameter import is_lazy

from steepest._common.checks import positive
from steepest._common.errors import invalid
from steepest._common.patterns import Patterns
from steepest.modular_norm.flow import Atom, Flow, ParameterUse
from steepest.modular_norm.walk import Tree, Walk, aliases
from steepest.norms import Modular, Norm
from steepest.polar import PolarMethod

Key: TypeAlias = str | type[nn.Module]
"""Modules by a pattern of their names, or by their class."""


class _Masses:
    """The masses that were asked for.

    A pattern that matches parameters gives each its mass; one that matches modules only gives the
    mass of each module as a whole, shared by its parameters in the proportion they had.
    """

    def __init__(
        self, masses: Mapping[str, float], tied: Mapping[nn.Parameter, list[str]], tree: Tree
    ) -> None:
        for pattern, mass in masses.items():
            if not 0 <= mass < math.inf:
                raise invalid(f"masses[{pattern!r}]", mass, "give a number >= 0; 0 moves nothing")
        every = [alias for names in tied.values() for name in names for alias in aliases(name)]
        one = {p: m for p, m in masses.items() if any(fnmatchcase(n, p) for n in every)}
        whole = {p: m for p, m in masses.items() if p not in one}
        each = Patterns("masses", one, "trainable parameter")
        self.given: dict[str, float] = {}
        for names in tied.values():
            hit = each.first([alias for name in names for alias in aliases(name)])
            if hit:
                self.given.update(dict.fromkeys(names, hit[1]))
        each.check()
        groups = Patterns(
            "masses", whole, "trainable parameter and no module", "model.named_modules()"
        )
        hits = ((name, groups.first(aliases(name))) for name in tree.modules)
        # The inner ones first, so that what holds in the end is the mass of the outer one.
        self._totals = sorted(
            ((name, hit[1]) for name, hit in hits if hit), key=lambda item: -item[0].count(".")
        )
        groups.check()
        self._tree = tree
        zero = {n for n, m in self.given.items() if m == 0}
        zero.update(n for name, m in self._totals if m == 0 for n in tree.below[name])
        self.massless = {p for p, names in tied.items() if zero & set(names)}

    def of(self, uses: Iterable[ParameterUse]) -> dict[str, float]:
        """The mass of each use."""
        mass = {use.name: self.given.get(use.name, use.mass) for use in uses}
        for name, total in self._totals:
            inside = [n for n in self._tree.below[name] if n in mass]
            before = math.fsum(mass[n] for n in inside)
            if total and not inside:
                raise invalid(f"masses[{name!r}]", total, "nothing in this module is moved")
            mass.update({n: mass[n] * total / before for n in inside})
        return mass


def modular(
    model: nn.Module,
    *,
    flow: Mapping[Key, Flow | Atom] | None = None,
    masses: Mapping[str, float] | None = None,
    sensitivities: Mapping[Key, float] | None = None,
    polar: PolarMethod | None = None,
) -> Modular:
    """The modular norm of a model.

        n(ΔW) = max s_l·n_l(ΔW_l),   s_l = (Σ_k m_k / m_l)·(sensitivities of all that follows l)

    A change of the weights with n(ΔW) = η moves the output by at most η to first order, in RMS,
    while each weight has n_l ≤ 1 and what flows between layers has RMS at most 1. The mass m_l is
    the share that parameter l has in it: 1 for Linear, Embedding and convolution, 0.1 for a bias
    or a gain.

    A `nn.Sequential` is a chain. How another module connects its children is asked for: pass
    `flow`, which the error drafts, or set the attribute `steepest_flow` in the module. It has to
    name every child with parameters once.

    Args:
        model: the model, with initialised parameters. Frozen ones are left out; a tied one has
            its first name, counts with its mass at each place, and takes the largest s.
        flow: `{key: flow}`, where a key is a module type or a name, with the wildcards of
            `fnmatch`; `""` is the model itself. The first key that fits a module wins, and goes
            before its `steepest_flow`. Values: `Chain`, `Parallel`, `Residual` or an `Atom`.
        masses: `{pattern: mass}`. A pattern of parameter names gives each one its mass; one that
            matches only modules gives the mass of the whole module. With mass 0 a parameter is
            not moved: it is in `Modular.massless`, and no flow has to name it.
        sensitivities: `{key: number}`, in the place of what the type or the flow says. It changes
            what comes before the module, not what is inside.
        polar: how duality maps of matrices are computed, as in `norms.Spectral`; None is exact,
            `steepest.polar.Auto(error=0.05)` fast.

    Returns:
        The norm, of parameters by their names in `named_parameters`; printable.

    Raises:
        ValueError: an unknown flow or sensitivity; a flow that names a child which is not there,
            forgets one or has one twice; a key that matches nothing; a negative mass, or none at
            all; a tied parameter measured in different norms.

    Examples:
        >>> mlp = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2, bias=False))
        >>> print(modular(mlp, masses={"*.bias": 0.5}))
        parameter    s  norm
        0.weight   2.5  Operator('rms', 'rms')
        0.bias       5  RMS()
        2.weight   2.5  Operator('rms', 'rms')

    Sources:
        Large et al., Scalable optimization in the modular norm, arXiv 2405.14813; Bernstein &
        Newhouse, Modular duality in deep learning, arXiv 2410.21265.
    """
    _check(model, flow or {}, sensitivities or {})
    norm = _built(Tree(model), flow or {}, masses or {}, sensitivities or {})
    return norm if polar is None else norm.with_polar(polar)


def _check(
    model: nn.Module, flow: Mapping[Key, Flow | Atom], sensitivities: Mapping[Key, float]
) -> None:
    """Raise unless the model is initialised and the values are what they should be."""
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise invalid("model", name, "is not initialised yet; run one batch through the model")
    for key, value in sensitivities.items():
        positive(f"sensitivities[{key!r}]", value)
    for key, stated in flow.items():
        if not isinstance(stated, Flow | Atom):
            raise invalid(f"flow[{key!r}]", stated, "give Chain, Parallel, Residual or Atom")


def _built(
    tree: Tree,
    flow: Mapping[Key, Flow | Atom],
    masses: Mapping[str, float],
    sensitivities: Mapping[Key, float],
) -> Modular:
    """The norm: the walk gives what follows each parameter, the masses their shares."""
    tied: dict[nn.Parameter, list[str]] = {}
    for name, parameter in tree.parameters.items():
        if parameter.requires_grad:
            tied.setdefault(parameter, []).append(name)
    asked = _Masses(masses, tied, tree)
    uses = Walk(
        tree,
        Patterns("flow", flow, "module whose flow is asked", "model.named_modules()"),
        Patterns("sensitivities", sensitivities, "module", "model.named_modules()"),
        moved={name for p, names in tied.items() if p not in asked.massless for name in names},
    ).uses()
    if not uses:
        kind = type(tree.modules[""]).__name__
        raise invalid("model", kind, "nothing in it has mass and is trainable")
    mass = asked.of(uses)
    total, places = math.fsum(mass.values()), {use.name: use for use in uses}
    parts = {
        names[0]: _weighted(names[0], [places[n] for n in names], mass, total)
        for p, names in tied.items()
        if p not in asked.massless
    }
    return Modular(parts, massless=[tied[p][0] for p in tied if p in asked.massless])


def _weighted(
    name: str, places: list[ParameterUse], mass: Mapping[str, float], total: float
) -> tuple[Norm, float]:
    """Norm and s of a parameter."""
    norm = places[0].norm
    if any(use.norm != norm for use in places):
        known = ", ".join(f"{use.norm!r} as {use.name}" for use in places)
        owner, _, leaf = places[-1].name.rpartition(".")
        raise invalid(
            "flow",
            name,
            f"this parameter is tied and measured in different norms: {known}. Choose one norm for "
            f"all of its places, such as flow={{{owner!r}: Atom({leaf!r}, {norm!r})}}, "
            f"or do not move it, masses={{{name!r}: 0}}",
        )
    s = max(total / mass[use.name] * use.factor for use in places)
    if not 0 < s < math.inf:
        raise invalid(
            "flow",
            name,
            f"its weight in the norm is {s}: the sensitivities of what follows multiply up to it; "
            "give a deep stack of blocks sensitivity 1, by Residual(…, skip=1 - 1/L, branch=1/L)",
        )
    return norm, s
