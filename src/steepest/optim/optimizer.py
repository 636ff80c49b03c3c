"""The step loop: momentum, duality map, scale and decay for every parameter of a model."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from operator import call, is_
from typing import Any, cast, overload

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps import ConvexMap
from steepest.optim.adamw import empty_state, step_adamw
from steepest.optim.batching import GroupStep, StackedBatch
from steepest.optim.choices import SLOTS, Loss
from steepest.optim.finite import (
    RanksOfCopies,
    ReplicatedParams,
    all_reduce_finite,
    replicated_params,
)
from steepest.optim.foreign import check_followed, check_frozen, check_whole, refused
from steepest.optim.groups import check_ball, name_of
from steepest.optim.loading import loading
from steepest.optim.member import local_grad
from steepest.optim.momentum import EIGHT_BITS, average_dtype
from steepest.optim.options import (
    Group,
    StepOptions,
    adamw_defaults,
    check_exchange,
    check_options,
    group_defaults,
    kind_rates,
    routing_options,
)
from steepest.optim.parameter_view import ParameterView, group_views
from steepest.optim.plan import PLANNED, StepPlan, Taking, planned
from steepest.optim.projection import projected
from steepest.optim.routed import Params as Params
from steepest.optim.routed import RoutedOptimizer
from steepest.optim.rule import UpdateRule, check_average
from steepest.optim.sharded import Bundled, sharded_batches
from steepest.optim.skips import SkipCount
from steepest.optim.state import as_text
from steepest.optim.summary import summary
from steepest.optim.torch_form import Template
from steepest.optim.updates import Flag, check_decay, judged, replace


class SteepestOptimizer(RoutedOptimizer, ABC):
    """Decoupled decay, momentum and a duality map, in the one step loop of the library.

        u = momentum average of the gradient (`steepest.optim.updates.accumulate`)
        W ← (1 − lr·weight_decay)·W − lr·length·dualize(u)

    A rule says which norm or map a group moves in, how long a step is, and in which ball decay
    keeps it (`steepest.optim.rule`). A subclass makes the rule of a group from its values; it is
    kept until one of them changes. AdamW, in the same optimizer, steps groups with `adamw=True`.

    Gradients are never written to. A parameter without a gradient is left alone. Where an entry of
    a gradient is exactly zero, its average is taken as zero once it is no larger than 1e-12 (6e-5
    if the momentum is kept in float16), so that a matrix whose gradient has become zero for good
    comes to rest; until then momentum carries it on, and decay never stops. `nonfinite` says
    what a gradient with NaN or inf does: "skip" leaves the parameter and its state as they are,
    decided on the device and counted in `skipped`; "raise" waits for the device, names the
    parameter and changes nothing at all.
    """

    _shares_length = False
    """Whether all parameters share the length of a step, which `_move_together` finds."""

    _loaded = False
    """Whether a state has been loaded since the last step."""

    def __init__(self, params: Params, defaults: dict[str, Any], options: StepOptions) -> None:
        check_options(type(self), options, StepOptions)
        limit = options.get("max_batch_bytes")
        if limit is not None and limit < 1:
            raise invalid("max_batch_bytes", limit, "give a positive number of bytes or None")
        self.max_batch_bytes = limit
        self._skips, self._template = SkipCount(), Template()
        self.exchange_dtype = check_exchange(options.get("exchange_dtype"))
        # The rule of each group, by its place, and the plan of a step, with what they were made of.
        self._rules: dict[int, tuple[list[object], UpdateRule]] = {}
        self._plans: dict[int, tuple[object, StepPlan]] = {}
        # Filled in place by the first step: torch 2.10 compiles none that sets an attribute.
        self._replicated: list[Sequence[ReplicatedParams]] = []
        groups = {**group_defaults(options), **defaults}
        super().__init__(
            params,
            groups,
            adamw=adamw_defaults(options),
            routing=routing_options(options),
            unrouted=options.get("unrouted"),
            rates=kind_rates(options),
        )

    def _add(self, group: Group) -> None:
        """Add a group of one kind; the ranks have to agree on its parameters."""
        super()._add(group)
        self._replicated = []
        if not group["adamw"]:
            # Before a step that may be traced.
            self._rule(len(self.param_groups) - 1)

    def _rule(self, place: int) -> UpdateRule:
        """The rule of the group in a place, made anew if a value that it is made of has changed.

        The views of its parameters are those of the parameters that are there now.
        """
        group = cast(dict[str, Any], self.param_groups[place])
        values = [group.get(key) for key in (*self.rule_keys, *SLOTS)]
        made_of, rule = self._rules.get(place, ([], None))
        if rule is None or any(a is not b and a != b for a, b in zip(values, made_of, strict=True)):
            opened = self._objects.opened(self.param_groups[place])
            self._check_group(opened)
            changed, rule = rule is not None, self._rule_of(opened)
            self._objects.close(self.param_groups[place])
            self._objects.forget(self.param_groups)
            self._rules[place] = [group.get(key) for key in (*self.rule_keys, *SLOTS)], rule
            if changed:
                self._follow(place, rule)
        if not torch.compiler.is_compiling():
            members = self._views.members.get(place, [])
            same = len(members) == len(group["params"])
            if not (same and all(map(is_, map(call, members), group["params"]))):
                self._follow(place, rule)
        return rule

    def constraint_map(self, group: Group) -> ConvexMap | None:
        """The K whose gradient is the direction of a group: decay λ constrains to λ·W in dom K*.

        None where the length of a step follows the gradient: then decay is a penalty. None as well
        for a group that AdamW steps.
        """
        place = next(i for i, other in enumerate(self.param_groups) if other is group)
        return None if group["adamw"] else self._rule(place).constraint_map

    def parameter_views(self) -> Iterator[ParameterView]:
        """Every parameter that can be trained, with its norm and the ball in which decay keeps it.

        Those that AdamW steps are among them, with `geometry=None`; empty and frozen ones are not.
        """
        for place, group in enumerate(self.param_groups):
            rule = None if group["adamw"] else self._rule(place)
            views = self._views[place] if rule else (None,) * len(group["params"])
            yield from group_views(group, self.state, rule, views)

    def __repr__(self) -> str:
        """A line for each group, with the values that hold now."""
        return summary(self)

    def _forget_plans(self) -> None:
        self._replicated.clear()
        self._plans.clear()

    @property
    def skipped(self) -> int:
        """How many parameter updates a non-finite gradient has prevented; waits for the device."""
        return self._skips.total()

    # torch says float; every closure returns the loss tensor.
    @overload  # type: ignore[override]
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:
        """Update every parameter that has a gradient.

        Args:
            closure: A function that recomputes the loss and the gradients; run with gradients
                enabled.

        Returns:
            The result of the closure, or None.

        Raises:
            ValueError: a sparse gradient.
            FloatingPointError: a gradient with NaN or inf under `nonfinite="raise"`; no parameter
                has then been changed.
        """
        if torch.compiler.is_compiling() and self._is_spread():
            taken: Loss | None = self._uncompiled(SteepestOptimizer.step, self, closure)
            return taken
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        finite, zeros = self._finite_gradients()
        steps = [
            GroupStep(place, group, self._rule(place), finite, self.state, zeros=zeros)
            for place, group in enumerate(self.param_groups)
            if not group["adamw"]
        ]
        if self._shares_length:
            self._move_together(steps, closure, loss)
        else:
            self._move(steps)
        if any(step.group["constraint"] for step in steps):
            self._project(steps)
        for group in self.param_groups:
            if group["adamw"]:
                step_adamw(group, finite, self.state)
        return loss

    def _move_together(
        self, steps: list[GroupStep], closure: Callable[[], Loss] | None, loss: Loss | None
    ) -> None:
        """Move the parameters of all groups by one length; for what sets `_shares_length`."""
        raise NotImplementedError

    def _move(self, steps: Sequence[GroupStep]) -> None:
        """Take the steps of groups: the formula of the class in three verbs, for stacks.

        Average the gradients, map the averages to directions, apply these to the weights.
        """
        plan, of_group = self._plan(steps), {step.place: step for step in steps}
        # The stacks of this rank, then those of parameters that lie on several ranks.
        bundles: Iterable[Bundled]
        bundles = (
            (of_group[place].rule, [StackedBatch(members, of_group[place]) for members in bundle])
            for place, bundle in plan.here
        )
        if plan.apart or plan.buckets:
            bundles = chain(bundles, sharded_batches(plan, of_group))
        for rule, bundle in bundles:
            averages = [batch.averages() for batch in bundle]
            states = [s for b in bundle for s in b.states()] if rule.keeps_state else []
            directions = rule.directions([u for stacks in averages for u in stacks], states)
            for batch, stacks in zip(bundle, averages, strict=True):
                own, directions = directions[: len(stacks)], directions[len(stacks) :]
                batch.apply(own)
            # The memory of a bundle is free for the next one.
            del bundle, batch, averages, states, stacks, directions, own

    def _project(self, steps: Sequence[GroupStep]) -> None:
        """Project the parameters of groups with a constraint on their balls."""
        bound = {step.place: step for step in steps if step.group["constraint"]}
        for member, inside in projected(self._plan(steps), bound):
            replace([member.local], [inside], [steps[0].finite[member.param]])

    def _finite_gradients(self) -> tuple[dict[Tensor, Flag], set[Tensor]]:
        """Whether each gradient that takes part is finite, on all ranks; which may hold a zero.

        Raises:
            ValueError: a group whose decay cannot be, a sparse gradient, or a parameter that was
                frozen when its model's norm was made and is not any more.
        """
        if self._frozen:
            check_frozen(self._frozen)
        eager = not torch.compiler.is_compiling()
        unsure = self._doubtful() if eager and (self._copies or self._seen) else []
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        if self._replicated and self._replicated[0]:
            there = set(self._members())
            if any(p not in there for one in self._replicated[0] for p in one.params):
                self._replicated.clear()
        for place, group in enumerate(self.param_groups):
            asked = None if group["adamw"] else group["momentum_dtype"]
            if not group["adamw"]:
                self._rule(place)  # which lets the views follow what others have edited
                check_decay(group["lr"], group["weight_decay"], group["decay"])
                if group["constraint"] is not None:
                    check_ball(group, self._rule(place).ball)
                if "betas" in group:
                    check_average(group)
            for p, grad in ((p, p.grad) for p in group["params"]):
                if grad is not None and not p.numel():
                    # torch's distributed checkpoints ask for a state of all that has a gradient.
                    empty_state(p, group, self.state)
                elif grad is not None:
                    if grad.layout != torch.strided:
                        remedy = "give dense gradients: for an embedding, sparse=False"
                        raise invalid("grad", f"sparse ({name_of(group, p)})", remedy)
                    dtype = average_dtype(p, asked) if asked == EIGHT_BITS else asked or p.dtype
                    alike.setdefault((p.device, dtype), []).append(p)
        if eager:
            if not alike or self._notices.idle:
                check_followed(self.param_groups, self._modules)
                self._notices.idles(self.param_groups, trains=bool(alike))
            if len(self.param_groups) > 1 and len({g["lr"] for g in self.param_groups}) == 1:
                self._notices.one_rate(self.param_groups)
        finite: dict[Tensor, Flag] = {}
        zeros: set[Tensor] = set()
        for (_, dtype), params in alike.items():
            grads = [p.grad if type(p.grad) is Tensor else local_grad(p) for p in params]
            flags, doubtful = judged(grads, dtype, self.max_batch_bytes)
            finite.update(zip(params, flags, strict=True))
            zeros.update(params[i] for i in doubtful)
        strict = {p for g in self.param_groups if g["nonfinite"] == "raise" for p in g["params"]}
        if not self._replicated:
            self._meet()
        if sets := self._replicated[0]:
            told = finite, sets, strict, unsure, self.param_groups
            finite, self._loaded = all_reduce_finite(*told, loaded=self._loaded), False
        if strict:
            self._raise_for(finite)
        if not all(flag is True for flag in finite.values()):
            self._skips.add(finite, self.state)
        return finite, zeros

    def _meet(self) -> None:
        """Find the ranks that step parameters together, and compare what they have."""
        wrong = None
        if not torch.compiler.is_compiling():  # torch 2.10 compiles none that sets an attribute
            self._find_replicas()
            for one in self._copies:
                one.check_not_joined()
            wrong = refused(self.param_groups, self._modules)
        rules = [None if g["adamw"] else self._rule(i) for i, g in enumerate(self.param_groups)]
        ranks = RanksOfCopies(self._replicas, self._copies)
        given = self.param_groups, rules, self._views, ranks, str(self.exchange_dtype)
        self._replicated.append(replicated_params(*given, wrong))

    def _raise_for(self, finite: dict[Tensor, Flag]) -> None:
        """Wait for the flags of groups that ask for an error.

        Raises:
            FloatingPointError: a gradient of theirs is not finite.
        """
        bad: list[str] = []
        for group in self.param_groups:
            if group["nonfinite"] == "raise":
                mine = [p for p in group["params"] if p in finite]
                finite.update((p, bool(finite[p])) for p in mine)
                bad += [name_of(group, p) for p in mine if not finite[p]]
        if bad:
            raise FloatingPointError(
                f"gradient of {', '.join(bad)} has NaN or inf entries, or too large ones for the "
                'type of its momentum: lower lr, clip gradients, or pass nonfinite="skip"'
            )

    def _plan(self, steps: Sequence[GroupStep]) -> StepPlan:
        """The plan of a step: that of the last one if the same parameters take part, else new."""
        choices = self._replicas, self.max_batch_bytes, self.exchange_dtype
        takings: list[Taking] = []
        facts: list[object] = [*choices]
        for step in steps:
            group, momentum = step.group, cast(object, step.group.get("momentum", 0.0))
            average = isinstance(momentum, Tensor) or momentum != 0, "betas" in group
            facts += (step.place, step.rule, average, *map(group.get, PLANNED))
            # A parameter whose gradient is known to be not finite has no part in the step.
            pairs = zip(group["params"], self._views[step.place], strict=True)
            takings.append([(p, v) for p, v in pairs if step.finite.get(p, False) is not False])
        if torch.compiler.is_compiling():
            return planned(steps, takings, *choices)
        # A model may be moved or converted without its parameters becoming other objects.
        every = [(p, view) for taking in takings for p, view in taking]
        memory = [(id(p), p.shape, p.stride(), p.dtype, p.device, view) for p, view in every]
        if 0 not in self._plans or self._plans[0][0] != (facts, memory):
            check_whole(list(self._members()))  # FSDP1 may have come after the first step
            self._plans[0] = (facts, memory), planned(steps, takings, *choices)
        return self._plans[0][1]

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data: tensors, numbers and text.

        Objects of the groups, such as views and polar methods, are saved as their text, which
        `load_state_dict` compares with those of the optimizer it loads into; and `skipped`, with
        the version of the library, in the text of `nonfinite`.
        """
        self.views()  # follow their parameters
        return as_text(
            super().state_dict(),
            self._views,
            (*self.objects, *SLOTS),
            skipped=self.skipped,
            template=self._template,
            own=self.defaults.keys(),
            torch_keys=vars(type(self)).get("torch_keys", ()),
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load hyper-parameters and buffers saved by `state_dict`, or by torch's own optimizer.

        Keys that a group of another optimizer lacks keep the value they have here. `skipped` is
        that of the state, and 0 where it has none. A parameter without a state begins anew.

        Raises:
            ValueError: the groups differ in number or size, or were saved with other views or
                another method than this optimizer was built with; or a tensor has not the shape,
                the kind of numbers or the layout on the ranks that its parameter asks for. Nothing
                has been changed.
        """
        with loading(self, self._skips, self._template):
            super().load_state_dict(state_dict)
        self._loaded = True

    def __getstate__(self) -> dict[str, Any]:
        """torch's own keeps three attributes; a copy needs these as well, and plans anew."""
        names = ("max_batch_bytes", "exchange_dtype", "_skips", "_template", "_rules")
        kept = {name: getattr(self, name) for name in names}
        return {**super().__getstate__(), **kept, "_plans": {}, "_replicated": []}
