"""A monitor of a run: what each observed step does to each layer, and what looks wrong."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from steepest._common.errors import invalid
from steepest._common.files import Record, read_lines
from steepest._common.numerics import widened
from steepest._common.records import Log, number
from steepest._common.wrapped import unwrapped
from steepest.diagnostics.monitor.findings import as_records, by_cause, line
from steepest.diagnostics.monitor.parameters import MonitoredParams
from steepest.diagnostics.monitor.step import measure, snapshot
from steepest.diagnostics.monitor.warnings import Alarms, MonitorWarning

FILE = "monitor.jsonl"

# A learning rate that is too large shows before the weights have grown to it.
EARLY = (1, 3, 10)
"""Steps that are observed as well if they come before the first of `every`."""


class Monitor:
    """Watches a run from torch's own hooks; changes nothing in it.

        update_ratio = ‖ΔW‖/‖W‖;  alignment = ⟨u, d⟩/(‖u‖†·‖d‖);  polar_error = ‖d − UVᵀ‖_F/‖UVᵀ‖_F

    with W before the step, ΔW all that the step added, d = −ΔW without decoupled decay, u the
    average of gradients that the optimizer followed (its momentum, as Nesterov has it; the gradient
    without one), and ‖·‖ the norm of the layer: that of the optimizer's group; else the spectral
    norm for a matrix, 1 → RMS for an embedding, RMS for a vector. Of a parameter with several
    matrices the norm is the largest, a rank the mean.

    Observed are the steps that `every` divides, and before the first of them steps 1, 3 and 10.
    Forward passes under `torch.no_grad` do not count, nor does what is compiled; several before one
    step count together.

    Args:
        model: any module.
        optimizer: any optimizer of torch, of some or all of its parameters.
        every: the number of steps from one observation to the next.
        out: folder for `monitor.jsonl`; None keeps the records in memory.
        tensorboard: whether `out` also gets a TensorBoard file, or the folder for it.
        step: the steps already taken; files in `out` are cut back to it.
        quiet: whether warnings are only collected.

    Raises:
        ValueError: a number out of range, or TensorBoard is not installed.

    Examples:
        >>> model = nn.Linear(4, 2)
        >>> optimizer = torch.optim.AdamW(model.parameters())
        >>> with Monitor(model, optimizer, every=2) as monitor:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model(torch.ones(1, 4)).sum().backward()
        ...         optimizer.step()
        >>> [record["step"] for record in monitor.records]
        [1, 2, 4]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        every: int = 100,
        out: str | Path | None = None,
        tensorboard: bool | str | Path = True,
        step: int = 0,
        quiet: bool = False,
    ) -> None:
        if every < 1:
            raise invalid("every", every, "give a number of steps >= 1")
        if step < 0:
            raise invalid("step", step, "give the number of steps already taken")
        optimizer = unwrapped(optimizer)
        self.every, self.step, self.quiet = every, step, quiet
        self.warnings: list[str] = []
        self.seconds = 0.0
        self._params = MonitoredParams(model, optimizer)
        self._alarms = Alarms(self._params.routing)
        self._causes: set[str] = set()
        self._rates: dict[Tensor, float] = {}
        self._optimizer = optimizer
        self._records: list[Record] = []
        self._log = None if out is None else _log(Path(out), tensorboard, step)
        self._path = None if out is None else Path(out) / FILE
        self._since = time.perf_counter()
        self._closed: float | None = None
        self._begin()
        self._hooks: list[Any] = [
            module.register_forward_hook(_Hook(self, name), with_kwargs=True)
            for name, module in model.named_modules()
            if name
        ]
        self._hooks += [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def _begin(self) -> None:
        """Make ready for the step to come."""
        coming = self.step + 1
        self._due = coming % self.every == 0 or (coming < self.every and coming in EARLY)
        self._before: dict[Tensor, Tensor] = {}
        self._past: dict[Tensor, Tensor] = {}
        self._activations: dict[str, tuple[_Mean, _Mean]] = {}

    @property
    def records(self) -> list[Record]:
        """The records so far: those of the file, where there is one."""
        return list(self._records) if self._path is None else list(read_lines(self._path))

    @property
    def norms(self) -> dict[str, str]:
        """The norm in which the steps of each layer are measured, and why."""
        return {w.layer: f"{w.norm} ({w.why})" for w in self._params}

    @property
    def overhead(self) -> float:
        """The share of the time from when it was attached to when it was closed, or now."""
        end = time.perf_counter() if self._closed is None else self._closed
        return self.seconds / max(end - self._since, 1e-9)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def seen(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Take in what went through a module."""
        if not self._due or not torch.is_grad_enabled():
            return
        with self._timed(), torch.no_grad():
            means = self._activations.setdefault(name, (_Mean(), _Mean()))
            for mean, tensors in zip(means, (inputs, output), strict=True):
                mean.add(tensors)

    def _before_step(self, *_: Any) -> None:
        if not self._due:
            return
        with self._timed(), torch.no_grad():
            for w in self._params:
                self._before[w.param] = w.param.detach().clone()
                if "betas" in w.group and (past := w.momentum) is not None:
                    self._past[w.param] = past.clone()

    def _after_step(self, *_: Any) -> None:
        due, self.step = self._due, self.step + 1
        try:
            if due:
                with self._timed(), torch.no_grad():
                    self._observe()
        finally:
            self._begin()
        if self._due:
            # Only here: to read a learning rate may wait for the device.
            for group in self._optimizer.param_groups:
                self._rates.update(dict.fromkeys(group["params"], float(group.get("lr") or 0.0)))

    def _observe(self) -> None:
        snapshots = [
            snapshot(w, self._before[w.param], self._past.get(w.param))
            for w in self._params
            if w.param in self._before
        ]
        measure(snapshots)
        record: Record = {"step": self.step, "time": time.time()}
        activations = {
            name: (of_input.value(), of_output.value())
            for name, (of_input, of_output) in self._activations.items()
        }
        for name, pair in activations.items():
            for key, value in zip(("rms_in", "rms_out"), pair, strict=True):
                record[f"{name}/{key}"] = number(value)
        for s in snapshots:
            record.update({f"{s.of.layer}/{key}": value for key, value in s.quantities.items()})
        found = self._alarms.new_warnings(snapshots, activations, step=self.step, rates=self._rates)
        causes = by_cause(found)
        new = [line(some, more=cause in self._causes) for cause, some in causes.items()]
        self._causes |= causes.keys()
        record["warnings"], record["findings"] = new, as_records(found)
        self.warnings += new
        if self._log is None:
            self._records.append(record)
        else:
            self._log.write(record)
        if not self.quiet:
            for text in new:
                warnings.warn(text, MonitorWarning, stacklevel=2)

    def sync(self) -> None:
        """Bring what was written to the disk.

        Raises:
            OSError: the disk is full.
        """
        if self._log is not None:
            self._log.sync()

    def close(self) -> None:
        """Remove the hooks and close the files; the records stay."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._due = False
        if self._closed is None:
            self._closed = time.perf_counter()
        if self._log is not None:
            self._log.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Hook:
    """The forward hook of a module; a copy of the module, or a file of it, is not watched."""

    def __init__(self, monitor: Monitor, name: str) -> None:
        self._monitor, self._name = monitor, name

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        # First of all: a compiled function would be compiled anew whenever a step is due.
        if not torch.compiler.is_compiling():
            self._monitor.seen(self._name, (*inputs, *keywords.values()), output)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (_ignore,)


def _ignore(*_: Any) -> None:
    """A hook that does nothing."""


class _Mean:
    """The root mean square of the floating-point tensors that went through one end of a module."""

    def __init__(self) -> None:
        self.squares: list[Tensor] = []
        self.count = 0

    def add(self, found: Any) -> None:
        """Take in a tensor, or the tensors of a tuple or a mapping; nothing else."""
        if isinstance(found, Mapping):
            found = tuple(found.values())
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) and x.numel():
                wide = x.detach().to(widened(x.dtype))
                self.squares.append(torch.linalg.vector_norm(wide).square())
                self.count += x.numel()

    def value(self) -> float:
        """The root mean square: NaN without a tensor, inf where one is not finite."""
        if not self.squares:
            return math.nan
        total = sum(float(square) for square in self.squares)
        return math.sqrt(total / self.count) if math.isfinite(total) else math.inf


def _log(out: Path, tensorboard: bool | str | Path, step: int) -> Log:
    """The files of a monitor.

    Raises:
        ValueError: TensorBoard is asked for and not installed.
    """
    if tensorboard is False:
        return Log(out / FILE, step=step or None)
    if find_spec("tensorboard") is None:
        raise invalid(
            "tensorboard",
            tensorboard,
            "it is not installed: pip install tensorboard, or give tensorboard=False",
        )
    # Only here: TensorBoard is an extra, and importing it takes a second.
    from steepest._common.tensorboard import EVENTS, event_file

    board = out if tensorboard is True else Path(tensorboard)
    return Log(out / FILE, also={board / EVENTS: event_file()}, step=step or None)
