"""transformers.Trainer in one process: the ways in, and what a run may be asked for."""

import copy

import pytest

pytest.importorskip("transformers")

import torch
from transformers import Trainer, TrainingArguments, set_seed

import steepest
from tests.frameworks.checks import check_falls, check_routed, furthest, rates, unwrapped
from tests.frameworks.recipes.trainer import trainer
from tests.frameworks.recipes.trainer_others import MuonTrainer, trainer_with_optimizer
from tests.frameworks.small import Characters, gpt2, llama

DATA = Characters()
STEPS, HALF = 16, 8


def arguments(folder="out", **changes):
    settings = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 1,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 2,
        "learning_rate": 0.02,
    }
    return TrainingArguments(str(folder), **settings | changes)


def with_adamw(model, args, data):
    return Trainer(model, args, train_dataset=data)


def subclass(model, args, data):
    return MuonTrainer(model, args, train_dataset=data)


WAYS = {"factory": trainer, "optimizers": trainer_with_optimizer, "subclass": subclass}


def run(make, folder="out", resume=None, model=gpt2, **changes):
    set_seed(3)
    made = make(model(), arguments(folder, **changes), DATA)
    made.train(resume_from_checkpoint=resume)
    return made


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def resumed(make, **changes):
    """How far a run that was saved in its middle and goes on is from one that was not."""
    whole = run(make, "whole", save_strategy="steps", save_steps=HALF, **changes)
    again = run(make, "again", resume=f"whole/checkpoint-{HALF}", **changes)
    return whole, furthest(losses(whole)[HALF:], losses(again)[HALF:])


def ahead(model, args, data):
    inner = steepest.Muon(model, lr=0.02)
    optimizer = steepest.EMANesterov(inner, start=1, stop=STEPS - 2, look_ahead=0.8, ema=0.5)
    return Trainer(model, args, train_dataset=data, optimizers=(optimizer, None))


def test_it_looks_ahead_and_goes_on():
    changes = {"gradient_accumulation_steps": 2}
    made, difference = resumed(ahead, **changes)
    assert difference == 0.0
    assert made.optimizer.optimizer.steps == STEPS
    check_falls(losses(made))
    assert losses(made) != losses(run(WAYS["optimizers"], **changes))


@pytest.mark.row("trainer-factory", "trainer-optimizers", "trainer-subclass")
@pytest.mark.parametrize("way", WAYS)
def test_it_is_routed_and_learns(way):
    made = run(WAYS[way])
    check_routed(made.model, made.optimizer)
    check_falls(losses(made))


@pytest.mark.row("trainer-resume")
@pytest.mark.parametrize("way", [*WAYS, "adamw"])
def test_a_run_that_goes_on_is_the_run(way):
    changes = {"learning_rate": 3e-3} if way == "adamw" else {}
    _, difference = resumed({**WAYS, "adamw": with_adamw}[way], **changes)
    assert difference == 0.0


ASKED = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipping": {"max_grad_norm": 0.1},
    "bf16": {"bf16": True},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.row("trainer-settings")
@pytest.mark.parametrize("asked", ASKED)
def test_settings_of_the_run(asked):
    made, difference = resumed(trainer, **ASKED[asked])
    assert difference == 0.0
    check_falls(losses(made))
    # Without clipping: the usual bound of 1 is reached in every step of this run.
    plain = losses(run(trainer, max_grad_norm=0.0 if asked == "clipping" else 1.0))
    if asked == "checkpointing":
        assert furthest(plain, losses(made)) < 1e-5
    else:
        assert furthest(plain, losses(made)) > 1e-5, "the setting did nothing"


@pytest.mark.row("trainer-class")
def test_a_class_gets_parameters_and_is_refused():
    """The trainer gives groups of parameters to a class: a module is what routing needs."""
    made = Trainer(
        gpt2(),
        arguments(),
        train_dataset=DATA,
        optimizer_cls_and_kwargs=(steepest.Muon, {"lr": 0.02}),
    )
    with pytest.raises(ValueError, match="under transformers write Trainer"):
        made.train()


@pytest.mark.row("trainer-lion")
def test_a_norm_of_entries_takes_the_class():
    made = Trainer(
        gpt2(),
        arguments(),
        train_dataset=DATA,
        optimizer_cls_and_kwargs=(steepest.Lion, {"lr": 1e-3}),
    )
    made.train()
    check_falls(losses(made))


@pytest.mark.row("trainer-learning-rate")
def test_the_rate_of_the_arguments_does_not_reach_an_optimizer_of_the_user():
    made = trainer(gpt2(), arguments(learning_rate=5e-5, lr_scheduler_type="constant"), DATA)
    made.create_optimizer()
    assert made.optimizer.param_groups[0]["lr"] == 0.02
    assert made.optimizer.param_groups[0]["weight_decay"] == 0.1
    own = subclass(gpt2(), arguments(learning_rate=5e-5), DATA)
    own.create_optimizer()
    assert own.optimizer.param_groups[0]["lr"] == 5e-5


@pytest.mark.row("trainer-schedulers")
@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial", "inverse_sqrt"])
def test_schedulers_keep_the_ratio_of_the_rates(name):
    made = trainer(gpt2(), arguments(lr_scheduler_type=name, max_steps=6), DATA)
    made.create_optimizer_and_scheduler(6)
    first = [group["initial_lr"] for group in made.optimizer.param_groups]
    assert first[0] > first[1] > 0
    seen = []
    for _ in range(5):
        made.optimizer.step()
        made.lr_scheduler.step()
        rate, *others = rates(made.optimizer)
        seen.append(rate)
        assert others == pytest.approx([rate * f / first[0] for f in first[1:]])
    assert len(set(seen)) > 2


@pytest.mark.row("trainer-log")
def test_the_log_shows_the_rate_of_the_matrices():
    made = run(trainer, lr_scheduler_type="constant", warmup_steps=0, max_steps=2)
    assert [e["learning_rate"] for e in made.state.log_history if "loss" in e] == [0.02, 0.02]


@pytest.mark.row("trainer-low-precision")
def test_parameters_in_bfloat16():
    made = run(trainer, model=lambda: gpt2().to(torch.bfloat16))
    check_falls(losses(made))
    dtypes = {p.dtype for p in made.model.parameters()}
    assert dtypes == {torch.bfloat16}


@pytest.mark.row("trainer-checkpoint-numbers")
def test_a_checkpoint_brings_its_numbers():
    saved = steepest.Muon(llama(), lr=0.02, adamw_lr=1e-3).state_dict()
    other = steepest.Muon(llama(), lr=0.5, adamw_lr=0.5)
    with pytest.warns(UserWarning, match="learning rate of AdamW is 0.05 of that"):
        other.load_state_dict(copy.deepcopy(saved))
    assert rates(other) == [0.02, 1e-3, 1e-3]


@pytest.mark.row("trainer-monitor")
def test_instruments_take_the_optimizer_of_the_trainer():
    from steepest.diagnostics import Monitor, constraint_report

    made = run(trainer, max_steps=2)
    wrapped = made.optimizer
    assert unwrapped(wrapped) is not wrapped
    text = str(constraint_report(made.model, wrapped))
    assert text == str(constraint_report(made.model, unwrapped(wrapped)))
    with Monitor(made.model, wrapped, every=1, quiet=True) as monitor:
        batch = {key: value[None] for key, value in DATA[0].items()}
        made.model(**batch).loss.backward()
        wrapped.step()
    assert len(monitor.records) == 1
