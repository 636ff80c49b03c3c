"""A run that is ready to start or to go on: its folder, its text and what is left of it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

import torch

from steepest._types import invalid
from steepest.train.config import Config
from steepest.train.data import Corpus, Text, load_text, prepare
from steepest.train.trial import Learner, Trial, is_done, trials

CONFIG = "config.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run about which everything has been checked.

    Args:
        folder: of the run; `new_run` does not make it.
        config: what it does.
        corpus: its text.
        note: what a user should know about the text.
        todo: the trials that are not done, each with the step it goes on from.
    """

    folder: Path
    config: Config
    corpus: Corpus
    note: str
    todo: Mapping[Trial, int]

    @property
    def steps_left(self) -> int:
        """Steps to take, over all trials."""
        return sum(self.config.steps - step for step in self.todo.values())


def fresh_folder(parent: Path) -> Path:
    """A folder name by the time of day that no run has taken yet."""
    name = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    names = (f"{name}-{i}" if i > 1 else name for i in count(1))
    return next(parent / n for n in names if not (parent / n).exists())


def _checked(folder: Path, config: Config, text: Text, corpus: Corpus) -> Run:
    """Build every trial and read its checkpoint, so that a fault shows before hours of training."""
    todo = {}
    for trial in trials(config):
        learner = Learner(trial, config, corpus)
        learner.restore(trial.folder(folder))
        if not is_done(trial.folder(folder), config):
            todo[trial] = learner.step
    return Run(folder=folder, config=config, corpus=corpus, note=text.note, todo=todo)


def new_run(config: Config, folder: Path | None) -> Run:
    """A run that starts; writes nothing.

    Args:
        config: what it does.
        folder: where its files go; None for a fresh folder below `runs`.

    Raises:
        ValueError: the folder is taken, or the text or a setting is refused.
        OSError: the text cannot be read.
    """
    if folder is None:
        folder = fresh_folder(Path("runs"))
    elif folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise invalid(
            "out", str(folder), "exists already; give another folder, or --resume this one"
        )
    text = load_text(config.data)
    corpus = prepare(text, context=config.model.context)
    return _checked(folder, config, text, corpus)


def read_config(folder: Path) -> tuple[Config, dict[str, Any]]:
    """The configuration of a run folder, and what is known about its text.

    Raises:
        ValueError: this is no run folder.
    """
    try:
        stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return Config.from_json(stored["config"]), dict(stored["text"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        remedy = f"has no readable {CONFIG}; give the folder of a run"
        raise invalid("resume", str(folder), remedy) from None


def old_run(folder: Path) -> Run:
    """A run that goes on; writes nothing.

    Raises:
        ValueError: no run folder, a checkpoint that is cut off or of another run, or a text that
            has changed since the run began.
        OSError: the text cannot be read.
    """
    config, known = read_config(folder)
    text = load_text(config.data)
    corpus = prepare(text, context=config.model.context)
    if corpus.sha256 != known.get("sha256"):
        raise invalid(
            "data", text.name, f"has changed since {folder} began; restore it, or start a new run"
        )
    return _checked(folder, config, text, corpus)


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
            "platform": platform.platform(),
        },
    }
