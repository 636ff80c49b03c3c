"""Checkpoints of torch's optimizers, and in other forms, by torch.distributed.checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from steepest import Lion, Muon, NorMuon
from tests.sharding.models import Spread, spread
from tests.sharding.pool import pool

pytestmark = pytest.mark.xdist_group("dist")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
TORCHS: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.2, "momentum": 0.8, "nesterov": False}
FULL = StateDictOptions(full_state_dict=True)
FORMS: Mapping[str, StateDictOptions | None] = {
    "usual": None,
    "cpu": StateDictOptions(cpu_offload=True),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
}


def code_of_the_page() -> str:
    """The functions that the page shows for the numbers and names of parameters."""
    text = PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(def by_name.*?)```", text, flags=re.DOTALL)
    return str(code)


def start(rank: int, world: int) -> tuple[Spread, list[nn.Parameter], list[nn.Parameter]]:
    """A sharded model, its hidden matrices, and the rest."""
    run = spread("mlp", "fsdp", rank, world, torch.float32)
    matrices = [run.model.second.weight, run.model.third.weight]
    rest = [p for p in run.model.parameters() if all(p is not m for m in matrices)]
    return run, matrices, rest


def torchs(rank: int, world: int, *, both: bool) -> tuple[Spread, list[Optimizer]]:
    """The optimizers of torch, as people use them."""
    run, matrices, rest = start(rank, world)
    optimizers: list[Optimizer] = [torch.optim.Muon(matrices, **TORCHS)]
    if both:
        optimizers.append(torch.optim.AdamW(rest, lr=0.01, betas=(0.8, 0.9)))
    return run, optimizers


def ours(rank: int, world: int, *, both: bool, **options: Any) -> tuple[Spread, Muon]:
    """One in their place, with other values."""
    run, matrices, rest = start(rank, world)
    groups = [{"params": matrices}] + [{"params": rest, "adamw": True}] * both
    return run, Muon(groups, **options)


def train(run: Spread, optimizers: list[Optimizer], first: int = 0, steps: int = 3) -> list[float]:
    """The losses of some steps."""
    losses = []
    for step in range(first, first + steps):
        run.module.zero_grad()
        loss = run.loss(step, torch.float32)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return losses


def states(optimizers: list[Optimizer], run: Spread) -> dict[str, Tensor]:
    """This rank's part of the state of each parameter."""
    names = {p: n for n, p in run.model.named_parameters()}
    found = {}
    for optimizer in optimizers:
        for p, own in optimizer.state.items():
            for key, value in own.items():
                part = value.to_local() if isinstance(value, DTensor) else value
                found[f"{names[p]}.{key}"] = part.clone()
    return found


def write(rank: int, world: int, both: bool, form: str, folder: Path) -> dict[str, Tensor]:
    """Save torch's optimizers."""
    run, optimizers = torchs(rank, world, both=both)
    train(run, optimizers)
    state = get_optimizer_state_dict(run.module, optimizers, options=FORMS[form])
    checkpoint.save({"optimizer": state}, checkpoint_id=folder)
    return states(optimizers, run)


