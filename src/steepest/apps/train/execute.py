"""Carry a run out: train, stop when asked to, report."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import StatisticsError
from types import FrameType

import torch
from rich.console import Console
from rich.table import Table

from steepest._common.errors import invalid
from steepest._common.files import read_file, read_lines, write_json
from steepest._common.records import is_up_to, sound
from steepest.apps._terminal import program, say
from steepest.apps.train.config import ModelConfig
from steepest.apps.train.constraint import largest
from steepest.apps.train.data import BIBLE, LIBRARY
from steepest.apps.train.metrics import METRICS, MONITOR, read_metrics
from steepest.apps.train.parallel.mesh import NONE
from steepest.apps.train.parallel.team import SINGLE, Launch, Team
from steepest.apps.train.picture import write_picture
from steepest.apps.train.progress import TrainingProgress
from steepest.apps.train.report import Report, cells, headings, make_report, write_report
from steepest.apps.train.run import CONFIG, Run, description
from steepest.apps.train.spectra import write_spectra
from steepest.apps.train.trial import Trainer, Trial, run_trial, trials
from steepest.diagnostics import monitor_warnings

DIVERGED = 1
AT_ONCE = (signal.SIGINT, signal.SIGTERM)
# Windows has none of them.
REPEATED = tuple(
    getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)
BY_ITSELF = Launch()

# Ours, from samples of the default model on the default text: at 2.2 nats per character they are
# syllables, at 2.0 every other word is none, at 1.65 and 1.5 most are words in an order that reads.
READABLE = 1.7
"""The validation loss from which on a sample of a model is shown."""


class Stop:
    """Turns signals to end into a question that the training loop asks between two steps.

    A second Ctrl-C or SIGTERM ends the process at once. SIGHUP, when its terminal is closed, and
    the SIGUSR1 and SIGUSR2 that batch systems send before their time is over may come more than
    once; they change nothing more. Outside its `with` block signals do what they did.

    Args:
        team: the processes that stop together. All of them ask at the same places, and get the same
            answer.
    """

    def __init__(self, team: Team = SINGLE) -> None:
        self.signal = 0
        self._noted = 0
        self._team = team

    def __call__(self) -> bool:
        """Whether a signal came, to whichever process."""
        # A signal that comes while the processes talk counts the next time, for all of them.
        self.signal = self._team.most(self._noted)
        return self.signal != 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if number in AT_ONCE:
            self._restore(AT_ONCE)
        for stream in self._terminals:
            if not os.isatty(stream):  # it has been closed, and printing there would be an error
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)

    def _restore(self, numbers: Collection[signal.Signals]) -> None:
        for number in numbers:
            signal.signal(number, self._before[number])

    def __enter__(self) -> Stop:
        self._terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        found = {n: signal.getsignal(n) for n in (*AT_ONCE, *REPEATED)}
        # `nohup` has SIGHUP ignored, and means it.
        left = [n for n in REPEATED if found[n] in (signal.SIG_IGN, None)]
        self._before = {n: handler for n, handler in found.items() if n not in left}
        for number in self._before:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(self._before)


def resume_command(
    folder: Path, started: Launch = BY_ITSELF, parallel: str = NONE, device: str | None = None
) -> str:
    """The command that goes on with a run, with as many processes as this one has.

    Args:
        folder: the folder of the run.
        started: the launch of this process.
        parallel: the way in which the processes share the work.
        device: the device, where it is another one than that on which the run began.
    """
    resume = f"--resume {shlex.quote(str(folder))}"
    if device is not None:
        resume += f" --device {device}"
    if parallel == NONE:
        return f"{program()} train {resume}"
    machines = started.world // started.local_world
    several = f"--nnodes {machines} " if machines > 1 else ""
    again = f"--max-restarts {started.max_restarts} " if started.max_restarts else ""
    processes = f"{several}{again}--nproc-per-node {started.local_world}"
    return f"{_torchrun()} {processes} -m steepest train --parallel {parallel} {resume}"


def _torchrun() -> str:
    """The launcher, by a name that a shell finds."""
    found = shutil.which("torchrun")
    return "torchrun" if found else f"{shlex.quote(sys.executable)} -m torch.distributed.run"


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Ask for deterministic kernels on a GPU; the CPU's are deterministic as they are."""
    if torch.device(device).type == "cpu":
        yield
        return
    # cuBLAS reads this before its first call:
    # https://docs.nvidia.com/cuda/cublas/index.html#results-reproducibility
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _train(run: Run, console: Console, stop: Stop) -> bool:
    """Go through the trials that are left; False if the user stopped it before the end."""
    progress = TrainingProgress(console, steps=run.steps_left)
    try:
        for trial in run.todo:
            if stop():
                return False
            trainer = Trainer(trial, run.config, run.corpus, team=run.team)
            trainer.restore(trial.folder(run.folder))
            progress.begin(str(trial), step=trainer.step, steps=run.config.steps)
            if not run_trial(trainer, run.folder, report=progress.update, stop=stop):
                return False
    finally:
        progress.end()
    return True


