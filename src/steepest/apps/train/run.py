"""A run that is ready to start or to go on: its folder, its text and what is left of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from steepest._common.errors import invalid
from steepest._common.files import read_json, refuse_links
from steepest.apps.train import memory
from steepest.apps.train.config import Config
from steepest.apps.train.data import Corpus, Text, load_text, prepare
from steepest.apps.train.parallel.mesh import NONE
from steepest.apps.train.parallel.team import SINGLE, Launch, Team, launch
from steepest.apps.train.trial import Trainer, Trial, is_done, trials

CONFIG = "config.json"


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
    """

    folder: Path
    config: Config
    corpus: Corpus
    note: str
    todo: Mapping[Trial, int]
    team: Team = SINGLE

    @property
    def steps_left(self) -> int:
        """Steps to take, over all trials."""
        return sum(self.config.steps - step for step in self.todo.values())


def fresh_folder(parent: Path) -> Path:
    """A folder name by the time of day that no run has taken yet."""
    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    names = (f"{name}-{i}" if i > 1 else name for i in count(1))
    return next(parent / n for n in names if not (parent / n).exists())


def _checked(folder: Path, config: Config, text: Text, corpus: Corpus, team: Team) -> Run:
    """Build every trial and read its checkpoint, so that a fault shows before hours of training."""
    todo = {}
    if team.mesh is None:  # processes may share the parameters, and have memory of their own
        memory.check(config, len(corpus.characters))
    for trial in trials(config):
        trainer = Trainer(trial, config, corpus, team=team)
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
    return _checked(place, config, text, corpus, team)


def _read(config: Config) -> tuple[Text, Corpus]:
    """The text of a run, as it is and as ids."""
    text = load_text(config.data)
    return text, prepare(text, context=config.model.context)


def _free(folder: Path | None) -> Path:
    """The folder, if nothing is in it, or a fresh one below `runs`."""
    if folder is None:
        return fresh_folder(Path("runs"))
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
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
    try:
        stored = read_json(folder / CONFIG)
        return Config.from_json(stored["config"]), dict(stored["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        wrong = "is damaged" if (folder / CONFIG).is_file() else "is missing"
        remedy = f"its {CONFIG} {wrong}; give the folder of a run of `steepest train`"
        raise invalid(argument, str(folder), remedy) from None


def old_run(folder: Path, *, parallel: str = NONE, team: Team = SINGLE) -> Run:
    """A run that goes on; writes nothing.

    Args:
        folder: the folder of the run.
        parallel: the way in which the team shares the work, whatever it was when the run began.
        team: the processes that carry it out.

    Raises:
        ValueError: no run folder, a checkpoint that is cut off or of another run, or a text that
            has changed since the run began.
        OSError: the text cannot be read.
    """
    stored, known = read_config(folder, argument="resume")
    config = replace(stored, parallel=parallel)
    text, corpus = team.agreed(lambda: _read(config))
    if corpus.sha256 != known.get("sha256"):
        raise invalid(
            "data", text.name, f"has changed since {folder} began; restore it, or start a new run"
        )
    return _checked(folder, config, text, corpus, team)


def begun(folder: Path | None, started: Launch) -> Path | None:
    """The folder of this very launch, if torchrun has started its processes again; else None.

    Args:
        folder: the one that was asked for; None for any below `runs`.
        started: the launch as the launcher tells it.
    """
    if not started.restarts:
        return None
    places = sorted(Path("runs").glob("*"), reverse=True) if folder is None else [folder]
    for place in places:
        with suppress(OSError, ValueError, KeyError, TypeError):
            stored = read_json(place / CONFIG)
            if stored["machine"]["launch"] == started.run_id:
                return place
    return None


def description(run: Run) -> dict[str, Any]:
    """The content of `config.json`."""
    corpus = run.corpus
    return {
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
            "launch": launch().run_id,
            "platform": platform.platform(),
        },
    }
