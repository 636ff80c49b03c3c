"""The module tree of a model, and the walk through it along the flow that is stated."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from torch import nn

from steepest._common.errors import invalid
from steepest._common.patterns import Patterns
from steepest._common.torch_modules import SAME_MODULE, WRAPPERS
from steepest.modular_norm.flow import Atom, Flow, FlowPart, ParameterUse, Segment, composed
from steepest.modular_norm.layers import LAYER_MASS, VECTOR_MASS, atom_of, is_a, sensitivity_of
from steepest.norms import RMS

Keys: TypeAlias = Patterns[Any, Flow | Atom]

PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
LISTS = (nn.ModuleList, nn.ModuleDict)


def join(*names: str) -> str:
    """A dotted name; the name of the model itself is empty."""
    return ".".join(name for name in names if name)


def aliases(name: str) -> tuple[str, ...]:
    """A name, and the name it has without wrappers."""
    plain = join(*(step for step in name.split(".") if step not in WRAPPERS))
    return (name,) if plain == name else (name, plain)


class Tree:
    """The modules of a model by name, a shared one under each of its names.

    Args:
        model: the model.

    Attributes:
        modules: the modules by name; the model itself is `""`.
        parameters: the parameters by name, a tied one under each of its names.
        below: the names of the trainable parameters in each module, by its name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.below: dict[str, list[str]] = {name: [] for name in self.modules}
        for name, parameter in self.parameters.items():
            steps = name.split(".")
            for i in range(len(steps)):
                if parameter.requires_grad:
                    self.below[join(*steps[:i])].append(name)
        self.children: dict[str, list[str]] = {name: [] for name in self.modules}
        for name in self.modules:
            if name:
                self.children[name.rpartition(".")[0]].append(name)

    def is_list(self, name: str) -> bool:
        """Whether a name is that of a list of modules, which computes nothing itself."""
        return isinstance(self.modules.get(name), LISTS)

    def title(self, name: str) -> str:
        """A module as errors name it."""
        return f"{name or 'the model'} ({type(self.modules[name]).__name__})"

    def part_of(self, parameter: str, name: str) -> str:
        """The child of a module that a parameter is in; a member of a list counts as a child."""
        steps = parameter.removeprefix(f"{name}." if name else "").split(".")
        return ".".join(steps[: 2 if self.is_list(join(name, steps[0])) else 1])

    def named(self, part: str, name: str) -> list[str]:
        """The modules that a part of a flow names, seen from a module."""
        exact = join(name, part)
        if part and exact in self.modules:
            return [exact]
        above, wanted = name.split(".") if name else [], part.split(".")
        hits = []
        for other in self.modules:
            steps = other.split(".")
            inner = steps[len(above) :]
            within = bool(other) and steps[: len(above)] == above and len(inner) == len(wanted)
            if within and all(map(fnmatchcase, inner, wanted)):
                hits.append(other)
        if not hits:
            if exact in self.parameters:
                remedy = f"it is a parameter of this module: write Atom({part!r}, its norm)"
            else:
                have = ", ".join(repr(c.rpartition(".")[2]) for c in self.children[name])
                remedy = f"this names no child of it; the children are {have or 'none'}"
            raise invalid("flow", part, f"in {self.title(name)}: {remedy}")
        return hits

    def draft(self, name: str) -> str:
        """A flow in the order of definition, to be corrected."""
        if self.is_list(name):
            return "Chain('*')"
        own = [self.part_of(full, name) for full in self.below[name]]
        parts = [f"Atom({leaf!r}, norm)" for leaf in own if join(name, leaf) in self.parameters]
        for child in self.children[name]:
            last = child.rpartition(".")[2]
            parts.append(repr(f"{last}.*" if self.is_list(child) else last))
        return f"Chain({', '.join(parts)})"


