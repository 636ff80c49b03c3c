"""accelerate: one process, DDP and FSDP2 in two."""

from functools import cache

import pytest

pytest.importorskip("accelerate")
pytest.importorskip("transformers")

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

import steepest
from steepest.diagnostics import Monitor, constraint_report
from tests.frameworks import processes
from tests.frameworks.checks import check_falls, check_routed, furthest, unwrapped
from tests.frameworks.recipes.accelerate_prepared import prepared
from tests.frameworks.small import Characters, gpt2

STEPS, HALF = 12, 6


def with_adamw(accelerator, model, loader):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    return accelerator.prepare(model, optimizer, loader)


def train(prepare, resume=False, accumulate=1, clip=None, precision=None):
    AcceleratorState._reset_state(True)
    engine = Accelerator(
        cpu=True, gradient_accumulation_steps=accumulate, mixed_precision=precision
    )
    loader = torch.utils.data.DataLoader(Characters(), batch_size=8)
    model, optimizer, loader = prepare(engine, gpt2(), loader)
    if resume:
        engine.load_state("saved")
    losses = []
    for step, batch in enumerate(loader):
        if step >= STEPS:
            break
        if resume and step < HALF:
            continue
        with engine.accumulate(model):
            optimizer.train()  # nothing, but for an optimizer that has it
            loss = model(**batch).loss
            engine.backward(loss)
            if clip and engine.sync_gradients:
                engine.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
        if step + 1 == HALF and not resume:
            engine.save_state("saved")
    return model, optimizer, losses


@pytest.mark.row("accelerate")
@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 3, "clip": 0.5}, {"precision": "bf16"}], ids=str
)
def test_a_run_that_goes_on_is_the_run(options):
    for prepare in (with_adamw, prepared):
        model, optimizer, losses = train(prepare, **options)
        check_falls(losses, by=0.05)
        assert furthest(losses[HALF:], train(prepare, resume=True, **options)[2]) == 0.0
    check_routed(model, optimizer)


def ahead(accelerator, model, loader):
    inner = steepest.Muon(model, lr=0.02)
    optimizer = steepest.EMANesterov(inner, start=1, stop=None, look_ahead=0.8, ema=0.5)
    return accelerator.prepare(model, optimizer, loader)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 3, "clip": 0.5}, {"precision": "bf16"}], ids=str
)
def test_the_prepared_optimizer_looks_ahead_when_it_is_told_to_train(options):
    _, optimizer, losses = train(ahead, **options)
    assert optimizer.optimizer.steps == STEPS // options.get("accumulate", 1)
    check_falls(losses, by=0.05)
    assert furthest(losses[HALF:], train(ahead, resume=True, **options)[2]) == 0.0
    assert losses != train(prepared, **options)[2]


@pytest.mark.row("accelerate-instruments")
def test_instruments_take_the_prepared_optimizer():
    engine = Accelerator(cpu=True)
    loader = torch.utils.data.DataLoader(Characters(), batch_size=8)
    model, optimizer, loader = prepared(engine, gpt2(), loader)
    assert unwrapped(optimizer) is not optimizer
    report = constraint_report(model, optimizer)
    assert str(report) == str(constraint_report(model, unwrapped(optimizer)))
    batch = next(iter(loader))
    with Monitor(model, optimizer, every=1, quiet=True) as monitor:
        for _ in range(3):
            engine.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
    assert len(monitor.records) == 3


@cache
def ranks(kind):
    return processes.run("accelerate_run", kind)


@pytest.mark.row("accelerate-ddp")
def test_ddp_divides_the_work_whoever_comes_first():
    first, second = ranks("ddp")
    assert first["together"]["divided"]
    assert first["after"]["divided"]
    for way in ("adamw", "together", "after"):
        check_falls(first[way]["losses"])
        assert first[way]["sums"] == second[way]["sums"]
        assert furthest(first[way]["losses"][HALF - 1 :], first[way]["again"]) == 0.0
    assert furthest(first["after"]["losses"], first["together"]["losses"]) < 1e-4


@pytest.mark.row("accelerate-fsdp2")
def test_fsdp2_saves_and_goes_on_as_with_adamw():
    first, second = ranks("fsdp2")
    for way in ("adamw", "together"):
        assert first[way]["param"] == "DTensor"
        check_falls(first[way]["losses"])
        assert first[way]["sums"] == second[way]["sums"]
        assert furthest(first[way]["losses"][HALF - 1 :], first[way]["again"]) == 0.0
        assert (first[way]["alive"], first[way]["originals"]) == (0, 21)
    assert first["together"]["groups"] >= 3


@pytest.mark.row("accelerate-fsdp2")
def test_shards_make_the_steps_of_whole_parameters():
    ddp, sharded = (ranks(kind)[0]["together"]["losses"] for kind in ("ddp", "fsdp2"))
    assert furthest(ddp, sharded) < 1e-3