def read(
    rank: int, world: int, both: bool, form: str, options: dict[str, Any], folder: Path
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Load them here; in the flattened form torch looks up every key of a group."""
    run, optimizer = ours(rank, world, both=both, **options)
    state = {"optimizer": get_optimizer_state_dict(run.module, optimizer, options=FORMS[form])}
    planner = DefaultLoadPlanner(allow_partial_load=True) if form == "flat" else None
    checkpoint.load(state, checkpoint_id=folder, planner=planner)
    set_optimizer_state_dict(run.module, optimizer, state["optimizer"], options=FORMS[form])
    found = states([optimizer], run)
    assert all(torch.isfinite(torch.tensor(train(run, [optimizer], 3))))
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return found, groups


@pytest.mark.parametrize("options", [{}, {"ns_steps": 5, "decay": "cautious"}], ids=["", "other"])
@pytest.mark.parametrize("both", [False, True], ids=["muon", "and adamw"])
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_torchs_muon_loads(
    form: str, both: bool, options: dict[str, Any], tmp_path: Path
) -> None:
    expected = pool(2).run(write, both, form, tmp_path)
    found = pool(2).run(read, both, form, options, tmp_path)
    for theirs, (mine, groups) in zip(expected, found, strict=True):
        assert theirs.keys() == mine.keys()
        assert all(torch.equal(theirs[key], mine[key]) for key in theirs)
        assert {key: groups[0][key] for key in TORCHS} == TORCHS
        assert groups[0]["decay"] == options.get("decay", "explicit")
        assert len(groups) == 1 + both
        if both:
            assert (groups[1]["lr"], groups[1]["betas"], groups[1]["adamw"]) == (
                0.01,
                (0.8, 0.9),
                True,
            )
        assert not any({"amsgrad", "foreach"} & group.keys() for group in groups)


def write_ours(rank: int, world: int, both: bool, form: str, folder: Path) -> dict[str, Tensor]:
    """Save one of this library."""
    run, optimizer = ours(rank, world, both=both, **TORCHS)
    train(run, [optimizer])
    state = get_optimizer_state_dict(run.module, optimizer, options=FORMS[form])
    checkpoint.save({"optimizer": state}, checkpoint_id=folder)
    return states([optimizer], run)


def read_with_torch(
    rank: int, world: int, both: bool, form: str, folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load it into torch's optimizers."""
    run, optimizers = torchs(rank, world, both=both)
    for group in optimizers[0].param_groups:
        group.update(lr=1.0, nesterov=True)
    options = FORMS[form]
    state = {"optimizer": get_optimizer_state_dict(run.module, optimizers, options=options)}
    planner = DefaultLoadPlanner(allow_partial_load=True) if form == "flat" else None
    checkpoint.load(state, checkpoint_id=folder, planner=planner)
    set_optimizer_state_dict(run.module, optimizers, state["optimizer"], options=options)
    found = states(optimizers, run)
    train(run, optimizers, 3)
    return found, {key: optimizers[0].param_groups[0][key] for key in TORCHS}


@pytest.mark.parametrize("both", [False, True], ids=["muon", "and adamw"])
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_ours_loads_into_torchs_muon(form: str, both: bool, tmp_path: Path) -> None:
    expected = pool(2).run(write_ours, both, form, tmp_path)
    found = pool(2).run(read_with_torch, both, form, tmp_path)
    for mine, (theirs, values) in zip(expected, found, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(theirs[key], mine[key]) for key in mine)
        assert values == TORCHS


def write_one(rank: int, world: int, folder: Path) -> dict[str, Tensor]:
    """Save torch's Muon of one process, in a file."""
    run = spread("mlp", "one", 0, 1, torch.float32)
    params = dict(run.model.named_parameters())
    names = ["second.weight", "third.weight"]
    optimizer = torch.optim.Muon([params[name] for name in names], **TORCHS)
    train(run, [optimizer])
    torch.save(optimizer.state_dict(), folder / "muon.pt")
    return states([optimizer], run)


def through(rank: int, world: int, code: str, folder: Path) -> dict[str, Any] | None:
    """From the file of one process into shards, and back into a state of one process."""
    page: dict[str, Any] = {}
    exec(code, page)
    run, optimizer = ours(rank, world, both=False)
    saved = {}
    if rank == 0:
        file = torch.load(folder / "muon.pt", weights_only=True)
        saved = page["by_name"](file, ["second.weight", "third.weight"])
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(run.module, optimizer, saved, options=options)
    assert {key: optimizer.param_groups[0][key] for key in TORCHS} == TORCHS
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    full = get_optimizer_state_dict(run.module, optimizer, options=options)
    return page["by_number"](full) if rank == 0 else None


def test_a_file_of_torchs_muon_goes_into_shards_and_back(tmp_path: Path) -> None:
    (expected,) = pool(1).run(write_one, tmp_path)
    back, _ = pool(2).run(through, code_of_the_page(), tmp_path)
    params = [nn.Parameter(torch.zeros(11, 13)), nn.Parameter(torch.zeros(3, 11))]
    torchs = torch.optim.Muon(params)
    torchs.load_state_dict(back)
    names = ["second.weight", "third.weight"]
    for name, p in zip(names, params, strict=True):
        assert torch.equal(torchs.state[p]["momentum_buffer"], expected[f"{name}.momentum_buffer"])
    assert {key: torchs.param_groups[0][key] for key in TORCHS} == TORCHS


def skipping(
    rank: int, world: int, kind: str, folder: Path
) -> tuple[int, dict[str, int], dict[str, list[str]]]:
    """Skip updates, save, and load in several ways: the count then, and in each of them after."""
    run, optimizer = _skipper(kind, rank, world)
    for _ in range(2):
        run.module.zero_grad()
        run.loss(0, torch.float32).backward()
        run.model.second.weight.grad.mul_(float("nan"))
        run.model.head.bias.grad.mul_(float("inf"))
        optimizer.step()
    before = optimizer.skipped
    state = get_optimizer_state_dict(run.module, optimizer)
    checkpoint.save({"optimizer": state}, checkpoint_id=folder)
    found, answers = {}, {}
    for name in ("file", "full", "broadcast"):
        run, other = _skipper(kind, rank, world)
        other.param_groups[0]["nonfinite"] = "raise"
        if name == "file":
            content = {"optimizer": get_optimizer_state_dict(run.module, other)}
            checkpoint.load(content, checkpoint_id=folder)
            set_optimizer_state_dict(run.module, other, content["optimizer"])
        else:
            full = _full(kind, rank, world, folder)
            options = StateDictOptions(
                full_state_dict=True, broadcast_from_rank0=name == "broadcast"
            )
            given = full if rank == 0 or name == "full" else {}
            set_optimizer_state_dict(run.module, other, given, options=options)
        found[name] = other.skipped
        answers[name] = [group["nonfinite"] for group in other.param_groups]
    return before, found, answers


def _skipper(kind: str, rank: int, world: int) -> tuple[Spread, Any]:
    run, matrices, rest = start(rank, world)
    if kind == "bare":
        return run, Muon([{"params": matrices}, {"params": rest, "adamw": True}], lr=0.02)
    if kind == "lion":
        return run, Lion(run.module, lr=0.01)
    return run, {"module": Muon, "normuon": NorMuon}[kind](run.module, lr=0.02)


def _full(kind: str, rank: int, world: int, folder: Path) -> dict[str, Any]:
    """The whole state of the optimizer that was saved, made again."""
    run, optimizer = _skipper(kind, rank, world)
    for _ in range(2):
        run.module.zero_grad()
        run.loss(0, torch.float32).backward()
        run.model.second.weight.grad.mul_(float("nan"))
        run.model.head.bias.grad.mul_(float("inf"))
        optimizer.step()
    return get_optimizer_state_dict(run.module, optimizer, options=FULL)


@pytest.mark.parametrize("kind", ["module", "bare", "normuon", "lion"])
def test_what_was_skipped_is_saved_and_alike_on_every_rank(kind: str, tmp_path: Path) -> None:
    for before, found, answers in pool(2).run(skipping, kind, tmp_path):
        assert before == 4
        # An optimizer of tensors without names has no key beside torch's in this form.
        assert found == {"file": 0 if kind == "bare" else 4, "full": 4, "broadcast": 4}
        assert answers["full"] == answers["broadcast"]
        assert answers["file"][0] == ("raise" if kind == "bare" else "skip")
        assert set(answers["full"]) == {"skip"}


def asynchronous(rank: int, world: int, folder: Path) -> tuple[dict[str, Tensor], bool]:
    """Save while training goes on; the state at the call, and whether that was what was saved."""
    run = spread("gpt", "fsdp", rank, world, torch.float32)
    optimizer = Muon(run.module, lr=0.02)
    train(run, [optimizer])
    group = dist.new_group(backend="gloo")  # training goes on in the other one
    frozen = states([optimizer], run)
    content = {"optimizer": get_optimizer_state_dict(run.module, optimizer)}
    answer = checkpoint.async_save(content, checkpoint_id=folder, process_group=group)
    train(run, [optimizer], 3)
    answer.result(timeout=60)
    assert any(not torch.equal(frozen[k], v) for k, v in states([optimizer], run).items())
    run = spread("gpt", "fsdp", rank, world, torch.float32)
    other = Muon(run.module, lr=0.02)
    content = {"optimizer": get_optimizer_state_dict(run.module, other)}
    checkpoint.load(content, checkpoint_id=folder)
    set_optimizer_state_dict(run.module, other, content["optimizer"])
    found = states([other], run)
    same = found.keys() == frozen.keys() and all(torch.equal(frozen[k], found[k]) for k in frozen)
    return frozen, same


def test_an_asynchronous_save_has_the_state_of_its_call(tmp_path: Path) -> None:
    for frozen, same in pool(2).run(asynchronous, tmp_path):
        assert frozen and same
