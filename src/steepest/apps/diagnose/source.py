"""The subjects of a diagnosis: a run, a trial, a checkpoint, or the records of a monitor."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steepest._common.errors import invalid
from steepest._common.files import Record, read_lines
from steepest._common.records import is_up_to, sound
from steepest.apps._folder import is_special, user_path
from steepest.apps.train.checkpoint import SHARDED, checkpoints, identity
from steepest.apps.train.config import Config, OptimizerConfig, resolve_device
from steepest.apps.train.constraint import SPECTRA, Spectra
from steepest.apps.train.data import Corpus, load_text, prepare
from steepest.apps.train.metrics import METRICS, MONITOR, read_metrics
from steepest.apps.train.run import CONFIG, fault, read_config
from steepest.apps.train.trial import Trainer, Trial, trials

SEED = re.compile(r"seed-(\d+)")
IN_CHECKPOINT = ("optimizer", "seed", "settings", "text")
"""The entries by which a checkpoint says what it is, beside the configuration of its run."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The subject of one part of the page: a trial, or a run of the user's own code.

    Args:
        name: the name to call it by.
        folder: the folder of its files.
        metrics: the records of `metrics.jsonl`.
        others: those of the same optimizer in the same run with its other seeds, by seed.
        monitor: the records of `monitor.jsonl`.
        spectra: the contents of `spectra.npz`.
        trial: the trial it is; None for a run of the user's own code.
        config: the settings of its run; None where nothing says it.
        text: the fingerprint of its text, None where nothing says it.
        data: the name of its text and how long it is; empty where nothing says it.
        checkpoint: the one to look at; None if there is none.
    """

    name: str
    folder: Path
    metrics: Sequence[Record]
    monitor: Sequence[Record]
    spectra: Spectra = field(default_factory=Spectra)
    trial: Trial | None = None
    config: Config | None = None
    text: str | None = None
    data: str = ""
    checkpoint: Path | None = None
    others: Mapping[int, Sequence[Record]] = field(default_factory=dict)

    def trainer(self, corpus: Corpus) -> Trainer | None:
        """The trial as its checkpoint has it; None without one.

        Raises:
            ValueError: the checkpoint is damaged or that of another run.
        """
        if self.checkpoint is None or self.config is None or self.trial is None:
            return None
        trainer = Trainer(self.trial, self.config, corpus)
        try:
            trainer.load(self.checkpoint)
        except ValueError:
            raise refused(
                self.checkpoint,
                "this checkpoint is cut off, damaged or of another run: give an earlier one, or "
                "move it away to diagnose the one before it",
            ) from None
        return trainer

    @property
    def place(self) -> tuple[Path, Path | None]:
        """The files that tell it from other subjects."""
        return self.folder.resolve(), self.checkpoint and self.checkpoint.resolve()


def refused(place: object, remedy: str) -> ValueError:
    """An error that names a file, a folder or a flag as the user knows it, and what to do."""
    return ValueError(f"{place}: {remedy}")


def find(path: Path, *, optimizers: Sequence[str], seed: int | None) -> list[Subject]:
    """The subjects of a path, in the order of the run.

    Args:
        path: the folder of a run or a trial, a checkpoint, or a folder with a `monitor.jsonl`.
        optimizers: the optimizers to take from a run; all of them if none is named.
        seed: the seed to take from a run; None for its first.

    Raises:
        ValueError: there is no such path, nothing in it to show, or no such optimizer or seed.
        OSError: a file cannot be read.
    """
    if not path.exists():
        raise refused(path, "there is no such file or folder; give the folder of a run")
    if is_special(path):
        raise refused(path, "is a pipe or a device; give the folder of a run")
    # A run of somebody's own code may have a file of that name too, beside its records.
    if (path / CONFIG).is_file() and not (path / MONITOR).is_file():
        found = [_trial(path, trial) for trial in _chosen(path, optimizers, seed)]
        if not any(map(_has_anything, found)):
            raise refused(path, "this run has not begun: there is nothing to show yet")
        return [subject for subject in found if _has_anything(subject)]
    if optimizers or seed is not None:
        raise refused(path, "only a run has --optimizer and --seed; leave them out")
    if path.is_file() or path.suffix == SHARDED:
        return [_checkpoint(path)]
    if (trial := _trial_at(path)) is not None:
        found = [_trial(_as_given(path, path.resolve().parent.parent), trial)]
    elif kept := checkpoints(path):
        found = [_checkpoint(kept[-1])]
    else:
        found = [_subject(path.resolve().name, path)]
    if not _has_anything(found[0]):
        if os.path.lexists(path / CONFIG) and not (path / CONFIG).is_file():
            raise refused(path, f"{fault(path)}; restore it, or diagnose a checkpoint of the run")
        raise refused(
            path,
            f"has no {CONFIG}, {METRICS}, {MONITOR} or checkpoint: give the folder of a run of "
            "`steepest train`, or one that a steepest.diagnostics.Monitor has written to",
        )
    return found


def _trial_at(path: Path) -> Trial | None:
    """The trial of a run whose folder this is; None if it is none."""
    here = path.resolve()
    run, seed = here.parent.parent, SEED.fullmatch(here.name)
    if seed is None or not (run / CONFIG).is_file():
        return None
    trial = Trial(optimizer=here.parent.name, seed=int(seed[1]))
    return trial if trial.optimizer in _config(run)[0].optimizers else None


def _as_given(path: Path, place: Path) -> Path:
    """A place relative to the working folder if `path` is: a page shows no more of this machine."""
    return place if path.is_absolute() else Path(os.path.relpath(place))


def _has_anything(subject: Subject) -> bool:
    return bool(subject.metrics or subject.monitor or subject.checkpoint)


def _chosen(run: Path, optimizers: Sequence[str], seed: int | None) -> list[Trial]:
    """The trials of a run to look at."""
    config, _ = _config(run)
    for name in optimizers:
        if name not in config.optimizers:
            known = ", ".join(config.optimizers)
            raise refused(f"--optimizer {name}", f"{run} has only {known}; give one of them")
    if seed is None:
        seed = config.seeds[0]
    elif seed not in config.seeds:
        known = ", ".join(map(str, config.seeds))
        raise refused(f"--seed {seed}", f"{run} has only {known}; give one of them")
    wanted = optimizers or list(config.optimizers)
    return [t for t in trials(config) if t.seed == seed and t.optimizer in wanted]


def _config(run: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run and what is known about its text.

    Raises:
        ValueError: its file is damaged.
    """
    try:
        config, text = read_config(run)
        return _sound(config), text
    except ValueError:
        remedy = (
            f"{CONFIG} is damaged or not of steepest train; restore it, or diagnose a checkpoint "
            "of the run that you have copied elsewhere"
        )
        raise refused(run, remedy) from None


