"""LoRA-Muon: the formula of its class, its pairs, and the contract of every optimizer."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from steepest import LoRAMuon, transforms
from steepest.norms import PairNorm
from steepest.polar import Svd
from steepest.retractions import Sphere
from steepest.testing import optimizers as contract
from tests.optim.adapters import Adapted, adapted, loss


def tiny(m: nn.Module, **options: object) -> LoRAMuon:
    """An optimizer of the contract's model, two layers of which are taken for a pair."""
    pair = m.down.weight, m.up.weight
    rest = [p for p in m.parameters() if all(p is not q for q in pair)]
    groups = [{"params": [pair]}, {"params": rest, "adamw": True}]
    return LoRAMuon(groups, **{"lr": 0.3, "adamw_lr": 0.01, **options})


OPTIONS = {
    "usual": {},
    "decay": {"weight_decay": 0.1},
    "published": {"cross_term": False, "polar": Svd()},
    "nesterov": {"nesterov": True, "momentum": 0.9},
    "no momentum": {"momentum": 0.0},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("law", contract.CONTRACT, ids=lambda law: law.__name__)
def test_the_contract_of_every_optimizer(law, options) -> None:
    law(lambda m: tiny(m, **options))


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, start: int = 0) -> None:
    for t in range(start, start + count):
        optimizer.zero_grad()
        loss(model, t).backward()
        optimizer.step()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("cross_term", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_it_steps_by_the_formula_of_the_class(weight_decay, cross_term, nesterov) -> None:
    model = adapted().double()
    options = {"weight_decay": weight_decay, "cross_term": cross_term, "nesterov": nesterov}
    optimizer = LoRAMuon(model, lr=0.1, momentum=0.8, polar=Svd(), **options)
    factors = {
        n: (m.lora_A["default"].weight, m.lora_B["default"].weight) for n, m in layers(model)
    }
    scales = {"up": 2.0, "down": 0.5}
    own = {n: [p.detach().clone() for p in pair] for n, pair in factors.items()}
    averages = {n: [torch.zeros_like(p) for p in pair] for n, pair in factors.items()}
    for t in range(4):
        optimizer.zero_grad()
        loss(model, t).backward()
        k = (1 - 0.1 * weight_decay) ** 0.5
        for n, pair in factors.items():
            us = []
            for u, p in zip(averages[n], pair, strict=True):
                u.lerp_(p.grad, 0.2)
                us.append(torch.lerp(p.grad, u, 0.8) if nesterov else u)
            norm = PairNorm(*own[n], scales[n], 0.1 if cross_term else 0.0)
            own[n] = [k * w - 0.1 * d / k for w, d in zip(own[n], norm.dualize(*us), strict=True)]
        optimizer.step()
        for n, pair in factors.items():
            torch.testing.assert_close(list(pair), own[n], rtol=1e-9, atol=1e-12)


def layers(model: nn.Module) -> list[tuple[str, Adapted]]:
    return [(n, m) for n, m in model.named_children() if isinstance(m, Adapted)]


def product(layer: Adapted) -> Tensor:
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return (layer.scaling["default"] * b @ a).detach()


@pytest.mark.parametrize("lr", [1e-4, 0.1, 10.0])
def test_a_step_moves_the_product_by_its_bound_at_most(lr) -> None:
    model = adapted()
    optimizer = LoRAMuon(model, lr=lr, polar=Svd())
    for t in range(20):
        before = {n: product(layer) for n, layer in layers(model)}
        steps(model, optimizer, 1, t)
        for n, layer in layers(model):
            moved = float(torch.linalg.matrix_norm(product(layer) - before[n], 2))
            assert moved <= (1 + 2**0.5) / 2 * lr * 1.01 + 1e-6
            if t == 0:
                assert moved == pytest.approx(lr / 2, rel=1e-2)


def test_decay_is_that_of_the_product() -> None:
    a, b = nn.Parameter(torch.randn(2, 5).double()), nn.Parameter(torch.randn(4, 2).double())
    before = (b @ a).detach()
    optimizer = LoRAMuon([(a, b)], lr=0.1, weight_decay=2.0)
    a.grad, b.grad = torch.zeros_like(a), torch.zeros_like(b)
    optimizer.step()
    torch.testing.assert_close((b @ a).detach(), 0.8 * before)
    optimizer.param_groups[0]["weight_decay"] = 0.0
    optimizer.step()
    torch.testing.assert_close((b @ a).detach(), 0.8 * before)
    optimizer.param_groups[0]["weight_decay"] = 10.0
    optimizer.step()
    assert not (b @ a).any()


def test_pairs_of_a_model_are_found_by_their_names() -> None:
    model = adapted()
    optimizer = LoRAMuon(model, lr=0.1)
    destinations = {a.name: a.to for a in optimizer.routing if not a.frozen}
    moved = {n: to for n, to in destinations.items() if to.startswith("LoRAMuon")}
    assert moved == {
        f"{n}.lora_{f}.default.weight": f"LoRAMuon, Spectral() of {s}·B·A"
        for n, s in (("up", "2"), ("down", "0.5"))
        for f in "AB"
    }
    rest = destinations.keys() - moved.keys()
    assert rest == {"up.lora_magnitude_vector.default", "head.weight", "head.bias"}
    assert all(destinations[n].startswith("AdamW") for n in rest)
    assert [g.get("lora_scale") for g in optimizer.param_groups if not g["adamw"]] == [2.0, 0.5]
    assert "Spectral() of 2·B·A" in repr(optimizer)


def test_names_are_enough_and_then_the_scale_is_given() -> None:
    model, other = adapted(), adapted()
    for layer in (model, other):
        layer["down"].scaling = layer["up"].scaling
    optimizer = LoRAMuon(model, lr=0.1)
    twin = LoRAMuon(other.named_parameters(), lr=0.1, lora_scale=2.0)
    steps(model, optimizer, 3)
    steps(other, twin, 3)
    assert contract.same(contract.parameters(model), contract.parameters(other))


def number(layer: Adapted) -> None:
    layer.scaling = 3.0
    del layer.lora_A["default"], layer.lora_B["default"]
    layer.lora_A, layer.lora_B = nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(8, 2))


