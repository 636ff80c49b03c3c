"""TRL: a trainer of transformers that may put adapters into the model it is given."""

import pytest

pytest.importorskip("trl")
pytest.importorskip("peft")

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

import steepest
from tests.frameworks.checks import check_falls, check_routed, unwrapped
from tests.frameworks.recipes.trl_adapters import trainer
from tests.frameworks.small import llama
from tests.frameworks.words import of_characters, sentences


def arguments(**changes):
    settings = {
        "max_steps": 8,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "max_length": 32,
        "learning_rate": 0.02,
        "bf16": False,
        "gradient_checkpointing": False,
    }
    return SFTConfig("out", **settings | changes)


def data():
    return Dataset.from_dict({"text": sentences(64, 8)})


def adapters(**options):
    return LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], **options)


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def trained(made):
    """Names of the parameters that a run changes."""
    before = {n: p.detach().clone() for n, p in made.model.named_parameters()}
    made.train()
    return {n for n, p in made.model.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.row("trl-sft")
def test_a_whole_model_is_routed_and_learns():
    made = trainer(llama(), arguments(), data(), of_characters(), None)
    trained(made)
    check_routed(made.model, made.optimizer)
    check_falls(losses(made), by=0.05)


@pytest.mark.row("trl-adapters")
def test_the_factory_sees_the_adapters():
    made = trainer(llama(), arguments(), data(), of_characters(), adapters())
    wanted = {n for n, p in made.model.named_parameters() if p.requires_grad}
    assert len(wanted) == 4
    assert trained(made) == wanted


@pytest.mark.row("trl-adapters-before")
def test_an_optimizer_that_is_made_before_the_adapters_holds_none_of_them():
    """The trainer freezes the model and wraps it after the optimizer has been made."""
    model = llama()
    made = SFTTrainer(
        model,
        args=arguments(),
        train_dataset=data(),
        processing_class=of_characters(),
        peft_config=adapters(),
        optimizers=(steepest.Muon(model, lr=0.02), None),
    )
    held = {id(p) for g in unwrapped(made.optimizer).param_groups for p in g["params"]}
    wanted = [p for p in made.model.parameters() if p.requires_grad]
    assert len(wanted) == 4
    assert not held & {id(p) for p in wanted}
    with pytest.warns(UserWarning, match=r"none of the 21 parameters .* \(21 of them frozen\)"):
        assert not trained(made)