def _sound(config: Config) -> Config:
    """The configuration, in which a name of an optimizer is no way to another folder.

    Raises:
        ValueError: it is.
    """
    for name in config.optimizers:
        if Path(name).name != name:
            raise invalid("optimizer", name, "is no name of an optimizer")
    return config


def _spectra(folder: Path, step: float) -> Spectra:
    """The spectra that a run has recorded, up to a step.

    Raises:
        ValueError: their file is damaged.
    """
    try:
        return Spectra.load(folder, step=step)
    except ValueError:
        remedy = "is cut off or damaged; move it away, and the page does without these spectra"
        raise refused(folder / SPECTRA, remedy) from None


def _subject(name: str, folder: Path, *, step: float = float("inf")) -> Subject:
    """Read what a folder has recorded, up to a step."""
    return Subject(
        name=name,
        folder=folder,
        metrics=_metrics(folder, step),
        monitor=[sound(r) for r in read_lines(folder / MONITOR) if is_up_to(step, r)],
        spectra=_spectra(folder, step),
    )


def _metrics(folder: Path, step: float) -> list[Record]:
    """The records of a trial up to a step."""
    return [r for r in read_metrics(folder) if is_up_to(step, r)]


def _trial(run: Path, trial: Trial, checkpoint: Path | None = None) -> Subject:
    """A trial of a run: at a checkpoint, or at its newest with all that has been recorded."""
    config, text = _config(run)
    folder = trial.folder(run)
    kept = checkpoints(folder)
    step = float("inf") if checkpoint is None else _step(checkpoint)
    return replace(
        _subject(str(trial), folder, step=step),
        trial=trial,
        config=_here(config),
        text=text.get("sha256"),
        data=_described(text),
        checkpoint=checkpoint or (kept[-1] if kept else None),
        others={
            other.seed: _metrics(other.folder(run), step)
            for other in trials(config)
            if other.optimizer == trial.optimizer and other.seed != trial.seed
        },
    )