def alpha(layer: Adapted) -> None:
    del layer.scaling
    layer.alpha, layer.rank = 6, 2


def nothing(layer: Adapted) -> None:
    del layer.scaling


def adaptive(layer: Adapted) -> None:
    layer.lora_E = nn.ParameterDict({"default": torch.ones(2, 1)})


@pytest.mark.parametrize(
    ("change", "scale"),
    [(number, 3.0), (alpha, 3.0), (nothing, 7.0)],
    ids=["number", "alpha", "nothing"],
)
def test_the_scales_that_modules_tell(change, scale) -> None:
    layer = Adapted(6, 8, 2)
    change(layer)
    optimizer = LoRAMuon(nn.ModuleDict({"one": layer}), lr=0.1, lora_scale=7.0)
    assert optimizer.param_groups[0]["lora_scale"] == scale


def test_other_layouts_of_factors() -> None:
    """In × rank and rank × out, as in x @ A @ B; kernels of convolutions."""
    shapes = {
        "lora_A": (6, 2),
        "lora_B": (2, 8),
        "lora_down": (2, 3, 3, 3),
        "lora_up": (5, 2, 1, 1),
        "lora_a": (4, 6),
        "lora_b": (6, 4),
    }
    params = {n: nn.Parameter(torch.randn(s).double()) for n, s in shapes.items()}
    named = [(f"{i // 2}.{n}", p) for i, (n, p) in enumerate(params.items())]
    optimizer = LoRAMuon(named, lr=0.1, momentum=0.0, polar=Svd(), cross_term=False)
    assert [g["adamw"] for g in optimizer.param_groups] == [False]
    products = {
        "A": lambda: params["lora_A"] @ params["lora_B"],
        "down": lambda: params["lora_up"].flatten(1) @ params["lora_down"].flatten(1),
        "a": lambda: params["lora_b"] @ params["lora_a"],
    }
    before = {n: p().detach() for n, p in products.items()}
    old = {n: p.detach().clone() for n, p in params.items()}
    sum((p() * torch.randn_like(p())).sum() for p in products.values()).backward()
    optimizer.step()
    with torch.no_grad():
        for p, q in (("lora_A", "lora_B"), ("lora_up", "lora_down"), ("lora_b", "lora_a")):
            one, two = (params[n].flatten(1) for n in (p, q))
            first, second = (old[n].flatten(1) for n in (p, q))
            for half in (first @ (two - second), (one - first) @ second):
                values = torch.linalg.svdvals(half)
                assert values[0] == pytest.approx(0.05, rel=1e-3)
                assert values[min(first.shape) - 1] == pytest.approx(0.05, rel=1e-3)
    assert all((p().detach() - before[n]).any() for n, p in products.items())


