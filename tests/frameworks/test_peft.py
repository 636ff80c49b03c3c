"""PEFT: adapters, trained heads, and a run that goes on from saved adapters."""

import pytest

pytest.importorskip("peft")
pytest.importorskip("transformers")

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

import steepest
from tests.frameworks.checks import check_falls, furthest
from tests.frameworks.recipes.peft_adapters import with_adapters
from tests.frameworks.small import Characters, llama

DATA = Characters()


def steps(model, optimizer, count=6, start=0, every=1):
    losses = []
    for i in range(start, start + count):
        i *= every
        items = [DATA[j] for j in range(8 * i, 8 * i + 8)]
        loss = model(**{key: torch.stack([x[key] for x in items]) for key in items[0]}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def adapted(**options):
    base = llama(num_hidden_layers=1)
    torch.manual_seed(1)
    return get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=4, **options))


def targets(model):
    """What becomes of each trained parameter, by the end of its name."""
    return {a.name: a.target for a in steepest.route(model) if not a.frozen}


KINDS = {
    "lora": {"target_modules": ["q_proj", "v_proj"]},
    "every layer": {"target_modules": "all-linear"},
    "dora": {"target_modules": ["q_proj"], "use_dora": True},
    "stabilised": {"target_modules": ["q_proj"], "use_rslora": True},
}


@pytest.mark.row("peft-adapters")
@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_matrices_and_the_base_stays(kind):
    model = adapted(**KINDS[kind])
    found = targets(model)
    factors = {name for name in found if "lora_A" in name or "lora_B" in name}
    assert {found[name] for name in factors} == {"matrix"}
    assert {found[name] for name in found.keys() - factors} <= {"vector"}
    assert (kind == "dora") == (factors != found.keys())
    base = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    optimizer = steepest.Muon(model, lr=0.3, adjust_lr_fn="match_rms_adamw")
    # One batch, over and over: the factors of one layer have little to say about another.
    check_falls(steps(model, optimizer, 9, every=0), by=0.01)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert all(after[name].any() for name in found if "lora_B" in name), "all factors move"


@pytest.mark.row("peft-adapters")
@pytest.mark.parametrize("kind", KINDS)
def test_factors_are_pairs_with_their_scales(kind):
    model = adapted(**KINDS[kind])
    optimizer = steepest.LoRAMuon(model, lr=1.0)
    pairs = [g for g in optimizer.param_groups if not g["adamw"]]
    scaled = [m.scaling for m in model.modules() if isinstance(getattr(m, "scaling", None), dict)]
    assert [g["lora_scale"] for g in pairs] == list(dict.fromkeys(s["default"] for s in scaled))
    factors = {n for n, p in model.named_parameters() if "lora_A" in n or "lora_B" in n}
    assert {n for g in pairs for n in g["param_names"]} == factors
    check_falls(steps(model, optimizer, 9, every=0), by=1e-4)


@pytest.mark.row("peft-head")
def test_a_trained_head_and_factors_of_tables_go_to_adamw():
    model, optimizer = with_adapters(llama(num_hidden_layers=1))
    head = [n for n in targets(model) if "modules_to_save" in n]
    assert len(head) == 1
    for group in optimizer.param_groups:
        for name in group["param_names"]:
            if not optimizer.routing[name].frozen:
                assert group["adamw"] == (name in head), name
    check_falls(steps(model, optimizer, 8), by=0.05)
    both = adapted(target_modules=["q_proj", "embed_tokens", "lm_head"])
    for name, target in targets(both).items():
        assert (target == "matrix") == ("q_proj" in name), name


@pytest.mark.row("peft-resume")
def test_saved_adapters_go_on():
    for make in (
        lambda m: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=0.1),
        lambda m: steepest.Muon(m, lr=0.3, adjust_lr_fn="match_rms_adamw"),
    ):
        model = adapted(target_modules=["q_proj", "v_proj"])
        optimizer = make(model)
        steps(model, optimizer, 3)
        model.save_pretrained("adapters")
        torch.save(optimizer.state_dict(), "optimizer.pt")
        again = PeftModel.from_pretrained(llama(num_hidden_layers=1), "adapters", is_trainable=True)
        other = make(again)
        other.load_state_dict(torch.load("optimizer.pt", weights_only=True))
        assert furthest(steps(model, optimizer, 3, 3), steps(again, other, 3, 3)) == 0.0


@pytest.mark.row("peft-rank-one")
@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(task_type="CAUSAL_LM", r=1, target_modules=["q_proj"]),
        IA3Config(
            task_type="CAUSAL_LM",
            target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"],
        ),
    ],
    ids=["rank one", "gains"],
)
def test_adapters_without_a_matrix_are_trained_by_adamw(config):
    """The frozen base is routed for the day when it is thawed; what trains now is vectors."""
    model = get_peft_model(llama(num_hidden_layers=1), config)
    found = targets(model)
    assert set(found.values()) == {"vector"}
    optimizer = steepest.Muon(model, lr=1e-3, adjust_lr_fn="match_rms_adamw")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    steps(model, optimizer, 3)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == found.keys()
    assert all("momentum_buffer" not in state for state in optimizer.state.values())