class Walk:
    """A walk from the output of the model to its parameters, which counts what lies between.

    Args:
        tree: the modules.
        flow: the flows that were stated, by module name or type.
        sensitivities: the sensitivities that were stated, by module name or type.
        moved: names of the parameters that move.
    """

    def __init__(
        self, tree: Tree, flow: Keys, sensitivities: Patterns[Any, float], moved: set[str]
    ) -> None:
        self._tree = tree
        self._flow = flow
        self._sensitivities = sensitivities
        self._moved = moved
        self._asked: dict[type, str] = {}
        self._unknown: dict[type, str] = {}

    def uses(self) -> tuple[ParameterUse, ...]:
        """The places of all parameters that move, with the factor of what follows each of them.

        Raises:
            ValueError: something about the flow or a sensitivity is unknown or wrong.
        """
        segment = self._segment("")
        if self._asked:
            raise self._ask()
        if self._unknown:
            given = ", ".join(f"{kind.__name__}: 1.0" for kind in self._unknown)
            raise invalid(
                "sensitivities",
                [self._tree.title(name) for name in self._unknown.values()],
                "unknown: say how much it amplifies a change of its input at most, in RMS, "
                f"such as sensitivities={{{given}}}",
            )
        self._flow.check()
        self._sensitivities.check()
        return segment.uses

    def _inside(self, name: str) -> list[str]:
        """The parameters to move in a module."""
        return [n for n in self._tree.below[name] if n in self._moved]

    def _segment(self, name: str) -> Segment:
        """One module."""
        module = self._tree.modules[name]
        given = self._sensitivities.first(aliases(name), type(module))
        segment = self._by_flow(name, module)
        if segment is None:
            known = sensitivity_of(module)
            if known is None and not given:
                self._unknown.setdefault(type(module), name)
            segment = Segment(known or 1.0)
        return replace(segment, sensitivity=given[1]) if given else segment

    def _by_flow(self, name: str, module: nn.Module) -> Segment | None:
        """One module by its flow or its own parameters, None if it has neither."""
        children = self._tree.children[name]
        if [c.rpartition(".")[2] in SAME_MODULE for c in children] == [True] or is_a(
            module, *PARALLEL
        ):
            return self._segment(children[0])
        hit = self._flow.first(aliases(name), type(module))
        flow = hit[1] if hit else getattr(module, "steepest_flow", None)
        if flow is not None:
            if not isinstance(flow, Flow | Atom):
                raise invalid(
                    f"{type(module).__name__}.steepest_flow",
                    flow,
                    "give Chain, Parallel, Residual or Atom",
                )
            return self._complete(name, flow, composed(self._segments(flow, name)))
        if is_a(module, nn.Sequential):
            return composed([self._segment(child) for child in children])
        return self._leaf(name, module) if self._inside(name) else None

    def _segments(self, part: FlowPart, name: str) -> list[Segment]:
        """The segments that a part of the flow of a module stands for."""
        if isinstance(part, str):
            return [self._segment(child) for child in self._tree.named(part, name)]
        if isinstance(part, Flow):
            return [part.combine([s for p in part.parts for s in self._segments(p, name)])]
        if isinstance(part, Atom):
            return [self._atom(part, name)]
        return [Segment(float(part))]

    def _atom(self, atom: Atom, name: str) -> Segment:
        """A parameter whose norm is given."""
        full = join(name, atom.name)
        if full not in self._tree.parameters:
            raise invalid("flow", atom, f"{self._tree.title(name)} has no parameter of this name")
        if full not in self._moved:
            return Segment(atom.sensitivity)
        parameter = self._tree.parameters[full]
        atom.norm.validate(parameter, False, full)
        mass = LAYER_MASS if parameter.ndim > 1 else VECTOR_MASS
        return Segment(atom.sensitivity, (ParameterUse(name=full, norm=atom.norm, mass=mass),))

    def _leaf(self, name: str, module: nn.Module) -> Segment:
        """A module whose own parameters have norms by its type; others are asked for."""
        uses = []
        for full in self._inside(name):
            leaf = full.removeprefix(f"{name}.")
            known = atom_of(module, leaf, name)
            if known is None:
                return self._open(name, module)
            uses.append(ParameterUse(name=full, norm=known[0], mass=known[1]))
        return Segment(sensitivity_of(module) or 1.0, tuple(uses))

    def _open(self, name: str, module: nn.Module) -> Segment:
        """A module whose flow is unknown: it is asked for, after all the others have been seen."""
        self._asked.setdefault(type(module), name)
        inside = self._inside(name)
        for child in self._tree.children[name]:
            # A list computes nothing: its parent says how its members are connected.
            members = self._tree.children[child] if self._tree.is_list(child) else [child]
            for member in members:
                if self._inside(member):
                    self._segment(member)
        return Segment(1.0, tuple(ParameterUse(name=n, norm=RMS(), mass=1.0) for n in inside))

    def _complete(self, name: str, flow: Flow | Atom, segment: Segment) -> Segment:
        """The segment, if it has every parameter of the module once."""
        counts = Counter(use.name for use in segment.uses)
        twice = [n for n, count in counts.items() if count > 1]
        missing = [n for n in self._inside(name) if n not in counts]
        for names, said in ((missing, "is missing"), (twice, "is there more than once")):
            if names:
                children = sorted({repr(self._tree.part_of(n, name)) for n in names})
                raise invalid(
                    "flow",
                    flow,
                    f"in {self._tree.title(name)} {', '.join(children)} {said}: name every "
                    "child with parameters to move exactly once, and every parameter of its own as "
                    "Atom(name, norm); with masses={…: 0} it is not moved and need not be named",
                )
        return segment

    def _ask(self) -> ValueError:
        """The error that asks for every unknown flow."""
        drafts = ", ".join(f"{k.__name__}: {self._tree.draft(n)}" for k, n in self._asked.items())
        return invalid(
            "flow",
            [self._tree.title(name) for name in self._asked.values()],
            "how these connect their parts is in their forward and cannot be read off the module "
            f"tree. State it, starting from this draft: flow={{{drafts}}}. Chain is one after the "
            "other; write Residual(part) for x + part(x), Parallel(…) for outputs that are added, "
            "and a number, its sensitivity, for a function in between",
        )
