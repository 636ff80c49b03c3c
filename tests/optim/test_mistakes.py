"""The mistakes of a first hour: each is answered with what to write instead."""

import re

import pytest
import torch
from torch import nn

import steepest
from steepest import maps, norms, polar
from steepest.optim import PRESETS
from steepest.optim.notices import VALUE
from steepest.optim.presets import FAMILY
from steepest.routing.rules import RULES
from tests.optim.test_notices import heard


def net():
    return nn.Sequential(
        nn.Embedding(50, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16)
    )


GIVEN = {
    "parameters": lambda m: m.parameters(),
    "list": lambda m: list(m.parameters()),
    "groups": lambda m: [{"params": list(m.parameters())}],
}
MATRIX_OPTIMIZERS = {
    "Muon": {"lr": 0.02},
    "PolarGrad": {"lr": 0.02},
    "Scion": {"lr": 0.02},
    "SpectralDescent": {"lr": 0.02},
    "SteepestDescent": {"lr": 0.02, "norm": norms.Spectral()},
    "LionK": {"lr": 0.02, "K": maps.NuclearMap()},
}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", MATRIX_OPTIMIZERS)
def test_parameters_without_their_module_are_answered_with_the_line_to_write(name, given):
    model, options = net(), MATRIX_OPTIMIZERS[name]
    with pytest.raises(ValueError, match=f"^{name} got") as caught:
        getattr(steepest, name)(GIVEN[given](model), **options)
    text = str(caught.value)
    assert text.startswith(f"{name} got a parameter of shape (16,). Pass the module instead: `")
    line = text.split("`")[1]
    for argument in ("norm", "K"):
        line = line.replace(f"{argument}=…", f"{argument}=options[{argument!r}]")
    optimizer = eval(line, {"steepest": steepest, "model": model, "options": options})
    assert type(optimizer).__name__ == name
    assert optimizer.param_groups[0]["lr"] == 0.02
    others = "norms of their own" if name == "Scion" else "to AdamW"
    assert f"biases, embeddings and heads {others}" in text
    assert any(group["adamw"] for group in optimizer.param_groups) == (name != "Scion")


@pytest.mark.parametrize("name", MATRIX_OPTIMIZERS)
def test_names_are_enough(name):
    optimizer = getattr(steepest, name)(net().named_parameters(), **MATRIX_OPTIMIZERS[name])
    assert optimizer.routing is not None


def test_a_class_of_your_own_is_not_said_to_be_of_the_library():
    class Own(steepest.Muon):
        pass

    Own.__module__ = "train"
    with pytest.raises(ValueError, match=r"Pass the module instead: `Own\(model, lr=0.02\)`"):
        Own(net().parameters())