def test_a_rank_of_one_is_a_pair() -> None:
    model = adapted(rank=1)
    optimizer = LoRAMuon(model, lr=0.05)
    assert sum(len(g["params"]) for g in optimizer.param_groups if not g["adamw"]) == 4
    first = loss(model).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    assert loss(model).item() < 0.8 * first


def test_what_is_no_pair() -> None:
    layer = Adapted(6, 8, 2)
    adaptive(layer)
    with pytest.raises(ValueError, match="no pair of factors"):
        LoRAMuon(nn.ModuleDict({"one": layer}), lr=0.1)
    with pytest.raises(ValueError, match="no pair of factors"):
        LoRAMuon(nn.Linear(3, 3), lr=0.1)
    model = adapted()
    optimizer = LoRAMuon(model, lr=0.1, overrides={"up.*": "adamw"})
    pairs = [n for g in optimizer.param_groups if not g["adamw"] for n in g["param_names"]]
    assert pairs == ["down.lora_A.default.weight", "down.lora_B.default.weight"]
    experts = adapted()
    experts["up"].num_experts = 4
    with pytest.raises(ValueError, match=r"up\.lora_A\.default\.weight.*several experts"):
        LoRAMuon(experts, lr=0.1)
    LoRAMuon(experts, lr=0.1, overrides={"up.lora_*": "adamw"})
    table = nn.ModuleDict({"tokens": nn.Module(), "one": Adapted(6, 8, 2)})
    table["tokens"].lora_embedding_A = nn.ParameterDict({"default": torch.ones(2, 9)})
    table["tokens"].lora_embedding_B = nn.ParameterDict({"default": torch.ones(4, 2)})
    optimizer = LoRAMuon(table, lr=0.1)
    assert optimizer.routing["tokens.lora_embedding_A.default"].to.startswith("AdamW")