def _described(text: Mapping[str, Any]) -> str:
    """A text in words, with the name of its file and not with the way there."""
    count = text.get("characters")
    size = f", {count:,} characters" if isinstance(count, int) else ""
    return f"{Path(str(text.get('name', 'unnamed'))).name}{size}"


def _step(checkpoint: Path) -> float:
    """The step in the name of a checkpoint; inf if somebody has renamed it."""
    found = re.search(r"(\d+)", checkpoint.stem)
    return int(found[1]) if found else float("inf")


def _checkpoint(path: Path) -> Subject:
    """A checkpoint: in its run, or on its own, since it says what it belongs to."""
    try:
        known = identity(path)
        trial = Trial(optimizer=known["optimizer"], seed=known["seed"])
        plain = {k: v for k, v in known.items() if k not in IN_CHECKPOINT}
        names = {"optimizers": {trial.optimizer: known["settings"]}, "seeds": [trial.seed]}
        config = _sound(Config.from_json({**plain, **names}))
    except (KeyError, TypeError, AttributeError):
        raise refused(path, "is no checkpoint of steepest; give a step-*.pt of a run") from None
    run = path.resolve().parent.parent.parent
    if (run / CONFIG).is_file() and trial.folder(run) == path.resolve().parent:
        return _trial(_as_given(path, run), trial, path)
    return replace(
        _subject(str(trial), path.parent, step=_step(path)),
        trial=trial,
        config=_here(config),
        text=known["text"],
        checkpoint=path,
    )


def _here(config: Config) -> Config:
    """The configuration on this machine, which may be another than the one that trained."""
    return replace(config, device=resolve_device("auto", config.dtype))


def corpus_of(subject: Subject, data: Path | None) -> Corpus:
    """The text that a subject was trained on.

    Args:
        subject: one with a configuration.
        data: the place where the text is now; None for where it was.

    Raises:
        ValueError: it is another text.
        OSError: it cannot be read.
    """
    assert subject.config is not None
    place = subject.config.data if data is None else str(user_path(str(data), argument="data"))
    other = (
        f"is not the text that {subject.folder} was trained on; say where that one is: --data FILE"
    )
    try:
        text = load_text(place)
    except ValueError as error:
        remedy = str(error).partition(": ")[2]
        raise refused(f"--data {place}", f"{remedy}; it is the text of {subject.folder}") from None
    try:
        corpus = prepare(text, context=subject.config.model.context)
    except ValueError:  # too short to be that of the run
        raise refused(f"--data {text.name}", other) from None
    if corpus.sha256 != subject.text:
        raise refused(f"--data {text.name}", other)
    return corpus


def settings_of(subject: Subject) -> OptimizerConfig | None:
    """The settings of the optimizer of a trial."""
    if subject.config is None or subject.trial is None:
        return None
    return subject.config.optimizers[subject.trial.optimizer]