MISTAKES = [
    (lambda m: steepest.Muon(nn.Linear), r"params='Linear': this is a class: give a model"),
    (lambda m: steepest.Lion(nn.Linear, lr=1e-3), r"params='Linear': this is a class"),
    (lambda m: steepest.Muon([], lr=0.02), r"params=\[\]: no parameters"),
    (
        lambda m: steepest.Muon(p for p in m.requires_grad_(False).parameters() if p.requires_grad),
        "if requires_grad has selected them, all are frozen",
    ),
    (lambda m: steepest.Muon(m, lr=True), "lr=True: give a number"),
    (lambda m: steepest.Muon(m, weight_decay=True), "weight_decay=True: give a number"),
    (lambda m: steepest.Muon([{"params": m, "lr": None}]), r"lr=None: give a learning rate$"),
    (
        lambda m: steepest.SteepestDescent(m, norms.Spectral()),
        "lr=None: give a learning rate, the norm of a step, or a sharpness",
    ),
    (
        lambda m: steepest.SteepestDescent(m, norms.Spectral, lr=0.1),
        r"norm='norms.Spectral': call it: norms.Spectral\(\)",
    ),
    (
        lambda m: steepest.SteepestDescent(m, norms.Schatten, lr=0.1),
        r"norm='norms.Schatten': call it: norms.Schatten\(p\)",
    ),
    (lambda m: steepest.Scion(m, lr=0.1, norm=norms.LInf), r"call it: norms.LInf\(\)"),
    (lambda m: steepest.Muon(m, polar=polar.Svd), r"polar='polar.Svd': call it: polar.Svd\(\)"),
    (lambda m: norms.Spectral(polar=polar.Svd), r"polar='polar.Svd': call it: polar.Svd\(\)"),
    (
        lambda m: steepest.polar_factor(torch.ones(2, 2), method=polar.GramEigh),
        r"method='polar.GramEigh': call it: polar.GramEigh\(\)",
    ),
    (lambda m: steepest.LionK(m, K=maps.L1Map), r"K='maps.L1Map': call it: maps.L1Map\(\)"),
    (
        lambda m: steepest.LionK(m, K=norms.Nuclear()),
        r"K=Nuclear\(\): a norm is a map by steepest.maps.FromNorm\(norms.Nuclear\(\)\)",
    ),
    (lambda m: steepest.SteepestDescent(m, "schatten", lr=0.1), "as in schatten:4"),
    (lambda m: steepest.SteepestDescent(m, "spectrl", lr=0.1), "did you mean spectral"),
    (lambda m: steepest.SteepestDescent(m, "l2:2", lr=0.1), "nothing follows l2"),
    (lambda m: steepest.SteepestDescent(m, "schatten:x", lr=0.1), "'x' is not a number"),
    (lambda m: steepest.SteepestDescent(m, "kyfan:1.5", lr=0.1), "'1.5' is not a whole number"),
    (lambda m: steepest.SteepestDescent(m, "schatten:0.5", lr=0.1), "below 1 it is not a norm"),
    (
        lambda m: steepest.Muon(m, momentum_dtype=torch.float8_e4m3fn),
        r"momentum_dtype=torch.float8_e4m3fn: give .*, torch.int8 for blocks of 8 bits, or None",
    ),
    (
        lambda m: steepest.Muon(
            [("w", nn.Parameter(torch.ones(64, 64) * 1j))], momentum_dtype=torch.int8
        ),
        r"momentum_dtype=torch.int8: w is complex, and 8 bits hold real numbers: give it a",
    ),
    (lambda m: steepest.polar_factor([[1.0]]), "x='list': give a tensor"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES, ids=[m for _, m in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(make, message, unchecked):
    with pytest.raises(ValueError, match=message):
        make(net())


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("Lion", "beta", "betas"),
        ("Muon", "moment", "momentum"),
        ("Muon", "adam_lr", "adamw_lr"),
        ("Scion", "headscale", "head_scale"),
        ("SteepestDescent", "sharpnes", "sharpness"),
        ("LionK", "weigth_decay", "weight_decay"),
    ],
)
def test_a_misspelt_argument_names_the_optimizer_and_the_one_that_was_meant(
    name, given, meant, unchecked
):
    options = MATRIX_OPTIMIZERS.get(name, {"lr": 1e-4})
    pattern = rf"^{name}\(\) got an unexpected keyword argument '{given}': did you mean {meant}\?"
    with pytest.raises(TypeError, match=pattern):
        getattr(steepest, name)(net(), **options, **{given: 1})


def test_all_that_an_optimizer_takes_is_listed_where_nothing_is_near(unchecked):
    with pytest.raises(TypeError, match=r"'zzz': it takes params, lr, .*nesterov.*overrides"):
        steepest.Muon(net(), zzz=1)


TEXTS = {
    "spectral": norms.Spectral(polar=polar.Auto(error=0.05)),
    "Schatten:4": norms.Schatten(4, polar=polar.Auto(error=0.05)),
    "operator:rms:rms": norms.Operator("rms", "rms", polar=polar.Auto(error=0.05)),
    "linf": norms.LInf(),
    "kyfan:2": norms.KyFan(2),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_norm_may_be_a_text(text):
    model = net()
    optimizer = steepest.SteepestDescent(model, text, lr=0.1)
    assert optimizer.param_groups[0]["norm"] == repr(TEXTS[text])
    more = nn.Parameter(torch.ones(3, 3))
    optimizer.add_param_group({"params": [("more", more)], "norm": text})
    assert optimizer.param_groups[-1]["norm"] == repr(TEXTS[text])
    for name in PRESETS.keys() - {"Muon", *FAMILY}:
        made = getattr(steepest, name)(model, lr=0.1, norm=text)
        assert made.param_groups[0]["norm"] == repr(TEXTS[text])


@pytest.mark.parametrize("name", ["Muon", "Lion", "SteepestDescent", "Scion"])
def test_a_learning_rate_in_a_tensor_of_one_axis_is_that_number(name):
    """As in torch's optimizers: what counts is that it is one number."""
    weights = []
    for lr in (0.5, torch.tensor(0.5), torch.tensor([0.5])):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        options = {**MATRIX_OPTIMIZERS.get(name, {}), "lr": lr}
        optimizer = getattr(steepest, name)(model, **options)
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()
        weights.append(model[0].weight.detach().clone())
    # A product with a tensor rounds elsewhere.
    assert torch.allclose(weights[0], weights[1], atol=1e-5)
    assert torch.allclose(weights[0], weights[2], atol=1e-5)


def test_the_override_in_the_warning_of_a_guess_works_as_it_is_written():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    (text,) = heard(lambda: steepest.Muon(model), steps=1)
    overrides = re.search(r"overrides=(\{.*?\})", text)
    assert overrides is not None
    assert heard(lambda: steepest.Muon(model, overrides=eval(overrides[1])), steps=1) == []


GUESSES = [rule for rule in RULES if rule.settle]


@pytest.mark.parametrize("rule", GUESSES, ids=[rule.reason for rule in GUESSES])
def test_what_settles_a_guess_can_be_pasted(rule):
    values = re.findall(r'"\w+"|MatrixView\((?:\([^()]*\)|[^()])*\)', rule.settle)
    assert values and VALUE.match(rule.settle)[0] == values[0]
    names = {"MatrixView": steepest.MatrixView, "q": 2, "k": 2, "v": 2, "heads": 4}
    for value in values:
        override = eval(value.replace("…", "2, 2"), names)
        assert override in ("matrix", "adamw") or isinstance(override, steepest.MatrixView)


@pytest.mark.parametrize("name", MATRIX_OPTIMIZERS)
def test_every_optimizer_of_modules_takes_the_options_of_the_routing(name):
    model = net()
    optimizer = getattr(steepest, name)(
        model, **MATRIX_OPTIMIZERS[name], overrides={"4.weight": "adamw"}
    )
    assert optimizer.routing["4.weight"].target == "table"
    with pytest.raises(ValueError, match=r"strict|guess"):
        getattr(steepest, name)(model, **MATRIX_OPTIMIZERS[name], strict=True)
