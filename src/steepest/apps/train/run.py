"""A run that is ready to start or to go on: its folder, its text and what is left of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

import steepest
from steepest._common.errors import invalid
from steepest._common.files import read_json, refuse_links
from steepest.apps._folder import held, is_empty, is_special
from steepest.apps.train import memory
from steepest.apps.train.checkpoint import AnotherRunError
from steepest.apps.train.config import Config
from steepest.apps.train.data import Corpus, Text, load_text, prepare
from steepest.apps.train.parallel.mesh import NONE
from steepest.apps.train.parallel.team import SINGLE, Launch, Team
from steepest.apps.train.trial import Trainer, Trial, is_done, trials

CONFIG = "config.json"
ITS_OWN = "go on with that version, or start a new run"
RESTART = 10.0
"""Seconds that the processes of a launch have to end before torchrun's next ones take over."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run about which everything has been checked.

    Args:
        folder: the folder of the run; `new_run` does not make it.
        config: the settings of the run.
        corpus: its text.
        note: a remark for the user on the text.
        todo: the trials that are not done, each with the step it goes on from.
        team: the processes that carry it out.
        token: the secret of the launch that begins it.
    """

    folder: Path
    config: Config
    corpus: Corpus
    note: str
    todo: Mapping[Trial, int]
    team: Team = SINGLE
    token: str = ""

    @property
    def steps_left(self) -> int:
        """Steps to take, over all trials."""
        return sum(self.config.steps - step for step in self.todo.values())


def fresh_folders(parent: Path) -> Iterator[Path]:
    """Folder names by the time of day that no run has taken yet."""
    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    names = (f"{name}-{i}" if i > 1 else name for i in count(1))
    return (parent / n for n in names if not (parent / n).exists())


@contextmanager
def new_folder(folder: Path | None) -> Iterator[Path]:
    """The folder of a run that starts, made for it alone and held as long as the block lasts.

    Args:
        folder: the folder that was asked for; None for a fresh one below `runs`.

    Raises:
        ValueError: it is taken, or another run has begun there meanwhile.
        OSError: it cannot be made.
    """
    with ExitStack() as stack:
        if folder is not None:
            stack.enter_context(held(folder))
            yield _free(folder)
            return
        for name in fresh_folders(Path("runs")):
            # Another run may have taken the same name in the same second.
            with suppress(FileExistsError):
                stack.enter_context(held(name, new=True))
                break
        yield name


@contextmanager
def old_folder(folder: Path, *, argument: str, started: Launch) -> Iterator[None]:
    """Hold the folder of a run that goes on as long as the block lasts.

    Args:
        folder: the folder.
        argument: the argument that it was given as, for the message.
        started: the launch; what torchrun starts again may find the old processes still ending.

    Raises:
        ValueError: this is not a run folder, or another process is at work in it.
        OSError: it cannot be written.
    """
    read_config(folder, argument=argument)  # a lock would make the folder
    patience = RESTART if started.restarts else 0.0
    remedy = "wait until it has ended, or stop it, and resume then"
    with held(folder, argument=argument, remedy=remedy, patience=patience):
        yield


def _checked(
    folder: Path, config: Config, text: Text, corpus: Corpus, team: Team, *, new: bool
) -> Run:
    """Build every trial and read its checkpoint, so that a fault shows before hours of training.

    A new run reads none: what is there, another run has begun to write meanwhile.
    """
    todo = {}
    memory.check(config, len(corpus.characters), alone=team.mesh is None)
    for trial in trials(config):
        trainer = Trainer(trial, config, corpus, team=team)
        if new:
            todo[trial] = 0
            continue
        own = trial.folder(folder)
        team.first(partial(refuse_links, folder, own, trial.board(folder) / "monitor"))
        trainer.restore(own)
        if not team.first(partial(is_done, own, config)):
            todo[trial] = trainer.step
    return Run(folder=folder, config=config, corpus=corpus, note=text.note, todo=todo, team=team)


def new_run(config: Config, folder: Path | None, *, team: Team = SINGLE) -> Run:
    """A run that starts; writes nothing.

    Args:
        config: the settings of the run.
        folder: the folder for its files; None for a fresh folder below `runs`.
        team: the processes that carry it out.

    Raises:
        ValueError: the folder is taken, or the text or a setting is refused.
        OSError: the text cannot be read.
    """
    place = team.first(lambda: _free(folder))
    text, corpus = team.agreed(lambda: _read(config))
    return _checked(place, config, text, corpus, team, new=True)


def _read(config: Config) -> tuple[Text, Corpus]:
    """The text of a run, as it is and as ids."""
    text = load_text(config.data)
    return text, prepare(text, context=config.model.context)


def _free(folder: Path | None) -> Path:
    """The folder, if nothing is in it, or a fresh one below `runs`."""
    if folder is None:
        return next(fresh_folders(Path("runs")))
    if folder.exists() and not (folder.is_dir() and is_empty(folder)):
        kind = "a folder with files in it" if folder.is_dir() else "a file"
        other = ", or --resume this one" if (folder / CONFIG).is_file() else ""
        raise invalid("out", str(folder), f"exists already, as {kind}; give another folder{other}")
    return folder


def read_config(folder: Path, *, argument: str = "folder") -> tuple[Config, dict[str, Any]]:
    """The configuration of a run folder, and what is known about its text.

    Args:
        folder: the folder of the run.
        argument: the argument that it was given as, for the message.

    Raises:
        ValueError: this is not a run folder.
    """
    stored: Any = None
    try:
        stored = read_json(folder / CONFIG)
        return Config.from_json(stored["config"]), dict(stored["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        version = stored.get("steepest") if isinstance(stored, dict) else None
        if version not in (None, steepest.__version__):
            remedy = f"{_begun_by(version)}, and its {CONFIG} does not fit; {ITS_OWN}"
        else:
            remedy = f"{fault(folder)}; give the folder of a run of `steepest train`"
        raise invalid(argument, str(folder), remedy) from None


def fault(folder: Path) -> str:
    """The reason why a folder has no configuration that can be read, in words."""
    path = folder / CONFIG
    if is_special(folder):
        return "is a pipe or a device"
    if path.is_file():
        return f"its {CONFIG} is damaged"
    return f"its {CONFIG} is {'no regular file' if os.path.lexists(path) else 'missing'}"


def _begun_by(version: object) -> str:
    """The version of steepest that has begun a run, in words."""
    known = f"steepest {version}" if version else "a steepest that did not write its version"
    return f"was begun by {known}, and this is {steepest.__version__}"


def old_run(
    folder: Path, *, parallel: str = NONE, device: str | None = None, team: Team = SINGLE
) -> Run:
    """A run that goes on; writes nothing.

    Args:
        folder: the folder of the run.
        parallel: the way in which the team shares the work, whatever it was when the run began.
        device: the device to compute on; None for the one that it began on.
        team: the processes that carry it out.

    Raises:
        ValueError: no run folder, a checkpoint that is cut off or of another run or version, or a
            text that has changed since the run began.
        OSError: the text cannot be read.
    """
    stored, known = read_config(folder, argument="resume")
    config = replace(stored, parallel=parallel, device=device or stored.device)
    text, corpus = team.agreed(lambda: _read(config))
    if corpus.sha256 != known.get("sha256"):
        raise invalid(
            "data", text.name, f"has changed since {folder} began; restore it, or start a new run"
        )
    try:
        return _checked(folder, config, text, corpus, team, new=False)
    except AnotherRunError as error:
        version = read_json(folder / CONFIG).get("steepest")
        if version == steepest.__version__:
            raise
        remedy = f"{_begun_by(version)}: its checkpoint does not fit ({error.difference})"
        raise invalid("resume", str(folder), f"{remedy}; {ITS_OWN}") from None


def begun(folder: Path | None, started: Launch) -> Path | None:
    """The folder of this very launch, if torchrun has started its processes again; else None.

    A folder of another launch is none, even if that has the same ID: torchrun's own is "none".

    Args:
        folder: the one that was asked for; None for any below `runs`.
        started: the launch as the launcher tells it.
    """
    if not (started.restarts and started.token):
        return None
    places = sorted(Path("runs").glob("*"), reverse=True) if folder is None else [folder]
    for place in places:
        with suppress(OSError, ValueError, KeyError, TypeError):
            if read_json(place / CONFIG)["machine"]["launch"] == started.token:
                return place
    return None


def description(run: Run) -> dict[str, Any]:
    """The content of `config.json`."""
    corpus = run.corpus
    return {
        "steepest": steepest.__version__,
        "config": run.config.to_json(),
        "text": {
            "name": corpus.name,
            "characters": corpus.length,
            "validation_characters": corpus.length - corpus.train.numel(),
            "vocabulary": corpus.characters,
            "sha256": corpus.sha256,
        },
        "machine": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processes": run.team.size,
            "launch": run.token,
            "platform": platform.platform(),
        },
    }
