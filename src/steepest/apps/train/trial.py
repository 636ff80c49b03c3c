"""One trial: a model, its optimizer and its place in the run, from the first step to the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from steepest._common.files import Record, write_atomic
from steepest._common.records import number
from steepest.apps._terminal import is_out_of_memory
from steepest.apps.train import checkpoint
from steepest.apps.train.config import DTYPES, Config
from steepest.apps.train.constraint import Spectra, figures, has_ball, matrices
from steepest.apps.train.data import Corpus, batch, validation_windows
from steepest.apps.train.metrics import Metrics, Unwritten, read_metrics
from steepest.apps.train.model import GPT, next_loss
from steepest.apps.train.optimizers import lr_factor, parts, recipe, scheduler
from steepest.apps.train.parallel.team import SINGLE, Team, is_lost
from steepest.apps.train.plain import check_fits, check_scheduler, place_of, tensors
from steepest.diagnostics import Monitor, constraint_report

EVAL_BATCH = 64
SAMPLE = 400


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One optimizer with one seed: the part of a run that is trained on its own.

    Examples:
        >>> str(Trial(optimizer="muon", seed=1))
        'muon seed 1'
    """

    optimizer: str
    seed: int

    def __str__(self) -> str:
        return f"{self.optimizer} seed {self.seed}"

    def folder(self, run: Path) -> Path:
        """The folder of its metrics and checkpoints."""
        return run / self.optimizer / f"seed-{self.seed}"

    def board(self, run: Path) -> Path:
        """The folder of its TensorBoard file."""
        return run / "tensorboard" / f"{self.optimizer}-seed-{self.seed}"


def trials(config: Config) -> list[Trial]:
    """Every trial of a run, seed by seed, so that all optimizers feel the same machine."""
    return [Trial(optimizer=o, seed=s) for s in config.seeds for o in config.optimizers]


def is_done(folder: Path, config: Config) -> bool:
    """Whether a trial has its last checkpoint, or has diverged."""
    kinds = (checkpoint.WHOLE, checkpoint.SHARDED)
    if any(checkpoint.checkpoint_path(folder, config.steps, kind).exists() for kind in kinds):
        return True
    records = read_metrics(folder)
    return bool(records) and diverged(records[-1])


def diverged(record: Record) -> bool:
    """Whether a loss of this record is not a number."""
    return None in (record.get("loss", 0.0), record.get("val_loss", 0.0))


