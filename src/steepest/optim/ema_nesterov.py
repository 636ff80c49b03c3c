"""EMA-Nesterov: gradients are taken ahead of the weights, along an average of their moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from steepest._common.checks import check_object, not_negative, weight
from steepest._common.errors import invalid, shape_text
from steepest._common.lists import add_all, copy_all
from steepest.optim.choices import Loss
from steepest.optim.foreign import check_whole
from steepest.optim.state_tensors import LOAD
from steepest.sharding import is_sharded, local, local_like, sharded_like

AVERAGE, BEHIND = "ema_nesterov_average", "ema_nesterov_behind"
"""Keys of a parameter in `state_dict`: the average of its moves, and while it is ahead where it
was."""

STEPS, AHEAD = "ema_nesterov_steps", "ema_nesterov_ahead"
"""Keys of a group in `state_dict`: how many steps there were, and whether the weights are ahead."""

KEPT = ("optimizer", "start", "stop", "look_ahead", "ema", "scheduled", "average_dtype")
OWN = ("steps", "_ahead", "_averages", "_behind")


class EMANesterov(Optimizer):
    """EMA-Nesterov around any optimizer: its gradients are taken ahead of the weights.

        x ← W;  W ← W + β·b                       `train()`: β = look_ahead·lr/(peak lr)
        W ← one step of the optimizer             `step()`, with the gradient at the point ahead
        b ← ema·b + (1 − ema)·(W − x)
        W ← x                                     `eval()`, in place of a step

    with β = 0 before step `start` and from step `stop` on; b begins at 0 and is kept from the first
    step on. Call `train()` before every forward pass: the Trainer of transformers does it by
    itself, and accelerate passes the call on. The weights are ahead from there to the end of
    `step()`, or to `eval()`, which puts them back exactly: what is evaluated, averaged or saved
    after a step has the weights of that step. Several passes for one step are at one point: to call
    `train()` again changes nothing. A closure is called at the point ahead, without `train()`.

    `param_groups` are those of the optimizer, and whatever else it has is found here too, so that
    schedulers take either. The schedule of β is that of the first group: its `lr` over its
    `initial_lr`, which schedulers write, or its `max_lr` if that is larger; without either β is
    `look_ahead`. Of parameters that lie on several ranks each keeps its own part.

    It needs twice the memory of the weights, in time a few passes over them. A step that leaves
    weights alone, as for gradients that are not finite, leaves them at the point ahead.

    Args:
        optimizer: An optimizer of torch.
        start: The number of steps before the first look ahead; 300 to 1000 in the sources.
        stop: The number of the step from which on there is none, 500 to 950 before the last one in
            the sources; None for no such step.
        look_ahead: The factor β of the average; 0.3 to 0.5 in the sources.
        ema: Weight of the past in the average of the moves, in [0, 1).
        scheduled: Whether β follows the learning rate.
        average_dtype: Type of the average; None means that of the parameter.

    Raises:
        ValueError: a number out of range, or no optimizer.

    Examples:
        >>> import steepest
        >>> weight = torch.nn.Parameter(torch.eye(2))
        >>> inner = steepest.Muon([weight], lr=0.1)
        >>> optimizer = EMANesterov(inner, start=1, stop=None, look_ahead=1.0, ema=0.5)
        >>> for _ in range(2):
        ...     optimizer.train()
        ...     _ = weight.square().sum().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        >>> optimizer.steps
        2

    Sources:
        EMA-Nesterov, arXiv 2605.25395, whose authors' module moves the weights for good; steps,
        stop and factors from its documentation and from modded-nanogpt, track 3, record 39.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        start: int,
        stop: int | None,
        look_ahead: float = 0.5,
        ema: float = 0.99,
        scheduled: bool = True,
        average_dtype: torch.dtype | None = None,
    ) -> None:
        # Not torch's constructor: the groups, their state and the hooks are the optimizer's.
        check_object("optimizer", optimizer, Optimizer, "give an optimizer of torch")
        check_whole(optimizer.param_groups)
        not_negative("start", start)
        if stop is not None and stop < start:
            raise invalid("stop", stop, f"give a step after start={start}, or None")
        self.optimizer = optimizer
        self.start, self.stop = start, stop
        self.look_ahead = not_negative("look_ahead", look_ahead)
        self.ema = weight("ema", ema)
        self.scheduled, self.average_dtype = scheduled, average_dtype
        self.steps = 0
        self._ahead = False
        # This rank's parts: the averages, and the weights before they looked ahead.
        self._averages: dict[Tensor, Tensor] = {}
        self._behind: dict[Tensor, Tensor] = {}

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the optimizer."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:
        """The state of the optimizer, without what is kept here."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    def __getattr__(self, name: str) -> Any:
        """Attributes that only the optimizer has."""
        if name.startswith("__") or "optimizer" not in vars(self):
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __repr__(self) -> str:
        """The numbers of the look ahead, then the optimizer."""
        last = "on" if self.stop is None else f"to {self.stop}"
        numbers = f"look_ahead={self.look_ahead}, ema={self.ema}, from step {self.start} {last}"
        return f"EMANesterov({numbers}) around\n{self.optimizer!r}"

    @torch.no_grad()
    def train(self) -> None:
        """Move the weights ahead for the next gradient, if they are not there already."""
        if self._ahead:
            return
        params = list(self._params())
        if not self._behind:  # FSDP1 may have come after the constructor
            check_whole(params)
        now = [local(p) for p in params]
        self._behind = {
            p: _room(self._behind.get(p), part) for p, part in zip(params, now, strict=True)
        }
        copy_all(list(self._behind.values()), now)
        if reach := self._reach():
            pairs = [
                (part, self._averages[p])
                for p, part in zip(params, now, strict=True)
                if p in self._averages
            ]
            add_all([part for part, _ in pairs], [b for _, b in pairs], alpha=reach)
        self._ahead = True

    @torch.no_grad()
    def eval(self) -> None:
        """Put the weights back to where they were before `train()`."""
        if self._ahead:
            copy_all([local(p) for p in self._behind], list(self._behind.values()))
        self._ahead = False

    # torch says float; every closure returns the loss tensor.
    @torch.no_grad()
    def step(self, closure: Callable[[], Loss] | None = None) -> Loss | None:  # type: ignore[override]
        """Take a step of the optimizer from the point ahead, and average the move.

        With learning rates of 0, as torch's distributed checkpoints take a step to make the state,
        nothing moves and nothing is counted.

        Args:
            closure: A function that recomputes the loss and the gradients, as the optimizer takes.

        Returns:
            What the optimizer returns.

        Raises:
            RuntimeError: `train()` was not called before the gradients were computed.
        """
        if closure is not None:
            self.train()
        if not self._ahead and any(float(group["lr"]) for group in self.param_groups):
            raise RuntimeError(
                "step() without train(): the gradients were not taken ahead of the weights; call "
                "optimizer.train() before the forward pass"
            )
        inner = cast(Callable[..., Any], self.optimizer.step)
        loss = cast(Loss | None, inner() if closure is None else inner(closure))
        for p in self._behind if self._ahead else self._params():
            if p not in self._averages:
                dtype = self.average_dtype or p.dtype
                self._averages[p] = torch.zeros_like(local(p), dtype=dtype, requires_grad=False)
        if self._ahead:
            self._average()
            self._ahead = False
            self.steps += 1
        return loss

    def _average(self) -> None:
        """Average the moves since `train()`, in the memory of the weights that were kept."""
        moves = list(self._behind.values())
        add_all(moves, [local(p) for p in self._behind], alpha=-1.0)
        averages = [self._averages[p] for p in self._behind]
        add_all(averages, moves, alpha=self.ema - 1, keep=self.ema)

    def _reach(self) -> float:
        """The factor β of the average in the step that comes."""
        if self.steps < self.start or (self.stop is not None and self.steps >= self.stop):
            return 0.0
        group = self.param_groups[0]
        peak = max((float(group[k]) for k in ("initial_lr", "max_lr") if k in group), default=0.0)
        if not self.scheduled or not peak:
            return self.look_ahead
        return self.look_ahead * float(group["lr"]) / peak

    def _params(self) -> Iterator[Tensor]:
        """The parameters that train."""
        return (p for group in self.param_groups for p in group["params"] if p.requires_grad)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients, as the optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the optimizer; its weights look ahead from the next `train()` on."""
        check_whole([*self.param_groups, param_group])
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """The state of the optimizer with what is kept here, as plain data.

        Each parameter has the average of its moves and, while it is ahead, the weights before;
        each group the number of steps.
        """
        saved = self.optimizer.state_dict()
        state = dict(saved["state"])
        for number, p in zip(_numbers(saved), self._members(), strict=True):
            kept = {AVERAGE: self._averages.get(p)}
            kept[BEHIND] = self._behind.get(p) if self._ahead else None
            own = {k: sharded_like(part, p) for k, part in kept.items() if part is not None}
            if own:
                state[number] = {**state.get(number, {}), **own}
        mine = {STEPS: self.steps, AHEAD: self._ahead}
        groups = [{**group, **mine} for group in saved["param_groups"]]
        return {**saved, "state": state, "param_groups": groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` has saved; a state of the optimizer alone begins a new average.

        Raises:
            ValueError: an average has another shape than its parameter, other numbers or another
                mesh, there is no such number of steps, or the optimizer refuses its part. Nothing
                here has been changed then.
        """
        mine: dict[str, Any] = {STEPS: 0, AHEAD: False}
        groups = []
        for group in state_dict["param_groups"]:
            mine.update({key: group[key] for key in mine if key in group})
            groups.append({key: value for key, value in group.items() if key not in mine})
        if not isinstance(mine[STEPS], int) or mine[STEPS] < 0:
            raise invalid(STEPS, mine[STEPS], "a whole number of steps >= 0 belongs here")
        kept: dict[str, dict[Tensor, Tensor]] = {AVERAGE: {}, BEHIND: {}}
        state = {number: dict(one) for number, one in state_dict["state"].items()}
        for number, p in zip(_numbers(state_dict), self._members(), strict=False):
            own = state.get(number, {})
            for key, parts in kept.items():
                if key in own:
                    parts[p] = self._part(own.pop(key), p, key)
            if number in state and not own:
                del state[number]
        self.optimizer.load_state_dict({**state_dict, "state": state, "param_groups": groups})
        self.steps, self._ahead = int(mine[STEPS]), bool(mine[AHEAD])
        self._averages, self._behind = kept[AVERAGE], kept[BEHIND]

    def _members(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _part(self, saved: Any, param: Tensor, key: str) -> Tensor:
        """This rank's part of what was saved for a parameter, in memory of its own."""
        if not isinstance(saved, Tensor):
            problem = f"{key} of {type(saved).__name__}"
            raise invalid("state_dict", problem, "a tensor belongs there")
        if saved.shape != param.shape:
            problem = f"{key} of {shape_text(saved.shape)}"
            raise invalid("state_dict", problem, f"the parameter is {shape_text(param.shape)}")
        if not (saved.is_floating_point() or saved.is_complex()) or saved.dtype.is_complex != (
            param.dtype.is_complex
        ):
            problem = f"{key} of {saved.dtype}"
            raise invalid("state_dict", problem, f"the parameter is of {param.dtype}")
        here, there = (x.device_mesh if is_sharded(x) else "one device" for x in (param, saved))
        if here != there:
            raise invalid("state_dict", f"{key} on {there}", f"the parameter is on {here}: {LOAD}")
        wanted = self.average_dtype if key == AVERAGE else None
        part = local_like(saved, param).detach()
        return part.to(device=local(param).device, dtype=wanted or param.dtype, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what schedulers hang on an optimizer."""
        return {key: vars(self)[key] for key in (*KEPT, *OWN)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _numbers(state_dict: dict[str, Any]) -> list[Any]:
    """The names of the parameters in a state, in the order of its groups."""
    return [number for group in state_dict["param_groups"] for number in group["params"]]


def _room(kept: Tensor | None, part: Tensor) -> Tensor:
    """Memory for a copy of a tensor: what is kept from the last step, if it fits."""
    wanted = part.shape, part.dtype, part.device
    if kept is not None and (kept.shape, kept.dtype, kept.device) == wanted:
        return kept
    return torch.empty_like(part, requires_grad=False)
