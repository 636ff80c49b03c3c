"""Checkpoints of torch's optimizers in an optimizer of a module: by names, or in part."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import DefaultLoadPlanner, FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from steepest import Muon, load_torch_checkpoint
from tests.sharding.models import Spread, spread
from tests.sharding.pool import pool
from tests.sharding.test_checkpoints import FORMS, FULL, code_of_the_page, train

pytestmark = pytest.mark.xdist_group("dist")

MUON: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.9, "nesterov": False}
ADAMW: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.4, "betas": (0.8, 0.9), "eps": 1e-7}
OWN: dict[str, Any] = {"lr": 0.05, "adamw_lr": 0.007}
MATRICES = {"first", "second", "third", "attention.qkv", "attention.out", "up", "down"}
KEYS = {"two": ("muon", "adamw")}
"""The keys of the states, where they are not one."""


def split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The hidden matrices, and the rest."""
    names = {f"{name}.weight" for name in MATRICES}
    named = list(model.named_parameters())
    return [p for n, p in named if n in names], [p for n, p in named if n not in names]


def torchs(kind: str, model: nn.Module) -> list[Optimizer]:
    """Optimizers of torch: with other groups than a module has here, or in another order."""
    matrices, rest = split(model)
    if kind == "adamw":
        return [torch.optim.AdamW([*matrices, *rest], **ADAMW)]
    if kind == "mixed":
        # The last matrix is left to AdamW.
        return [
            torch.optim.Muon(matrices[:-1], **MUON),
            torch.optim.AdamW([matrices[-1], *rest], **ADAMW),
        ]
    muon = torch.optim.Muon(matrices, **MUON)
    if kind == "muon":
        return [muon]
    if kind == "groups":
        alone = [{"params": [p]} for p in rest]
        return [torch.optim.AdamW(alone, **ADAMW), muon]
    if kind == "rates":
        halves = [{"params": rest[:1]}, {"params": rest[1:], "lr": 0.03}]
        return [muon, torch.optim.AdamW(halves, **ADAMW)]
    return [muon, torch.optim.AdamW(rest, **ADAMW)]


def whole_states(optimizers: list[Optimizer], model: nn.Module) -> dict[str, Tensor]:
    """The whole state of each parameter."""
    names = {p: n for n, p in model.named_parameters()}
    return {
        f"{names[p]}.{key}": (v.full_tensor() if isinstance(v, DTensor) else v).clone()
        for optimizer in optimizers
        for p, own in optimizer.state.items()
        for key, v in own.items()
    }


def write(
    rank: int, world: int, kind: str, model: str, form: str, folder: Path
) -> dict[str, Tensor]:
    """Train with torch's optimizers and save them."""
    run = spread(model, "fsdp", rank, world, torch.float32)
    optimizers = torchs(kind, run.model)
    train(run, optimizers)
    options = FORMS[form]
    if kind == "two":
        content = {
            key: get_optimizer_state_dict(run.module, one, options=options)
            for key, one in zip(KEYS["two"], optimizers, strict=True)
        }
    else:
        state = get_optimizer_state_dict(run.module, optimizers, options=options)
        content = {"optimizer": state}
    checkpoint.save(content, checkpoint_id=folder)
    return whole_states(optimizers, run.model)