class Trainer:
    """A trial in memory.

    Args:
        trial: the optimizer and the seed.
        config: the settings of the run.
        corpus: the text.
        team: the processes that train it together. Each has a trainer, and calls the same methods
            of it in the same order.

    Raises:
        ValueError: the optimizer refuses its settings.
    """

    def __init__(
        self, trial: Trial, config: Config, corpus: Corpus, *, team: Team = SINGLE
    ) -> None:
        self.trial, self.config, self.corpus, self.team = trial, config, corpus, team
        self.device = torch.device(config.device)
        dtype = torch.float32 if config.dtype == "bfloat16" else DTYPES[config.dtype]
        model = GPT(config.model, vocabulary=len(corpus.characters), seed=trial.seed)
        self.model = model.to(device=self.device, dtype=dtype)
        self._network = _network(self.model, team)
        settings = config.optimizers[trial.optimizer]
        self.optimizer: Optimizer = recipe(trial.optimizer).build(self._network, settings)
        self.scheduler: LambdaLR = scheduler(self.optimizer, config)
        self.step = 0
        self.seconds = 0.0
        windows = validation_windows(
            corpus, context=config.model.context, count=config.eval_windows
        )
        self.windows = windows.to(self.device)
        self.spectra = Spectra()
        self.monitor: Monitor | None = None
        # Process 0 looks for all, as far as it has whole parameters to look at.
        self._looks = team.leads and not team.grid.in_pieces
        self._shows_balls = self._looks and config.spectra and has_ball(self.optimizer)

    def _belongs(self) -> dict[str, Any]:
        """The values that a checkpoint of this trial must have."""
        run = self.config.to_json()
        for key in (
            "optimizers",
            "seeds",
            "data",
            "device",
            "spectra",
            "monitor_every",
            "parallel",
        ):
            del run[key]
        settings = asdict(self.config.optimizers[self.trial.optimizer])
        return {**asdict(self.trial), "settings": settings, **run, "text": self.corpus.sha256}

    @contextmanager
    def watched(self, run: Path) -> Iterator[None]:
        """The trainer with its monitor, if the run has one, which goes on from this step."""
        every, board = self.config.monitor_every, self.trial.board(run) / "monitor"
        if not (every and self._looks):
            yield
            return
        with Monitor(
            self.model,
            self.optimizer,
            every=every,
            out=self.trial.folder(run),
            tensorboard=board,
            step=self.step,
            quiet=True,
        ) as self.monitor:
            yield

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step, and the spectra up to it.

        Raises:
            OSError: one of them could not be written.
        """
        self.team.first(lambda: self.spectra.save(folder))
        if self.monitor:
            self.monitor.sync()
        state = {part: getattr(self, part).state_dict() for part in _PARTS}
        content = {"step": self.step, "seconds": self.seconds, **state}
        checkpoint.save(folder, self.step, content, belongs=self._belongs(), team=self.team)

    def restore(self, folder: Path) -> bool:
        """Go on from the newest checkpoint of a folder; False if there is none.

        Raises:
            ValueError: the checkpoint is cut off or belongs to another run, or the spectra are
                damaged.
        """
        found = self.team.first(lambda: checkpoint.checkpoints(folder))
        if not found:
            return False
        self.load(found[-1])
        self.spectra = self.team.first(lambda: Spectra.load(folder, step=self.step))
        return True

    def load(self, path: Path) -> None:
        """Take over model, optimizer and place from a checkpoint.

        Raises:
            AnotherRunError: it belongs to another run, or to another version of steepest.
            ValueError: it is cut off.
        """
        self._step_at_rest()
        content = checkpoint.load(
            path,
            device=str(self.device),
            belongs=self._belongs(),
            like=tensors(self._state()).get,
            team=self.team,
        )
        with checkpoint.readable(path):
            step, seconds = place_of(content, path, steps=self.config.steps)
            rates = [float(r) * lr_factor(self.config, step) for r in self.scheduler.base_lrs]
            check_scheduler(self.scheduler, content["scheduler"], step=step, rates=rates)
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        try:
            for part, own in self._state().items():
                check_fits(own, content[part], step=step, place=part)
            for optimizer in parts(self.optimizer).values():
                optimizer.state.clear()
            for part in _PARTS:
                getattr(self, part).load_state_dict(content[part])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if is_out_of_memory(error) or is_lost(error):
                raise
            # Its settings are those of this run, so that it holds what another version keeps.
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise checkpoint.another_run(path, f"its state does not fit: {said[0]}") from None
        self.step, self.seconds = step, seconds

    def _step_at_rest(self) -> None:
        """Take a step that moves nothing: the optimizer then has the state of one that trains."""
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = 0.0
            for p in group["params"]:
                p.grad = torch.zeros_like(p)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for group, lr in zip(groups, rates, strict=True):
            group["lr"] = lr

    def _state(self) -> dict[str, Any]:
        """The state of the model and of its optimizer."""
        return {part: getattr(self, part).state_dict() for part in ("model", "optimizer")}

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.dtype == "bfloat16"
        )

    def _batch(self) -> Tensor:
        windows = batch(
            self.corpus.train,
            seed=self.trial.seed,
            step=self.step,
            size=self.config.batch,
            context=self.config.model.context,
        )
        return windows.chunk(self.team.grid.data)[self.team.part].to(self.device)

    def _clock(self) -> float:
        """Seconds without the monitor's, after the work that the device still has in its queue."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter() - (self.monitor.seconds if self.monitor else 0.0)

    def train_step(self) -> Record:
        """Take one step; the record of its loss, its learning rate and its times."""
        start = self._clock()
        lr = float(self.optimizer.param_groups[0]["lr"])
        self.optimizer.zero_grad()
        with self._autocast():
            loss = next_loss(self._network, self._batch())
        loss.backward()
        before = self._clock()
        self.optimizer.step()
        end = self._clock()
        self.scheduler.step()
        self.step += 1
        self.seconds += end - start
        mean = self.team.sums(loss.item())[0] / self.team.size
        return {
            "step": self.step,
            "time": time.time(),
            "seconds": self.seconds,
            "loss": number(mean),
            "lr": lr,
            "step_ms": 1e3 * (end - start),
            "optimizer_ms": 1e3 * (end - before),
        }

    def validate(self) -> Record:
        """The validation loss, and where weight decay has a ball what is to be seen of it."""
        record: Record = {"val_loss": number(self.evaluate())}
        if self._shows_balls and record["val_loss"] is not None:
            found = constraint_report(self.model, self.optimizer, spectra=True)
            record.update(figures(found))
            self.spectra.add(self.step, matrices(found))
        return record

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean validation loss in nats per character over the fixed windows."""
        total, seen = 0.0, 0
        with self._autocast():
            for windows in self.windows.split(EVAL_BATCH):
                own = windows.tensor_split(self.team.grid.data)[self.team.part]
                # A process without windows computes with the others: they may need its parameters.
                loss = next_loss(self._network, own if len(own) else windows[:1])
                total, seen = total + loss.item() * len(own), seen + len(own)
        total, count = self.team.sums(total, seen)
        return total / count

    def write_sample(self, folder: Path) -> None:
        """Write text that the model writes.

        Raises:
            OSError: it could not be written.
        """
        text = f"{self.sample()}\n".encode()
        self.team.first(lambda: write_atomic(folder / "sample.txt", text))

    def sample(self) -> str:
        """Text that the model writes, the same for the same weights."""
        known = self.corpus.characters
        prompt = torch.tensor([max(known.find("\n"), 0)], device=self.device)
        with self._autocast():
            ids = self.model.sample(prompt, SAMPLE, seed=self.trial.seed)
        return "".join(known[i] for i in ids[1:].tolist())


def _network(model: GPT, team: Team) -> nn.Module:
    """The module that gives the logits and goes to the optimizer: the model, laid over the team."""
    if team.mesh is None:
        return model
    from steepest.apps.train.parallel.placement import distribute

    return distribute(model, team.mesh, team.grid)


_PARTS = ("model", "optimizer", "scheduler")


def _metrics(trainer: Trainer, run: Path) -> Metrics | Unwritten:
    """The file for the records of a trainer."""
    if not trainer.team.leads:
        return Unwritten()
    folder = trainer.trial.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    return Metrics(folder, trainer.trial.board(run), step=trainer.step or None)


def run_trial(
    trainer: Trainer, run: Path, *, report: Callable[[Record], None], stop: Callable[[], bool]
) -> bool:
    """Train from where the trainer is to the end, or until `stop` answers True.

    Metrics reach the disk before the checkpoint that follows them. So at every moment there is a
    checkpoint, or the start, with all metrics up to it, and going on from there repeats the same
    steps on the same data.

    Args:
        trainer: new, or restored from a checkpoint.
        run: the folder of the run.
        report: a function that is called with the record of each step.
        stop: a function that is asked after each step; on True a checkpoint is written and the
            trial ends early. All processes of a team must get the same answer.

    Returns:
        Whether the trial is done.

    Raises:
        OSError: a file could not be written; the last checkpoint is intact.
    """
    config = trainer.config
    folder = trainer.trial.folder(run)
    with _metrics(trainer, run) as metrics, trainer.watched(run):
        if trainer.step == 0:
            first = {"step": 0, "time": time.time(), "seconds": 0.0}
            metrics.write({**first, **trainer.validate()})
        while trainer.step < config.steps:
            record = trainer.train_step()
            last = trainer.step == config.steps
            if last or trainer.step % config.eval_every == 0:
                record.update(trainer.validate())
            metrics.write(record)
            report(record)
            if diverged(record):
                metrics.sync()
                trainer.team.first(lambda: trainer.spectra.save(folder))
                return True
            stopped = stop()
            if last:
                trainer.write_sample(folder)
            if last or stopped or trainer.step % config.checkpoint_every == 0:
                metrics.sync()
                trainer.save(folder)
            if stopped:
                return last
    return True