def test_what_is_refused() -> None:
    a, b = nn.Parameter(torch.ones(2, 5)), nn.Parameter(torch.ones(4, 2))
    for params, message in [
        ([a, b], "they are no pair"),
        ([a], "1 factors.*pairs"),
        ([(a, nn.Parameter(torch.ones(4, 3)))], "give pairs of factors"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoRAMuon(params, lr=0.1)
    for key, value, message in [
        ("before", transforms.Sign(), "their own rule"),
        ("retraction", Sphere(), "their own rule"),
        ("decay", "cautious", "decay together"),
        ("constraint", "project", "weight_decay"),
        ("lora_scale", -1.0, "lora_scale"),
        ("polar", "svd", "polar"),
        ("lr", -1.0, "lr"),
    ]:
        with pytest.raises(ValueError, match=message):
            LoRAMuon([(a, b)], **{"lr": 0.1, key: value})
    with pytest.raises(TypeError, match="unexpected"):
        LoRAMuon([(a, b)], lr=0.1, adjust_lr_fn="original")
    named = [("x.lora_A", a), ("y.lora_B", b), ("x.lora_B", nn.Parameter(torch.ones(4, 2)))]
    optimizer = LoRAMuon(named, lr=0.1)
    # Whoever edits a group so that other factors meet is told at the next step.
    optimizer.param_groups[0]["params"].reverse()
    optimizer.param_groups[0]["param_names"].reverse()
    a.grad = torch.ones_like(a)
    optimizer.step()  # the roles are exchanged, and it is still a pair
    optimizer.param_groups[0]["params"][0] = b
    optimizer.param_groups[0]["param_names"][0] = "y.lora_B"
    with pytest.raises(ValueError, match=r"y\.lora_B.*no pair"):
        optimizer.step()


def test_groups_that_are_added() -> None:
    model, more = adapted(), adapted(1)
    optimizer = LoRAMuon(model, lr=0.1, adamw_lr=0.01)
    optimizer.add_param_group({"params": nn.ModuleDict({"more": more}), "lr": 0.2})
    rates = [(g["adamw"], g["lr"], g.get("lora_scale")) for g in optimizer.param_groups]
    assert (False, 0.2, 2.0) in rates and (False, 0.2, 0.5) in rates
    lone = nn.Linear(5, 5)
    optimizer.add_param_group({"params": [("lone.weight", lone.weight)], "lr": 0.2})
    assert optimizer.param_groups[-1]["adamw"]
    assert optimizer.param_groups[-1]["lr"] == pytest.approx(0.02)
    a, b = nn.Parameter(torch.ones(2, 5)), nn.Parameter(torch.ones(4, 2))
    optimizer = LoRAMuon([(a, b)], lr=0.1)
    c, d = nn.Parameter(torch.eye(2, 5)), nn.Parameter(torch.zeros(4, 2))
    optimizer.add_param_group({"params": [(c, d)], "lora_scale": 4.0})
    c.grad, d.grad = torch.zeros_like(c), torch.ones_like(d)
    optimizer.step()
    assert float(torch.linalg.matrix_norm(4 * (d @ c).detach(), 2)) == pytest.approx(0.05, rel=0.06)


def test_a_gradient_that_is_not_finite_stops_its_factor_alone() -> None:
    model = adapted()
    optimizer = LoRAMuon(model, lr=0.1)
    steps(model, optimizer, 1)
    a, b = (model["up"].get_submodule(f"lora_{f}.default").weight for f in "AB")
    before = a.detach().clone(), b.detach().clone()
    loss(model).backward()
    a.grad[0, 0] = float("nan")
    optimizer.step()
    assert torch.equal(a, before[0]) and not torch.equal(b, before[1])
    assert optimizer.skipped == 1
    strict = LoRAMuon(model, lr=0.1, nonfinite="raise")
    with pytest.raises(FloatingPointError, match=r"up\.lora_A"):
        strict.step()


def test_a_frozen_factor_is_a_partner() -> None:
    model = adapted()
    model["up"].lora_A["default"].weight.requires_grad_(False)
    optimizer = LoRAMuon(model, lr=0.1, polar=Svd())
    before = product(model["up"])
    steps(model, optimizer, 1)
    moved = torch.linalg.svdvals(product(model["up"]) - before)
    torch.testing.assert_close(moved[:2], torch.full((2,), 0.05), rtol=1e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_types_and_the_state(dtype) -> None:
    model, other = adapted().to(dtype), adapted().to(dtype)
    options = {"lr": 0.1, "momentum_dtype": torch.float32}
    optimizer, twin = LoRAMuon(model, **options), LoRAMuon(other, **options)
    steps(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(model.state_dict())
    twin.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy((model, optimizer))
    for pair in ((model, optimizer), (other, twin), copied):
        steps(*pair, 2, 3)
    assert contract.same(contract.parameters(model), contract.parameters(other))
    assert contract.same(contract.parameters(model), contract.parameters(copied[0]))
    factors = [p for g in optimizer.param_groups if not g["adamw"] for p in g["params"]]
    assert all(optimizer.state[p].keys() == {"momentum_buffer"} for p in factors)
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_ascent_of_a_negative_loss_is_descent() -> None:
    model, other = adapted(), adapted()
    optimizer, twin = LoRAMuon(model, lr=0.1), LoRAMuon(other, lr=0.1, maximize=True)
    for t in range(3):
        steps(model, optimizer, 1, t)
        twin.zero_grad()
        (-loss(other, t)).backward()
        twin.step()
    assert contract.same(contract.parameters(model), contract.parameters(other))


def test_it_never_waits_for_the_device() -> None:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        a, b = (nn.Parameter(torch.zeros(s, device="cuda")) for s in ((4, 64), (96, 4)))
    optimizer = LoRAMuon([(a, b)], lr=0.1, weight_decay=0.1)
    with mode:
        for _ in range(2):
            a.grad, b.grad = torch.empty_like(a), torch.empty_like(b)
            optimizer.step()
