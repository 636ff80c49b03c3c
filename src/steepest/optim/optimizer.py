"""The step loop: momentum, duality map, scale and decay for every parameter of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from steepest._common.errors import invalid
from steepest.maps import ConvexMap
from steepest.norms import Norm
from steepest.optim.adamw import step_adamw
from steepest.optim.batching import Item, Move, take
from steepest.optim.finite import Shared, agree, inspected, shared
from steepest.optim.groups import Group, check_ball, momentum_dtype, name_of
from steepest.optim.parameter_view import ParameterView, group_views
from steepest.optim.plan import Plan, planned
from steepest.optim.routed import Params as Params
from steepest.optim.routed import RoutedOptimizer
from steepest.optim.sharded import Batch, in_batches, projected
from steepest.optim.state import as_text, loadable, restore_dtypes
from steepest.optim.updates import (
    Flag,
    accumulate,
    averages_of_one,
    replace,
)
from steepest.sharding import local

Loss = float | Tensor
NonFinite = Literal["skip", "raise"]
Constraint = Literal["project"] | None


class SteepestOptimizer(RoutedOptimizer, ABC):
    """Decoupled decay, momentum and a duality map, in the one step loop of the library.

        u = momentum average of the gradient (`steepest.optim.updates.accumulate`)
        W ← (1 − lr·weight_decay)·W − lr·length·dualize(u)

    A subclass says which norm a parameter group moves in, how long the step is, and which keys of a
    group hold objects. Groups with `adamw=True` are updated by AdamW in the same optimizer.

    Gradients are never written to. A parameter without a gradient is left alone. Where an entry of
    a gradient is exactly zero, its average is taken as zero once it is no larger than 1e-12 (6e-5
    if the momentum is kept in float16), so that a matrix whose gradient has become zero for good
    comes to rest; until then momentum carries it on, and decay never stops. `nonfinite` says
    what a gradient with NaN or inf does: "skip" leaves the parameter and its state as they are,
    decided on the device and counted in `skipped`; "raise" waits for the device, names the
    parameter and changes nothing at all.
    """

    def __init__(
        self, params: Params, defaults: Group, *, rest: Group, max_batch_bytes: int | None = None
    ) -> None:
        if max_batch_bytes is not None and max_batch_bytes < 1:
            raise invalid(
                "max_batch_bytes", max_batch_bytes, "give a positive number of bytes or None"
            )
        self.max_batch_bytes = max_batch_bytes
        self._skips: dict[torch.device, Tensor] = {}
        self._plans: dict[int, tuple[object, Plan]] = {}
        # Filled in place by the first step: torch 2.10 compiles none that sets an attribute.
        self._together: list[Sequence[Shared]] = []
        super().__init__(params, defaults, rest=rest)

    def _add(self, group: Group) -> None:
        """As the base class; the ranks have to agree on the new parameters."""
        super()._add(group)
        self._together = []

    @abstractmethod
    def _directions(self, group: Group, us: Sequence[Tensor]) -> list[Tensor]:
        """Where the averages u point, in fresh memory; nothing is checked."""

    @abstractmethod
    def _lengths(self, group: Group, item: Item) -> list[Tensor | float]:
        """The length of the step over `lr`, for each part of a parameter."""

    @abstractmethod
    def constraint_map(self, group: Group) -> ConvexMap | None:
        """The K whose gradient is the direction of a group: decay λ constrains to λ·W in dom K*.

        None where the length of a step follows the gradient: then decay is a penalty.
        """

    def parameters(self) -> Iterator[ParameterView]:
        """Every parameter that can be trained, with its norm and the ball in which decay keeps it.

        Those that AdamW steps are among them, with `geometry=None`; empty and frozen ones are not.
        """
        for group in self.param_groups:
            ours = not group["adamw"]
            geometry = self._geometry(group) if ours else None
            K = self.constraint_map(group) if ours else None
            yield from group_views(group, self.state, geometry, K, self._lengths)

    @property
    def skipped(self) -> int:
        """How many parameter updates a non-finite gradient has prevented; waits for the device."""
        return sum(int(count) for count in self._skips.values())

    # torch says float; every closure returns the loss tensor.
    @overload  # type: ignore[override]
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], Loss]) -> Loss: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:
        """Update every parameter that has a gradient.

        Args:
            closure: recomputes the loss and the gradients; run with gradients enabled.

        Returns:
            What the closure returned, or None.

        Raises:
            ValueError: a sparse gradient.
            FloatingPointError: a gradient with NaN or inf under `nonfinite="raise"`; no parameter
                has then been changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        ok = self._inspect()
        self._descend(ok, closure, loss)
        for group in self.param_groups:
            if group["adamw"]:
                step_adamw(group, ok, self.state)
            elif group["constraint"]:
                self._project(group, ok)
        return loss

    def _descend(
        self, finite: dict[Tensor, Flag], closure: Callable[[], Loss] | None, loss: Loss | None
    ) -> None:
        """Move every parameter that has a norm: each length depends on it alone."""
        for group in self.param_groups:
            if not group["adamw"]:
                self._move(GroupStep(self, group, finite))

    def _move(self, step: GroupStep) -> None:
        """Take the step of a group, bundle by bundle: what one needs is gone before the next."""
        for bundle in in_batches(self._plan(step.group, step.finite), step):
            self._move_bundle(bundle, step.group)

    def _move_bundle(self, bundle: Sequence[Batch], group: Group) -> None:
        """Average, map and apply: the two lines of the formula, for matrices in stacks."""
        averages = [batch.averages() for batch in bundle]
        directions = self._directions(group, [u for stacks in averages for u in stacks])
        for batch, stacks in zip(bundle, averages, strict=True):
            own, directions = directions[: len(stacks)], directions[len(stacks) :]
            batch.apply(own)

    def _take(
        self, group: Group, batch: Sequence[Move], lengths: Sequence[Sequence[Tensor | float]]
    ) -> None:
        """Move parameters of a group by these lengths, after or before decay."""
        take(batch, lengths, **{key: group[key] for key in ("lr", "weight_decay", "decay")})

    def _project(self, group: Group, finite: Mapping[Tensor, Flag]) -> None:
        """Project the parameters of a group on its ball."""
        ball = self._ball(group)
        assert ball is not None, "checked before the step"
        plan, step = self._plan(group, finite), GroupStep(self, group, finite)
        for item, inside in projected(plan, ball.with_polar(None), step, group["weight_decay"]):
            replace([item.local], [inside], [finite[item.param]])

    def _inspect(self) -> dict[Tensor, Flag]:
        """For each parameter that takes part, whether its gradient is finite; before any update."""
        ok: dict[Tensor, Flag] = {}
        for group in self.param_groups:
            if not group["adamw"]:
                check_ball(group, self._ball(group))
            ok.update(inspected(group))
        strict = {p for g in self.param_groups if g["nonfinite"] == "raise" for p in g["params"]}
        ok = agree(ok, self._shared(), strict)
        bad: list[str] = []
        for group in self.param_groups:
            if group["nonfinite"] == "raise":
                mine = [p for p in group["params"] if p in ok]
                ok.update((p, bool(ok[p])) for p in mine)
                bad += [name_of(group, p) for p in mine if not ok[p]]
        if bad:
            raise FloatingPointError(
                f"gradient of {', '.join(bad)} has NaN or inf entries, or too large ones for the "
                'type of its momentum: lower lr, clip gradients, or pass nonfinite="skip"'
            )
        self._count(ok)
        return ok

    def _shared(self) -> Sequence[Shared]:
        """The parameters that ranks hold together; the first time every rank has to ask."""
        if not self._together:
            self._together.append(shared(self.param_groups, self._replicas, self._geometry))
        return self._together[0]

    def _count(self, ok: Mapping[Tensor, Flag]) -> None:
        """Add to `skipped`, without waiting for a device."""
        for device in dict.fromkeys(p.device for p in ok):
            if device not in self._skips:
                self._skips[device] = torch.zeros((), dtype=torch.int64, device=device)
            flags = [flag for p, flag in ok.items() if flag is not True and p.device == device]
            if judged := [flag for flag in flags if isinstance(flag, Tensor)]:
                self._skips[device] += torch.stack(judged).logical_not().sum()
            if len(judged) < len(flags):
                self._skips[device] += len(flags) - len(judged)

    def _plan(self, group: Group, ok: Mapping[Tensor, Flag]) -> Plan:
        """What is done with what: as in the last step, if the same parameters take part."""
        # What is known to be not finite has no part in the step.
        pairs = zip(group["params"], group["views"], strict=True)
        taking = [
            (p, momentum_dtype(group, p), view)
            for p, view in pairs
            if ok.get(p, False) is not False
        ]
        geometry = self._geometry(group)
        limit = self.max_batch_bytes
        if torch.compiler.is_compiling():
            return planned(taking, geometry, self._replicas, limit, {})
        place = next(i for i, other in enumerate(self.param_groups) if other is group)
        # Groups are planned in order: what an owner has of those before counts.
        loads = next((self._plans[i][1].loads for i in range(place)[::-1] if i in self._plans), {})
        # A model may be moved or converted without its parameters becoming other objects.
        memory = [(id(p), p.shape, p.stride(), p.dtype, p.device, *rest) for p, *rest in taking]
        key = (geometry.symmetric, limit, loads, memory)
        if place not in self._plans or self._plans[place][0] != key:
            self._plans[place] = key, planned(taking, geometry, self._replicas, limit, loads)
        return self._plans[place][1]

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data: tensors, numbers and text.

        Objects of the groups, such as views and polar methods, are saved as their text, which
        `load_state_dict` compares with those of the optimizer it loads into.
        """
        return as_text(super().state_dict(), self.objects)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load hyper-parameters and buffers saved by `state_dict`, or by torch's own optimizer.

        Keys that a group of another optimizer lacks keep the value they have here.

        Raises:
            ValueError: the groups differ in number or size, or were saved with other views or
                another method than this optimizer was built with. Nothing has been changed.
        """
        ready = loadable(state_dict, self.param_groups, self.objects, self._check)
        super().load_state_dict(ready)
        restore_dtypes(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        """torch's own keeps three attributes; a copy needs these as well, and plans anew."""
        kept = {"max_batch_bytes": self.max_batch_bytes, "_skips": self._skips}
        return {**super().__getstate__(), **kept, "_plans": {}, "_together": []}


class GroupStep:
    """One group in one step: its momentum, its lengths, and how its parameters move.

    Args:
        optimizer: the optimizer.
        group: one of its groups.
        finite: whether the gradient of each parameter that takes part is finite.
        inner: the norm in whose inner product ⟨u, direction⟩ is asked for, if it is.
        keep: whether moves are kept in `kept`, for a length that all parameters share.
    """

    def __init__(
        self,
        optimizer: SteepestOptimizer,
        group: Group,
        finite: Mapping[Tensor, Flag],
        *,
        inner: Norm | None = None,
        keep: bool = False,
    ) -> None:
        self.optimizer, self.group, self.finite, self.inner = optimizer, group, finite, inner
        self.kept: list[Move] | None = [] if keep else None

    def average(
        self,
        batch: Sequence[Item],
        out: list[Tensor],
        stacks: Sequence[Tensor],
        *,
        cut: bool = True,
    ) -> None:
        """Update the momentum averages and write u; without momentum the gradients, and no state.

        Args:
            batch: the parameters.
            out: a tensor for each part of each parameter, or for each parameter if not `cut`;
                empty if no one asks for u.
            stacks: the memory that `out` fills; empty with it.
            cut: whether `out` has parts.
        """
        if not batch:
            return
        group, state = self.group, self.optimizer.state
        ok = [self.finite[item.param] for item in batch]
        grads = [item.grad for item in batch]
        views = None if not cut or all(item.whole for item in batch) else batch
        momentum, past = group["momentum"], group.get("past")
        if not isinstance(momentum, Tensor) and momentum == 0 and not past:
            averages_of_one(grads, ok, out, views=views, maximize=group["maximize"])
            return
        states = [state[item.param] for item in batch]
        for item, own in zip(batch, states, strict=True):
            if "momentum_buffer" not in own:
                own["momentum_buffer"] = torch.zeros_like(
                    item.param, dtype=item.dtype, memory_format=torch.preserve_format
                )
        accumulate(
            grads,
            [local(own["momentum_buffer"]) for own in states],
            ok,
            out,
            views=views,
            stacks=stacks,
            momentum=momentum,
            nesterov=group["nesterov"],
            maximize=group["maximize"],
            past=past,
        )

    def lengths(self, item: Item) -> list[Tensor | float]:
        """The length of the step over `lr`, for each part of a parameter."""
        return self.optimizer._lengths(self.group, item)

    def move(self, moves: Sequence[Move]) -> None:
        """Decay and move parameters of one type on one device, or keep the moves."""
        if self.kept is None:
            lengths = [self.lengths(move.item) for move in moves]
            self.optimizer._take(self.group, moves, lengths)
        else:
            self.kept += moves