def groups_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The values of groups."""
    return [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]


Answer = tuple[dict[str, Tensor], list[dict[str, Any]], list[str]]


def read(
    rank: int, world: int, kind: str, model: str, folder: Path, options: dict[str, Any]
) -> Answer:
    """Load by names, and train: the state and the groups after loading, and all warnings."""
    run = spread(model, "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, **OWN, **options)
    before, weights = groups_of(optimizer), [p.detach().clone() for p in run.model.parameters()]
    source: Any = FileSystemReader(folder) if kind == "groups" else folder
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            load_torch_checkpoint(run.module, optimizer, source, key=KEYS.get(kind, "optimizer"))
        except ValueError:
            assert groups_of(optimizer) == before
            raise
        told = [str(w.message) for w in seen if "steepest" in w.filename or "loaded in" in str(w)]
    assert all(map(torch.equal, weights, (p.detach() for p in run.model.parameters())))
    found, groups = whole_states([optimizer], run.model), groups_of(optimizer)
    assert all(torch.isfinite(torch.tensor(train(run, [optimizer], 3))))
    return found, groups, told


def agree(found: dict[str, Any], values: dict[str, Any]) -> None:
    """Assert that a group has these values."""
    assert {key: found[key] for key in values} == values


@pytest.mark.parametrize(
    ("kind", "model", "form", "before", "after"),
    [
        ("both", "mlp", "usual", 1, 2),
        ("both", "gpt", "usual", 4, 1),
        ("both", "gpt", "cpu", 2, 2),
        ("both", "gpt", "flat", 2, 4),
        ("groups", "mlp", "usual", 2, 4),
        ("two", "gpt", "usual", 2, 2),
        ("muon", "gpt", "usual", 4, 2),
        ("muon", "mlp", "flat", 2, 1),
    ],
)
def test_everything_of_torchs_optimizers_is_restored(
    kind: str, model: str, form: str, before: int, after: int, tmp_path: Path
) -> None:
    expected, *_ = pool(before).run(write, kind, model, form, tmp_path)
    for found, groups, told in pool(after).run(read, kind, model, tmp_path, {}):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        agree(groups[0], MUON)
        assert [g["adamw"] for g in groups] == [False, *[True] * (len(groups) - 1)]
        assert len(groups) > 1
        for group in groups[1:]:
            agree(group, {"lr": OWN["adamw_lr"]} if kind == "muon" else ADAMW)
            assert not {"amsgrad", "foreach"} & group.keys()
        assert len(told) == (kind == "muon")
        if kind == "muon":
            assert "param_groups[1] keeps its lr, betas, eps, weight_decay" in told[0]
            assert "no average of gradients of" in told[0] and ".bias" in told[0]
            assert "qkv.weight" not in told[0] and "second.weight" not in told[0]


REFUSED = {
    "adamw": ({}, "optimizer='first.weight, second.weight, third.weight': matrices here"),
    "mixed": ({}, "optimizer='third.weight': matrices here"),
    "both": (
        {"overrides": {"third.weight": "adamw"}},
        "optimizer='third.weight': AdamW's here, and matrices with momentum",
    ),
    "rates": ({}, "param_groups[2]['lr']='0.01 of first.bias, 0.03 of second.bias': saved in two"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_restored_is_refused(kind: str, tmp_path: Path) -> None:
    options, reason = REFUSED[kind]
    pool(2).run(write, kind, "mlp", "usual", tmp_path)
    answers = pool(2).outcomes(read, kind, "mlp", tmp_path, options)
    assert all(a.kind == "ValueError" and reason in a.text for a in answers), answers


def test_overrides_give_a_matrix_to_adamw_as_it_was(tmp_path: Path) -> None:
    expected, *_ = pool(2).run(write, "mixed", "mlp", "usual", tmp_path)
    options = {"overrides": {"third.weight": "adamw"}}
    for found, groups, told in pool(2).run(read, "mixed", "mlp", tmp_path, options):
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        assert not told
        for group in groups[1:]:
            agree(group, ADAMW)


def elsewhere(rank: int, world: int, folder: Path) -> tuple[str, str]:
    """Load with a wrong key, and a checkpoint of this library."""
    run = spread("mlp", "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, **OWN)
    with pytest.raises(ValueError, match="key='optim'") as wrong:
        load_torch_checkpoint(run.module, optimizer, folder, key="optim")
    state = get_optimizer_state_dict(run.module, optimizer)
    checkpoint.save({"optimizer": state}, checkpoint_id=folder / "own")
    with pytest.raises(ValueError, match="source=") as own:
        load_torch_checkpoint(run.module, optimizer, folder / "own")
    return str(wrong.value), str(own.value)


def test_another_checkpoint_is_refused(tmp_path: Path) -> None:
    pool(2).run(write, "both", "mlp", "usual", tmp_path)
    for wrong, own in pool(2).run(elsewhere, tmp_path):
        assert "nothing of first.weight" in wrong
        assert "a checkpoint of this library" in own


def read_in_part(
    rank: int, world: int, model: str, form: str, folder: Path
) -> tuple[list[str], list[dict[str, Any]]]:
    """Load as far as keys are there, twice: the warnings, and the groups."""
    run = spread(model, "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, **OWN)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            _load(run, optimizer, form, folder)
        told = [str(w.message) for w in seen if "loaded in part" in str(w.message)]
    train(run, [optimizer], 3)
    return told, groups_of(optimizer)


def _load(run: Spread, optimizer: Optimizer, form: str, folder: Path) -> None:
    content = {"optimizer": get_optimizer_state_dict(run.module, optimizer, options=FORMS[form])}
    planner = DefaultLoadPlanner(allow_partial_load=True)
    checkpoint.load(content, checkpoint_id=folder, planner=planner)
    state = content["optimizer"]
    set_optimizer_state_dict(run.module, optimizer, state, options=FORMS[form])


ALL = "keeps its lr, betas, eps, weight_decay"
IN_PART = {
    ("both", "gpt"): [f"param_groups[1] {ALL}; param_groups[2] {ALL}. "],
    ("muon", "mlp"): [
        f"param_groups[1] {ALL}",
        "no average of gradients of head.weight, first.bias",
    ],
    ("adamw", "mlp"): [
        "param_groups[0] keeps its lr, momentum, weight_decay",
        "gradients of first.weight, second",
    ],
    ("mixed", "mlp"): [
        f"param_groups[2] {ALL}; there is no average of gradients of third.weight. "
    ],
}


@pytest.mark.parametrize("form", ["usual", "cpu"])
@pytest.mark.parametrize(("kind", "model"), IN_PART)
def test_a_load_in_part_says_once_what_is_missing(
    kind: str, model: str, form: str, tmp_path: Path
) -> None:
    pool(2).run(write, kind, model, form, tmp_path)
    for told, groups in pool(2).run(read_in_part, model, form, tmp_path):
        assert len(told) == 1
        assert all(text in told[0] for text in IN_PART[kind, model]), told
        assert "steepest.load_torch_checkpoint" in told[0]
        assert groups[0]["lr"] == (OWN if kind == "adamw" else MUON)["lr"]
        if kind == "both":
            agree(groups[1], {"lr": OWN["adamw_lr"]})


def test_the_flattened_form_restores_every_group(tmp_path: Path) -> None:
    pool(2).run(write, "both", "gpt", "flat", tmp_path)
    for told, groups in pool(2).run(read_in_part, "gpt", "flat", tmp_path):
        assert not told
        agree(groups[0], MUON)
        agree(groups[1], ADAMW)
        agree(groups[2], ADAMW)


def quietly(rank: int, world: int, folder: Path) -> None:
    """Load whole states in every way: warnings are errors in these processes."""
    run = spread("mlp", "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, **OWN)
    # A momentum of zeros is not missing.
    state = get_optimizer_state_dict(run.module, optimizer)
    checkpoint.save({"optimizer": state}, checkpoint_id=folder)
    _load(run, Muon(run.module, **OWN), "usual", folder)
    train(run, [optimizer])
    for options in (*FORMS.values(), FULL):
        state = get_optimizer_state_dict(run.module, optimizer, options=options)
        kept = copy.deepcopy(state)
        set_optimizer_state_dict(run.module, optimizer, state, options=options)
        optimizer.param_groups[0]["lr"] = 0.5
        set_optimizer_state_dict(run.module, optimizer, kept, options=options)
        assert optimizer.param_groups[0]["lr"] == 0.05
    plain = optimizer.state_dict()
    plain["param_groups"][0]["lr"] = 0.5
    optimizer.load_state_dict(plain)
    assert [type(g["lr"]) for g in optimizer.param_groups] == [float] * len(optimizer.param_groups)
    other = Muon(run.module, **OWN)
    run.module.zero_grad()
    other.load_state_dict(copy.deepcopy(optimizer).state_dict())
    assert other.param_groups[0]["lr"] == 0.5


def test_whole_states_load_without_a_word(tmp_path: Path) -> None:
    pool(2).run(quietly, tmp_path)


def from_files(rank: int, world: int, code: str, folder: Path, once: bool) -> Answer:
    """From the files of one process into an optimizer of a module in several."""
    page: dict[str, Any] = {}
    exec(code, page)
    run = spread("gpt", "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, **OWN)
    saved: dict[str, Any] = {}
    if rank == 0:
        named = dict(run.model.named_parameters())
        of = {p: name for name, p in named.items()}
        names = [[of[p] for p in part] for part in split(run.model)]
        parts = [
            page["by_name"](torch.load(folder / f"{i}.pt", weights_only=True), names[i])
            for i in range(2)
        ]
        groups = [group for part in parts for group in part["param_groups"]]
        if not once:
            groups = [{**groups[0], "params": names[0]}, {**groups[-1], "params": names[1]}]
        saved = {"state": parts[0]["state"] | parts[1]["state"], "param_groups": groups}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        set_optimizer_state_dict(run.module, optimizer, saved, options=options)
        told = [str(w.message) for w in seen if "loaded in part" in str(w.message)]
    return whole_states([optimizer], run.model), groups_of(optimizer), told


def to_files(rank: int, world: int, folder: Path) -> dict[str, Tensor]:
    """Save torch's optimizers of one process, each in a file."""
    run = spread("gpt", "one", 0, 1, torch.float32)
    optimizers = torchs("both", run.model)
    train(run, optimizers)
    for i, optimizer in enumerate(optimizers):
        torch.save(optimizer.state_dict(), folder / f"{i}.pt")
    return whole_states(optimizers, run.model)


@pytest.mark.parametrize("once", [True, False], ids=["as the page says", "in torch's groups"])
def test_files_of_one_process_go_into_every_group(once: bool, tmp_path: Path) -> None:
    (expected,) = pool(1).run(to_files, tmp_path)
    answers = pool(2).run(from_files, code_of_the_page(), tmp_path, once)
    for found, groups, told in answers:
        assert all(torch.equal(found[key], expected[key]) for key in expected)
        agree(groups[0], MUON)
        agree(groups[2], ADAMW)
        if once:
            agree(groups[1], ADAMW)
            assert not told
        else:
            (text,) = told
            assert f"param_groups[1] {ALL}. " in text


def test_values_of_adamw_are_refused_beside_keys_of_this_library() -> None:
    """So rank 0 gets them from torch, which fills in what was not saved."""
    optimizer = Muon(spread("mlp", "one", 0, 1, torch.float32).module, **OWN)
    state = optimizer.state_dict()
    state["param_groups"][0] |= {"amsgrad": False, "betas": (0.8, 0.9)}
    with pytest.raises(ValueError, match="its averages are not the momentum"):
        optimizer.load_state_dict(state)