def execute(run: Run, console: Console, *, resume: str) -> int:
    """Train what is left, then write and show the report.

    Args:
        run: the run to carry out; each process of a team has it.
        console: the console to write to; quiet for all processes but one.
        resume: the command that goes on with the run.

    Returns:
        The exit code: 0, 1 if a run diverged, or 128 plus the signal that stopped it.

    Raises:
        OSError: a file could not be written; what was saved before is intact.
    """
    run.team.first(lambda: _begin(run))
    _headline(run, console)
    with Stop(run.team) as stop, _deterministic(run.config.device):
        finished = _train(run, console, stop)
    if not finished:
        say(console, "Stopped, and a checkpoint is saved. To go on:")
        say(console, f"  {resume}")
        return 128 + stop.signal
    return run.team.first(lambda: _finish(run, console))


def _begin(run: Run) -> None:
    """Make the folder, with what is known before the first step."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if not (run.folder / CONFIG).exists():
        write_json(run.folder / CONFIG, description(run))


def title_of(model: ModelConfig, text: str) -> str:
    """The model and the text in words, the text without the way to its file.

    Examples:
        >>> title_of(ModelConfig(), "King James Bible")
        'GPT, 4 layers of width 128, on the King James Bible'
        >>> title_of(ModelConfig(), "texts/plays.txt")
        'GPT, 4 layers of width 128, on plays.txt'
    """
    name = f"the {text}" if text in (BIBLE, LIBRARY) else Path(text).name
    return f"GPT, {model.layers} layers of width {model.width}, on {name}"


def _finish(run: Run, console: Console) -> int:
    """Write and show the report; the exit code."""
    try:
        report = make_report(run.folder, run.config)
    except (KeyError, IndexError, StatisticsError):
        remedy = f"a {METRICS} in it has lost figures; put it back, or start a new run"
        raise invalid("resume", str(run.folder), remedy) from None
    write_report(run.folder, report)
    write_picture(run.folder, report, title_of(run.config.model, run.corpus.name))
    spectra = write_spectra(run.folder, run.config)
    _show(run, report, console)
    _show_balls(run, spectra, console)
    _show_warnings(run, console)
    return DIVERGED if any(r.val_loss is None for r in report.rows) else 0


def _headline(run: Run, console: Console) -> None:
    config, corpus = run.config, run.corpus
    if run.note:
        say(console, f"Note: {run.note}")
    model = config.model
    say(
        console,
        f"{corpus.name}: {corpus.length:,} characters, {len(corpus.characters)} different",
        f"GPT with {model.layers} layers, width {model.width}, {model.heads} heads, context "
        f"{model.context}; {config.steps} steps of {config.batch} windows on {config.device} "
        f"in {config.dtype}",
        *_processes(run),
        f"Run folder: {run.folder}",
    )
    if not run.todo:
        say(console, "Every trial of this run is done: nothing left to train.")


def _processes(run: Run) -> list[str]:
    """A line about the team, and what it cannot do; nothing about one process."""
    team, parallel = run.team, run.config.parallel
    if team.mesh is None:
        return []
    shape = f"{team.grid.data} × {team.grid.tensor}"
    lines = [f"{team.size} processes, {parallel}: data × tensor = {shape}"]
    if team.grid.in_pieces and (run.config.monitor_every or run.config.spectra):
        lines += ["Note: parameters are in pieces: no monitor, and no balls of weight decay"]
    return lines


def _show(run: Run, report: Report, console: Console) -> None:
    """The final table, a sample and where the rest lies."""
    title = f"mean of {report.seeds} seeds" if report.seeds > 1 else None
    table = Table(title=title)
    for i, heading in enumerate(headings(report)):
        table.add_column(heading, justify="right" if i else "left", no_wrap=i == 0)
    for row in report.rows:
        table.add_row(*cells(row))
    console.print(table)
    best = min(
        (r for r in report.rows if r.val_loss is not None),
        key=lambda r: r.val_loss or 0.0,
        default=None,
    )
    if best is not None:
        trial = Trial(optimizer=best.optimizer, seed=run.config.seeds[0])
        path = trial.folder(run.folder) / "sample.txt"
        if best.val_loss is not None and best.val_loss <= READABLE:
            sample = read_file(path).decode(errors="replace").rstrip()
            say(console, "", f"Text by the model of {trial}:", *sample.split("\n"), "")
        else:
            say(console, f"Text by the model of {trial}: {path}")
    say(console, f"Picture: {run.folder / 'loss.png'}")
    say(console, f"Figures: {run.folder / 'summary.json'}, {run.folder / 'table.md'}")
    say(console, f"TensorBoard: tensorboard --logdir {run.folder / 'tensorboard'}")


def _show_balls(run: Run, pictures: Sequence[Path], console: Console) -> None:
    """Show how far each optimizer with a ball has filled it, and where that can be seen."""
    for name in run.config.optimizers:
        own = [Trial(optimizer=name, seed=seed) for seed in run.config.seeds]
        found = [largest(read_metrics(trial.folder(run.folder))) for trial in own]
        most = max((f for f in found if f is not None), default=None)
        if most is not None:
            say(console, f"{name}: largest ‖W‖/radius: {most[0]:.2f} in {most[1]}")
    for path in pictures:
        say(console, f"Spectra: {path}")


def _show_warnings(run: Run, console: Console) -> None:
    """Show what the monitor found to be off: a line for each cause."""
    for trial in trials(run.config):
        lines = read_lines(trial.folder(run.folder) / MONITOR)
        seen = (sound(r) for r in lines if is_up_to(run.config.steps, r))
        for step, text in monitor_warnings(seen):
            say(console, f"Warning: {trial}, step {step}, {text}")
