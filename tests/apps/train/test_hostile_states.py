"""Checkpoints whose data are plain and not those of the run: each is refused before it is taken."""

from __future__ import annotations

import copy
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.apps.train import checkpoint
from steepest.apps.train.config import Config
from steepest.apps.train.constraint import Spectra
from steepest.apps.train.data import Corpus
from steepest.apps.train.optimizers import RECIPES
from steepest.apps.train.parallel import sharded_checkpoint
from steepest.apps.train.parallel.team import SINGLE
from steepest.apps.train.plain import check_fits, tensors
from steepest.apps.train.trial import Trainer, trials
from tests.apps.train.test_trial import config, folder, go
from tests.apps.train.test_trial import corpus as corpus
from tests.apps.train.tiny import Invoke, final_state, same

SOME = ("muon", "adamw", "torch-muon", "soapmuon", "muown")
Change = Callable[[dict[str, Any]], Any]


def states(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The state of each optimizer of a checkpoint."""
    own = content["optimizer"]
    return [own] if "state" in own else list(own.values())


def each_tensor(change: Callable[[Tensor], Any]) -> Change:
    """A change of one tensor of the state of the first parameter."""

    def apply(content: dict[str, Any]) -> None:
        own = states(content)[0]["state"][0]
        name = max(own, key=lambda name: getattr(own[name], "ndim", -1))
        own[name] = change(own[name])

    return apply


def of_state(change: Callable[[dict[Any, Any]], Any]) -> Change:
    return lambda content: change(states(content)[0]["state"])


def of_group(**values: Any) -> Change:
    return lambda content: states(content)[0]["param_groups"][0].update(values)


def of_model(change: Callable[[Tensor], Tensor]) -> Change:
    def apply(content: dict[str, Any]) -> None:
        name = next(iter(content["model"]))
        content["model"][name] = change(content["model"][name])

    return apply


def members(change: Callable[[list[int]], list[int]]) -> Change:
    def apply(content: dict[str, Any]) -> None:
        group = states(content)[0]["param_groups"][0]
        group["params"] = change(group["params"])

    return apply


def of_scheduler(**values: Any) -> Change:
    return lambda content: content["scheduler"].update(values)


STATES: dict[str, Change] = {
    "one row": each_tensor(lambda v: v[:1].clone()),
    "no row": each_tensor(lambda v: v[:0].clone()),
    "a scalar": each_tensor(lambda v: v.sum()),
    "an axis more": each_tensor(lambda v: v[None].clone()),
    "complex momentum": each_tensor(lambda v: v.to(torch.complex128)),
    "whole momentum": each_tensor(Tensor.long),
    "another precision": each_tensor(Tensor.float),
    "a number for a tensor": each_tensor(lambda v: 1.0),
    "no momentum": each_tensor(lambda v: None),
    "a parameter without state": of_state(lambda state: state.pop(0)),
    "a parameter with an empty one": of_state(lambda state: state[0].clear()),
    "state of no parameter": of_state(lambda state: state.update({999: dict(state[0])})),
    "an unknown tensor": of_state(lambda state: state[0].update(more=torch.ones(2))),
    "a list of states": lambda content: states(content)[0].update(state=[1]),
    "no states": lambda content: states(content)[0].pop("state"),
    "one number for all": members(lambda params: [0] * len(params)),
    "other numbers": members(lambda params: [i + 100 for i in params]),
    "one parameter less": members(lambda params: params[1:]),
    "an infinite rate": of_group(lr=math.inf),
    "another rate": of_group(lr=1e3),
    "a rate of text": of_group(lr="high"),
    "another decay": of_group(weight_decay=-1.0),
    "another first rate": of_group(initial_lr=5.0),
    "a group more": lambda content: states(content)[0]["param_groups"].append({}),
    "a group without a rate": lambda content: states(content)[0]["param_groups"][0].pop("lr"),
    "complex weights": of_model(lambda v: v.to(torch.complex128)),
    "whole weights": of_model(Tensor.long),
    "weights of another precision": of_model(Tensor.float),
    "a row of weights": of_model(lambda v: v[:1].clone()),
    "a model of one weight": lambda content: content.update(model={"x": torch.ones(1)}),
    "a weight more": lambda content: content["model"].update(x=torch.ones(1)),
}
"""Damages that are named in full, with the place of the fault."""

PLACES: dict[str, Change] = {
    "a later step": lambda content: content.update(step=8),
    "a step beyond the run": lambda content: content.update(step=100),
    "a step before it": lambda content: content.update(step=-5),
    "an endless step": lambda content: content.update(step=10**30),
    "a step in between": lambda content: content.update(step=5),
    "half a step": lambda content: content.update(step=6.0),
    "a true step": lambda content: content.update(step=True),
    "seconds that are none": lambda content: content.update(seconds=math.nan),
    "endless seconds": lambda content: content.update(seconds=math.inf),
    "seconds before": lambda content: content.update(seconds=-1.0),
    "seconds of text": lambda content: content.update(seconds="3"),
    "true seconds": lambda content: content.update(seconds=True),
    "a scheduler at another step": of_scheduler(last_epoch=5),
    "a scheduler at an endless step": of_scheduler(last_epoch=10**30),
    "a scheduler of other steps": of_scheduler(_step_count=2),
    "a scheduler without a number": of_scheduler(last_epoch=math.nan),
    "a scheduler of other rates": lambda content: content["scheduler"].update(
        base_lrs=[1e9 for _ in content["scheduler"]["base_lrs"]]
    ),
    "a scheduler of no rates": lambda content: content["scheduler"].update(
        _last_lr=[math.nan for _ in content["scheduler"]["_last_lr"]]
    ),
}
"""Damages to what says where the run was."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Callable[[str], Path]:
    """A function that gives the checkpoint at step 6 of a run of 8 steps."""
    made: dict[str, Path] = {}

    def run(name: str) -> Path:
        if name not in made:
            place = tmp_path_factory.mktemp(name)
            assert not go(place, config(name), corpus, stop_at=6)
            made[name] = checkpoint.checkpoint_path(folder(place, config(name)), 6)
        return made[name]

    return run


def damaged(path: Path, at: Path, change: Change) -> Path:
    """A copy of a checkpoint with a change."""
    content = torch.load(path, weights_only=True)
    change(content)
    at.mkdir(exist_ok=True)
    torch.save(content, at / path.name)
    return at / path.name


def trainer(settings: Config, corpus: Corpus) -> Trainer:
    return Trainer(trials(settings)[0], settings, corpus)


def said(trainer: Trainer, path: Path) -> str:
    """What is said of a checkpoint, in one line that names it; the model has stayed."""
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(ValueError, match=re.escape(str(path))) as error:
        trainer.load(path)
    assert len(str(error.value).splitlines()) == 1
    assert same(trainer.model.state_dict(), before)
    assert trainer.step == 0 and trainer.seconds == 0.0
    return str(error.value)


@pytest.mark.parametrize("name", SOME)
def test_a_state_that_is_not_the_runs_is_refused(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path, name: str
) -> None:
    settings = config(name)
    for kind, change in STATES.items():
        path = damaged(runs(name), tmp_path / "a", change)
        text = said(trainer(settings, corpus), path)
        assert re.search(r"its state does not fit: (optimizer|model)", text), (kind, text)
    trainer(settings, corpus).load(runs(name))


@pytest.mark.parametrize("name", ["muon", "torch-muon"])
def test_a_place_that_is_not_the_runs_is_refused(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path, name: str
) -> None:
    for kind, change in PLACES.items():
        path = damaged(runs(name), tmp_path / "a", change)
        text = said(trainer(config(name), corpus), path)
        assert "is cut off, damaged or no checkpoint of steepest" in text, (kind, text)


@pytest.mark.parametrize("name", ["muon", "adamw", "soapmuon", "muown"])
@pytest.mark.parametrize("count", [-1.0, 7.0, math.nan, math.inf])
def test_no_count_exceeds_the_steps(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path, name: str, count: float
) -> None:
    def change(content: dict[str, Any]) -> None:
        for own in states(content)[0]["state"].values():
            for key, value in own.items():
                if key.rpartition(".")[2] in ("step", "steps"):
                    value.fill_(count)

    path = damaged(runs(name), tmp_path / "a", change)
    assert re.search(
        r"steps?( |\.).*counts from .* after 6 steps", said(trainer(config(name), corpus), path)
    )


def test_momentum_that_is_no_number_is_left(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path
) -> None:
    path = damaged(runs("muon"), tmp_path / "a", each_tensor(lambda v: v * math.nan))
    trainer(config("muon"), corpus).load(path)


def test_a_renamed_checkpoint_says_its_step_itself(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path
) -> None:
    shutil.copy(runs("muon"), tmp_path / "best.pt")
    found = trainer(config("muon"), corpus)
    found.load(tmp_path / "best.pt")
    assert found.step == 6
    shutil.copy(runs("muon"), tmp_path / "step-000007.pt")
    assert "is cut off, damaged" in said(
        trainer(config("muon"), corpus), tmp_path / "step-000007.pt"
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_at_rest_makes_the_state_of_a_run(
    runs: Callable[[str], Path], corpus: Corpus, name: str
) -> None:
    """Names, shapes, types and numbers; weights and the state that comes are untouched by it."""
    found = trainer(config(name), corpus)
    before = copy.deepcopy(found.model.state_dict())
    rates = [group["lr"] for group in found.optimizer.param_groups]
    found._step_at_rest()
    assert same(found.model.state_dict(), before)
    assert [group["lr"] for group in found.optimizer.param_groups] == rates
    content = torch.load(runs(name), weights_only=True)
    mine, theirs = (tensors(x["optimizer"]) for x in (found._state(), content))
    assert {k: v.shape for k, v in mine.items()} == {k: v.shape for k, v in theirs.items()}
    found.load(runs(name))
    assert same(found._state()["optimizer"], content["optimizer"])
    assert same(found._state()["model"], content["model"])


def folders(path: Path, at: Path, change: Change) -> Iterator[Path]:
    """The same checkpoint as several processes write it, with a change of its tree."""
    content = torch.load(path, weights_only=True)
    belongs = content.pop("belongs")
    change(content)
    place = at / "step-000006.dcp"
    shutil.rmtree(place, ignore_errors=True)
    files = sharded_checkpoint.write(place, content, SINGLE)
    frame = {"tree": sharded_checkpoint.frame(content), "files": files, "belongs": belongs}
    torch.save(frame, place / checkpoint.STATE)
    yield place


@pytest.mark.parametrize("name", ["torch-muon", "soapmuon"])
def test_folders_of_several_processes_are_held_to_the_same(
    runs: Callable[[str], Path], corpus: Corpus, tmp_path: Path, name: str
) -> None:
    for kind, change in {**STATES, **PLACES}.items():
        for path in folders(runs(name), tmp_path, change):
            text = said(trainer(config(name), corpus), path)
            fits = "its state does not fit: " in text
            assert fits if kind in STATES else "is cut off, damaged" in text, (kind, text)
    (whole,) = folders(runs(name), tmp_path, lambda _: None)
    found = trainer(config(name), corpus)
    found.load(whole)
    assert found.step == 6


def test_numbers_are_those_of_the_run_up_to_rounding() -> None:
    check_fits({"lr": 0.1, "n": 2, "on": True}, {"lr": 0.1 + 1e-12, "n": 2, "on": True}, step=1)
    for given in ({"lr": 0.1001}, {"lr": True}, {"lr": math.nan}, {"lr": None}, {"lr": "0.1"}):
        with pytest.raises(ValueError, match=r"lr is .* there, 0\.1 here"):
            check_fits({"lr": 0.1}, given, step=1)
    with pytest.raises(ValueError, match="on is '1' there, True here"):
        check_fits({"on": True}, {"on": 1}, step=1)


@pytest.mark.parametrize(
    "steps", [[0.0, 3.0], [3, 0], [0, 0, 3], [-3, 0], [math.nan], ["0", "3"]], ids=str
)
def test_spectra_of_no_steps_are_damaged(tmp_path: Path, steps: list[Any]) -> None:
    rows = np.ones((len(steps), 4), dtype=np.float32)
    own = {"names": ["a"], "kinds": ["b"], "limits": [1.0]}
    np.savez(tmp_path / "spectra.npz", steps=np.array(steps), values0=rows, **own)
    with pytest.raises(ValueError, match="is cut off or damaged"):
        Spectra.load(tmp_path)
    np.savez(tmp_path / "spectra.npz", steps=np.array([0, 3]), values0=np.ones((2, 4)), **own)
    assert Spectra.load(tmp_path).steps == [0, 3]


@pytest.mark.parametrize("kind", ["one row", "one number for all", "a step beyond the run"])
def test_the_command_says_it_in_one_line(
    steepest: Invoke, tiny: Invoke, tmp_path: Path, kind: str
) -> None:
    run = tmp_path / "run"
    assert tiny("--optimizer", "muon", "--steps", 6, "--out", run).exit_code == 0
    path = max((run / "muon" / "seed-0").glob("step-*.pt"))
    damaged(path, path.parent, {**STATES, **PLACES}[kind])
    before = final_state(path.parent)
    result = steepest("train", "--resume", run)
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.output
    assert path.name in result.stderr
    assert same(final_state(path.parent), before)
